"""Folders of sound files: classes, splits and subjects by the names of folders and files."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from jfreq.data.options import Options
from jfreq.data.readers.sound import OTHER_FORMATS, convert
from jfreq.data.sources.base import AUDIO, Listed, Row, Source, audio_source, classes_of
from jfreq.data.sources.folders import (
    Listing,
    are_people,
    by_parts,
    is_utf8,
    listing,
    natural,
    shown,
    splits_and_labels,
)
from jfreq.data.sources.rows import packed
from jfreq.ranges import shortlist

_SOUND = (*AUDIO, *OTHER_FORMATS)
_MOST = 5
"""Names that a note lists."""


def from_folders(path: Path, options: Options) -> Source:
    """A folder of sound files for each class, below or above folders of splits, if there are any.

    Files that lie in no class folder have no label. A file of a format that cannot be read is a
    row as well, so that preparing names it or, with ``--strict``, refuses the set.
    """
    if path.is_file():
        listed = Listed((Row(path.name),))
        return audio_source(path.parent.name, "folders", listed, path.parent, options)
    contents = listing(path)
    found = itertools.chain(contents.files, (path for path, _ in contents.unreadable))
    names = [file.relative_to(path).as_posix() for file in found if _is_sound(file)]
    names.sort(key=by_parts)
    per_file, notes = _from_folders(names)
    # Classes are the folders that hold a file of a readable format.
    named = [
        (name, label)
        for name, (_, label, _) in zip(names, per_file)
        if _usable(name) or options.drops(label)
    ]
    labels, numbers, dropped = classes_of(named, options)
    rows = packed(
        Row(name, (numbers[label],) if label in numbers else (), split=split, subject=subject)
        for name, (split, label, subject) in zip(names, per_file)
        if label not in dropped
    )
    notes = (*notes, *_left_out(contents, names))
    listed = Listed(rows, labels, dropped=dropped)
    return audio_source(path.name, "folders", listed, path, options, notes=notes)


def _from_folders(names: Sequence[str]) -> tuple[list[tuple[str, str, str]], list[str]]:
    """Split, class and subject of every file, and sentences about them.

    Folders are classes, unless they are called like people and names of files come again in them
    (``p1/walk.wav``, ``p2/walk.wav``): then the names are.
    """
    folders_of, notes = splits_and_labels(names)
    folders = {folder for _, folder in folders_of} - {""}
    if not are_people(folders, names):
        return [(split, folder, "") for split, folder in folders_of], list(notes)
    words = {PurePosixPath(name).stem for name in names}
    guessed = [
        f"subjects from folders: {shortlist(sorted(folders, key=natural), _MOST)}",
        f"classes from the names of files: {shortlist(sorted(words, key=natural), _MOST)}",
    ]
    return [
        (split, PurePosixPath(name).stem, folder)
        for (split, folder), name in zip(folders_of, names)
    ], [*notes, *guessed]


def _is_sound(file: Path) -> bool:
    return file.suffix.lower() in _SOUND


def _usable(name: str) -> bool:
    return is_utf8(name) and PurePosixPath(name).suffix.lower() in AUDIO


def _left_out(contents: Listing, names: Sequence[str]) -> Iterator[str]:
    """Notes about what becomes no row, or a row that cannot be read."""
    unsupported = [
        PurePosixPath(n) for n in names if PurePosixPath(n).suffix.lower() in OTHER_FORMATS
    ]
    if unsupported:
        pronoun = "it" if len(unsupported) == 1 else "them"
        kinds = ", ".join(sorted({name.suffix.lower()[1:] for name in unsupported}))
        yield (
            f"{_files(len(unsupported))} of a format that cannot be read ({kinds}): "
            f"{convert(Path(shown(unsupported[0])), pronoun)}"
        )
    others = Counter(f.suffix.lower() or "no suffix" for f in contents.files if not _is_sound(f))
    if others:
        yield f"files other than sound are left out: {_counted(others)}"
    if empty := [shown(name) for name in _empty_folders(contents, names)]:
        yield f"no sound in {'folder' if len(empty) == 1 else 'folders'} {shortlist(empty, _MOST)}"
    for path, why in contents.unreadable:
        if not _is_sound(path):
            yield f"{shown(path.relative_to(contents.root))} {why}: left out"


def _empty_folders(contents: Listing, names: Iterable[str]) -> Iterator[str]:
    """Folders with no sound in or below them, but not those within such a folder."""
    full = {parent for name in names for parent in PurePosixPath(name).parents}
    for folder in contents.folders:
        relative = PurePosixPath(folder.relative_to(contents.root).as_posix())
        if relative not in full and (relative.parent in full or len(relative.parts) == 1):
            yield relative.as_posix()


def _files(count: int) -> str:
    return f"{count} file" if count == 1 else f"{count} files"


def _counted(kinds: Mapping[str, int]) -> str:
    most = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    return shortlist([f"{kind} ({count})" for kind, count in most], _MOST)
