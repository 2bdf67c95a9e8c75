"""Attention by a kernel that keeps its score tables in the cache, compiled for this processor."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jfreq.kernels.cpu import compiled, grouped_attention


def attention(
    q: Float[Array, "b n h k"],
    k: Float[Array, "b m h k"],
    v: Float[Array, "b m h k"],
    valid: Bool[Array, "b m"] | None,
    bias: Float[Array, "#b h n m"] | None,
) -> Float[Array, "b n h k"]:
    """Attention by the compiled kernel, or in groups where that can't be: with a bias, and as
    :func:`jfreq.kernels.cpu.compiled.fits` says."""
    if bias is not None or not compiled.fits(q, k, v):
        return grouped_attention.attention(q, k, v, valid, bias)
    return _fused((q, k, v), _mask(k, valid))


def self_attention(
    qkv: Float[Array, "b n 3 h k"],
    valid: Bool[Array, "b n"] | None,
    bias: Float[Array, "#b h n n"] | None,
) -> Float[Array, "b n h k"]:
    """:func:`attention` of queries, keys and values of one array, which the kernel reads, and whose
    gradient it writes, as it lies."""
    if bias is not None or not compiled.fits(qkv):
        return grouped_attention.attention(*_split(qkv), valid, bias)
    return _fused((qkv,), _mask(qkv, valid))


def _split(qkv):
    return [qkv[:, :, i] for i in range(3)]


def _mask(keys, valid):
    if valid is None:
        return jnp.zeros(keys.shape[:2], jnp.float32)
    return jnp.where(valid, 0.0, grouped_attention.NEGATIVE).astype(jnp.float32)


@jax.custom_vjp
def _fused(given, mask):
    """Attention of ``(q, k, v)`` or ``(qkv,)``; ``mask`` is added to the scores of keys."""
    return _forward.bind(*given, mask)[0]


def _fused_forward(given, mask):
    out, statistics = _forward.bind(*given, mask)
    return out, (given, mask, out, statistics)


def _fused_backward(saved, dL_do):
    given, mask, out, statistics = saved
    gradients = _backward.bind(*given, mask, out, statistics, dL_do)
    return tuple(gradients), jnp.zeros_like(mask)


_fused.defvjp(_fused_forward, _fused_backward)


def _forward_in_groups(*args):
    """What the kernel computes, without it: output and, for each query, the largest score and what
    its weights are multiplied by."""
    q, k, v, mask = _parts(args)
    out = grouped_attention.attention(q, k, v, mask > grouped_attention.NEGATIVE / 2, None)
    *_, top, total = grouped_attention.forward(*_heads_first(q, k, v), mask[:, None, None], None)[1]
    return out, jnp.stack((top, 1 / total), axis=-1).squeeze(-3)


def _backward_in_groups(*args):
    *args, out, statistics, dL_do = args
    q, k, v, mask = _parts(args)
    top, factor = statistics[..., None, :, 0], statistics[..., None, :, 1]
    saved = (*_heads_first(q, k, v), mask[:, None, None], None, *_heads_first(out), top, 1 / factor)
    gradients = grouped_attention.backward(saved, *_heads_first(dL_do))[:3]
    gradients = [x.transpose(0, 2, 1, 3) for x in gradients]
    return gradients if len(args) == 4 else [jnp.stack(gradients, axis=2)]


def _parts(args: Sequence[Array]) -> list[Array]:
    *given, mask = args
    return [*(_split(*given) if len(given) == 1 else given), mask]


def _heads_first(*arrays: Array) -> list[Array]:
    return [x.transpose(0, 2, 1, 3) for x in arrays]


_forward = compiled.primitive(
    "jfreq_attention",
    "attention",
    lambda q, *_: [(*q.shape[:2], *q.shape[-2:]), (q.shape[0], q.shape[-2], q.shape[1], 2)],
    _forward_in_groups,
    all_rows=True,
)
_backward = compiled.primitive(
    "jfreq_attention_gradient",
    "attention",
    lambda *args: [x.shape for x in args[:-4]],
    _backward_in_groups,
    all_rows=True,
)
