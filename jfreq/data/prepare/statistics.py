"""Mean and standard deviation of many windows from their counts, means and variances."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from jfreq.config import check
from jfreq.data.shards.metadata import SignalInfo
from jfreq.types import InputError

_BLOCK = 1 << 16
"""Rows whose moments are in memory together."""


def pooled_moments(
    count: np.ndarray, mean: np.ndarray, var: np.ndarray, rows: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the union of groups (Chan, Golub and LeVeque, 1983).

    They are summed in blocks of ``_BLOCK`` groups, so that columns on disk are never in memory as
    a whole.

    Args:
      count: samples per group, ``[n]``; at least one is positive.
      mean: of each group, ``[n c]``.
      var: population variance of each group, ``[n c]``.
      rows: numbers of the groups to pool, ``[k]``; None for all.

    Returns:
      Mean and standard deviation of every channel, ``[c]`` and ``[c]`` float64.
    """
    rows = np.arange(len(count)) if rows is None else rows
    blocks = _blocks(rows)
    samples = sum(int(count[block].sum()) for block in blocks)

    def weight(block: np.ndarray) -> np.ndarray:
        return (count[block] / samples)[:, None]

    total = sum((weight(b) * mean[b]).sum(0) for b in blocks)
    square = sum((weight(b) * (var[b] + (mean[b] - total) ** 2)).sum(0) for b in blocks)
    return np.asarray(total), np.sqrt(square)


def _blocks(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[i : i + _BLOCK] for i in range(0, len(rows), _BLOCK)]


def training_rows(split: np.ndarray) -> np.ndarray:
    """Row numbers ``[k]`` of split ``train`` where there is one, else of all rows.

    Args:
      split: the split of every row, ``[rows]`` str or UTF-8 bytes.
    """
    train = split == ("train" if split.dtype.kind == "U" else b"train")
    return np.flatnonzero(train if train.any() else np.ones_like(train))


def measured(
    signals: Sequence[SignalInfo], column: Callable[[str], np.ndarray], rows: np.ndarray
) -> tuple[SignalInfo, ...]:
    """``signals`` with mean and standard deviation over the valid samples of ``rows``.

    They are exact and in physical units. They come from the moments that are stored for every
    row, so no record is read.

    Args:
      column: gives the values of all rows by name, ``acc.mean`` for instance, ``[n]`` or ``[n c]``.
      rows: row numbers ``[k]``.

    Raises:
      InputError: where there are no rows, or a signal is absent in all of them.
    """
    check(len(rows) > 0, "rows", "statistics need at least one row")
    out = []
    for s in signals:
        count, mean, var = (column(f"{s.name}.{k}") for k in ("count", "mean", "var"))
        if not any(count[block].any() for block in _blocks(rows)):
            raise InputError(
                f"rows: {s.name} is absent in all {len(rows)} rows that its mean would be computed "
                "from; choose other rows, or prepare the set without it (--modalities)"
            )
        mean, std = pooled_moments(count, mean, var, rows)
        out.append(dataclasses.replace(s, mean=tuple(mean.tolist()), std=tuple(std.tolist())))
    return tuple(out)
