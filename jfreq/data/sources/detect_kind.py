"""What a path that somebody names as a source is, or what to do where it is nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from jfreq.data.readers.sound import OTHER_FORMATS, convert
from jfreq.data.readers.tables import TABLES
from jfreq.data.sources import datasets
from jfreq.data.sources.base import ARRAYS, AUDIO
from jfreq.data.sources.datasets.common import refuse_pickles
from jfreq.data.sources.folders import METADATA, Listing, listing, shown, why_no_file
from jfreq.data.sources.index import index_in
from jfreq.data.sources.index_table import names_paths
from jfreq.types import InputError


def kind_of(path: Path) -> str:
    """The kind of a folder or file; ``InputError`` with advice where none fits."""
    return _kind_of_folder(path) if path.is_dir() else _kind_of_file(path)


def _kind_of_folder(path: Path) -> str:
    if (path / METADATA).is_file():
        raise InputError(
            f"source: {shown(path)} is a finished set of shards; give it to --data as it is"
        )
    if index_in(path) is not None:
        return "index"
    if (owner := datasets.recognise(path)) is not None:
        return owner
    found = listing(path)
    suffixes = {file.suffix.lower() for file in found.files}
    if suffixes & set(AUDIO):
        return "folders"
    if suffixes & set(ARRAYS):
        return "sensors"
    refuse_pickles(path)
    raise InputError(f"source: {shown(path)} {_nothing_to_read(found)}")


def _nothing_to_read(found: Listing) -> str:
    if not found.files:
        odd = f", only {shown(found.odd[0][0].name)}, which {found.odd[0][1]}" if found.odd else ""
        return f"holds no files{odd} (hidden ones are not looked at)"
    other = [file for file in found.files if file.suffix.lower() in OTHER_FORMATS]
    if other:
        return (
            f"holds {len(other)} files of sound in formats that cannot be read; "
            f"{convert(other[0], 'them')}"
        )
    kinds = Counter(file.suffix.lower() or "no suffix" for file in found.files).most_common(4)
    return (
        f"holds no index.csv, no sound ({' '.join(AUDIO)}) and no arrays ({' '.join(ARRAYS)}), "
        f"only {', '.join(f'{kind} ({n})' for kind, n in kinds)}; docs/data.md shows what can "
        "be read"
    )


def _kind_of_file(path: Path) -> str:
    if why := why_no_file(path):
        raise InputError(f"source: {shown(path)} {why}")
    suffix = path.suffix.lower()
    if suffix in TABLES:
        if (owner := datasets.recognise_table(path)) is not None:
            return owner
        return "index" if names_paths(path) else "sensors"
    if suffix in AUDIO:
        return "folders"
    if suffix in ARRAYS:
        return "sensors"
    if suffix == ".mat":
        raise InputError(
            f"kind: {shown(path)} may hold anything; name its layout, for instance cwru or csi"
        )
    if suffix in OTHER_FORMATS:
        raise InputError(
            f"source: {shown(path)} is of a format that cannot be read; {convert(path)}"
        )
    raise InputError(
        f"source: {shown(path)} is no file that can be read; name a folder, an index.csv, a sound "
        f"file ({' '.join(AUDIO)}) or arrays ({' '.join(ARRAYS)})"
    )
