"""Sets of sound clips: clips by a list or by the names of files, and the files that are there."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from jfreq.config import check
from jfreq.data.options import Options
from jfreq.data.readers.sound import OTHER_FORMATS, convert
from jfreq.data.sources.base import (
    AUDIO,
    Listed,
    Row,
    Source,
    audio_source,
    classes_of,
    given_labels,
)
from jfreq.data.sources.folders import is_utf8, listing, shown
from jfreq.ranges import brief
from jfreq.types import InputError

_LOSSY = (".mp3", ".ogg", ".oga", ".opus")


class Clip(NamedTuple):
    """A clip by its path, as it is listed or below the folder of the set."""

    path: str
    labels: tuple[str, ...] = ()
    fold: int = -1
    split: str = ""
    subject: str = ""


class SoundFiles(NamedTuple):
    """Paths of the sound files of a set, below ``root``, and notes about files left out."""

    root: Path
    files: list[str]
    notes: list[str]


class Clips(NamedTuple):
    """The clips of a set that are on disk, lines about those that are missing, and notes."""

    clips: list[Clip]
    missing: list[str]
    notes: list[str]


def sound_files(root: Path, *folders: str) -> SoundFiles:
    """The sound files in some folders of ``root``, or in all of it.

    Lossless files come before those with lossy compression, then files in fewer folders first.
    """
    tops = tuple(f"{folder}/" for folder in folders if folder not in ("", "."))
    contents = listing(root)
    names = [file.relative_to(root).as_posix() for file in contents.files]
    names = [name for name in names if name.startswith(tops or "")]
    not_utf8 = [shown(name) for name in names if not is_utf8(name)]
    files = [name for name in names if _suffix(name) in AUDIO and is_utf8(name)]
    files.sort(key=lambda name: (_suffix(name) in _LOSSY, name.count("/"), name))
    unsupported = [name for name in names if _suffix(name) in OTHER_FORMATS]
    advice = convert(Path(unsupported[0])) if unsupported else ""
    notes = left_out(unsupported, "files of formats that cannot be read", advice)
    notes += left_out(not_utf8, "files whose names are not UTF-8")
    unreadable = [(path.relative_to(root).as_posix(), why) for path, why in contents.unreadable]
    notes += [f"{shown(name)} {why}" for name, why in unreadable if name.startswith(tops or "")]
    return SoundFiles(root, files, notes)


def from_list(listed: Iterable[Clip], sounds: SoundFiles, *, parts: int, where: str) -> Clips:
    """The clips of a list that are on disk.

    Args:
      parts: how many of the last parts of a path must agree; the suffix does not count, because
        people convert what they download.
      where: the list, for messages.
    """
    on_disk, notes = _by_end(sounds, parts)
    clips, missing, seen = [], [], set()
    for clip in listed:
        end = _end(clip.path, parts)
        if end in seen:
            missing.append(f"{shown(clip.path)}: listed twice in {where}")
        elif end in on_disk:
            clips.append(clip._replace(path=on_disk[end]))
        else:
            missing.append(f"{shown(clip.path)}: listed, but not on disk")
        seen.add(end)
    rest = [path for end, path in on_disk.items() if end not in seen]
    return Clips(clips, missing, [*notes, *left_out(rest, f"files that are not in {where}")])


def from_names(sounds: SoundFiles, parse: Callable[[str], Clip], *, parts: int = 1) -> Clips:
    """The clips of a set by their paths; ``parse`` raises ``InputError`` for files of other names.

    Files that agree in the last ``parts`` of their paths, suffixes apart, are copies.
    """
    on_disk, notes = _by_end(sounds, parts)
    clips, missing = [], []
    for path in sorted(on_disk.values()):
        try:
            clips.append(parse(path))
        except InputError as error:
            missing.append(f"{path}: {error}")
    return Clips(clips, missing, notes)


def match_name(pattern: re.Pattern[str], file: str, example: str) -> re.Match[str]:
    """The parts of a file's name without suffix; ``InputError`` for a name of another form."""
    match = pattern.fullmatch(PurePosixPath(file).stem)
    if match is None:
        raise InputError(f"is not called like {example}")
    return match


def left_out(paths: Sequence[str], what: str, advice: str = "") -> list[str]:
    """A note that counts files that are not read and names the first; empty for no files."""
    advice = f"; {advice}" if advice else ""
    return [f"{what}: {len(paths)} left out, for instance {paths[0]}{advice}"] if paths else []


def clip_source(
    root: Path,
    kind: str,
    clips: Clips,
    options: Options,
    *,
    order: Sequence[str] = (),
    vocabulary: tuple[str, ...] = (),
    rest: Iterable[Row] = (),
) -> Source:
    """The source of these clips.

    Args:
      order: classes that come first; the others follow in natural order.
      vocabulary: all classes of a set whose clips have several labels; each is a class, even where
        no clip has it.
      rest: unlabelled recordings that were asked for.

    Raises:
      InputError: for a class that ``vocabulary`` has twice, and as :func:`classes_of`.
    """
    repeated = sorted({name for name in vocabulary if vocabulary.count(name) > 1})
    check(not repeated, kind, f"its list of classes has {brief(', '.join(repeated))} twice")
    named = [(clip.path, name) for clip in clips.clips for name in clip.labels]
    if not given_labels(options):
        named += [(kind, name) for name in vocabulary]
    labels, numbers, dropped = classes_of(named, options, order=vocabulary or order)
    rows = []
    for clip in clips.clips:
        label = tuple(sorted({numbers[name] for name in clip.labels if name in numbers}))
        if label or not clip.labels:
            rows.append(Row(clip.path, label, clip.fold, clip.split, clip.subject))
    listed = Listed(tuple(rows), labels, tuple(clips.missing), tuple(rest), dropped)
    multi = bool(vocabulary)
    return audio_source(
        root.name, kind, listed, root, options, multi_label=multi, notes=clips.notes
    )


def table_in(root: Path, names: Sequence[str]) -> Path:
    """The first of these files that exists; ``names[0]`` where none does."""
    return next((root / name for name in names if (root / name).is_file()), root / names[0])


def in_order(classes: Iterable[tuple[str, int, str]]) -> list[str]:
    """Names of classes in the order of their numbers, from ``(where, number, name)``.

    Raises:
      InputError: for a class without a name, and for a number of two names.
    """
    names: dict[int, str] = {}
    for where, number, name in classes:
        check(bool(name), where, "names no class")
        check(
            names.setdefault(number, name) == name,
            where,
            f"class {number} is called {brief(name)!r}, but {brief(names[number])!r} in an earlier "
            "line",
        )
    return [names[number] for number in sorted(names)]


def _by_end(sounds: SoundFiles, parts: int) -> tuple[dict[str, str], list[str]]:
    """Files by the last parts of their paths, the first of each, and notes about the others."""
    by_end: dict[str, str] = {}
    for path in sounds.files:
        by_end.setdefault(_end(path, parts), path)
    kept = set(by_end.values())
    copies = [path for path in sounds.files if path not in kept]
    return by_end, [*sounds.notes, *left_out(copies, "copies of files that are read")]


def _end(path: str, parts: int) -> str:
    """``fold1/7061-6-0-0`` of ``audio/fold1/7061-6-0-0.wav``."""
    end = "/".join(path.split("/")[-parts:])
    return end.removesuffix(end[-len(suffix) :]) if (suffix := _suffix(end)) in AUDIO else end


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()
