"""AudioSet: clips of 10 s from YouTube, several of 527 classes each, as downloaders name them."""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jfreq.config import check
from jfreq.data.options import Options
from jfreq.data.sources.base import Source
from jfreq.data.sources.csv_lines import Line, lines_of, records
from jfreq.data.sources.datasets.clips import (
    Clip,
    Found,
    SoundFiles,
    clip_source,
    left_out,
    sound_files,
)
from jfreq.data.sources.datasets.layout_roots import DEPTH
from jfreq.files import local_path
from jfreq.ranges import brief
from jfreq.types import InputError

LABELS = "class_labels_indices.csv"
SIGNS = (
    LABELS,
    "balanced_train_segments.csv",
    "eval_segments.csv",
    "unbalanced_train_segments.csv",
)
_SEGMENT = re.compile(r'[\w-]{11},\s*[\d.]+,\s*[\d.]+,\s*"?/[a-z]/')
_ID = r"(?P<ytid>[A-Za-z0-9_-]{11})"
_TIME = r"\d+(?:\.\d+)?"
_NAMES = (
    re.compile(rf"{_ID}(?:_(?P<start>{_TIME})(?:[_-]{_TIME})?)?"),
    re.compile(rf"Y{_ID}(?:_(?P<start>{_TIME})(?:[_-]{_TIME})?)?"),
    re.compile(rf".*\[{_ID}\](?P<start>)"),
)
"""``YTID``, ``YTID_30``, ``YTID_30_40``, ``YTID_30000_40000``, ``YTID_30.000-40.000``, all with or
without a Y before them, and ``Title [YTID]``. An id has eleven characters, and may begin with Y."""

Videos = dict[str, list[tuple[float | None, str]]]
"""By the id of a video, the start that a file's name states, and the file."""


class Segment(NamedTuple):
    """A line of the owners' list; ``start`` in seconds."""

    where: str
    ytid: str
    start: float
    mids: tuple[str, ...]


def open_audioset(path: Path, options: Options) -> Source:
    """A list of segments, ``balanced_train_segments.csv`` and its like, or a folder with several.

    Gemmeke et al., "Audio Set: An ontology and human-labeled dataset for audio events", ICASSP
    2017. The split is the list's name without ``_segments``, the subject the video. Clips and
    ``class_labels_indices.csv`` are looked for in the folder of the list and in the one above,
    where ``clips`` and ``labels`` do not name them; classes are in the order of ``index``.
    """
    lists = [path] if path.is_file() else _lists(path)
    words = options.labels_file or _beside(lists[0], path)
    table = list(lines_of(words, ("index", "mid", "display_name")))
    table.sort(key=lambda line: line.number_of("index"))
    names = {line.text("mid"): line.text("display_name") for line in table}
    there = _clips(path, options)
    by_video = _by_video(there.files)
    taken = [_taken(file, by_video, names, words) for file in lists]
    found = _together(taken, there)
    vocabulary = tuple(names.values())
    source = clip_source(there.root, "audioset", found, options, vocabulary=vocabulary)
    return dataclasses.replace(source, name=path.stem if path.is_file() else path.name)


class Taken(NamedTuple):
    """Of one list: clips that are on disk, copies of them, and what is not there."""

    name: str
    clips: list[Clip]
    copies: list[str]
    missing: list[str]


def _taken(file: Path, by_video: Videos, names: Mapping[str, str], words: Path) -> Taken:
    taken = Taken(file.name, [], [], [])
    split = file.stem.removesuffix("_segments")
    for segment in _segments(file):
        unknown = next((mid for mid in segment.mids if mid not in names), None)
        if unknown is not None:
            raise InputError(f"{segment.where}: label {brief(unknown)!r} is not in {words}")
        there = _cut_there(by_video.get(segment.ytid, []), segment.start)
        if there:
            labels = tuple(names[mid] for mid in segment.mids)
            taken.clips.append(Clip(there[0], labels, split=split, subject=segment.ytid))
            taken.copies.extend(there[1:])
        else:
            taken.missing.append(f"{segment.ytid}: listed, but not on disk")
    return taken


