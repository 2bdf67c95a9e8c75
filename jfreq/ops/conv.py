"""Convolutions in groups of channels, in the form that the hardware runs well."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jfreq import sharding
from jfreq.types import InputError


def receptive_field(kernels: Sequence[int], strides: Sequence[int]) -> tuple[int, int]:
    """Input samples that one output of stacked convolutions sees, and those between two outputs.

    >>> receptive_field((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2))
    (400, 320)
    """
    span, hop = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        span, hop = span + (kernel - 1) * hop, hop * stride
    return span, hop


def grouped_conv(
    x: Float[Array, "b h t c"], kernel: Float[Array, "kh kt c_g out"]
) -> Float[Array, "b h t out"]:
    """Cross-correlation of ``c / c_g`` groups of channels; odd kernel, zeros beyond the borders.

    Each group of ``c_g`` channels makes as many of the ``out`` channels, as in
    ``jax.lax.conv_general_dilated(..., feature_group_count=c // c_g)``. XLA's CPU code for that is
    slow, for its gradient more than ten times slower than what is taken on CPU instead: matrix
    products, group by group, over neighbourhoods that are laid out. The platform that the program
    is lowered for decides. On several devices, where XLA gathers the batch for such a convolution,
    products too. Raises ``InputError`` for sizes that do not go together.
    """
    groups, rest = divmod(x.shape[-1], kernel.shape[2])
    if rest or kernel.shape[3] % groups or not kernel.shape[0] % 2 == kernel.shape[1] % 2 == 1:
        raise InputError(
            f"conv: a kernel of shape {kernel.shape} does not fit {x.shape[-1]} channels; sides "
            "must be odd and the groups divide both channels"
        )
    if sharding.devices() > 1:
        return jax.checkpoint(_products, prevent_cse=False)(x, kernel)
    return jax.lax.platform_dependent(x, kernel, cpu=_by_group, default=_conv)


def _conv(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[2],
    )  # fmt: skip


def _by_group(x, kernel):
    """One group after the other, so that the neighbourhoods of one are laid out at a time; the
    backward pass lays them out again instead of keeping them."""
    high, wide, size, out = kernel.shape
    groups = x.shape[-1] // size
    parts = x.reshape(*x.shape[:3], groups, size).transpose(3, 0, 1, 2, 4)
    kernels = kernel.reshape(high, wide, size, groups, out // groups).transpose(3, 0, 1, 2, 4)
    one = jax.checkpoint(lambda part: _products(*part), prevent_cse=False)
    y = jax.lax.map(one, (parts, kernels))
    return y.transpose(1, 2, 3, 0, 4).reshape(*x.shape[:3], out)


def _products(x, kernel):
    """``[g b h t (kh kt c_g)]`` times ``[g (kh kt c_g) out / g]``."""
    high, wide, size, out = kernel.shape
    b, h, t, channels = x.shape
    groups = channels // size
    x = x.reshape(b, h, t, groups, size).transpose(3, 0, 1, 2, 4)
    x = jnp.pad(x, ((0, 0), (0, 0), (high // 2,) * 2, (wide // 2,) * 2, (0, 0)))
    near = [x[:, :, i : i + h, j : j + t] for i in range(high) for j in range(wide)]
    kernel = kernel.reshape(high * wide * size, groups, out // groups)
    y = jnp.einsum("gbhtc,cgo->gbhto", jnp.concatenate(near, axis=-1), kernel)
    return y.transpose(1, 2, 3, 0, 4).reshape(b, h, t, out)
