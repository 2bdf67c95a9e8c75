"""Gradients of a batch that is too large for one pass, summed over micro-batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jfreq.config import Experiment
from jfreq.method import Metrics, Rows, Streams
from jfreq.train.state import State
from jfreq.types import Array, Batch, PyTree


class Gradients(NamedTuple):
    """What a batch gives: gradients of the parameters, metrics, and ``aux`` for the target."""

    grads: PyTree
    metrics: Metrics
    aux: PyTree


GradientsOf = Callable[[State, Batch, Streams], Gradients]


def over_micro_batches(gradients: GradientsOf, experiment: Experiment) -> GradientsOf:
    """``gradients`` over the experiment's micro-batches, one after the other.

    Args:
        gradients: Of one micro-batch.
        experiment: ``accumulate`` is the number of micro-batches, ``data.sequence`` the rows that
            stay together.

    Returns:
        A function of the whole batch. Gradients are weighted by the count of ``metrics["loss"]``;
        metrics and ``aux`` are summed, arrays in ``Rows`` come back in the order of the batch.
    """
    parts, length = experiment.accumulate, experiment.data.sequence
    if parts == 1:
        return gradients

    def split(v: Array) -> Array:
        # Micro-batch i takes runs i::parts of rows, so that no row moves to another device.
        runs = v.reshape(-1, parts, length, *v.shape[1:]).swapaxes(0, 1)
        return runs.reshape(parts, -1, *v.shape[1:])

    def joined(rows: Rows) -> Rows:
        v = rows.array
        runs = v.reshape(parts, -1, length, *v.shape[2:]).swapaxes(0, 1)
        return Rows(runs.reshape(-1, *v.shape[2:]))

    def accumulated(state: State, batch: Batch, rngs: Streams) -> Gradients:
        def weighted(i: Any, rows: Batch) -> tuple[Gradients, PyTree]:
            """What is summed over micro-batches, and what is joined row by row."""
            grads, metrics, aux = gradients(state, rows, rngs.at(i))
            grads = jax.tree.map(lambda g: g * metrics["loss"][1], grads)
            summed = jax.tree.map(lambda x: None if _is_rows(x) else x, aux, is_leaf=_is_rows)
            by_row = jax.tree.map(lambda x: x if _is_rows(x) else None, aux, is_leaf=_is_rows)
            return Gradients(grads, metrics, summed), by_row

        def add(sums: Gradients, part: tuple[Array, Batch]) -> tuple[Gradients, PyTree]:
            summed, by_row = weighted(*part)
            return jax.tree.map(jnp.add, sums, summed), by_row

        micro = {name: split(v) for name, v in batch.items()}
        first = {name: jax.ShapeDtypeStruct(v.shape[1:], v.dtype) for name, v in micro.items()}
        shapes, _ = jax.eval_shape(weighted, 0, first)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        sums, by_row = jax.lax.scan(add, zeros, (jnp.arange(parts), micro))
        total = jnp.maximum(sums.metrics["loss"][1], 1.0)
        aux = jax.tree.map(
            lambda rows, x: joined(rows) if _is_rows(rows) else x,
            by_row,
            sums.aux,
            is_leaf=lambda x: x is None or _is_rows(x),
        )
        return Gradients(jax.tree.map(lambda g: g / total, sums.grads), sums.metrics, aux)

    return accumulated


def _is_rows(x: Any) -> bool:
    return isinstance(x, Rows)
