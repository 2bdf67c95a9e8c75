"""A share of the labels: rows drawn in proportion to their classes, small draws inside large."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from jfreq.config import Data, check
from jfreq.data.shards.reader import Shards
from jfreq.ranges import Share, check_value
from jfreq.types import InputError


def sample(
    label: np.ndarray,
    fraction: float,
    seed: int = 0,
    *,
    at_least_one: bool = False,
    names: Sequence[str] = (),
    where: str = "labels",
) -> np.ndarray:
    """Positions int64, ascending, of ``fraction`` of the rows, half rows rounded up.

    ``label`` ``[n]`` int classes: every class has its share of the drawn rows to less than one
    row. ``[n k]`` multi-hot: rows are drawn without regard to their classes. The rows of one
    ``seed`` lie in one order, and a draw is its beginning: a smaller fraction is a subset of a
    larger one. Rows are drawn one by one; rows of one subject or recording are not kept together.

    A fraction that leaves a class of ``label`` without a row raises ``InputError`` that names the
    class (from ``names``) and the smallest fraction that works, beginning with ``where``; with
    ``at_least_one`` such a class keeps one row, and the draw is that much larger.
    """
    check_value(Share, fraction, "", where)
    n, rng = len(label), np.random.default_rng(seed)
    total = _seats(fraction, n)
    if label.ndim == 2:
        total = max(total, 1) if at_least_one else total
        if total == 0:
            raise InputError(
                f"{where}: {fraction:g} of {n} rows is none; the smallest fraction that works is "
                f"{_least(1, n):g}"
            )
        return np.sort(rng.permutation(n)[:total])
    classes, sizes = np.unique(label, return_counts=True)
    # Ties between classes of one size are decided by the seed, not by their numbers.
    order = rng.permutation(len(classes))
    members = [rng.permutation(np.flatnonzero(label == c)) for c in classes[order]]
    taken = apportion(sizes[order], total)
    if at_least_one:
        taken = np.maximum(taken, 1)
    elif not taken.all():
        empty = int(classes[order][np.argmin(taken)])
        name = repr(names[empty]) if len(names) else str(empty)
        least = _least(_filling(sizes[order]), n)
        size = int(sizes[classes == empty][0])
        raise InputError(
            f"{where}: {fraction:g} of {n} rows leaves class {name} ({size} rows) without a row; "
            f"the smallest fraction that works is {least:g}, or draw at least one row of every "
            "class"
        )
    return np.sort(np.concatenate([rows[:k] for rows, k in zip(members, taken)]))


def apportion(sizes: np.ndarray, total: int) -> np.ndarray:
    """``total`` seats for classes of ``sizes`` ``[k]``: each has its share to less than one seat,
    and none loses a seat when there are more.

    The quota method (Balinski and Young, "The quota method of apportionment", American
    Mathematical Monthly 82, 1975): seat by seat to the class with the largest size per seat
    among those that stay below their share rounded up. Largest remainders do not have the second
    property.
    """
    taken = np.zeros(len(sizes), np.int64)
    for seat in range(1, total + 1):
        _give(taken, sizes, seat)
    return taken


def _give(taken: np.ndarray, sizes: np.ndarray, seat: int) -> None:
    """Adds the ``seat``-th seat to ``taken``; integers, so that no rounding decides."""
    eligible = taken * sizes.sum() < seat * sizes
    taken[np.argmax(np.where(eligible, sizes / (taken + 1), -1.0))] += 1


def _filling(sizes: np.ndarray) -> int:
    """The fewest seats that leave no class without one."""
    taken, seat = np.zeros(len(sizes), np.int64), 0
    while not taken.all():
        seat += 1
        _give(taken, sizes, seat)
    return seat


def _seats(fraction: float, n: int) -> int:
    return math.floor(fraction * n + 0.5)


def _least(seats: int, n: int) -> float:
    """The smallest fraction, to three digits, that gives ``seats`` of ``n`` rows."""
    fraction = float(f"{_rounded_up((seats - 0.5) / n):g}")  # as it is read and typed
    # Products of floats round: 0.036 * 375 is below 13.5.
    return fraction if _seats(fraction, n) >= seats else _rounded_up(fraction * (1 + 1e-9))


def _rounded_up(value: float, digits: int = 3) -> float:
    """``value`` to three significant digits, never less than it."""
    unit = 10.0 ** (math.floor(math.log10(value)) + 1 - digits)
    return min(1.0, math.ceil(value / unit) * unit)


def drawn_rows(
    shards: Shards, rows: np.ndarray, cfg: Data, *, labelled: bool = False
) -> np.ndarray:
    """The rows that training may read: with ``labelled`` those of ``rows`` that carry a label, and
    with ``cfg.label_fraction`` below 1 the drawn ones among them."""
    if labelled and shards.why_unlabelled:
        raise InputError(f"data: the shards have no labels together: {shards.why_unlabelled}")
    if cfg.label_fraction == 1 and not (labelled and shards.info.labels):
        return rows
    where = f"{shards.info.name}, data.label_fraction"
    check(bool(shards.info.labels), where, "the shards have no labels to take a share of")
    label = shards.column("label")[rows]
    if label.ndim == 1:
        rows, label = rows[label >= 0], label[label >= 0]
        check(len(rows) > 0, shards.info.name, "no row of these carries a label")
    if cfg.label_fraction == 1:
        return rows
    return rows[
        sample(
            label,
            cfg.label_fraction,
            cfg.label_seed,
            at_least_one=cfg.label_at_least_one,
            names=shards.info.labels,
            where=where,
        )
    ]
