"""Objectives as pure functions, float32, one value per clip; methods average and count."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

InfoNCEForm = Literal["paper", "official"]


def similarity(a: Float[Array, "b m p"], b: Float[Array, "b m p"]) -> Float[Array, "b m m"]:
    """Inner products ``a_i . b_j`` within each clip, in float32 on every backend."""
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    return jnp.einsum("bip,bjp->bij", a, b, precision=jax.lax.Precision.HIGHEST)


def info_nce(
    pred: Float[Array, "b m p"], target: Float[Array, "b m p"], *, form: InfoNCEForm = "paper"
) -> Float[Array, " b"]:
    """Within-clip InfoNCE, no temperature and no normalisation (SSAST, equation 1).

    ``paper``: for each prediction c_i, a softmax over all targets x_j of the clip.
    ``official``: the released code's transpose, for each target a softmax over predictions.
    """
    scores = similarity(pred, target)
    axis = -1 if form == "paper" else -2
    log_prob = jax.nn.log_softmax(scores, axis=axis)
    return -jnp.mean(jnp.diagonal(log_prob, axis1=-2, axis2=-1), axis=-1)


def nt_xent(
    a: Float[Array, "b d"], b: Float[Array, "b d"], *, temperature: float | int = 0.1
) -> Float[Array, " b"]:
    """NT-Xent of two views of every clip over the whole batch (SimCLR, equation 1).

    Both directions of each pair are averaged; a view's negatives are both views of all other
    clips of the global batch, under accumulation of the micro-batch. Cosine similarity, float32.
    """
    rows = a.shape[0]
    z = jnp.concatenate([a, b]).astype(jnp.float32)
    z = z * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(z), -1, keepdims=True), 1e-12))
    scores = jnp.matmul(z, z.T, precision=jax.lax.Precision.HIGHEST) / temperature
    scores = jnp.where(jnp.eye(2 * rows, dtype=bool), -jnp.inf, scores)
    log_prob = jax.nn.log_softmax(scores, axis=-1)
    own = jnp.diagonal(log_prob, rows), jnp.diagonal(log_prob, -rows)
    return -(own[0] + own[1]) / 2


def match_accuracy(
    pred: Float[Array, "b m p"], target: Float[Array, "b m p"]
) -> Float[Array, " b"]:
    """Share of predictions whose most similar target of the clip is their own."""
    best = jnp.argmax(similarity(pred, target), axis=-1)
    own = jnp.arange(pred.shape[1], dtype=best.dtype)[None]
    return jnp.mean((best == own).astype(jnp.float32), axis=-1)


def mse(pred: Float[Array, "b m p"], target: Float[Array, "b m p"]) -> Float[Array, " b"]:
    """Mean squared error over tokens and components (SSAST, equation 2, as released)."""
    error = pred.astype(jnp.float32) - target.astype(jnp.float32)
    return jnp.mean(jnp.square(error), axis=(-2, -1))