def _together(lists: Sequence[Taken], there: SoundFiles) -> Found:
    """All lists as one set; of a clip that two of them name, the first says all.

    A list of which no clip is on disk, because only the others were downloaded, is one line.
    """
    clips: dict[str, Clip] = {}
    missing, notes = [], [*there.notes]
    for taken in lists:
        if not taken.clips and any(other.clips for other in lists):
            notes.append(f"none of the {len(taken.missing)} clips of {taken.name} is on disk")
            continue
        again = [clip.path for clip in taken.clips if clip.path in clips]
        missing += taken.missing
        missing += [f"{path}: is in {taken.name} and in another list" for path in again]
        clips = {**{clip.path: clip for clip in taken.clips}, **clips}
    copies = {path for taken in lists for path in taken.copies} - clips.keys()
    rest = [path for path in there.files if path not in clips and path not in copies]
    where = lists[0].name if len(lists) == 1 else "any list of segments"
    notes += left_out(sorted(copies), "copies of clips that are read")
    notes += left_out(rest, f"files that are not in {where}")
    return Found(list(clips.values()), missing, notes)


def _lists(folder: Path) -> list[Path]:
    """The lists of segments in a folder and a little below, but not lists of parts of them."""
    patterns = ["*/" * depth + "*.csv" for depth in range(DEPTH + 1)]
    files = [file for pattern in patterns for file in sorted(folder.glob(pattern))]
    found: dict[str, Path] = {}
    for file in files:
        if file.is_file() and "_part" not in file.stem and is_list(file):
            found.setdefault(file.name, file)
    if not found:
        raise InputError(
            f"source: {folder} has no list of segments in it, such as balanced_train_segments.csv; "
            "AudioSet's page has them"
        )
    return list(found.values())


def is_list(file: Path) -> bool:
    """Whether a CSV is one of AudioSet's lists of segments, also without the lines on top."""
    with file.open(encoding="utf-8", errors="replace") as text:
        head = text.read(2000)
    return "YTID" in head or _SEGMENT.match(head) is not None


def _beside(file: Path, folder: Path) -> Path:
    """``class_labels_indices.csv`` in the folder of a list, above it, or below the source."""
    for place in (file.parent, file.parent.parent):
        if (place / LABELS).is_file():
            return place / LABELS
    below = (f for d in range(DEPTH + 1) for f in folder.glob("*/" * d + LABELS))
    found = next(below, None) if folder.is_dir() else None
    if found is None:
        raise InputError(f"labels: {file.parent} has no {LABELS}; name it with --labels FILE")
    return found


def _clips(path: Path, options: Options) -> SoundFiles:
    """The clips that are named, else those in the folder of the list or above it."""
    if options.clips is not None:
        folder = local_path(options.clips, "clips")
        check(folder.is_dir(), "clips", f"{folder} is not a folder")
        return sound_files(folder)
    for root in [path] if path.is_dir() else [path.parent, path.parent.parent]:
        if (there := sound_files(root)).files:
            return there
    raise InputError(
        f"clips: there is no sound in or beside {path.parent}; name the folder that "
        "holds the clips with --clips DIR"
    )


def _segments(file: Path) -> Iterator[Segment]:
    """Every line of a list that is no comment; ``InputError`` for one that is damaged."""
    columns = ("ytid", "start_seconds", "end_seconds", "mids")
    for number, cells in records(file):
        if cells[0].startswith("#") or cells[0] == "YTID":
            continue
        line = Line(file, number, dict(zip(columns, cells)))
        check(len(cells) == len(columns), line.where, f"expected 4 fields, got {len(cells)}")
        start = line.real("start_seconds")
        check(start is not None, line.where, "states no start_seconds")
        mids = tuple(filter(None, line.text("mids").split(",")))
        yield Segment(line.where, line.text("ytid"), start or 0.0, mids)


def _by_video(files: Sequence[str]) -> Videos:
    """Every file by each id that its name may be read as: all of it, too, with and without a Y."""
    videos: Videos = defaultdict(list)
    for file in files:
        stem = Path(file).stem
        matches = [match for pattern in _NAMES if (match := pattern.fullmatch(stem))]
        readings = {(match["ytid"], match["start"] or "") for match in matches}
        for ytid, start in sorted(readings | {(stem, ""), (stem.removeprefix("Y"), "")}):
            videos[ytid].append((float(start) if start else None, file))
    return videos


def _cut_there(files: list[tuple[float | None, str]], start: float) -> list[str]:
    """The clips of a video that start there, as far as names tell: in seconds or milliseconds."""
    return [
        file
        for stated, file in files
        if stated is None or any(abs(stated - unit * start) < 0.5 * unit for unit in (1, 1000))
    ]
