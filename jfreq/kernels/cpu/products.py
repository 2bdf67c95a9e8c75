"""Convolutions as matrix products."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_TAPS = 4
"""Entries of a long kernel that are multiplied at a time; 8 were slower, 16 much slower."""


def grouped_conv(
    x: Float[Array, "b h t c"], kernel: Float[Array, "kh kt c_g out"]
) -> Float[Array, "b h t out"]:
    """:func:`jfreq.ops.conv.grouped_conv` as matrix products, one group of channels at a time.

    XLA's own code for the gradient of a grouped convolution takes more than ten times as long.
    """
    high, wide, size, out = kernel.shape
    groups = x.shape[-1] // size
    parts = x.reshape(*x.shape[:3], groups, size).transpose(3, 0, 1, 2, 4)
    kernels = kernel.reshape(high, wide, size, groups, out // groups).transpose(3, 0, 1, 2, 4)
    y = jax.lax.map(lambda part: conv_as_products(*part), (parts, kernels))
    return y.transpose(1, 2, 3, 0, 4).reshape(*x.shape[:3], out)


@functools.partial(jax.checkpoint, prevent_cse=False)
def conv_as_products(
    x: Float[Array, "b h t c"], kernel: Float[Array, "kh kt c_g out"]
) -> Float[Array, "b h t out"]:
    """The convolution of all groups as one product with the neighbourhoods of all positions.

    The backward pass computes the neighbourhoods ``[g b h t (kh kt c_g)]`` again.
    """
    high, wide, size, out = kernel.shape
    b, h, t, channels = x.shape
    groups = channels // size
    x = x.reshape(b, h, t, groups, size).transpose(3, 0, 1, 2, 4)
    x = jnp.pad(x, ((0, 0), (0, 0), (high // 2,) * 2, (wide // 2,) * 2, (0, 0)))
    near = [x[:, :, i : i + h, j : j + t] for i in range(high) for j in range(wide)]
    kernel = kernel.reshape(high * wide * size, groups, out // groups)
    y = jnp.einsum("gbhtc,cgo->gbhto", jnp.concatenate(near, axis=-1), kernel)
    return y.transpose(1, 2, 3, 0, 4).reshape(b, h, t, out)


def sequence_conv(
    x: Float[Array, "b n c"], kernel: Float[Array, "k c_g out"]
) -> Float[Array, "b n out"]:
    """:func:`jfreq.ops.conv.sequence_conv` as a sum of matrix products, each with a few
    neighbouring entries of the kernel."""
    taps, size, out = kernel.shape
    b, n, channels = x.shape
    groups, count = channels // size, -(-taps // _TAPS)
    before, length = taps // 2, n + count * _TAPS - 1
    x = jnp.pad(x, ((0, 0), (before, length - n - before), (0, 0)))
    x = x.reshape(b, length, groups, size).transpose(2, 0, 1, 3)
    kernel = jnp.pad(kernel, ((0, count * _TAPS - taps), (0, 0), (0, 0)))
    kernel = kernel.reshape(count, _TAPS * size, groups, out // groups)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def product(kernel, first):
        part = jax.lax.dynamic_slice_in_dim(x, first, n + _TAPS - 1, axis=2)
        near = jnp.concatenate([part[:, :, i : i + n] for i in range(_TAPS)], axis=-1)
        return jnp.einsum("gbnc,cgo->gbno", near, kernel)

    def add(total, entries):
        return total + product(*entries), None

    start = jnp.zeros((groups, b, n, out // groups), x.dtype)
    y, _ = jax.lax.scan(add, start, (kernel, jnp.arange(count) * _TAPS))
    return y.transpose(1, 2, 0, 3).reshape(b, n, out)
