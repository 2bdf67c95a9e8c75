"""What training carries from step to step, and what it ends in."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import optax

from jfreq.config import Experiment
from jfreq.method import Method
from jfreq.types import Array, PyTree


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


def init_state(method: Method, optimiser: optax.GradientTransformation, key: Array) -> State:
    """The state before the first update.

    Under ``jit`` with ``out_shardings`` every device makes its own part, so that a model may be
    larger than the memory of one. ``key`` gives the initial parameters.
    """
    params = method.init(key)
    return State(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt=optimiser.init(params),
        target=method.init_target(params),
    )


class Trained(NamedTuple):
    """An encoder to use: the experiment that was run, and parameters from it."""

    experiment: Experiment
    """Its method is bound: every field that depends on the data is filled in."""
    params: PyTree
    """Parameters of the method; its training target where that was asked for in their place."""
