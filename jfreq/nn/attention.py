"""Scaled dot-product attention behind one function."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float

from jfreq.sharding import BATCH
from jfreq.types import InputError

Kind = Literal["auto", "xla", "cudnn", "splash"]
"""``auto``: XLA's own, or on CPU a form of ours; ``cudnn``: fused, GPU, bfloat16; ``splash``: fused
Pallas kernel, TPU, long sequences."""

_NEGATIVE = -1e30
_LANES = 128
_CACHE_BYTES = 4 * 2**20
"""Score tables that a core keeps close; between 1 and 6 MB made no difference where measured."""


def attention(
    q: Float[Array, "b n h k"],
    k: Float[Array, "b m h k"],
    v: Float[Array, "b m h k"],
    *,
    valid: Bool[Array, "b m"] | None = None,
    bias: Float[Array, "#b h n m"] | None = None,
    drop: Callable[[Array], Array] | None = None,
    kind: Kind = "auto",
) -> Float[Array, "b n h k"]:
    """softmax(q kᵀ / sqrt(k) + bias) v per head; keys with ``valid`` False get no weight.

    Queries may be others than the ``m`` keys, in any number; ``splash`` wants as many.
    Softmax in float32. On CPU ``auto`` goes through the heads in groups, with a hand-written
    gradient that keeps no n x m table: XLA's own takes several times as long there. The platform
    that the program is lowered for decides, not the one it is traced on.

    ``bias`` float32, one for all rows or one for each. ``drop`` is applied to the weights
    ``[b h n m]`` (dropout); it takes the plain formula, on CPU too, which keeps these tables.
    Raises ``InputError`` for ``cudnn`` in float32, for ``splash`` with ``n`` other than ``m``, and
    for either with ``bias`` or ``drop``.
    """
    check_kind(kind, plain=bias is None and drop is None)
    if drop is not None:
        return _plain(q, k, v, valid, bias, drop)
    if kind == "auto":
        return jax.lax.platform_dependent(q, k, v, valid, bias, cpu=_cpu, default=_xla)
    if kind == "splash":
        if q.shape[1] != k.shape[1]:
            raise InputError(
                f"attention: splash wants as many queries as keys, got {q.shape[1]} and "
                f"{k.shape[1]}; choose auto, xla or cudnn for cross-attention"
            )
        return _splash(q, k, v, valid)
    if kind == "cudnn" and q.dtype not in (jnp.bfloat16, jnp.float16):
        raise InputError(
            f"encoder.attention: cudnn computes in bfloat16, not {q.dtype}; set encoder.dtype "
            "bfloat16, or attention xla"
        )
    return _xla(q, k, v, valid, bias, kind=kind)


def check_kind(kind: Kind, *, plain: bool) -> None:
    """Raises ``InputError`` for a fused kernel unless attention is ``plain``: no bias, no
    dropout."""
    if kind in ("cudnn", "splash") and not plain:
        raise InputError(
            f"encoder.attention: {kind} has neither a bias nor dropout of its weights; choose auto "
            "or xla"
        )


def _plain(q, k, v, valid, bias, drop):
    """The formula as it is written."""
    by_head = [x.transpose(0, 2, 1, 3) for x in (q, k)]
    scores = _scores(by_head[0], by_head[1], _hidden(valid), bias)
    weights = drop(jax.nn.softmax(scores, axis=-1)).astype(v.dtype)
    return jnp.einsum("bhnm,bmhk->bnhk", weights, v)


def _xla(q, k, v, valid, bias, kind: Literal["xla", "cudnn"] | None = None):
    mask = None if valid is None else valid[:, None, None, :]
    return jax.nn.dot_product_attention(q, k, v, bias=bias, mask=mask, implementation=kind)


def _splash(q, k, v, valid, interpret: bool = False):
    """The Pallas kernel; each device runs it on its own rows and heads."""
    rows = jnp.ones(q.shape[:2], bool) if valid is None else valid
    run = functools.partial(_splash_local, interpret=interpret)
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and mesh.size > 1:
        # Mosaic kernels are not partitioned by XLA.
        place = P(BATCH, None, "tensor", None)
        run = jax.shard_map(
            run, in_specs=(place, place, place, P(BATCH, None)), out_specs=place, check_vma=False
        )
    return run(q, k, v, rows)


def _splash_local(q, k, v, valid, *, interpret: bool):
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    tokens, heads, width = q.shape[1:]
    whole = -(-tokens // _LANES) * _LANES
    block = whole if whole <= 1024 else 512
    whole = -(-whole // block) * block
    pad = ((0, 0), (0, 0), (0, whole - tokens), (0, 0))
    q, k, v = (jnp.pad(x.transpose(0, 2, 1, 3), pad) for x in (q * width**-0.5, k, v))
    # Padding queries attend to real keys as well: no row of the softmax is empty.
    keys = jnp.pad(valid.astype(jnp.int32), ((0, 0), (0, whole - tokens)))
    sizes = kernel.BlockSizes(
        block_q=block, block_kv=block, block_q_dkv=block, block_kv_dkv=block,
        block_q_dq=block, block_kv_dq=block,
    )  # fmt: skip
    run = kernel.make_splash_mha_single_device(
        mask=masks.MultiHeadMask([masks.FullMask((whole, whole))] * heads),
        block_sizes=sizes, interpret=interpret,
    )  # fmt: skip

    def one(q, k, v, keys) -> jax.Array:
        return run(q, k, v, kernel.SegmentIds(jnp.ones_like(keys), keys))  # type: ignore[return-value]

    out = jax.vmap(one)(q, k, v, keys)
    return out[:, :, :tokens].transpose(0, 2, 1, 3).astype(q.dtype)


def _hidden(valid):
    """What padding adds to scores: ``[b 1 1 m]``, or a zero where there is none."""
    return jnp.zeros(()) if valid is None else jnp.where(valid[:, None, None, :], 0.0, _NEGATIVE)


def _cpu(q, k, v, valid, bias):
    """Heads in groups whose score tables stay in the cache, one group after the other."""
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, k, v))
    hidden = _hidden(valid)
    b, h, n, _ = q.shape
    m = k.shape[2]
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and mesh.size > 1:
        # A loop over rows that lie on several devices would gather them.
        return _head_major(q, k, v, hidden, bias).transpose(0, 2, 1, 3)
    most = max(1, _CACHE_BYTES // (4 * n * m))
    if bias is not None and bias.shape[0] == 1:
        return _cpu_shared(q, k, v, hidden, bias[0], most).transpose(0, 2, 1, 3)
    count = b * h if isinstance(b, int) else h  # an exported program leaves its batch open
    group = _divisor(count, most)
    rows = None if valid is None else jnp.broadcast_to(hidden, (b, h, 1, m))
    parts = jax.tree.map(lambda x: x.reshape(-1, group, *x.shape[2:]), (q, k, v, rows, bias))
    out = jax.lax.map(lambda part: _masked(part, hidden), parts)
    return out.reshape(b, h, n, -1).transpose(0, 2, 1, 3)


def _cpu_shared(q, k, v, hidden, bias, most: int):
    """The same for a ``bias`` ``[h n m]`` of all rows: its gradient is a sum that grows row by
    row, not a table for each."""
    b, h, n, _ = q.shape
    heads = _divisor(h, most)
    rows = _divisor(b, most // heads) if isinstance(b, int) else 1

    def cut(x):
        """``[b h ...]`` to ``[h/heads b/rows rows heads ...]``."""
        return jnp.moveaxis(x.reshape(-1, rows, h // heads, heads, *x.shape[2:]), 2, 0)

    masks = hidden.reshape(-1, rows, *hidden.shape[1:]) if hidden.ndim else None

    def of_heads(part):
        *qkv, own = part
        return jax.lax.map(lambda row: _masked((*row, own[None]), hidden), (*qkv, masks))

    out = jax.lax.map(of_heads, (cut(q), cut(k), cut(v), bias.reshape(-1, heads, *bias.shape[1:])))
    return jnp.moveaxis(out, 0, 2).reshape(b, h, n, -1)


def _masked(part, nothing):
    """Attention of one ``part``; where it holds no mask, ``nothing`` is hidden."""
    q, k, v, hidden, bias = part
    return _head_major(q, k, v, nothing if hidden is None else hidden, bias)


def _divisor(count: int, most: int) -> int:
    """The largest divisor of ``count`` up to ``most``."""
    return next(g for g in range(min(count, max(1, most)), 0, -1) if count % g == 0)


@jax.custom_vjp
def _head_major(q, k, v, hidden, bias):
    """``q`` ``[... n k]``, ``k, v`` ``[... m k]``; ``hidden``, which has no gradient, and ``bias``,
    which may be None, float32 and broadcast to ``[... n m]``."""
    return _forward(q, k, v, hidden, bias)[0]


def _scores(q, k, hidden, bias):
    scale = q.shape[-1] ** -0.5
    scores = jnp.einsum("...qd,...kd->...qk", q * scale, k, preferred_element_type=jnp.float32)
    scores = scores + hidden
    return scores if bias is None else scores + bias


def _forward(q, k, v, hidden, bias):
    scores = _scores(q, k, hidden, bias)
    top = jnp.max(scores, axis=-1, keepdims=True)
    probs = jnp.exp(scores - top)
    total = jnp.sum(probs, axis=-1, keepdims=True)
    out = jnp.einsum("...qk,...kd->...qd", probs.astype(q.dtype), v,
                     preferred_element_type=jnp.float32)  # fmt: skip
    out = (out / total).astype(q.dtype)
    return out, (q, k, v, hidden, bias, out, top, total)


def _backward(saved, grad):
    """Scores are computed again: that is cheaper than to keep an n x m table for each head."""
    q, k, v, hidden, bias, out, top, total = saved
    probs = jnp.exp(_scores(q, k, hidden, bias) - top) * (1 / total)
    grad_v = jnp.einsum("...qk,...qd->...kd", probs.astype(q.dtype), grad)
    grad_probs = jnp.einsum("...qd,...kd->...qk", grad, v, preferred_element_type=jnp.float32)
    # sum_k p_k dp_k = dout . out: one row product instead of a pass over the n x m table.
    inner = jnp.sum((grad * out).astype(jnp.float32), axis=-1, keepdims=True)
    scale = q.shape[-1] ** -0.5
    grad_scores = probs * (grad_probs - inner)
    grad_bias = None if bias is None else _summed(grad_scores, bias.shape)
    grad_scores = (grad_scores * scale).astype(q.dtype)
    grad_q = jnp.einsum("...qk,...kd->...qd", grad_scores, k)
    grad_k = jnp.einsum("...qk,...qd->...kd", grad_scores, q)
    return grad_q, grad_k, grad_v, jnp.zeros_like(hidden), grad_bias


def _summed(x, shape):
    """The gradient of what was broadcast from ``shape`` to that of ``x``."""
    x = jnp.sum(x, axis=tuple(range(x.ndim - len(shape))))
    return jnp.sum(x, axis=tuple(i for i, size in enumerate(shape) if size == 1), keepdims=True)


_head_major.defvjp(_forward, _backward)
