"""What training carries from step to step, and what it ends in."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp

from jfreq.config import Experiment
from jfreq.method import Method
from jfreq.train import average
from jfreq.types import Array, PyTree

if TYPE_CHECKING:
    import optax


class State(NamedTuple):
    """What an update reads and returns: arrays only."""

    step: Array
    """Updates done so far, an int32 scalar."""
    params: PyTree
    """Parameters of the method, which the optimiser changes."""
    opt: PyTree
    """State of the optimiser."""
    target: PyTree
    """What the method keeps beside its parameters and no gradient reaches, such as the average of
    past parameters; empty by default. See :meth:`jfreq.method.Method.init_target`."""
    average: PyTree = {}  # noqa: RUF012 - never changed in place
    """The mean of the snapshots of :mod:`jfreq.train.average`; empty where a run takes none."""


def init_state(
    method: Method,
    optimiser: optax.GradientTransformation,
    key: Array,
    *,
    params: PyTree = None,
    averaged: bool = False,
) -> State:
    """The state before the first update.

    Training starts from ``params``, else from initial ones that ``key`` gives; the optimiser and
    the target look at these. With ``averaged`` the state holds a mean of snapshots.

    Under ``jit`` with ``out_shardings`` every device makes its own part, so that a model may be
    larger than the memory of one.
    """
    params = method.init(key) if params is None else params
    return State(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt=optimiser.init(params),
        target=method.init_target(params),
        average=average.empty(params) if averaged else {},
    )


class Trained(NamedTuple):
    """An encoder to use: the experiment that was run, and parameters from it."""

    experiment: Experiment
    """Its method is bound: every field that depends on the data is filled in."""
    params: PyTree
    """Parameters of the method; its training target where that was asked for in their place."""
    step: int | None = None
    """The updates that they have seen; None where it is not known, as of a bundle."""
    checkpoint: str = ""
    """What a report says of the checkpoint that was read, ``step 3 of 4 (the best by val/loss)``;
    empty for the last one of a run, and for a bundle."""
