"""Mean and deviation of many windows from those of each."""

from __future__ import annotations

import dataclasses

import numpy as np

from jfreq.data.shards.metadata import SignalInfo


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


def with_moments(signal: SignalInfo, mean: np.ndarray, std: np.ndarray) -> SignalInfo:
    """``signal`` with mean and deviation ``[c]`` in physical units."""
    return dataclasses.replace(signal, mean=tuple(mean.tolist()), std=tuple(std.tolist()))
