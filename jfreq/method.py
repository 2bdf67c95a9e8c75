"""What a paper is to the rest of the library: a few pure functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jfreq import trees
from jfreq.types import Array, Batch, BatchSpec, Features, PyTree, Reconstruction

Metrics = dict[str, tuple[Any, Any]]
"""``{name: (sum, count)}``: summed over devices, micro-batches and steps, divided once."""


class Target(NamedTuple):
    """State beside the parameters that no gradient reaches: an EMA teacher, statistics.

    ``init(params) -> target``, ``update(target, params, step) -> target``.
    """

    init: Callable[[PyTree], PyTree]
    update: Callable[[PyTree, PyTree, Any], PyTree]


no_target = Target(init=lambda params: {}, update=lambda target, params, step: target)


def _no_frontend(batch: Batch) -> Batch:
    return batch


class Method(NamedTuple):
    """One paper.

    ``init(key, batch_spec) -> params``; ``batch_spec`` is a batch of ``jax.ShapeDtypeStruct``.

    ``loss(params, target, batch, key, step) -> (scalar, metrics)``. ``metrics["loss"]`` is the
    ``(sum, count)`` whose ratio the scalar is; gradient accumulation weighs by that count.

    ``encode(params, batch) -> Features``: no randomness, no labels.

    ``frontend(batch) -> batch`` adds ``spectrogram`` (no parameters); ``loss`` and ``encode``
    call it themselves when it is missing, a supervised head augments in between.

    ``forward(params, batch, key) -> Features``: as ``encode``, but as training sees it (dropout),
    for a head that trains through; None where that is the same.

    ``reconstruct(params, batch, key) -> Reconstruction``: the batch under one random mask and
    what the method draws there, for people to look at; None where there is no mask.

    ``floors``: metrics, each with the value below which training has gone wrong (a teacher that
    tells all clips the same); the loop warns.
    """

    init: Callable[..., PyTree]
    loss: Callable[..., tuple[Any, Metrics]]
    encode: Callable[[PyTree, Batch], Features]
    target: Target = no_target
    frontend: Callable[[Batch], Batch] = _no_frontend
    forward: Callable[[PyTree, Batch, Array], Features] | None = None
    reconstruct: Callable[[PyTree, Batch, Array], Reconstruction] | None = None
    floors: tuple[tuple[str, float], ...] = ()


def summarise(values: dict[str, Array], batch: Batch) -> tuple[Array, Metrics]:
    """Per-clip values ``[b]`` as the scalar loss and metrics; filling rows do not count."""
    rows = values["loss"].shape[0]
    mask = batch.get("_mask", jnp.ones(rows)).astype(jnp.float32)
    count = jnp.sum(mask)
    metrics = {name: (jnp.sum(value * mask), count) for name, value in values.items()}
    return metrics["loss"][0] / jnp.maximum(count, 1.0), metrics


def encoder_params(method: Method, params: PyTree, batch_spec: BatchSpec) -> PyTree:
    """Only the parameters that ``encode`` reads; heads of the pretext task fall away."""
    flat = trees.flatten(params)
    program = jax.make_jaxpr(method.encode)(params, batch_spec).jaxpr
    read = {id(var) for eqn in program.eqns for var in eqn.invars}
    read |= {id(var) for var in program.outvars}
    # Parameters are the first inputs, in the order of the tree's leaves.
    kept = {name: flat[name] for name, var in zip(flat, program.invars) if id(var) in read}
    return trees.unflatten(kept)
