"""Probes with few labels: a fraction of the training rows, sampled several times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jfreq.config import check
from jfreq.data.loading.label_subsets import sample
from jfreq.evaluate.folds import Fold, Task
from jfreq.ranges import Repeats, check_value

FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""The fractions of labels that curves usually show."""


class LabelSubset(NamedTuple):
    """Several samples of a fraction of the training rows; the test rows are not sampled."""

    fraction: float
    repeats: tuple[tuple[Fold, ...], ...]
    """For each repeat the folds with the sampled training rows."""

    @property
    def rows(self) -> float:
        """The mean number of training rows of a fold."""
        return float(np.mean([len(fold.train) for folds in self.repeats for fold in folds]))


def label_subsets(
    task: Task,
    fractions: Sequence[float],
    *,
    repeats: int = 5,
    at_least_one: bool = False,
    names: Sequence[str] = (),
    where: str = "fractions",
) -> tuple[LabelSubset, ...]:
    """Samples fractions of the training rows.

    Repeat ``i`` of a fraction is a subset of repeat ``i`` of every larger one.

    Args:
      task: the labels and folds.
      fractions: of the training rows of every fold.
      repeats: how often each fraction is sampled; 1.0 is all rows and needs no repeats.
      at_least_one: a class that is left without a row keeps one.
      names: of the classes, for messages.
      where: begins the messages.

    Returns:
      The subsets in ascending order of their fractions.

    Raises:
      InputError: as :func:`jfreq.data.loading.label_subsets.sample`.
    """
    check_value(Repeats, repeats, "", "repeats")
    wanted = sorted(set(fractions))
    check(len(wanted) == len(fractions), "fractions", f"name each once, got {list(fractions)}")

    def sampled(fold: Fold, fraction: float, seed: int) -> Fold:
        positions = sample(
            task.label[fold.train],
            fraction,
            seed,
            at_least_one=at_least_one,
            names=names,
            where=f"{where}, {fold.name}",
        )
        return fold._replace(train=fold.train[positions])

    subsets = []
    for fraction in wanted:
        seeds = range(1 if fraction == 1 else repeats)
        folds = (tuple(sampled(fold, fraction, seed) for fold in task.folds) for seed in seeds)
        subsets.append(LabelSubset(fraction, tuple(folds)))
    return tuple(subsets)
