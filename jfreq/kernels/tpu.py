"""Pallas kernels for TPU, each beside the plain formula that it computes.

They keep on the chip what XLA:TPU writes to main memory in between. A setting chooses them, because
they want shapes that the plain formula does not; ``interpret`` runs them anywhere, slowly, which is
how they are tested.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float

_NEGATIVE = -1e30
LANES = 128
"""Values side by side in a register."""
MOST_TOKENS = 1536
"""Tokens of a row whose score table of one head fits the on-chip memory with what it needs."""


def attention(
    qkv: Float[Array, "b n 3 h k"], valid: Bool[Array, "b n"] | None, *, interpret: bool = False
) -> Float[Array, "b n h k"]:
    """Self-attention of whole rows, the score table of a head at a time on the chip.

    Queries, keys and values are read as one product writes them, and their gradients are written
    as the next product reads them: no transposed, split or padded copies. The forward pass keeps
    nothing but its input; the backward pass computes the softmax again. Formulas as in
    :func:`jfreq.kernels.cpu._head_major`.

    Args:
        qkv: Queries, keys and values of ``h`` heads of ``k`` channels.
        valid: False for keys that get no weight.
        interpret: Runs the kernel as JAX operations.
    """
    b, n, _, heads, width = qkv.shape
    mask = None if valid is None else jnp.where(valid, 0.0, _NEGATIVE)[:, None]
    out = _attention(qkv.reshape(b, n, 3 * heads * width), mask, heads, interpret)
    return out.reshape(b, n, heads, width)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _attention(qkv, mask, heads: int, interpret: bool):
    return _attention_forward(qkv, mask, heads, interpret)[0]


def _attention_forward(qkv, mask, heads: int, interpret: bool):
    shape = (*qkv.shape[:2], qkv.shape[2] // 3)
    inputs = (qkv,) if mask is None else (qkv, mask)
    kernel = functools.partial(_forward_row, heads=heads, masked=mask is not None)
    out = _over_rows(kernel, inputs, jax.ShapeDtypeStruct(shape, qkv.dtype), 4, heads, interpret)
    return out, (qkv, mask)


def _attention_backward(heads: int, interpret: bool, saved, dL_do):
    qkv, mask = saved
    inputs = (qkv, dL_do) if mask is None else (qkv, dL_do, mask)
    kernel = functools.partial(_backward_row, heads=heads, masked=mask is not None)
    out = jax.ShapeDtypeStruct(qkv.shape, qkv.dtype)
    dL_dqkv = _over_rows(kernel, inputs, out, 10, heads, interpret)
    return dL_dqkv, None if mask is None else jnp.zeros_like(mask)


_attention.defvjp(_attention_forward, _attention_backward)


def _over_rows(kernel, inputs, out, flops: int, heads: int, interpret: bool) -> Array:
    """``kernel`` on one row of the batch after the other; ``flops`` for each score and channel."""
    b, n, _ = out.shape
    channels = inputs[0].shape[2] // 3
    arrays = [*inputs, out]
    row = sum(x.size // b * x.dtype.itemsize for x in arrays)
    return pl.pallas_call(
        kernel,
        grid=(b,),
        in_specs=[pl.BlockSpec((1, *x.shape[1:]), lambda i: (i, 0, 0)) for x in inputs],
        out_specs=pl.BlockSpec((1, *out.shape[1:]), lambda i: (i, 0, 0)),
        out_shape=out,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel",), vmem_limit_bytes=2 * row + 12 * 4 * n * n + 2**22
        ),
        cost_estimate=pl.CostEstimate(
            flops=flops * b * n * n * channels,
            transcendentals=b * n * n * heads,
            bytes_accessed=sum(x.size * x.dtype.itemsize for x in arrays),
        ),
        interpret=interpret,
    )(*inputs)


def _groups(heads: int, width: int) -> int:
    """How many heads are read together: as many as fill the lanes of a register."""
    group = LANES // width if width < LANES else 1
    whole = LANES % width == 0 if width < LANES else width % LANES == 0
    return group if whole and heads % group == 0 else heads


def _over_heads(heads: int, width: int, body) -> None:
    """Calls ``body(columns)`` for each group of heads; ``columns(part)`` are those of queries (0),
    keys (1) or values (2)."""
    size = _groups(heads, width) * width

    def run(i, _):
        def columns(part: int):
            start = part * heads * width + i * size
            return pl.ds(pl.multiple_of(start, LANES) if size % LANES == 0 else start, size)

        body(columns)

    if size == heads * width:
        run(0, None)
    else:
        jax.lax.fori_loop(0, heads * width // size, run, None)


def _softmax(q, k, mask):
    scores = dot(q, k, 1, 1) * q.shape[-1] ** -0.5
    scores = scores if mask is None else scores + mask
    probs = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    return probs, jnp.sum(probs, axis=-1, keepdims=True)


def dot(a, b, of_a: int, of_b: int):
    """The product over axis ``of_a`` of ``a`` and ``of_b`` of ``b``, in float32."""
    dims = (((of_a,), (of_b,)), ((), ()))
    return jax.lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)


def _forward_row(*refs, heads: int, masked: bool) -> None:
    qkv, out = refs[0], refs[-1]
    mask = refs[1][0] if masked else None
    width = out.shape[2] // heads

    def attend(columns):
        q, k, v = (qkv[0, :, columns(part)] for part in range(3))
        parts = []
        for i in range(q.shape[1] // width):
            head = slice(i * width, (i + 1) * width)
            probs, total = _softmax(q[:, head], k[:, head], mask)
            parts.append(dot(probs.astype(v.dtype), v[:, head], 1, 0) / total)
        out[0, :, columns(0)] = jnp.concatenate(parts, axis=1).astype(out.dtype)

    _over_heads(heads, width, attend)


def _backward_row(*refs, heads: int, masked: bool) -> None:
    qkv, dL_do, dL_dqkv = refs[0], refs[1], refs[-1]
    mask = refs[2][0] if masked else None
    width = dL_do.shape[2] // heads

    def attend(columns):
        q, k, v = (qkv[0, :, columns(part)] for part in range(3))
        given = dL_do[0, :, columns(0)]
        grads = ([], [], [])
        for i in range(q.shape[1] // width):
            head = slice(i * width, (i + 1) * width)
            found = _head_gradients(q[:, head], k[:, head], v[:, head], given[:, head], mask)
            for part, grad in zip(grads, found):
                part.append(grad)
        for part, grad in enumerate(grads):
            dL_dqkv[0, :, columns(part)] = jnp.concatenate(grad, axis=1).astype(dL_dqkv.dtype)

    _over_heads(heads, width, attend)


def _head_gradients(q, k, v, dL_do, mask):
    probs, total = _softmax(q, k, mask)
    probs = probs / total
    dL_dv = dot(probs.astype(v.dtype), dL_do, 0, 0)
    dL_dp = dot(dL_do, v, 1, 1)
    mean = jnp.sum(probs * dL_dp, axis=-1, keepdims=True)
    dL_ds = (probs * (dL_dp - mean) * q.shape[-1] ** -0.5).astype(q.dtype)
    return dot(dL_ds, k, 1, 0), dot(dL_ds, q, 0, 0), dL_dv
