"""A fraction of the labels: rows sampled in proportion to their classes, nested in each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from jfreq.config import Data, check
from jfreq.data.shards.reader import Shards
from jfreq.ranges import Fraction, check_value
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
    """Positions of ``fraction`` of the rows of every class, half rows rounded up.

    The rows of a class lie in an order that ``seed`` decides, and a sample is its beginning: a
    smaller fraction is a subset of a larger one. Rows are sampled one by one; those of one subject
    or recording are not kept together.

    Args:
      label: int classes ``[n]``; or multi-hot ``[n k]``, of which rows are sampled without regard
        to their classes.
      at_least_one: a class that is left without a row keeps one.
      names: of the classes, for messages; ``where`` begins them.

    Returns:
      ``[m]`` int64, ascending.

    Raises:
      InputError: where a class is left without a row, with the class and the smallest fraction
        that works.
    """
    check_value(Fraction, fraction, "", where)
    rng = np.random.default_rng(seed)
    classes, sizes = np.zeros(1, np.int64), np.array([len(label)])
    if label.ndim == 1:
        classes, sizes = np.unique(label, return_counts=True)
    counts = np.floor(fraction * sizes + 0.5).astype(np.int64)
    if at_least_one:
        counts = np.maximum(counts, 1)
    elif not counts.all():
        i = int(np.argmin(sizes))
        name = repr(names[classes[i]]) if len(names) else str(classes[i])
        lost = "no row" if label.ndim == 2 else f"class {name} ({sizes[i]} rows) without a row"
        raise InputError(
            f"{where}: {fraction:g} of {len(label)} rows leaves {lost}; the smallest fraction that "
            f"works is {_least(int(sizes[i])):g}, or keep at least one row of every class"
        )
    if label.ndim == 2:
        return np.sort(rng.permutation(len(label))[: counts[0]])
    parts = []
    for i in rng.permutation(len(classes)):
        parts.append(rng.permutation(np.flatnonzero(label == classes[i]))[: counts[i]])
    return np.sort(np.concatenate(parts))


def _least(n: int) -> float:
    """The smallest fraction, to three digits, that rounds to a row of ``n``."""
    unit = 10.0 ** (math.floor(math.log10(0.5 / n)) - 2)
    return math.ceil(0.5 / n / unit - 1e-9) * unit


def sampled_rows(
    shards: Shards, rows: np.ndarray, cfg: Data, *, labelled: bool = False
) -> np.ndarray:
    """The rows that training may read.

    Args:
      rows: row numbers ``[n]``, ascending.
      labelled: read only rows that carry a label; with ``cfg.label_fraction`` below 1 a sample of
        these is read in any case.

    Raises:
      InputError: where no row has a label that is needed, and as :func:`sample`.
    """
    if labelled and shards.why_unlabelled:
        raise InputError(f"data: the shards have no labels together: {shards.why_unlabelled}")
    if cfg.label_fraction == 1 and not (labelled and shards.info.labels):
        return rows
    where = f"{shards.info.name}, data.label_fraction"
    check(bool(shards.info.labels), where, "the shards have no labels to take a fraction of")
    label = shards.column("label")[rows]
    if label.ndim == 1:
        rows, label = rows[label >= 0], label[label >= 0]
        check(len(rows) > 0, shards.info.name, "no row of these carries a label")
    if cfg.label_fraction == 1:
        return rows
    names, least = shards.info.labels, cfg.label_at_least_one
    fraction, seed = cfg.label_fraction, cfg.label_seed
    return rows[sample(label, fraction, seed, at_least_one=least, names=names, where=where)]
