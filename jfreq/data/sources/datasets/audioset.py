"""AudioSet: clips of 10 s from YouTube, each with several of 527 classes."""

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
    Clips,
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
    """A line of a list of segments; ``start`` in seconds, ``mids`` are codes of classes."""

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
    sounds = _sounds(path, options)
    by_video = _by_video(sounds.files)
    clips = _merged([_clips_of_list(file, by_video, names, words) for file in lists], sounds)
    vocabulary = tuple(names.values())
    source = clip_source(sounds.root, "audioset", clips, options, vocabulary=vocabulary)
    return dataclasses.replace(source, name=path.stem if path.is_file() else path.name)


class ClipsOfList(NamedTuple):
    """The clips of one list that are on disk, paths of copies, and lines about missing clips."""

    name: str
    clips: list[Clip]
    copies: list[str]
    missing: list[str]


def _clips_of_list(
    file: Path, by_video: Videos, names: Mapping[str, str], words: Path
) -> ClipsOfList:
    """The clips of a list of segments; ``names`` of classes by code, as the file ``words`` says."""
    listed = ClipsOfList(file.name, [], [], [])
    split = file.stem.removesuffix("_segments")
    for segment in _segments(file):
        unknown = next((mid for mid in segment.mids if mid not in names), None)
        if unknown is not None:
            raise InputError(f"{segment.where}: label {brief(unknown)!r} is not in {words}")
        files = _starting_at(segment.start, by_video.get(segment.ytid, []))
        if files:
            labels = tuple(names[mid] for mid in segment.mids)
            listed.clips.append(Clip(files[0], labels, split=split, subject=segment.ytid))
            listed.copies.extend(files[1:])
        else:
            listed.missing.append(f"{segment.ytid}: listed, but not on disk")
    return listed


def _merged(lists: Sequence[ClipsOfList], sounds: SoundFiles) -> Clips:
    """All lists as one set; a clip of several lists is as the first of them says.

    A list of which no clip is on disk, because only the others were downloaded, is one note.
    """
    clips: dict[str, Clip] = {}
    missing, notes = [], [*sounds.notes]
    for listed in lists:
        if not listed.clips and any(other.clips for other in lists):
            notes.append(f"none of the {len(listed.missing)} clips of {listed.name} is on disk")
            continue
        repeated = [clip.path for clip in listed.clips if clip.path in clips]
        missing += listed.missing
        missing += [f"{path}: is in {listed.name} and in another list" for path in repeated]
        clips = {**{clip.path: clip for clip in listed.clips}, **clips}
    copies = {path for listed in lists for path in listed.copies} - clips.keys()
    rest = [path for path in sounds.files if path not in clips and path not in copies]
    where = lists[0].name if len(lists) == 1 else "any list of segments"
    notes += left_out(sorted(copies), "copies of clips that are read")
    notes += left_out(rest, f"files that are not in {where}")
    return Clips(list(clips.values()), missing, notes)


def _lists(folder: Path) -> list[Path]:
    """The lists of segments in a folder and down to ``DEPTH`` below, without lists of parts."""
    patterns = ["*/" * depth + "*.csv" for depth in range(DEPTH + 1)]
    files = [file for pattern in patterns for file in sorted(folder.glob(pattern))]
    lists: dict[str, Path] = {}
    for file in files:
        if file.is_file() and "_part" not in file.stem and is_list(file):
            lists.setdefault(file.name, file)
    if not lists:
        raise InputError(
            f"source: {folder} has no list of segments in it, such as balanced_train_segments.csv; "
            "download them from AudioSet's page"
        )
    return list(lists.values())


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
    table = next(below, None) if folder.is_dir() else None
    if table is None:
        raise InputError(f"labels: {file.parent} has no {LABELS}; name it with --labels FILE")
    return table


def _sounds(path: Path, options: Options) -> SoundFiles:
    """The files in ``options.clips``, else those in the folder of the list or above it."""
    if options.clips is not None:
        folder = local_path(options.clips, "clips")
        check(folder.is_dir(), "clips", f"{folder} is not a folder")
        return sound_files(folder)
    for root in [path] if path.is_dir() else [path.parent, path.parent.parent]:
        if (sounds := sound_files(root)).files:
            return sounds
    raise InputError(
        f"clips: there is no sound in or beside {path.parent}; name the folder that "
        "holds the clips with --clips DIR"
    )


def _segments(file: Path) -> Iterator[Segment]:
    """The segments of a list; ``InputError`` for a line that is damaged."""
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
    """Files by the ids of videos that their names may stand for.

    A name that matches no pattern may be an id as a whole, with or without a Y before it.
    """
    videos: Videos = defaultdict(list)
    for file in files:
        stem = Path(file).stem
        matches = [match for pattern in _NAMES if (match := pattern.fullmatch(stem))]
        readings = {(match["ytid"], match["start"] or "") for match in matches}
        for ytid, start in sorted(readings | {(stem, ""), (stem.removeprefix("Y"), "")}):
            videos[ytid].append((float(start) if start else None, file))
    return videos


def _starting_at(start: float, files: list[tuple[float | None, str]]) -> list[str]:
    """The clips of a video whose names state this start, in seconds or milliseconds, or none."""
    return [
        file
        for stated, file in files
        if stated is None or any(abs(stated - unit * start) < 0.5 * unit for unit in (1, 1000))
    ]
