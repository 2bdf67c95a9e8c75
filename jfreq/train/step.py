"""One update step: an experiment planned against its data and mesh, then compiled once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jfreq import sharding
from jfreq.config import check
from jfreq.method import Loss, Metrics, Rows, Streams
from jfreq.train import optimizer
from jfreq.train.plan import StepPlan
from jfreq.train.state import State
from jfreq.types import Array, Batch, PyTree

# ------------------------------------------------------------------ the step


def make_step(setup: StepPlan) -> Callable[[State, Batch, Array], tuple[State, PyTree]]:
    """``(state, batch, key) -> (state, metrics)``: one update; metrics are ``(sum, count)`` pairs.
    ``key`` is the run's, the same at every step; one program serves every seed."""
    method, optimiser = setup.method, setup.optimiser
    parts = setup.experiment.accumulate
    length = setup.experiment.data.sequence
    rates = optimizer.rates(setup.experiment.optim, setup.experiment.steps)

    def grads_of(state: State, batch: Batch, rngs: Streams) -> tuple[PyTree, Metrics, PyTree]:
        def loss(params) -> tuple[Array, Loss]:
            found = method.loss(params, state.target, batch, rngs, state.step)
            return found.value, found

        (_, found), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        return grads, found.metrics, found.aux

    def accumulated(state: State, batch: Batch, rngs: Streams) -> tuple[PyTree, Metrics, PyTree]:
        # Micro-batch i takes runs i::parts of rows, so that every device keeps its own.
        def parted(v: Array) -> Array:
            runs = v.reshape(-1, parts, length, *v.shape[1:]).swapaxes(0, 1)
            return runs.reshape(parts, -1, *v.shape[1:])

        def joined(rows: Rows) -> Array:
            v = rows.array
            runs = v.reshape(parts, -1, length, *v.shape[2:]).swapaxes(0, 1)
            return runs.reshape(-1, *v.shape[2:])

        def part_of(i, rows) -> tuple[tuple, PyTree]:
            """What is summed over the parts, and what stands row by row."""
            grads, metrics, aux = grads_of(state, rows, rngs.at(i))
            grads = jax.tree.map(lambda g: g * metrics["loss"][1], grads)
            by_row = jax.tree.map(lambda x: x if _is_rows(x) else None, aux, is_leaf=_is_rows)
            summed = jax.tree.map(lambda x: None if _is_rows(x) else x, aux, is_leaf=_is_rows)
            return (grads, metrics, summed), by_row

        def body(carry, part):
            summed, by_row = part_of(*part)
            return jax.tree.map(jnp.add, carry, summed), by_row

        split = {k: parted(v) for k, v in batch.items()}
        first = {k: jax.ShapeDtypeStruct(v.shape[1:], v.dtype) for k, v in split.items()}
        shapes, _ = jax.eval_shape(part_of, 0, first)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        sums, by_row = jax.lax.scan(body, zeros, (jnp.arange(parts), split))
        grads, metrics, summed = sums
        total = jnp.maximum(metrics["loss"][1], 1.0)
        aux = jax.tree.map(
            lambda rows, x: Rows(joined(rows)) if _is_rows(rows) else x, by_row, summed,
            is_leaf=lambda x: x is None or _is_rows(x),
        )  # fmt: skip
        return jax.tree.map(lambda g: g / total, grads), metrics, aux

    def step(state: State, batch: Batch, key: Array):
        rngs = Streams(key).at(state.step)
        grads, metrics, aux = (grads_of if parts == 1 else accumulated)(state, batch, rngs)
        updates, opt = optimiser.update(grads, state.opt, state.params)
        params = optax.apply_updates(state.params, updates)
        target = method.update_target(state.target, params, aux, state.step)
        one = jnp.ones(())
        metrics = {
            **metrics,
            **{k: (jnp.asarray(rate(state.step), jnp.float32), one) for k, rate in rates.items()},
            "grad_norm": (optax.tree.norm(grads), one),
            "update_norm": (optax.tree.norm(updates), one),
            "param_norm": (optax.tree.norm(params), one),
        }
        return State(state.step + 1, params, opt, target), metrics

    return step


def _is_rows(x: Any) -> bool:
    return isinstance(x, Rows)


def lower_step(setup: StepPlan) -> jax.stages.Lowered:
    """The step lowered for the devices of its mesh, state donated; call it with the mesh set."""
    places = jax.tree.map(lambda leaf: leaf.sharding, setup.abstract)
    out = places, sharding.replicated(setup.mesh)
    step = jax.jit(make_step(setup), donate_argnums=0, out_shardings=out)
    return step.lower(setup.abstract, setup.batch_spec, setup.key_spec)


def compile_step(setup: StepPlan) -> tuple[jax.stages.Compiled, float]:
    """The step compiled ahead of time; with its compile time in seconds. Raises ``InputError``
    where a device has less memory than the step needs."""
    began = time.perf_counter()
    step = lower_step(setup).compile()
    took = time.perf_counter() - began
    found = step.memory_analysis()
    if found is not None:
        check_memory(sum(memory_of(found)))
    return step, took


def memory_of(stats: Any) -> tuple[int, int]:
    """Bytes of a compiled step on a device: arguments, and temporaries with what comes out anew;
    the donated state comes out where it went in. ``stats``: XLA's memory analysis."""
    new = stats.output_size_in_bytes - stats.alias_size_in_bytes
    return stats.argument_size_in_bytes, stats.temp_size_in_bytes + new


def check_memory(need: int, limit: int | None = None) -> None:
    """Raises ``InputError`` for a step of ``need`` bytes where a device has fewer than ``limit``;
    None: what the device says of itself, among CPUs an equal share of the machine's memory."""
    if limit is None:
        devices = jax.local_devices()
        limit = (devices[0].memory_stats() or {}).get("bytes_limit")
        if limit is None and devices[0].platform == "cpu":
            limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // len(devices)
    check(limit is None or need <= limit, "batch", f"a step needs {need / 2**30:.1f} GiB a device, "
          f"there are {(limit or 0) / 2**30:.1f}: take a smaller batch, more --accumulate, "
          "--method.encoder.remat full, or fewer --method.clones if it has them")  # fmt: skip
