"""What training carries from step to step: arrays only."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import optax

from jfreq.config import Experiment
from jfreq.method import Method
from jfreq.types import Array, PyTree


class State(NamedTuple):
    """``step`` int32 scalar: updates done; parameters, optimiser state, method's target."""

    step: Array
    params: PyTree
    opt: PyTree
    target: PyTree


def init_state(method: Method, optimiser: optax.GradientTransformation, key: Array) -> State:
    """A fresh state; run it under ``jit`` with output shardings so that it is born sharded."""
    params = method.init(key)
    return State(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt=optimiser.init(params),
        target=method.init_target(params),
    )


class Trained(NamedTuple):
    """A bound experiment and the parameters it led to."""

    experiment: Experiment
    params: PyTree
