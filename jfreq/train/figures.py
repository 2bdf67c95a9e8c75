"""The figures of a run that are measured between updates, and may be watched."""

from __future__ import annotations

from collections.abc import Sequence

from jfreq.config import check
from jfreq.ranges import close_match
from jfreq.train.evals import EvalPlan
from jfreq.train.optimizer import follows_plateau
from jfreq.train.plan import RunPlan
from jfreq.train.validation import metrics_of


def figures_of(setup: RunPlan, evals: Sequence[EvalPlan]) -> dict[str, bool | None]:
    """Their names in metrics.jsonl, and whether a higher value is better; None where the method
    does not say. Those of ``evals`` are all better when higher."""
    found = {f"val/{name}": higher for name, higher in metrics_of(setup).items()}
    return found | {name: True for plan in evals for name in plan.figures}


def check_figures(setup: RunPlan, evals: Sequence[EvalPlan]) -> None:
    """Raises ``InputError`` where the figure of ``checkpoint.best`` or of the plateau schedule is
    not measured, or where it is not known which way it is better."""
    experiment = setup.experiment
    watched = {"checkpoint.best": experiment.checkpoint.best}
    if follows_plateau(experiment.optim):
        watched["optim.plateau_figure"] = experiment.optim.plateau_figure
    known = figures_of(setup, evals)
    for field, figure in watched.items():
        if figure is None:
            continue
        check(
            figure in known,
            field,
            f"{figure!r} is not measured{close_match(figure, known)}; there are "
            f"{', '.join(known) or 'none'} (set validation.every, or evals)",
        )
        check(
            known[figure] is not None,
            field,
            f"{type(setup.method).__name__} does not say whether a higher or a lower {figure!r} is "
            "better (higher_is_better); watch one of "
            f"{', '.join(name for name, higher in known.items() if higher is not None)}",
        )
