"""A rarer class: a fraction of its recordings."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Mapping

from jfreq.config import check, close_match
from jfreq.data.sources.base import Row, Source
from jfreq.ranges import Fraction, check_value
from jfreq.types import InputError


def thinned(source: Source, fractions: Mapping[str, float]) -> Source:
    """Keeps ``fractions[label]`` of the recordings of a class, evenly spread over their order.

    A recording is a path, or one item of a file of many; of those that hold other classes too,
    only the rows of this class go. In every fold, and split, the fraction is rounded to the nearest
    number of recordings and at least one stays. Nothing is random: the same source always loses
    the same rows.

    Raises:
      InputError: for a class that is not there, a fraction outside of (0, 1], multi-label sets.
    """
    if not fractions:
        return source
    check(
        not source.multi_label,
        "thin",
        f"rows of {source.name} have several labels; this is for sets with one label a row",
    )
    gone: set[Row] = set()
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
        gone |= _surplus(rows, fraction)
    return dataclasses.replace(source, rows=tuple(r for r in source.rows if r not in gone))


def _surplus(rows: list[Row], fraction: float) -> set[Row]:
    by_place = defaultdict(lambda: defaultdict(list))
    for row in rows:
        by_place[row.fold, row.split][row.path, row.item].append(row)
    out = set()
    for recordings in by_place.values():
        groups = list(recordings.values())
        keep = max(1, math.floor(fraction * len(groups) + 0.5))
        kept = {i * len(groups) // keep for i in range(keep)}
        out |= {row for i, group in enumerate(groups) if i not in kept for row in group}
    return out
