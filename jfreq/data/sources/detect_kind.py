"""The kind of a source, by what lies at its path; advice where nothing fits."""

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
    """The kind of a folder or file, a name of ``KINDS``.

    Raises:
      InputError: with advice, where no kind fits.
    """
    return _kind_of_folder(path) if path.is_dir() else _kind_of_file(path)


def _kind_of_folder(path: Path) -> str:
    if (path / METADATA).is_file():
        raise InputError(
            f"source: {shown(path)} is a finished set of shards; use it as it is, with --data"
        )
    if index_in(path) is not None:
        return "index"
    if (dataset := datasets.recognise(path)) is not None:
        return dataset
    contents = listing(path)
    suffixes = {file.suffix.lower() for file in contents.files}
    if suffixes & set(AUDIO):
        return "folders"
    if suffixes & set(ARRAYS):
        return "sensors"
    refuse_pickles(path)
    raise InputError(f"source: {shown(path)} {_nothing_to_read(contents)}")


def _nothing_to_read(contents: Listing) -> str:
    """What a folder holds instead of recordings, and what to do."""
    if not contents.files:
        path, why = next(iter(contents.unreadable), (None, ""))
        beside = f", only {shown(path.name)}, which {why}" if path else ""
        return f"holds no files{beside} (hidden files are not read)"
    unsupported = [file for file in contents.files if file.suffix.lower() in OTHER_FORMATS]
    if unsupported:
        return (
            f"holds {len(unsupported)} files of sound in formats that cannot be read; "
            f"{convert(unsupported[0], 'them')}"
        )
    kinds = Counter(file.suffix.lower() or "no suffix" for file in contents.files).most_common(4)
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
        if (dataset := datasets.recognise_table(path)) is not None:
            return dataset
        return "index" if names_paths(path) else "sensors"
    if suffix in AUDIO:
        return "folders"
    if suffix in ARRAYS:
        return "sensors"
    if suffix == ".mat":
        raise InputError(
            f"kind: {shown(path)} is a MATLAB file, which may hold anything; name its layout with "
            "--kind, for instance cwru or csi"
        )
    if suffix in OTHER_FORMATS:
        raise InputError(
            f"source: {shown(path)} is of a format that cannot be read; {convert(path)}"
        )
    raise InputError(
        f"source: {shown(path)} is not a file that can be read; name a folder, an index.csv, a "
        f"sound file ({' '.join(AUDIO)}) or arrays ({' '.join(ARRAYS)})"
    )
