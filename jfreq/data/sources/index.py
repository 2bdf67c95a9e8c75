"""``index.csv``: a table of recordings with their labels, folds, splits and subjects."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jfreq.config import check
from jfreq.data.options import Options
from jfreq.data.readers.recordings import read_recording
from jfreq.data.readers.sound import OTHER_FORMATS, Headers
from jfreq.data.sources.base import (
    ARRAYS,
    AUDIO,
    UNREADABLE,
    Classes,
    Listed,
    Row,
    Source,
    audio_source,
    classes_of,
    given_labels,
)
from jfreq.data.sources.csv_lines import Line
from jfreq.data.sources.folders import SPLITS, composed, split_name
from jfreq.data.sources.index_table import Table, read_table, several_labels
from jfreq.data.sources.rows import packed
from jfreq.data.sources.segments import unlabelled_stretches
from jfreq.data.sources.sensor_files import array_source
from jfreq.types import InputError

NAME = "index.csv"
_SHORTEST = 0.01
"""Seconds. A shorter span of sound is taken for seconds in a column that counts samples."""
_BEYOND = 0.1
"""Seconds that ``end_seconds`` may lie after the end of a recording, because times are rounded."""
_SURELY_LONG = 1920
"""Samples; spans of so many are longer than ``_SHORTEST`` at any usual rate."""


class Entry(NamedTuple):
    """A line of the index: its row, the names of its classes, and its ``label_id``."""

    line: Line
    row: Row
    labels: tuple[str, ...] = ()
    id: int | None = None


def index_in(folder: Path) -> Path | None:
    """The ``index.csv`` of a folder, in upper or lower case; None where there is none."""
    if (folder / NAME).is_file():
        return folder / NAME
    files = [p for p in folder.iterdir() if p.name.lower() == NAME and p.is_file()]
    return min(files, default=None)


def from_index(path: Path, options: Options) -> Source:
    """The recordings that an ``index.csv`` or another table lists.

    The table has a column ``path``, and any of the columns that docs/data.md lists.

    Args:
      path: the table, or the folder that holds an ``index.csv``.

    Raises:
      InputError: with file and line, for a table that cannot be read or contradicts itself.
    """
    index = index_in(path) if path.is_dir() else path
    if index is None:
        raise InputError(f"source: {path} has no {NAME}")
    table, root, notes = read_table(index), index.parent, []
    entries = _entries(table, notes)
    entries = _located(entries, root, notes)
    sound = _is_sound(entries)
    headers = Headers(root)
    entries = _timed(entries, headers if sound else None, root, options)
    entries = _distinct(entries, "labels" in table.columns, notes)
    entries = _usual_splits(entries, notes)
    entries = _named(entries, given_labels(options))
    classes = _classes(entries, options)
    rows = packed(row for e in entries if (row := _row(e, classes.numbers)).label or not e.labels)
    listed = Listed(rows, classes.labels, dropped=classes.dropped)
    make = audio_source if sound else array_source
    source = make(root.name, "index", listed, root, options)
    rest: tuple[Row, ...] = ()
    if options.unlabelled:

        def length(row: Row) -> int:
            frames = headers.of(row.path).frames if sound else 0
            return frames or len(next(iter(source.read(row).values())).x)

        rest = unlabelled_stretches([entry.row for entry in entries], length)
    return dataclasses.replace(
        source,
        multi_label="labels" in table.columns,
        rest=rest,
        notes=(*table.notes, *notes, *source.notes),
    )


def _entries(table: Table, notes: list[str]) -> list[Entry]:
    names = [(composed(line.text("label")),) for line in table.lines]
    if "labels" in table.columns:
        if "label" in table.columns:
            raise InputError(
                f"{table.lines[0].file}: has columns 'label' and 'labels'; keep one of them"
            )
        names, separator = several_labels(table.lines)
        notes.append(f"a recording may have several labels, separated by {separator!r}")
    return [_entry(line, tuple(map(composed, n))) for line, n in zip(table.lines, names)]


def _entry(line: Line, names: tuple[str, ...]) -> Entry:
    fold = line.whole("fold", least=-1, most=2**31 - 1)
    rate = line.real("sr")
    check(bool(line.text("path")), line.where, "names no path")
    check(rate is None or rate > 0, f"{line.where} sr", f"must be positive, got {rate}")
    row = Row(
        path=line.text("path"),
        fold=-1 if fold is None else fold,
        split=line.text("split"),
        subject=line.text("subject"),
        start=line.whole("start") or 0,
        end=line.whole("end"),
        item=line.whole("row", most=2**31 - 1),
        rate=rate,
    )
    return Entry(line, row, tuple(filter(None, names)), line.whole("label_id", most=2**31 - 1))


# ------------------------------------------------------------------ paths


def _located(entries: Sequence[Entry], root: Path, notes: list[str]) -> list[Entry]:
    """Paths as they are spelt on disk; ``notes`` say where backslashes were replaced."""
    find = functools.lru_cache(maxsize=None)(functools.partial(_on_disk, root))
    out = [e._replace(row=e.row._replace(path=find(e.row.path))) for e in entries]
    backslashes = sum("\\" in a.row.path and "\\" not in b.row.path for a, b in zip(entries, out))
    if backslashes:
        notes.append(f"in {backslashes} paths \\ is read as /")
    return out


def _on_disk(root: Path, path: str) -> str:
    """The spelling under which the file exists: in NFC or NFD, with slashes or backslashes."""
    for slashed in dict.fromkeys((path, path.replace("\\", "/"))):
        for form in (slashed, *(unicodedata.normalize(f, slashed) for f in ("NFC", "NFD"))):
            if "\0" not in form and (root / form).exists():
                return form
    return path


def _is_sound(entries: Sequence[Entry]) -> bool:
    """Whether the files are sound; ``InputError`` where they are both, or neither."""
    first = None
    for entry in entries:
        kind = _kind(entry.row.path)
        if kind and first is None:
            first = kind, entry
        elif kind and first and kind != first[0]:
            raise InputError(
                f"{entry.line.where}: {entry.row.path} is a file of {kind}, line "
                f"{first[1].line.number} names one of {first[0]}; make an index for each of the two"
            )
    if first is None:
        raise InputError(
            f"{entries[0].line.where}: {entries[0].row.path} is neither sound ({' '.join(AUDIO)}) "
            f"nor arrays ({' '.join(ARRAYS)})"
        )
    return first[0] == "sound"


def _kind(path: str) -> str:
    suffix = Path(path).suffix.lower()
    if suffix in ARRAYS:
        return "arrays"
    return "sound" if suffix in (*AUDIO, *OTHER_FORMATS) else ""


# ------------------------------------------------------------------ spans


def _timed(
    entries: Sequence[Entry], headers: Headers | None, root: Path, options: Options
) -> list[Entry]:
    """Entries with spans in samples, by the rate of each file; ``InputError`` for a bad span."""

    @functools.cache
    def array_rate(path: str) -> float | None:
        recording = read_recording(root / path, rate=options.rate)
        return next(iter(recording.signals.values())).rate

    def rate_of(entry: Entry) -> float | None:
        row = entry.row
        try:
            rate = headers.of(row.path).rate if headers else row.rate or array_rate(row.path)
        except UNREADABLE:
            return None
        rate = rate or options.rate
        if rate is None:
            raise InputError(
                f"{entry.line.where}: nothing states the rate of {row.path}, so its seconds cannot "
                "be counted; add a column sr, or give --rate"
            )
        return rate

    timed = [_in_samples(entry, rate_of, headers) for entry in entries]
    for entry in timed:
        _check_span(entry, headers)
    return timed


def _in_samples(
    entry: Entry, rate_of: Callable[[Entry], float | None], headers: Headers | None
) -> Entry:
    """``start_seconds`` and ``end_seconds`` in samples; nothing where the file cannot be read."""
    line, row = entry.line, entry.row
    begin, end = line.real("start_seconds"), line.real("end_seconds")
    for name, time in (("start_seconds", begin), ("end_seconds", end)):
        check(time is None or time >= 0, f"{line.where} {name}", f"must be 0 or more, got {time}")
    if end is not None and not end > (begin or 0):
        raise InputError(
            f"{line.where}: ends at {end} s, which is not after its start at {begin or 0} s"
        )
    twice = (begin is not None and row.start) or (end is not None and row.end is not None)
    check(not twice, line.where, "states its span in samples and in seconds; keep one of the two")
    if (begin, end) == (None, None) or (rate := rate_of(entry)) is None:
        return entry
    start = row.start if begin is None else round(begin * rate)
    stop = row.end if end is None else round(end * rate)
    if stop is not None and headers is not None:
        frames = headers.of(row.path).frames
        stop = frames if 0 < stop - frames <= _BEYOND * rate else stop
    return entry._replace(row=row._replace(start=start, end=stop))


def _check_span(entry: Entry, headers: Headers | None) -> None:
    where, (start, end) = entry.line.where, (entry.row.start, entry.row.end)
    if end is None:
        return
    check(end > start, where, f"ends at {end}, which is not after its start at {start}")
    least = 2.0
    if headers is not None and end - start < _SURELY_LONG:
        with contextlib.suppress(InputError):
            least = max(least, _SHORTEST * headers.of(entry.row.path).rate)
    check(
        end - start >= least,
        where,
        f"samples {start}..{end} are too few; start and end count samples, for seconds use the "
        "columns start_seconds and end_seconds",
    )


# ------------------------------------------------------------------ lines that say the same


def _distinct(entries: Sequence[Entry], several: bool, notes: list[str]) -> list[Entry]:
    """One entry per span of a recording; ``InputError`` where two lines contradict each other.

    Lines that repeat another one are left out. With ``several``, a recording may have several
    labels, and those of all its lines are put together.
    """
    distinct: dict[tuple, Entry] = {}
    repeated = merged = 0
    for entry in entries:
        row = entry.row
        span = (row.path, row.item, row.start, row.end)
        first = distinct.setdefault(span, entry)
        if first is entry:
            continue
        for name in ("fold", "split", "subject"):
            a, b = getattr(first.row, name), getattr(row, name)
            check(
                a == b,
                entry.line.where,
                f"{row.path} has {name} {b!r} here and {a!r} in line {first.line.number}",
            )
        if several and first.labels != entry.labels:
            labels = dict.fromkeys((*first.labels, *entry.labels))
            distinct[span], merged = first._replace(labels=tuple(labels)), merged + 1
            continue
        a, b = (e.labels or (e.id,) for e in (first, entry))
        if a != b:
            raise InputError(
                f"{entry.line.where}: {row.path} is {_quoted(b)} here and {_quoted(a)} in line "
                f"{first.line.number}; for several labels use a column labels"
            )
        repeated += 1
    if repeated:
        lines = "line repeats" if repeated == 1 else "lines repeat"
        notes.append(f"{repeated} {lines} another one")
    if merged:
        notes.append(f"labels of {merged} more lines about the same recording were put together")
    return list(distinct.values())


def _quoted(labels: Sequence[object]) -> str:
    return "without a label" if labels in ((None,), ()) else ", ".join(map(repr, labels))


def _usual_splits(entries: Sequence[Entry], notes: list[str]) -> list[Entry]:
    """Splits as ``train``, ``validation`` and ``test``, where all names are usual for these."""
    names = {e.row.split for e in entries} - {""}
    usual = {name: split_name(name) for name in names}
    if not set(usual.values()) <= set(SPLITS) or len(set(usual.values())) < len(names):
        return list(entries)
    changed = sorted(name for name in names if name != usual[name])
    if changed:
        notes.append("splits: " + ", ".join(f"{n} is read as {usual[n]}" for n in changed))
    return [e._replace(row=e.row._replace(split=usual.get(e.row.split, ""))) for e in entries]


# ------------------------------------------------------------------ classes


def _named(entries: Sequence[Entry], given: Sequence[str]) -> list[Entry]:
    """Where no line has a label, the classes are named by ``label_id``.

    An id counts the ``given`` labels from 0; where none are given, it is the name itself.
    """
    if any(e.labels for e in entries):
        return list(entries)
    for entry in entries:
        check(
            entry.id is None or not given or entry.id < len(given),
            entry.line.where,
            f"label_id {entry.id} is not one of the {len(given)} labels, which count from 0",
        )
    return [
        e if e.id is None else e._replace(labels=(given[e.id] if given else str(e.id),))
        for e in entries
    ]


def _classes(entries: Sequence[Entry], options: Options) -> Classes:
    """Classes in the order of ``options.labels``, by ``label_id``, or by name."""
    ids = _ids(entries)
    named = ((entry.line.where, name) for entry in entries for name in entry.labels)
    return classes_of(named, options, order=sorted(ids, key=lambda name: ids[name]))


def _ids(entries: Sequence[Entry]) -> dict[str, int]:
    """``label_id`` of every name; ``InputError`` where lines disagree."""
    ids: dict[str, int] = {}
    names: dict[int, str] = {}
    for entry in entries:
        if len(entry.labels) != 1 or entry.id is None:
            continue
        (name,), number = entry.labels, entry.id
        known = ids.setdefault(name, number), names.setdefault(number, name)
        if known != (number, name):
            raise InputError(
                f"{entry.line.where}: label {name!r} has the label_id {number}, but {known[1]!r} "
                f"has {known[0]} in an earlier line"
            )
    return ids


def _row(entry: Entry, numbers: Mapping[str, int]) -> Row:
    """The row with the numbers of its classes, without those that are dropped."""
    label = sorted(numbers[name] for name in entry.labels if name in numbers)
    return entry.row._replace(label=tuple(label))
