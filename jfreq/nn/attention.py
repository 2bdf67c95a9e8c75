"""Scaled dot-product attention behind one function."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float

from jfreq.kernels import cpu, tpu
from jfreq.sharding import BATCH
from jfreq.types import InputError

Kind = Literal["auto", "xla", "cudnn", "splash", "whole"]
"""``auto``: XLA's own, on CPU :func:`jfreq.kernels.cpu.attention`; ``cudnn``: fused, GPU, bfloat16;
``splash``: fused Pallas kernel, TPU, long sequences; ``whole``: that of
:func:`jfreq.kernels.tpu.attention`, TPU, up to 1536 tokens, which moves the fewest bytes."""
KERNELS = ("cudnn", "splash", "whole")
SAVED = "product"
"""Name of what recomputation of all but matrix products keeps beside these: products with their
bias, what attention gives, sums of the residual stream."""

_LANES = 128
"""The rows of a block of the TPU kernel are a multiple of this."""


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
    """``softmax(q kT / sqrt(k) + bias) v`` per head, the softmax in float32 (Vaswani et al., NIPS
    2017, section 3.2.1).

    Args:
        q: Queries, ``n`` of them.
        k: Keys, ``m`` of them; ``splash`` wants as many as queries.
        v: Values.
        valid: False for keys that get no weight.
        bias: Float32, added to the scores; one for all rows or one for each.
        drop: Dropout of the weights ``[b h n m]``. With it every platform runs the plain formula,
            which keeps these tables for the backward pass.
        kind: The implementation.

    Raises:
        InputError: For ``cudnn`` in float32, for ``splash`` with ``n`` other than ``m``, and for
            either with ``bias`` or ``drop``.
    """
    check_kind(kind, plain=bias is None and drop is None)
    if drop is not None:
        return _plain(q, k, v, valid, bias, drop)
    if kind == "auto":
        return jax.lax.platform_dependent(q, k, v, valid, bias, cpu=cpu.attention, default=_xla)
    if kind in ("splash", "whole"):
        if q.shape[1] != k.shape[1]:
            raise InputError(
                f"attention: {kind} wants as many queries as keys, got {q.shape[1]} and "
                f"{k.shape[1]}; choose auto, xla or cudnn for cross-attention"
            )
        joined = kind == "whole"
        return _whole(jnp.stack((q, k, v), 2), valid) if joined else _splash(q, k, v, valid)
    if kind == "cudnn" and q.dtype not in (jnp.bfloat16, jnp.float16):
        raise InputError(
            f"encoder.attention: cudnn computes in bfloat16, not {q.dtype}; set encoder.dtype "
            "bfloat16, or attention xla"
        )
    return _xla(q, k, v, valid, bias, kind=kind)


def self_attention(
    qkv: Float[Array, "b n 3 h k"],
    *,
    valid: Bool[Array, "b n"] | None = None,
    bias: Float[Array, "#b h n n"] | None = None,
    drop: Callable[[Array], Array] | None = None,
    kind: Kind = "auto",
) -> Float[Array, "b n h k"]:
    """:func:`attention` of queries, keys and values that one product has written; ``whole`` and the
    kernel for CPUs read them as they are."""
    if kind == "whole" and drop is None:
        check_kind(kind, plain=bias is None)
        y = _whole(qkv, valid)
    elif kind == "auto" and drop is None:

        def default(qkv, valid, bias):
            return _xla(*split_qkv(qkv), valid, bias)

        y = jax.lax.platform_dependent(qkv, valid, bias, cpu=cpu.self_attention, default=default)
    else:
        y = attention(*split_qkv(qkv), valid=valid, bias=bias, drop=drop, kind=kind)
    return checkpoint_name(y, SAVED)


def split_qkv(qkv: Float[Array, "b n 3 h k"]) -> list[Float[Array, "b n h k"]]:
    """Queries, keys and values."""
    return [part.squeeze(2) for part in jnp.split(qkv, 3, axis=2)]


def check_kind(kind: Kind, *, plain: bool) -> None:
    """Raises ``InputError`` for a fused kernel unless attention is ``plain``: no bias, no
    dropout."""
    if kind in KERNELS and not plain:
        raise InputError(
            f"encoder.attention: {kind} has neither a bias nor dropout of its weights; choose auto "
            "or xla"
        )


def _plain(q, k, v, valid, bias, drop):
    """Attention step by step, as the formula is written."""
    q = q * q.shape[-1] ** -0.5
    scores = jnp.einsum("bnhk,bmhk->bhnm", q, k, preferred_element_type=jnp.float32)
    if valid is not None:
        scores = scores + jnp.where(valid[:, None, None, :], 0.0, -1e30)
    if bias is not None:
        scores = scores + bias
    weights = drop(jax.nn.softmax(scores, axis=-1)).astype(v.dtype)
    return jnp.einsum("bhnm,bmhk->bnhk", weights, v)


def _xla(q, k, v, valid, bias, kind: Literal["xla", "cudnn"] | None = None):
    mask = None if valid is None else valid[:, None, None, :]
    return jax.nn.dot_product_attention(q, k, v, bias=bias, mask=mask, implementation=kind)


def _whole(qkv, valid):
    """The Pallas kernel for short rows."""
    tokens = qkv.shape[1]
    if tokens > tpu.MOST_TOKENS:
        raise InputError(
            f"encoder.attention: whole reads up to {tpu.MOST_TOKENS} tokens, got {tokens}; choose "
            "splash"
        )
    parts = (P(BATCH, None, None, "tensor", None), None if valid is None else P(BATCH, None))
    return by_device(tpu.attention, parts, qkv, valid)


def _splash(q, k, v, valid, interpret: bool = False):
    """The Pallas kernel for long rows."""
    rows = jnp.ones(q.shape[:2], bool) if valid is None else valid
    run = functools.partial(_splash_local, interpret=interpret)
    return by_device(run, (*[_HEADS] * 3, P(BATCH, None)), q, k, v, rows)


_HEADS = P(BATCH, None, "tensor", None)


def by_device(run: Callable[..., Array], parts: tuple, *args: Array | None) -> Array:
    """``run(*args)``, each device on the rows and heads that it holds: XLA does not partition
    Mosaic kernels."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return run(*args)
    heads, over = args[0].shape[-2], mesh.shape.get("tensor", 1)
    if heads % over:
        raise InputError(
            f"attention: a fused kernel gives every device whole heads, and mesh.tensor {over} "
            f"does not divide {heads}; choose attention auto, or another mesh.tensor"
        )
    return jax.shard_map(run, in_specs=parts, out_specs=_HEADS, check_vma=False)(*args)


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
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_q_dq=block,
        block_kv_dq=block,
    )
    run = kernel.make_splash_mha_single_device(
        mask=masks.MultiHeadMask([masks.FullMask((whole, whole))] * heads),
        block_sizes=sizes,
        residual_checkpoint_name=SAVED,
        interpret=interpret,
    )

    def run_row(q, k, v, keys) -> jax.Array:
        return run(q, k, v, kernel.SegmentIds(jnp.ones_like(keys), keys))  # type: ignore[return-value]

    out = jax.vmap(run_row)(q, k, v, keys)
    return out[:, :, :tokens].transpose(0, 2, 1, 3).astype(q.dtype)
