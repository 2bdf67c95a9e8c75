"""Scaled dot-product attention behind one function."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_NEGATIVE = -1e30


def attention(
    q: Float[Array, "b n h k"],
    k: Float[Array, "b n h k"],
    v: Float[Array, "b n h k"],
    *,
    valid: Bool[Array, "b n"] | None = None,
) -> Float[Array, "b n h k"]:
    """softmax(q kᵀ / sqrt(k)) v per head; keys with ``valid`` False get no weight.

    Softmax in float32. On CPU a head-major form with a hand-written gradient is used: XLA's own
    takes about twice the time there.
    """
    if jax.default_backend() != "cpu":
        mask = None if valid is None else valid[:, None, None, :]
        return jax.nn.dot_product_attention(q, k, v, mask=mask)
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, k, v))
    bias = None if valid is None else jnp.where(valid[:, None, None, :], 0.0, _NEGATIVE)
    return _head_major(q, k, v, bias).transpose(0, 2, 1, 3)


@jax.custom_vjp
def _head_major(q, k, v, bias):
    """``q, k, v`` ``[b h n k]``, ``bias`` ``[b 1 1 n]`` float32 or None."""
    return _forward(q, k, v, bias)[0]


def _forward(q, k, v, bias):
    scale = q.shape[-1] ** -0.5
    scores = jnp.einsum("bhqd,bhkd->bhqk", q * scale, k, preferred_element_type=jnp.float32)
    if bias is not None:
        scores = scores + bias
    probs = jax.nn.softmax(scores, axis=-1).astype(q.dtype)
    out = jnp.einsum("bhqk,bhkd->bhqd", probs, v)
    return out, (q, k, v, probs, out, bias)


def _backward(saved, grad):
    q, k, v, probs, out, bias = saved
    scale = q.shape[-1] ** -0.5
    grad_v = jnp.einsum("bhqk,bhqd->bhkd", probs, grad)
    grad_probs = jnp.einsum("bhqd,bhkd->bhqk", grad, v, preferred_element_type=jnp.float32)
    # sum_k p_k dp_k = dout . out: one row product instead of a pass over the n x n table.
    inner = jnp.sum((grad * out).astype(jnp.float32), axis=-1, keepdims=True)
    grad_scores = (probs * (grad_probs - inner) * scale).astype(q.dtype)
    grad_q = jnp.einsum("bhqk,bhkd->bhqd", grad_scores, k)
    grad_k = jnp.einsum("bhqk,bhqd->bhkd", grad_scores, q)
    return grad_q, grad_k, grad_v, None if bias is None else jnp.zeros_like(bias)


_head_major.defvjp(_forward, _backward)
