"""Stretches of recordings: those that no row covers, and a guard between folds and splits."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

from jfreq.data.sources.base import UNREADABLE, Row, Source
from jfreq.data.sources.folders import shown


def unlabelled_stretches(rows: Iterable[Row], length: Callable[[Row], int]) -> tuple[Row, ...]:
    """The stretches of the listed recordings that no row covers, as rows without a label.

    They have the fold, split, subject and rate of their recording. Recordings whose rows differ in
    these, and recordings that cannot be read, give no stretches. ``length`` counts the samples of
    a recording.
    """
    return tuple(row for rows in _recordings(rows).values() for row in _rest(rows, length))


def _rest(rows: Sequence[Row], length: Callable[[Row], int]) -> Iterator[Row]:
    if len({(r.fold, r.split, r.subject, r.rate) for r in rows}) > 1:
        return
    whole = rows[0]._replace(label=(), start=0, end=None)
    try:
        total = length(whole)
    except UNREADABLE:
        return
    at = 0
    for start, end in sorted((r.start, total if r.end is None else r.end) for r in rows):
        if at < min(start, total):
            yield whole._replace(start=at, end=min(start, total))
        at = max(at, end)
    if at < total:
        yield whole._replace(start=at, end=total)


def guarded(
    source: Source, seconds: float, *, rate: float | None = None
) -> tuple[list[Row], list[str]]:
    """Rows at least ``seconds`` away from rows of the same recording in other folds or splits.

    Of two rows that are closer, the one that starts later is cut at its start. A row of which
    nothing is left is left out.

    Args:
      rate: Hz of recordings that do not state their rate.

    Returns:
      The rows in their order, and a line for each one that was left out.
    """
    moved: dict[Row, Row | None] = {}
    for rows in _recordings(source.rows).values():
        if len({(r.fold, r.split) for r in rows}) > 1:
            moved |= _moved(rows, seconds * _rate(source, rows[0], rate))
    kept = [new for row in source.rows if (new := moved.get(row, row)) is not None]
    return kept, [
        f"{name_of(row)}: is closer than {seconds:g} s (--guard-seconds) to a row of another fold "
        "or split"
        for row, new in moved.items()
        if new is None
    ]


def _moved(rows: Sequence[Row], margin: float) -> dict[Row, Row | None]:
    """Maps each row that must change to its shortened copy, or to None where nothing is left."""
    out: dict[Row, Row | None] = {}
    ends: dict[tuple[int, str], float] = {}
    for row in sorted(rows, key=lambda r: r.start):
        others = [end for side, end in ends.items() if side != (row.fold, row.split)]
        first = max(others) + margin if others else 0.0
        if row.start < first:
            remains = first < (math.inf if row.end is None else row.end)
            out[row] = row._replace(start=math.ceil(first - 1e-6)) if remains else None
        if out.get(row, row) is not None:
            side = (row.fold, row.split)
            end = math.inf if row.end is None else float(row.end)
            ends[side] = max(end, ends.get(side, 0.0))
    return out


def _rate(source: Source, row: Row, default: float | None) -> float:
    """Hz of the row's samples; 0 where nothing states it, so that the row is refused later."""
    if row.rate is not None:
        return row.rate
    try:
        return next(iter(source.read(row).values())).rate or default or 0.0
    except UNREADABLE:
        return default or 0.0


def _recordings(rows: Iterable[Row]) -> dict[tuple[str, int | None], list[Row]]:
    out = defaultdict(list)
    for row in rows:
        out[row.recording].append(row)
    return out


def name_of(row: Row) -> str:
    """Path, item and samples of a row, for messages."""
    item = "" if row.item is None else f"[{row.item}]"
    span = "" if row.end is None else f" samples {row.start}..{row.end}"
    return f"{shown(row.path)}{item}{span}"
