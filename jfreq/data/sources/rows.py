"""Rows of a source in little memory: made when they are asked for, or kept as columns."""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import overload

from jfreq.data.sources.base import Row

_NONE = -(2**63)
"""Stands for None in a column of numbers."""


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class LazyRows(Sequence[Row]):
    """Rows that ``make`` makes from their ``numbers``, each time one is asked for."""

    make: Callable[[int], Row]
    numbers: range

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> LazyRows: ...
    def __getitem__(self, index: int | slice) -> Row | LazyRows:
        if isinstance(index, slice):
            return LazyRows(self.make, self.numbers[index])
        return self.make(self.numbers[index])

    def __iter__(self) -> Iterator[Row]:
        return map(self.make, self.numbers)


def packed(rows: Iterable[Row]) -> LazyRows:
    """The rows as columns: 36 bytes each, and the bytes of their paths.

    Rows with the same label, fold, split, subject and rate share these. Rows that are lazy already
    are returned as they are. An iterator is consumed one row at a time.
    """
    if isinstance(rows, LazyRows):
        return rows
    columns = _Columns(rows)
    return LazyRows(columns.row, range(len(columns.kind)))


class _Columns:
    """Paths in one string of bytes, spans as integers, everything else by its number."""

    def __init__(self, rows: Iterable[Row]):
        self.paths, self.ends = bytearray(), array("q", [0])
        self.spans, self.kind = array("q"), array("i")
        kinds: dict[tuple, int] = {}
        for row in rows:
            self.paths += row.path.encode("utf-8", "surrogatepass")
            self.ends.append(len(self.paths))
            span = (row.start, row.end, row.item)
            self.spans.extend(_NONE if x is None else x for x in span)
            kind = (row.label, row.fold, row.split, row.subject, row.rate)
            self.kind.append(kinds.setdefault(kind, len(kinds)))
        self.kinds = list(kinds)

    def row(self, i: int) -> Row:
        path = self.paths[self.ends[i] : self.ends[i + 1]].decode("utf-8", "surrogatepass")
        start, end, item = (None if x == _NONE else x for x in self.spans[3 * i : 3 * i + 3])
        label, fold, split, subject, rate = self.kinds[self.kind[i]]
        return Row(path, label, fold, split, subject, start or 0, end, item, rate)
