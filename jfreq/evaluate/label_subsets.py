"""Probes with few labels: a fraction of the training rows, drawn several times."""

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
    """``fraction`` of the training rows of every fold, drawn several times; test rows stay.

    ``draws``: for each draw the folds with the training positions that are left.
    """

    fraction: float
    draws: tuple[tuple[Fold, ...], ...]

    @property
    def rows(self) -> float:
        """Training rows of a fold, on average."""
        return float(np.mean([len(fold.train) for folds in self.draws for fold in folds]))


def label_subsets(
    task: Task,
    fractions: Sequence[float],
    *,
    draws: int = 5,
    at_least_one: bool = False,
    names: Sequence[str] = (),
    where: str = "fractions",
) -> tuple[LabelSubset, ...]:
    """The training rows of each fraction, ascending; draw ``i`` of all fractions is nested.

    All labels (1.0) are drawn once. ``InputError`` as
    :func:`jfreq.data.loading.label_subsets.sample`, before any feature is computed.
    """
    check_value(Repeats, draws, "", "draws")
    wanted = sorted(set(fractions))
    check(len(wanted) == len(fractions), "fractions", f"name each once, got {list(fractions)}")

    def drawn(fold: Fold, fraction: float, seed: int) -> Fold:
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
        seeds = range(1 if fraction == 1 else draws)
        folds = (tuple(drawn(fold, fraction, seed) for fold in task.folds) for seed in seeds)
        subsets.append(LabelSubset(fraction, tuple(folds)))
    return tuple(subsets)
