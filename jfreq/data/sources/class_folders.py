"""Folders of sound files: what lies in them, its class and its split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from jfreq.data.options import Options
from jfreq.data.readers.sound import OTHER_FORMATS, convert
from jfreq.data.sources.base import AUDIO, Listed, Row, Source, audio_source, classes_of
from jfreq.data.sources.folders import (
    Listing,
    are_people,
    is_utf8,
    listing,
    natural,
    shown,
    splits_and_labels,
)
from jfreq.ranges import shortlist

_SOUND = (*AUDIO, *OTHER_FORMATS)
MOST = 5
"""Names that a note lists."""


def from_folders(path: Path, options: Options) -> Source:
    """A folder of sound files per class, below or above folders of splits, if there are any.

    Files that lie in no class folder are unlabelled. A file that cannot be read is a row as well:
    it is skipped by name, or refused where that is asked for.
    """
    if path.is_file():
        listed = Listed((Row(path.name),))
        return audio_source(path.parent.name, "folders", listed, path.parent, options)
    found = listing(path)
    files = sorted(p for p in (*found.files, *(odd for odd, _ in found.odd)) if _is_sound(p))
    names = [file.relative_to(path).as_posix() for file in files]
    per_file, notes = _from_folders(names)
    # Classes are the folders that hold a file that may be read.
    named = [
        (name, label)
        for name, (_, label, _) in zip(names, per_file)
        if _usable(name) or options.drops(label)
    ]
    labels, numbers, dropped = classes_of(named, options)
    rows = tuple(
        Row(name, (numbers[label],) if label in numbers else (), split=split, subject=subject)
        for name, (split, label, subject) in zip(names, per_file)
        if label not in dropped
    )
    notes = (*notes, *_left_out(found, names))
    listed = Listed(rows, labels, dropped=dropped)
    return audio_source(path.name, "folders", listed, path, options, notes=notes)


def _from_folders(names: Sequence[str]) -> tuple[list[tuple[str, str, str]], list[str]]:
    """Split, class and subject of every file, and sentences about them.

    Folders are classes, unless they are called like people and names of files come again in them
    (``p1/walk.wav``, ``p2/walk.wav``): then the names are.
    """
    found, notes = splits_and_labels(names)
    folders = {folder for _, folder in found} - {""}
    if not are_people(folders, names):
        return [(split, folder, "") for split, folder in found], list(notes)
    words = {PurePosixPath(name).stem for name in names}
    guessed = [
        f"subjects from folders: {shortlist(sorted(folders, key=natural), MOST)}",
        f"classes from the names of files: {shortlist(sorted(words, key=natural), MOST)}",
    ]
    return [
        (split, PurePosixPath(name).stem, folder) for (split, folder), name in zip(found, names)
    ], [*notes, *guessed]


def _is_sound(file: Path) -> bool:
    return file.suffix.lower() in _SOUND


def _usable(name: str) -> bool:
    return is_utf8(name) and PurePosixPath(name).suffix.lower() in AUDIO


def _left_out(found: Listing, names: Sequence[str]) -> Iterator[str]:
    """What lies in the folder and becomes no row, or one that cannot be read."""
    other = [PurePosixPath(n) for n in names if PurePosixPath(n).suffix.lower() in OTHER_FORMATS]
    if other:
        them = "it" if len(other) == 1 else "them"
        kinds = ", ".join(sorted({name.suffix.lower()[1:] for name in other}))
        yield (
            f"{_files(len(other))} of a format that cannot be read ({kinds}): "
            f"{convert(Path(shown(other[0])), them)}"
        )
    stray = Counter(f.suffix.lower() or "no suffix" for f in found.files if not _is_sound(f))
    if stray:
        yield f"{_files(stray.total())} beside the sound not read: {_counted(stray)}"
    if empty := [shown(name) for name in _empty_folders(found, names)]:
        yield f"no sound in {'folder' if len(empty) == 1 else 'folders'} {shortlist(empty, MOST)}"
    for path, why in found.odd:
        if not _is_sound(path):
            yield f"{shown(path.relative_to(found.root))} {why}: left out"


def _empty_folders(found: Listing, names: Iterable[str]) -> Iterator[str]:
    """Folders with no sound in or below them, but not those within such a folder."""
    full = {parent for name in names for parent in PurePosixPath(name).parents}
    for folder in found.folders:
        relative = PurePosixPath(folder.relative_to(found.root).as_posix())
        if relative not in full and (relative.parent in full or len(relative.parts) == 1):
            yield relative.as_posix()


def _files(count: int) -> str:
    return f"{count} file" if count == 1 else f"{count} files"


def _counted(kinds: Mapping[str, int]) -> str:
    most = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    return shortlist([f"{kind} ({count})" for kind, count in most], MOST)
