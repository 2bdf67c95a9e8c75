"""A Pallas kernel for TPU: attention of cosines with a bias for every pair of tokens of a row.

The table of a head, bias included, stays on the chip. The plain formula is
:meth:`jfreq.nn.window_decoder.CosineWindowBlock._attention`.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from jfreq.kernels.tpu import LANES, dot

_EPS = 1e-12
"""Least square of a vector that is divided by its length, as in :func:`jfreq.ops.scale.unit`."""
MOST_TOKENS = 1024
"""Tokens of a row whose tables fit the on-chip memory."""


def attention(
    qkv: Float[Array, "b n 3 h k"],
    gain: Float[Array, " h"],
    bias: Float[Array, "h n n"],
    *,
    interpret: bool = False,
) -> Float[Array, "b n h k"]:
    """``softmax(gain cos(q, k) + bias) v`` per head, the softmax and cosines in float32.

    Heads are read in groups that fill 128 lanes, so that ``h k`` is a multiple of 128 and ``k``
    divides it, unless there is one group. The forward pass keeps nothing but its input; the
    gradients of ``gain`` and ``bias`` are summed over rows on the chip.

    Args:
        qkv: Queries, keys and values as one product writes them.
        gain: One over the temperature of each head.
        bias: Float32, for all rows; -1e30 where a query does not attend to a key.
        interpret: Runs the kernel as JAX operations.
    """
    b, n, _, heads, width = qkv.shape
    flat = qkv.reshape(b, n, 3 * heads * width)
    gains = jnp.broadcast_to(gain[:, None, None], (heads, 1, n))
    return _attention(flat, gains, bias, width, interpret).reshape(b, n, heads, width)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _attention(qkv, gains, bias, width: int, interpret: bool):
    return _forward(qkv, gains, bias, width, interpret)[0]


def _forward(qkv, gains, bias, width: int, interpret: bool):
    b, n, channels = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    size = _group(channels, width) * width
    groups = channels // size
    out = pl.pallas_call(
        functools.partial(_forward_group, width=width),
        grid=(groups, b),
        in_specs=[*_columns(n, size, groups), *_tables(n, size // width)],
        out_specs=pl.BlockSpec((1, n, size), lambda g, i: (i, 0, g)),
        out_shape=jax.ShapeDtypeStruct((b, n, channels), qkv.dtype),
        compiler_params=_params(n, size // width),
        interpret=interpret,
    )(qkv, qkv, qkv, gains, bias)
    return out, (qkv, gains, bias)


def _backward(width: int, interpret: bool, saved, dL_do):
    qkv, gains, bias = saved
    b, n, channels = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    size = _group(channels, width) * width
    groups, heads = channels // size, size // width
    # A row is visited three times: each visit writes the gradients of one of q, k and v.
    drop_part = [
        pl.BlockSpec(spec.block_shape, lambda g, i, part, f=spec.index_map: f(g, i))
        for spec in [*_columns(n, size, groups), *_tables(n, heads)]
    ]
    return pl.pallas_call(
        functools.partial(_backward_group, width=width),
        grid=(groups, b, 3),
        in_specs=[*drop_part, pl.BlockSpec((1, n, size), lambda g, i, part: (i, 0, g))],
        out_specs=[
            pl.BlockSpec((1, n, size), lambda g, i, part: (i, 0, part * groups + g)),
            *drop_part[3:],
        ],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (qkv, gains, bias)],
        scratch_shapes=[pltpu.VMEM((2, n, size), qkv.dtype)],
        compiler_params=_params(n, heads, "arbitrary", "arbitrary"),
        interpret=interpret,
    )(qkv, qkv, qkv, gains, bias, dL_do)


_attention.defvjp(_forward, _backward)


def _group(channels: int, width: int) -> int:
    """Heads that are read together."""
    fills = LANES % width == 0 and channels % LANES == 0
    return LANES // width if fills else channels // width


def _columns(n: int, size: int, groups: int) -> list[pl.BlockSpec]:
    """Queries, keys and values of a group of heads of a row."""
    return [
        pl.BlockSpec((1, n, size), lambda g, i, part=part: (i, 0, part * groups + g))
        for part in range(3)
    ]


def _tables(n: int, heads: int) -> list[pl.BlockSpec]:
    """Gains and bias of a group of heads."""
    return [pl.BlockSpec((heads, m, n), lambda g, i: (g, 0, 0)) for m in (1, n)]


def _params(n: int, heads: int, rows: str = "parallel", *more: str) -> pltpu.CompilerParams:
    table = 4 * n * n
    return pltpu.CompilerParams(
        dimension_semantics=("arbitrary", rows, *more),
        vmem_limit_bytes=(4 * heads + 12) * table + 12 * 2**20,
    )


def _unit(x):
    """Rows of length 1, and what they were multiplied by; 0 in place of it below the least one."""
    x = x.astype(jnp.float32)
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    rate = jax.lax.rsqrt(jnp.maximum(square, _EPS))
    return x * rate, rate, square > _EPS


def _softmax(q, k, gain, bias):
    cos = dot(q, k, 1, 1)
    scores = cos * gain + bias
    probs = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    return cos, probs / jnp.sum(probs, axis=-1, keepdims=True)


def _forward_group(q, k, v, gains, bias, out, *, width: int) -> None:
    parts = []
    for i in range(out.shape[2] // width):
        head = slice(i * width, (i + 1) * width)
        (q_unit, *_), (k_unit, *_) = _unit(q[0][:, head]), _unit(k[0][:, head])
        value = v[0][:, head]
        units = (x.astype(value.dtype) for x in (q_unit, k_unit))
        _, probs = _softmax(*units, gains[i], bias[i])
        parts.append(dot(probs.astype(value.dtype), value, 1, 0))
    out[0] = jnp.concatenate(parts, axis=1).astype(out.dtype)


def _backward_group(
    q, k, v, gains, bias, dL_do, dL_dqkv, dL_dgains, dL_dbias, kept, *, width: int
) -> None:
    row, part = pl.program_id(1), pl.program_id(2)

    @pl.when(part == 0)
    def compute():
        @pl.when(row == 0)
        def start():
            dL_dgains[...] = jnp.zeros(dL_dgains.shape, dL_dgains.dtype)
            dL_dbias[...] = jnp.zeros(dL_dbias.shape, dL_dbias.dtype)

        grads = ([], [], [])
        for i in range(dL_do.shape[2] // width):
            head = slice(i * width, (i + 1) * width)
            inputs = (x[0][:, head] for x in (q, k, v, dL_do))
            *found, dL_ds, cos = _head_gradients(*inputs, gains[i], bias[i])
            dL_dbias[i] += dL_ds
            dL_dgains[i] += jnp.sum(dL_ds * cos, axis=0, keepdims=True)
            for grad, one in zip(grads, found):
                grad.append(one)
        of_q, of_k, of_v = (jnp.concatenate(g, axis=1).astype(kept.dtype) for g in grads)
        dL_dqkv[0] = of_q
        kept[0] = of_k
        kept[1] = of_v

    @pl.when(part == 1)
    def of_keys():
        dL_dqkv[0] = kept[0]

    @pl.when(part == 2)
    def of_values():
        dL_dqkv[0] = kept[1]


def _head_gradients(q, k, v, dL_do, gain, bias):
    """Gradients by ``q``, ``k``, ``v`` and the scores, and the cosines."""
    dtype = v.dtype
    q_unit, q_rate, q_free = _unit(q)
    k_unit, k_rate, k_free = _unit(k)
    cos, probs = _softmax(q_unit.astype(dtype), k_unit.astype(dtype), gain, bias)
    dL_dv = dot(probs.astype(dtype), dL_do, 0, 0)
    dL_dp = dot(dL_do, v, 1, 1)
    dL_ds = probs * (dL_dp - jnp.sum(probs * dL_dp, axis=-1, keepdims=True))
    dL_dcos = (dL_ds * gain).astype(dtype)
    by_q = dot(dL_dcos, k_unit.astype(dtype), 1, 0)
    by_k = dot(dL_dcos, q_unit.astype(dtype), 0, 0)
    dL_dq = _through_unit(by_q, q_unit, q_rate, q_free)
    dL_dk = _through_unit(by_k, k_unit, k_rate, k_free)
    return dL_dq, dL_dk, dL_dv, dL_ds, cos


def _through_unit(grad, unit, rate, free):
    along = jnp.sum(grad * unit, axis=-1, keepdims=True)
    return (grad - jnp.where(free, along, 0.0) * unit) * rate
