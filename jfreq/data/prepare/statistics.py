"""Mean and standard deviation of many windows from those of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from jfreq.config import check
from jfreq.data.shards.metadata import SignalInfo
from jfreq.types import InputError


def pooled_moments(
    count: np.ndarray, mean: np.ndarray, var: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the union of groups (Chan, Golub and LeVeque, 1983).

    Args:
      count: ``[n]`` samples per group.
      mean: ``[n c]`` of each group.
      var: ``[n c]`` population variance of each group.

    Returns:
      ``[c]``, ``[c]`` float64.
    """
    weight = (count / count.sum())[:, None]
    total = (weight * mean).sum(0)
    return total, np.sqrt((weight * (var + (mean - total) ** 2)).sum(0))


def training_rows(split: np.ndarray) -> np.ndarray:
    """Row numbers of split ``train`` where there is one, else of all rows; of texts ``[rows]``."""
    train = split == ("train" if split.dtype.kind == "U" else b"train")
    return np.flatnonzero(train if train.any() else np.ones_like(train))


def measured(
    signals: Sequence[SignalInfo], column: Callable[[str], np.ndarray], rows: np.ndarray
) -> tuple[SignalInfo, ...]:
    """``signals`` with mean and standard deviation over the valid samples of ``rows``.

    Exact and in physical units, from the moments stored for every row: no record is read.

    Args:
      column: ``[n]`` or ``[n c]`` of all rows by name, for instance ``acc.mean``.
      rows: row numbers ``[k]``.

    Raises:
      InputError: for no rows, and for a signal that is absent in all of them.
    """
    check(len(rows) > 0, "rows", "statistics need at least one row")
    out = []
    for s in signals:
        count, mean, var = (column(f"{s.name}.{k}")[rows] for k in ("count", "mean", "var"))
        if not count.any():
            raise InputError(
                f"rows: {s.name} is absent in all {len(rows)} rows that statistics are taken of; "
                "take other rows, or leave it out with --modalities when preparing"
            )
        mean, std = pooled_moments(count, mean, var)
        out.append(dataclasses.replace(s, mean=tuple(mean.tolist()), std=tuple(std.tolist())))
    return tuple(out)
