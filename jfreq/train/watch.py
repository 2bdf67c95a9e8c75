"""What is remembered of the figures of validation: the best one, and how long none was better.

Pure bookkeeping on the host. It is saved beside the state, so that a run that goes on remembers.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from jfreq.config import Experiment, Optim, check


class Watch(NamedTuple):
    """What one figure after the other came to."""

    best: float | None = None
    """The best figure; None before the first."""
    best_step: int | None = None
    """After which update it was measured."""
    level: float | None = None
    """The figure that the next one is compared with for the ``plateau`` schedule."""
    waited: int = 0
    """Figures in a row that were no better than ``level``."""
    factor: float = 1.0
    """What the learning rate has come down by."""

    def after(self, figure: float, step: int, cfg: Optim, *, higher: bool) -> Watch:
        """What is remembered after the ``figure`` that was measured at ``step``; ``higher`` says
        whether a higher one is better.

        Any better figure is the best one. For the schedule a figure is better where it exceeds
        ``level`` by more than the part ``plateau_threshold`` of it.

        Reference:
          ``torch.optim.lr_scheduler.ReduceLROnPlateau`` in its relative mode, without cooldown.
        """
        sign = 1 if higher else -1

        def better(than: float | None, margin: float = 0.0) -> bool:
            """A figure that is no number never is."""
            low = -math.inf if than is None else sign * than * (1 + sign * margin)
            return sign * figure > low

        found = self
        if better(self.best):
            found = found._replace(best=figure, best_step=step)
        if better(self.level, cfg.plateau_threshold):
            return found._replace(level=figure, waited=0)
        if self.waited < cfg.plateau_patience:
            return found._replace(waited=self.waited + 1)
        return found._replace(waited=0, factor=self.factor * cfg.plateau_decay)


def check_watched(experiment: Experiment, *, plateau: bool) -> None:
    """Raises ``InputError`` where figures are needed that are never measured; ``plateau`` says
    that the learning rate follows them."""
    cfg = experiment.validation
    check(
        not plateau or cfg.every is not None,
        "optim.schedule",
        "plateau follows the figures of validation; set validation.every and the rows to hold out "
        "(validation.split, folds or fraction)",
    )
    check(
        cfg.every is None or cfg.every <= experiment.steps,
        "validation.every",
        f"is {cfg.every}, but the run has {experiment.steps} steps; measure more often",
    )
    check(
        not cfg.keep_best or experiment.average.every is None,
        "validation.keep_best",
        "a run ends in its best checkpoint or in an average of several; leave one of them out",
    )
