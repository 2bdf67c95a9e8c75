"""Fewer recordings of a class, to make it rare."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Mapping

from jfreq.config import check, close_match
from jfreq.data.sources.base import Row, Source
from jfreq.data.sources.rows import packed
from jfreq.ranges import Fraction, check_value
from jfreq.types import InputError


def thinned(source: Source, fractions: Mapping[str, float]) -> Source:
    """Keeps ``fractions[label]`` of the recordings of a class, evenly spread over their order.

    A recording is a path, or one item of a file of many. Of a recording that holds other classes
    too, only the rows of this class go. In every fold and split, the fraction is rounded to the
    nearest number of recordings, and at least one stays. Nothing is random: the same source always
    loses the same rows.

    Raises:
      InputError: for a class that is not there, a fraction outside of (0, 1], multi-label sets.
    """
    if not fractions:
        return source
    check(
        not source.multi_label,
        "thin",
        f"needs a set with one label a row; rows of {source.name} have several labels",
    )
    surplus: set[Row] = set()
    for name, fraction in fractions.items():
        if name not in source.labels:
            raise InputError(
                f"thin: no class {name!r}{close_match(name, source.labels)}; there are: "
                f"{', '.join(source.labels) or 'none'}"
            )
        check_value(Fraction, fraction, "", f"thin: the fraction of {name!r}")
        number = source.labels.index(name)
        rows = [row for row in source.rows if row.label == (number,)]
        check(bool(rows), "thin", f"{source.name} has no row of class {name!r}")
        surplus |= _surplus(rows, fraction)
    return dataclasses.replace(source, rows=packed(r for r in source.rows if r not in surplus))


def _surplus(rows: list[Row], fraction: float) -> set[Row]:
    """Rows of the recordings that go, from every fold and split."""
    by_side = defaultdict(lambda: defaultdict(list))
    for row in rows:
        by_side[row.fold, row.split][row.recording].append(row)
    out = set()
    for recordings in by_side.values():
        groups = list(recordings.values())
        keep = max(1, math.floor(fraction * len(groups) + 0.5))
        kept = {i * len(groups) // keep for i in range(keep)}
        out |= {row for i, group in enumerate(groups) if i not in kept for row in group}
    return out
