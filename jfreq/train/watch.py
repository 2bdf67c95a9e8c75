"""What is remembered of the figures of a run: the best one, and how long none was better.

Pure bookkeeping on the host. It is saved beside the state, so that a run that goes on remembers.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from jfreq.config import Experiment, Optim, check


class Watch(NamedTuple):
    """What the figures that are watched came to, one after the other."""

    figure: str | None = None
    """The figure that ``best`` is of (``checkpoint.best``)."""
    best: float | None = None
    """Its best value; None before the first."""
    best_step: int | None = None
    """After which update it was measured."""
    level: float | None = None
    """The value that the next one is compared with for the ``plateau`` schedule."""
    waited: int = 0
    """Values in a row that were no better than ``level``."""
    factor: float = 1.0
    """What the learning rate has come down by."""

    def of(self, figure: str | None) -> Watch:
        """The same for a run that keeps the best by ``figure``; a best of another is forgotten."""
        if figure == self.figure:
            return self
        return self._replace(figure=figure, best=None, best_step=None)

    def with_best(self, value: float, step: int, *, higher: bool) -> Watch:
        """What is remembered after ``value`` was measured at ``step``; ``higher`` says whether a
        higher one is better. Any better value is the best one."""
        if _is_better(value, self.best, higher):
            return self._replace(best=value, best_step=step)
        return self

    def with_level(self, value: float, cfg: Optim, *, higher: bool) -> Watch:
        """The same for the ``plateau`` schedule, for which a value is better where it exceeds
        ``level`` by more than the part ``plateau_threshold`` of it.

        Reference:
          ``torch.optim.lr_scheduler.ReduceLROnPlateau`` in its relative mode, without cooldown.
        """
        if _is_better(value, self.level, higher, cfg.plateau_threshold):
            return self._replace(level=value, waited=0)
        if self.waited < cfg.plateau_patience:
            return self._replace(waited=self.waited + 1)
        return self._replace(waited=0, factor=self.factor * cfg.plateau_decay)


def _is_better(value: float, than: float | None, higher: bool, margin: float = 0.0) -> bool:
    """Whether a value is better than another one, None for none; what is no number never is."""
    sign = 1 if higher else -1
    low = -math.inf if than is None else sign * than * (1 + sign * margin)
    return sign * value > low


def check_watched(experiment: Experiment, *, plateau: bool) -> None:
    """Raises ``InputError`` where figures are needed that are never measured; ``plateau`` says
    that the learning rate follows them."""
    watched = {"checkpoint.best": experiment.checkpoint.best}
    if plateau:
        watched["optim.plateau_figure"] = experiment.optim.plateau_figure
    for field, figure in watched.items():
        if figure is not None and figure.startswith("val/"):
            check(
                experiment.validation.every is not None,
                field,
                f"{figure} is a figure of validation; set validation.every and the rows to hold "
                "out (validation.split, folds or fraction)",
            )
    for field, every in {
        "validation.every": experiment.validation.every,
        **{f"evals: {each.name}: every": each.every for each in experiment.evals},
    }.items():
        check(
            every is None or every <= experiment.steps,
            field,
            f"is {every}, but the run has {experiment.steps} steps; measure more often",
        )
    profiled = experiment.log.profiled
    check(
        not profiled or profiled[-1] <= experiment.steps,
        "log.profile_steps",
        f"{experiment.log.profile_steps} ends after the last step, {experiment.steps}; name "
        "earlier steps",
    )
    check(
        experiment.checkpoint.best is None or experiment.average.every is None,
        "checkpoint.best",
        "a run ends in its best checkpoint or in an average of several; leave one of them out",
    )
