"""Attention in groups of score tables that stay in the cache."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_CACHE_BYTES = 6 * 2**20
"""Size of the score tables of a group; 4 to 8 MB were equally fast beside 2 MB of cache a core, and
groups of an even number of tables, which two cores share equally, faster than those of three."""
NEGATIVE = -1e30


def attention(
    q: Float[Array, "b n h k"],
    k: Float[Array, "b m h k"],
    v: Float[Array, "b m h k"],
    valid: Bool[Array, "b m"] | None,
    bias: Float[Array, "#b h n m"] | None,
) -> Float[Array, "b n h k"]:
    """Attention, computed in groups of heads, or of queries of one head, whose score tables stay in
    the cache; its gradient is that of :func:`_head_major`."""
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, k, v))
    b, h, n, _ = q.shape
    m = k.shape[2]
    none = jnp.zeros(())
    mask = none if valid is None else jnp.where(valid[:, None, None, :], 0.0, NEGATIVE)
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and mesh.size > 1:
        # A loop over rows that lie on several devices would gather these.
        return _head_major(q, k, v, mask, bias).transpose(0, 2, 1, 3)
    most = max(1, _CACHE_BYTES // (4 * n * m))
    if bias is not None and bias.shape[0] == 1:
        return _shared_bias(q, k, v, mask, bias[0], most).transpose(0, 2, 1, 3)
    count = b * h if isinstance(b, int) else h  # an exported program leaves its batch open
    group = _divisor(count, most)
    masks = None if valid is None else jnp.broadcast_to(mask, (b, h, 1, m))
    parts = jax.tree.map(lambda x: x.reshape(-1, group, *x.shape[2:]), (q, k, v, masks, bias))

    def attend(group):
        q, k, v, mask, bias = group
        return _by_queries(q, k, v, none if mask is None else mask, bias)

    return jax.lax.map(attend, parts).reshape(b, h, n, -1).transpose(0, 2, 1, 3)


def _by_queries(q, k, v, mask, bias):
    """:func:`_head_major` for as many queries at a time as have a score table that fits the cache,
    all of them as a rule."""
    n, m = q.shape[1], k.shape[1]
    size = -(-n // -(-4 * n * m // _CACHE_BYTES))
    if size == n:
        return _head_major(q, k, v, mask, bias)
    count = -(-n // size)

    def split(x):
        """``[h n ...]`` to ``[count h size ...]``, the last ones padded with zeros."""
        x = jnp.pad(x, [(0, 0), (0, count * size - n), *[(0, 0)] * (x.ndim - 2)])
        return jnp.moveaxis(x.reshape(x.shape[0], count, size, *x.shape[2:]), 1, 0)

    def attend(queries):
        q, bias = queries
        return _head_major(q, k, v, mask, bias)

    out = jax.lax.map(attend, jax.tree.map(split, (q, bias)))
    return jnp.moveaxis(out, 0, 1).reshape(q.shape[0], count * size, -1)[:, :n]


def _shared_bias(q, k, v, mask, bias, most: int):
    """Head-major attention with one ``bias`` ``[h n m]`` for all rows, whose gradient is added up
    row by row, without a table for each row. ``most`` score tables are in a group."""
    b, h, n, _ = q.shape
    heads = _divisor(h, most)
    rows = _divisor(b, most // heads) if isinstance(b, int) else 1

    def cut(x):
        """``[b h ...]`` to ``[h/heads b/rows rows heads ...]``."""
        return jnp.moveaxis(x.reshape(-1, rows, h // heads, heads, *x.shape[2:]), 2, 0)

    masks = mask.reshape(-1, rows, *mask.shape[1:]) if mask.ndim else None

    def attend_heads(heads):
        q, k, v, bias = heads

        def attend_rows(rows):
            q, k, v, row_mask = rows
            return _head_major(q, k, v, mask if row_mask is None else row_mask, bias[None])

        return jax.lax.map(attend_rows, (q, k, v, masks))

    bias = bias.reshape(-1, heads, *bias.shape[1:])
    out = jax.lax.map(attend_heads, (cut(q), cut(k), cut(v), bias))
    return jnp.moveaxis(out, 0, 2).reshape(b, h, n, -1)


def _divisor(count: int, most: int) -> int:
    """The largest divisor of ``count`` up to ``most``."""
    return next(g for g in range(min(count, max(1, most)), 0, -1) if count % g == 0)


@jax.custom_vjp
def _head_major(q, k, v, mask, bias):
    """``softmax(s) v`` with ``s = q kT / sqrt(d) + mask + bias``, keeping no table of scores.

    With ``p = softmax(s)``, ``o = p v`` and ``dL_do`` given::

        dL_dv = pT dL_do
        dL_dp = dL_do vT
        dL_ds = p (dL_dp - sum_m p dL_dp) = p (dL_dp - sum_k dL_do o)
        dL_dq = dL_ds k / sqrt(d)        dL_dk = dL_dsT q / sqrt(d)        dL_dbias = dL_ds

    where ``p`` is computed again from the maxima and sums of rows of the forward pass, which costs
    less than keeping it, and the second form of ``dL_ds`` needs no pass over the table (Dao
    et al., FlashAttention, NeurIPS 2022, section 3.1 and appendix B).

    All tables are transposed, keys by queries: maxima and sums over keys then run along whole rows
    of memory, which XLA turns into vector instructions.

    Args:
        q: ``[... n k]``; ``k``, ``v``: ``[... m k]``.
        mask: ``[... 1 m]`` or ``[]``, added to the scores; no gradient.
        bias: Float32 that broadcasts to ``[... n m]``, or None.
    """
    return forward(q, k, v, mask, bias)[0]


def _scores(q, k, mask, bias):
    """``[... m n]``."""
    scale = q.shape[-1] ** -0.5
    scores = jnp.einsum("...kd,...qd->...kq", k, q * scale, preferred_element_type=jnp.float32)
    scores = scores + (jnp.swapaxes(mask, -1, -2) if mask.ndim else mask)
    return scores if bias is None else scores + jnp.swapaxes(bias, -1, -2)


def forward(q, k, v, mask, bias):
    scores = _scores(q, k, mask, bias)
    top = jnp.max(scores, axis=-2, keepdims=True)
    weights = jnp.exp(scores - top)
    total = jnp.sum(weights, axis=-2, keepdims=True)
    out = jnp.einsum(
        "...kq,...kd->...qd", weights.astype(q.dtype), v, preferred_element_type=jnp.float32
    )
    out = (out / jnp.swapaxes(total, -1, -2)).astype(q.dtype)
    return out, (q, k, v, mask, bias, out, top, total)


def backward(saved, dL_do):
    q, k, v, mask, bias, out, top, total = saved
    probs = jnp.exp(_scores(q, k, mask, bias) - top) * (1 / total)
    dL_dv = jnp.einsum("...kq,...qd->...kd", probs.astype(q.dtype), dL_do)
    dL_dp = jnp.einsum("...kd,...qd->...kq", v, dL_do, preferred_element_type=jnp.float32)
    mean = jnp.sum((dL_do * out).astype(jnp.float32), axis=-1)
    dL_ds = probs * (dL_dp - mean[..., None, :])
    dL_dbias = None if bias is None else _sum_to(jnp.swapaxes(dL_ds, -1, -2), bias.shape)
    dL_ds = (dL_ds * q.shape[-1] ** -0.5).astype(q.dtype)
    dL_dq = jnp.einsum("...kq,...kd->...qd", dL_ds, k)
    dL_dk = jnp.einsum("...kq,...qd->...kd", dL_ds, q)
    return dL_dq, dL_dk, dL_dv, jnp.zeros_like(mask), dL_dbias


def _sum_to(x, shape):
    """The gradient of an array of this ``shape`` that was broadcast to that of ``x``."""
    x = jnp.sum(x, axis=tuple(range(x.ndim - len(shape))))
    return jnp.sum(x, axis=tuple(i for i, size in enumerate(shape) if size == 1), keepdims=True)


_head_major.defvjp(forward, backward)
