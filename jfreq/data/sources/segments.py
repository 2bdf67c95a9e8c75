"""Stretches of recordings: what no row names, and a guard between folds and splits."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

from jfreq.data.sources.base import UNREADABLE, Row, Source
from jfreq.data.sources.folders import shown


def unnamed(rows: Iterable[Row], length: Callable[[Row], int]) -> tuple[Row, ...]:
    """The stretches of the listed recordings that no row names, as rows without a label.

    They have the fold, split and subject of their recording; a recording whose rows do not agree
    in these gives none. ``length`` counts the samples of a recording; one that cannot be read
    gives none either.
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
    """Rows kept ``seconds`` away from rows of the same recording in other folds or splits.

    Of two such rows that come closer, the one that starts later loses its start; if nothing is
    left of it, it is left out. ``rate`` is for recordings that do not state theirs.

    Returns:
      The rows in their order, and what was left out by name.
    """
    moved: dict[Row, Row | None] = {}
    for rows in _recordings(source.rows).values():
        if len({(r.fold, r.split) for r in rows}) > 1:
            moved |= _moved(rows, seconds * _rate(source, rows[0], rate))
    kept = [new for row in source.rows if (new := moved.get(row, row)) is not None]
    return kept, [
        f"{name_of(row)}: lies within the guard of {seconds:g} s"
        for row, new in moved.items()
        if new is None
    ]


def _moved(rows: Sequence[Row], margin: float) -> dict[Row, Row | None]:
    """Rows whose start moves, and None for those of which nothing is left."""
    out: dict[Row, Row | None] = {}
    ends: dict[tuple[int, str], float] = {}
    for row in sorted(rows, key=lambda r: r.start):
        others = [end for side, end in ends.items() if side != (row.fold, row.split)]
        first = max(others) + margin if others else 0.0
        if row.start < first:
            left = first < (math.inf if row.end is None else row.end)
            out[row] = row._replace(start=math.ceil(first - 1e-6)) if left else None
        if out.get(row, row) is not None:
            side = (row.fold, row.split)
            end = math.inf if row.end is None else float(row.end)
            ends[side] = max(end, ends.get(side, 0.0))
    return out


def _rate(source: Source, row: Row, default: float | None) -> float:
    """Hz that the row's samples count in; 0 where nobody says, and the row is refused later."""
    if row.rate is not None:
        return row.rate
    try:
        return next(iter(source.read(row).values())).rate or default or 0.0
    except UNREADABLE:
        return default or 0.0


def _recordings(rows: Iterable[Row]) -> dict[tuple[str, int | None], list[Row]]:
    out = defaultdict(list)
    for row in rows:
        out[row.path, row.item].append(row)
    return out


def name_of(row: Row) -> str:
    """The row as a person would find it."""
    item = "" if row.item is None else f"[{row.item}]"
    span = "" if row.end is None else f" samples {row.start}..{row.end}"
    return f"{shown(row.path)}{item}{span}"
