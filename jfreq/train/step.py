"""One update step: an experiment planned against its data and mesh, then compiled once."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jfreq import sharding
from jfreq.config import Experiment
from jfreq.kernels import cpu
from jfreq.method import Loss, Metrics, Streams
from jfreq.train import optimizer
from jfreq.train.accumulate import Gradients, over_micro_batches
from jfreq.train.plan import StepPlan
from jfreq.train.state import State
from jfreq.types import Array, Batch, InputError, PyTree


def make_step(setup: StepPlan) -> Callable[[State, Batch, Array], tuple[State, PyTree]]:
    """The update of one batch.

    Args:
        setup: The plan; its micro-batches are accumulated by :mod:`jfreq.train.accumulate`.

    Returns:
        ``(state, batch, key) -> (state, metrics)``, whose metrics are ``(sum, count)`` pairs.
        ``key`` is the run's, the same at every step, so that one program serves every seed.
    """
    method, optimiser = setup.method, setup.optimiser
    rates = optimizer.rates(setup.experiment.optim, setup.experiment.steps)

    def gradients(state: State, batch: Batch, rngs: Streams) -> Gradients:
        def objective(params: PyTree) -> tuple[Array, Loss]:
            loss = method.loss(params, state.target, batch, rngs, state.step)
            return loss.value, loss

        (_, loss), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
        diagnostics = _diagnostics(loss, setup.experiment, state.step + 1)
        return Gradients(grads, loss.metrics | diagnostics, loss.aux)

    def update(state: State, batch: Batch, key: Array) -> tuple[State, PyTree]:
        rngs = Streams(key).at(state.step)
        grads, metrics, aux = over_micro_batches(gradients, setup.experiment)(state, batch, rngs)
        with jax.named_scope("optimizer"):
            updates, opt = optimiser.update(grads, state.opt, state.params)
            params = optax.apply_updates(state.params, updates)
        with jax.named_scope("target"):
            target = method.update_target(state.target, params, aux, state.step)
        one = jnp.ones(())
        metrics = {
            **metrics,
            **{name: (rate(state.step, state.opt), one) for name, rate in rates.items()},
            "grad_norm": (optax.tree.norm(grads), one),
            "update_norm": (optax.tree.norm(updates), one),
            "param_norm": (optax.tree.norm(params), one),
        }
        return State(state.step + 1, params, opt, target, state.average), metrics

    return update


def is_logged(experiment: Experiment, step: Any) -> Any:
    """Whether the metrics up to update ``step`` are written: an int, or a traced one."""
    return (step % experiment.log.every == 0) | (step == experiment.steps)


def _diagnostics(loss: Loss, experiment: Experiment, step: Array) -> Metrics:
    """The diagnostics of a loss if ``step`` is logged; else they are not computed, and their sums
    and counts are 0."""
    if loss.diagnostics is None:
        return {}
    shapes = jax.eval_shape(lambda f: f(), loss.diagnostics)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    logged = is_logged(experiment, step)
    return jax.lax.cond(logged, lambda f: f(), lambda f: zeros, loss.diagnostics)


def lower_step(setup: StepPlan) -> jax.stages.Lowered:
    """The step lowered for the devices of its mesh, state donated; call it with the mesh set."""
    state = jax.tree.map(lambda leaf: leaf.sharding, setup.abstract)
    out = state, sharding.replicated(setup.mesh)
    step = jax.jit(make_step(setup), donate_argnums=0, out_shardings=out)
    return step.lower(setup.abstract, setup.batch_spec, setup.key_spec)


def compile_step(setup: StepPlan) -> tuple[jax.stages.Compiled, float]:
    """The step compiled ahead of time; with its compile time in seconds. Raises ``InputError``
    where a device has less memory than the step needs."""
    began = time.perf_counter()
    step = lower_step(setup).compile(compiler_options=cpu.compiler_options())
    took = time.perf_counter() - began
    memory = step.memory_analysis()
    if memory is not None:
        check_memory(sum(memory_of(memory)))
    return step, took


def bytes_a_device(tree: PyTree) -> int:
    """What arrays, or their shapes with shardings, take on each device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * sharding.itemsize(leaf)
        for leaf in jax.tree.leaves(tree)
    )


def memory_of(stats: Any) -> tuple[int, int]:
    """Bytes of a compiled step on a device, from XLA's memory analysis: arguments, and temporaries
    with those outputs that do not take the place of a donated argument."""
    new = stats.output_size_in_bytes - stats.alias_size_in_bytes
    return stats.argument_size_in_bytes, stats.temp_size_in_bytes + new


ADVICE = (
    "take a smaller batch, more --accumulate, --method.encoder.remat full, or fewer "
    "--method.clones if it has them"
)


def check_memory(
    need: int, limit: int | None = None, *, what: str = "batch: a step", advice: str = ADVICE
) -> None:
    """Raises ``InputError`` where ``what`` needs more bytes than a device has, ``limit``.

    Without ``limit`` it is what the device reports, for CPUs the machine's memory divided among
    them.
    """
    if limit is None:
        devices = jax.local_devices()
        limit = (devices[0].memory_stats() or {}).get("bytes_limit")
        if limit is None and devices[0].platform == "cpu":
            limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // len(devices)
    if limit is not None and need > limit:
        raise InputError(
            f"{what} needs {need / 2**30:.1f} GiB a device, there are {limit / 2**30:.1f}: {advice}"
        )
