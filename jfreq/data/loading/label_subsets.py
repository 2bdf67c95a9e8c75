"""A fraction of the labels: rows sampled in proportion to their classes, in nested samples."""

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
    """Samples ``fraction`` of the rows of every class; half a row is rounded up.

    ``seed`` decides the order of the rows of a class, and a sample is the beginning of that order,
    so the sample of a smaller fraction is a subset of that of a larger one. Rows are sampled one
    by one; those of a subject or recording are not kept together.

    Args:
      label: classes ``[n]`` int32; or multi-hot ``[n classes]``, of which rows are sampled without
        regard to their classes.
      fraction: above 0 and at most 1.
      at_least_one: keep a row of a class that would be left without any.
      names: of the classes, for messages.
      where: the beginning of messages.

    Returns:
      Positions in ``label``, ``[m]`` int64, ascending.

    Raises:
      InputError: where a class is left without a row; the message names the class and the smallest
        fraction that works.
    """
    check_value(Fraction, fraction, "", where)
    groups = [np.arange(len(label))]
    if label.ndim == 1:
        groups = [np.flatnonzero(label == number) for number in np.unique(label)]
    sizes = np.array([len(group) for group in groups])
    counts = np.floor(fraction * sizes + 0.5).astype(np.int64)
    if at_least_one:
        counts = np.maximum(counts, 1)
    elif not counts.all():
        i = int(np.argmin(sizes))
        lost = "no row"
        if label.ndim == 1:
            number = int(label[groups[i][0]])
            name = repr(names[number]) if len(names) else str(number)
            lost = f"class {name} ({sizes[i]} rows) without a row"
        raise InputError(
            f"{where}: {fraction:g} of {len(label)} rows leaves {lost}; the smallest fraction that "
            f"works is {_smallest_fraction(int(sizes[i])):g}, or keep at least one row of every "
            "class"
        )
    rng = np.random.default_rng(seed)
    parts = [rng.permutation(groups[i])[: counts[i]] for i in rng.permutation(len(groups))]
    return np.sort(np.concatenate(parts))


def _smallest_fraction(n: int) -> float:
    """The smallest fraction, to three digits, that rounds to a row of ``n``."""
    unit = 10.0 ** (math.floor(math.log10(0.5 / n)) - 2)
    return math.ceil(0.5 / n / unit - 1e-9) * unit


def sampled_rows(
    shards: Shards, rows: np.ndarray, cfg: Data, *, labelled: bool = False
) -> np.ndarray:
    """The rows that training may read: all, those with a label, or a sample of these.

    Args:
      rows: row numbers ``[n]``, ascending.
      cfg: with ``label_fraction`` below 1, that fraction of the labelled rows is sampled.
      labelled: whether training reads only rows with a label.

    Returns:
      Row numbers ``[m]``, ascending.

    Raises:
      InputError: where labels are needed and no row has one, and as :func:`sample`.
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
        check(len(rows) > 0, shards.info.name, "none of the rows to train on has a label")
    if cfg.label_fraction == 1:
        return rows
    positions = sample(
        label,
        cfg.label_fraction,
        cfg.label_seed,
        at_least_one=cfg.label_at_least_one,
        names=shards.info.labels,
        where=where,
    )
    return rows[positions]
