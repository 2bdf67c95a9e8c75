"""Convolutions in groups of channels, and what stacked convolutions see."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from jfreq import sharding
from jfreq.kernels import cpu
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
    """Cross-correlation of groups of channels, with zeros beyond the borders.

    XLA gathers the batch of several devices for a grouped convolution. So each convolves the rows
    that it holds by itself; on CPU, and where rows do not divide, as matrix products.

    Args:
        x: Input, whose channels are in ``c / c_g`` groups.
        kernel: Sides ``kh`` and ``kt`` are odd; every group gives the same number of the ``out``
            channels.

    Raises:
        InputError: For sizes that do not fit.

    >>> import jax.numpy as jnp
    >>> grouped_conv(jnp.ones((1, 1, 3, 2)), jnp.ones((1, 3, 1, 2)))[0, 0].tolist()
    [[2.0, 2.0], [3.0, 3.0], [2.0, 2.0]]
    """
    groups, rest = divmod(x.shape[-1], kernel.shape[2])
    if rest or kernel.shape[3] % groups or not kernel.shape[0] % 2 == kernel.shape[1] % 2 == 1:
        raise InputError(
            f"conv: a kernel of shape {kernel.shape} does not fit {x.shape[-1]} channels; sides "
            "must be odd and the groups divide both channels"
        )
    if sharding.devices() == 1:
        return jax.lax.platform_dependent(x, kernel, cpu=cpu.grouped_conv, default=_conv)
    mesh = jax.sharding.get_abstract_mesh()
    over = math.prod(mesh.shape.get(axis, 0) for axis in sharding.BATCH)
    if not over or x.shape[0] % over:
        return cpu.conv_as_products(x, kernel)
    return jax.lax.platform_dependent(x, kernel, cpu=cpu.conv_as_products, default=_conv_of_rows)


def sequence_conv(
    x: Float[Array, "b n c"], kernel: Float[Array, "k c_g out"]
) -> Float[Array, "b n out"]:
    """Cross-correlation of groups of channels along a sequence, with zeros beyond its ends: entry
    ``j`` of the kernel meets the token ``j - k // 2`` places on (wav2vec 2.0, Baevski et al. 2020).

    Where XLA would be slow, or would gather the batch of several devices, it is computed as matrix
    products.

    Args:
        x: Tokens, whose channels are in ``c / c_g`` groups.
        kernel: Of any length; every group gives the same number of the ``out`` channels.

    Raises:
        InputError: For groups that do not divide the channels.

    >>> import jax.numpy as jnp
    >>> sequence_conv(jnp.arange(3.0).reshape(1, 3, 1), jnp.ones((2, 1, 1)))[0, :, 0].tolist()
    [0.0, 1.0, 3.0]
    """
    groups, rest = divmod(x.shape[-1], kernel.shape[1])
    if rest or kernel.shape[2] % groups:
        raise InputError(
            f"conv: a kernel of shape {kernel.shape} does not fit {x.shape[-1]} channels; the "
            "groups must divide both channels"
        )
    if sharding.devices() > 1:
        return cpu.sequence_conv(x, kernel)
    return jax.lax.platform_dependent(x, kernel, cpu=cpu.sequence_conv, default=_sequence_conv)


def _sequence_conv(x, kernel):
    before = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1,),
        padding=[(before, kernel.shape[0] - 1 - before)],
        dimension_numbers=("NHC", "HIO", "NHC"),
        feature_group_count=x.shape[-1] // kernel.shape[1],
    )


def _conv_of_rows(x, kernel):
    """Each device convolves the rows that it holds."""
    rows = P(sharding.BATCH)
    run = jax.shard_map(_conv, in_specs=(rows, P()), out_specs=rows, check_vma=False)
    return run(x, kernel)


def _conv(x, kernel):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[2],
    )
