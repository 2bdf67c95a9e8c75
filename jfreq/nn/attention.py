"""Scaled dot-product attention behind one function."""

from __future__ import annotations

import functools
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
    kind: Kind = "auto",
) -> Float[Array, "b n h k"]:
    """softmax(q kᵀ / sqrt(k)) v per head; keys with ``valid`` False get no weight.

    Queries may be others than the ``m`` keys, in any number; ``splash`` wants as many.
    Softmax in float32. On CPU ``auto`` goes through the heads in groups, with a hand-written
    gradient that keeps no n x m table: XLA's own takes several times as long there. The platform
    that the program is lowered for decides, not the one it is traced on. Raises ``InputError``
    for ``cudnn`` in float32 and for ``splash`` with ``n`` other than ``m``.
    """
    if kind == "auto":
        return jax.lax.platform_dependent(q, k, v, valid, cpu=_cpu, default=_xla)
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
    return _xla(q, k, v, valid, kind=kind)


def _xla(q, k, v, valid, kind: Literal["xla", "cudnn"] | None = None):
    mask = None if valid is None else valid[:, None, None, :]
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation=kind)


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


def _cpu(q, k, v, valid):
    """Heads in groups whose score tables stay in the cache, one group after the other."""
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, k, v))
    bias = jnp.zeros(()) if valid is None else jnp.where(valid[:, None, None, :], 0.0, _NEGATIVE)
    b, h, n, _ = q.shape
    m = k.shape[2]
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and mesh.size > 1:
        # A loop over rows that lie on several devices would gather them.
        return _head_major(q, k, v, bias).transpose(0, 2, 1, 3)
    most = max(1, _CACHE_BYTES // (4 * n * m))
    count = b * h if isinstance(b, int) else h  # an exported program leaves its batch open
    group = next(g for g in range(min(count, most), 0, -1) if count % g == 0)
    parts = tuple(x.reshape(-1, group, *x.shape[2:]) for x in (q, k, v))
    if valid is None:
        out = jax.lax.map(lambda part: _head_major(*part, bias), parts)
    else:
        rows = jnp.broadcast_to(bias, (b, h, 1, m)).reshape(-1, group, 1, m)
        out = jax.lax.map(lambda part: _head_major(*part), (*parts, rows))
    return out.reshape(b, h, n, -1).transpose(0, 2, 1, 3)


@jax.custom_vjp
def _head_major(q, k, v, bias):
    """``q`` ``[... n k]``, ``k, v`` ``[... m k]``; ``bias`` float32, broadcast to ``[... n m]``."""
    return _forward(q, k, v, bias)[0]


def _scores(q, k, bias):
    scale = q.shape[-1] ** -0.5
    scores = jnp.einsum("...qd,...kd->...qk", q * scale, k, preferred_element_type=jnp.float32)
    return scores + bias


def _forward(q, k, v, bias):
    scores = _scores(q, k, bias)
    top = jnp.max(scores, axis=-1, keepdims=True)
    probs = jnp.exp(scores - top)
    total = jnp.sum(probs, axis=-1, keepdims=True)
    out = jnp.einsum("...qk,...kd->...qd", probs.astype(q.dtype), v,
                     preferred_element_type=jnp.float32)  # fmt: skip
    out = (out / total).astype(q.dtype)
    return out, (q, k, v, bias, out, top, total)


def _backward(saved, grad):
    """Scores are computed again: that is cheaper than to keep an n x m table for each head."""
    q, k, v, bias, out, top, total = saved
    probs = jnp.exp(_scores(q, k, bias) - top) * (1 / total)
    grad_v = jnp.einsum("...qk,...qd->...kd", probs.astype(q.dtype), grad)
    grad_probs = jnp.einsum("...qd,...kd->...qk", grad, v, preferred_element_type=jnp.float32)
    # sum_k p_k dp_k = dout . out: one row product instead of a pass over the n x m table.
    inner = jnp.sum((grad * out).astype(jnp.float32), axis=-1, keepdims=True)
    scale = q.shape[-1] ** -0.5
    grad_scores = (probs * (grad_probs - inner) * scale).astype(q.dtype)
    grad_q = jnp.einsum("...qk,...kd->...qd", grad_scores, k)
    grad_k = jnp.einsum("...qk,...qd->...kd", grad_scores, q)
    return grad_q, grad_k, grad_v, jnp.zeros_like(bias)


_head_major.defvjp(_forward, _backward)
