"""What the sets of sound clips share: what a list or a file's own name says, and what is there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
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

LOSSY = (".mp3", ".ogg", ".oga", ".opus")


class Clip(NamedTuple):
    """What is known of one clip; ``path`` as it is listed, or below the set's folder."""

    path: str
    labels: tuple[str, ...] = ()
    fold: int = -1
    split: str = ""
    subject: str = ""


class SoundFiles(NamedTuple):
    """The sound files of a set by their paths below ``root``, and lines about those not read."""

    root: Path
    files: list[str]
    notes: list[str]


class Found(NamedTuple):
    """Clips that are on disk, what is not there or has no place, and lines for the user."""

    clips: list[Clip]
    missing: list[str]
    notes: list[str]


def sound_files(root: Path, *folders: str) -> SoundFiles:
    """The sound in some folders of ``root``, or in all of it.

    A file that lies less deep comes first, and one without loss before its copy with.
    """
    tops = tuple(f"{folder}/" for folder in folders if folder not in ("", "."))
    found = listing(root)
    names = [file.relative_to(root).as_posix() for file in found.files]
    names = [name for name in names if name.startswith(tops or "")]
    strange = [shown(name) for name in names if not is_utf8(name)]
    files = [name for name in names if _suffix(name) in AUDIO and is_utf8(name)]
    files.sort(key=lambda name: (_suffix(name) in LOSSY, name.count("/"), name))
    other = [name for name in names if _suffix(name) in OTHER_FORMATS]
    odd = [(path.relative_to(root).as_posix(), why) for path, why in found.odd]
    notes = left_out(
        other, "files of formats that cannot be read", convert(Path(other[0])) if other else ""
    )
    notes += left_out(strange, "files whose names are not UTF-8")
    notes += [f"{shown(name)} {why}" for name, why in odd if name.startswith(tops or "")]
    return SoundFiles(root, files, notes)


def from_list(listed: Iterable[Clip], there: SoundFiles, *, parts: int, where: str) -> Found:
    """The clips of a list that are on disk, by the last ``parts`` of their paths.

    The suffix does not count, because people convert what they download.
    """
    home, notes = _by_end(there, parts)
    clips, missing, seen = [], [], set()
    for clip in listed:
        end = _end(clip.path, parts)
        if end in seen:
            missing.append(f"{shown(clip.path)}: listed twice in {where}")
        elif end in home:
            clips.append(clip._replace(path=home[end]))
        else:
            missing.append(f"{shown(clip.path)}: listed, but not on disk")
        seen.add(end)
    rest = [path for end, path in home.items() if end not in seen]
    return Found(clips, missing, [*notes, *left_out(rest, f"files that are not in {where}")])


def from_names(there: SoundFiles, parse: Callable[[str], Clip], *, parts: int = 1) -> Found:
    """The clips whose paths say all that is known; ``parse`` raises ``InputError`` for others."""
    home, notes = _by_end(there, parts)
    clips, missing = [], []
    for path in sorted(home.values()):
        try:
            clips.append(parse(path))
        except InputError as error:
            missing.append(f"{path}: {error}")
    return Found(clips, missing, notes)


def left_out(paths: Sequence[str], what: str, advice: str = "") -> list[str]:
    """A line that counts files that are not read, and names the first; none for no file."""
    advice = f"; {advice}" if advice else ""
    return [f"{what}: {len(paths)} left out, for instance {paths[0]}{advice}"] if paths else []


def clip_source(
    root: Path,
    kind: str,
    found: Found,
    options: Options,
    *,
    order: Sequence[str] = (),
    vocabulary: tuple[str, ...] = (),
    rest: Iterable[Row] = (),
) -> Source:
    """The source of these clips.

    Args:
      order: classes that come first; the others follow in natural order.
      vocabulary: all classes of a set whose clips have several; each has its place in the vector
        of labels, also where no clip has it.
      rest: unlabelled stretches that were asked for.
    """
    repeated = sorted({name for name in vocabulary if vocabulary.count(name) > 1})
    check(not repeated, kind, f"its list of classes has {brief(', '.join(repeated))} twice")
    named = [(clip.path, name) for clip in found.clips for name in clip.labels]
    if not given_labels(options):
        named += [(kind, name) for name in vocabulary]
    labels, numbers, dropped = classes_of(named, options, order=vocabulary or order)
    rows = []
    for clip in found.clips:
        label = tuple(sorted({numbers[name] for name in clip.labels if name in numbers}))
        if label or not clip.labels:
            rows.append(Row(clip.path, label, clip.fold, clip.split, clip.subject))
    listed = Listed(tuple(rows), labels, tuple(found.missing), tuple(rest), dropped)
    multi = bool(vocabulary)
    return audio_source(
        root.name, kind, listed, root, options, multi_label=multi, notes=found.notes
    )


def table_in(root: Path, names: Sequence[str]) -> Path:
    """The first of these files that is there; the very first where none is."""
    return next((root / name for name in names if (root / name).is_file()), root / names[0])


def in_order(classes: Iterable[tuple[str, int, str]]) -> list[str]:
    """Names by number, from ``(where, number, name)``; ``InputError`` for a contradiction."""
    names: dict[int, str] = {}
    for where, number, name in classes:
        check(bool(name), where, "names no class")
        check(
            names.setdefault(number, name) == name,
            where,
            f"class {number} is called {brief(name)!r}; before it was {brief(names[number])!r}",
        )
    return [names[number] for number in sorted(names)]


def _by_end(there: SoundFiles, parts: int) -> tuple[dict[str, str], list[str]]:
    """Files by the last parts of their paths, the first of each, and lines about the others."""
    home: dict[str, str] = {}
    for path in there.files:
        home.setdefault(_end(path, parts), path)
    kept = set(home.values())
    copies = [path for path in there.files if path not in kept]
    return home, [*there.notes, *left_out(copies, "copies of files that are read")]


def _end(path: str, parts: int) -> str:
    """``fold1/7061-6-0-0`` of ``audio/fold1/7061-6-0-0.wav``."""
    end = "/".join(path.split("/")[-parts:])
    return end.removesuffix(end[-len(suffix) :]) if (suffix := _suffix(end)) in AUDIO else end


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()
