"""Snapshots of the parameters in the later part of a run, and their running mean.

After snapshot n of parameters p the mean is m_n = m_(n-1) + (p - m_(n-1)) / n, so a run carries one
more copy of its parameters, however many snapshots it takes.
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jfreq.config import Average, Experiment, check
from jfreq.types import PyTree


def snapshot_steps(cfg: Average, steps: int) -> tuple[int, ...]:
    """After which updates a run of ``steps`` takes its snapshots, ascending: those multiples of
    ``every`` that are at ``start`` or later, rounded to whole updates."""
    if cfg.every is None:
        return ()
    numbers = np.arange(1, int(1 / cfg.every + 1e-6) + 1)
    late = numbers * cfg.every >= cfg.start - 1e-6
    found = np.clip(np.round(numbers[late] * cfg.every * steps), 1, steps).astype(int)
    return tuple(np.unique(found).tolist())


def averages_weights(cfg: Average) -> bool:
    """Whether a run carries a mean of its parameters."""
    return cfg.every is not None and cfg.of == "weights"


def check_snapshots(experiment: Experiment, *, tested: bool) -> None:
    """Raises ``InputError`` for snapshots that cannot be taken, or that nothing is done with.

    ``tested`` says that there are test rows, of which predictions can be averaged.
    """
    cfg = experiment.average
    if cfg.every is None:
        check(cfg == Average(), "average", "has no effect without average.every; set it")
        return
    check(
        bool(snapshot_steps(cfg, experiment.steps)),
        "average.start",
        f"no multiple of every, {cfg.every:g} of the run, lies between {cfg.start:g} and its end; "
        "start earlier, or take snapshots more often",
    )
    check(
        cfg.of == "weights" or tested,
        "average.of",
        "predictions are of the test rows of `jfreq finetune`; average the weights of this run",
    )


def check_same_snapshots(workdir: Path, experiment: Experiment, steps: int) -> None:
    """Raises ``InputError`` where a run of ``steps`` that took snapshots goes on with another
    number, by which it would take others."""
    check(
        experiment.average.every is None or experiment.steps == steps,
        "steps",
        f"{workdir} was trained for {steps}, by which average.every times its snapshots, not for "
        f"{experiment.steps}; continue it with --steps {steps}, or choose another --workdir",
    )


def empty(params: PyTree) -> PyTree:
    """The mean of no snapshots."""
    return {"count": jnp.zeros((), jnp.int32), "params": jax.tree.map(jnp.zeros_like, params)}


def with_snapshot(average: PyTree, params: PyTree) -> PyTree:
    """The mean with one more snapshot."""
    count = average["count"] + 1
    mean = jax.tree.map(lambda m, p: m + (p - m) / count, average["params"], params)
    return {"count": count, "params": mean}


def result(average: PyTree, params: PyTree) -> PyTree:
    """What a run ends in: the mean of its snapshots, or where it took none its ``params``."""
    return average["params"] if average and int(average["count"]) else params
