"""Grouped convolution, layer norm and GELU: the block of data2vec 2.0's decoders and positions."""

from __future__ import annotations

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from jfreq import sharding
from jfreq.kernels import cpu
from jfreq.nn.attention import SAVED
from jfreq.nn.heads import torch_bias, torch_kernel
from jfreq.ops.conv import grouped_conv

_EPS = 1e-5
"""Of the layer norm."""


class ConvBlock(nn.Module):
    """``gelu(norm(conv(x)))``; the norm has no parameters, the initialisers are torch's.

    Attributes:
        width: Channels of the output; a multiple of ``groups``, as are those of the input.
        kernel: Odd side of the kernel along both axes.
        groups: Number of groups of channels, each of which is convolved by itself.
        dtype: Type of the matrix products; bias and norm stay float32.
    """

    width: int
    kernel: int
    groups: int
    dtype: Literal["float32", "bfloat16"] = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b h t c"]) -> Float[Array, "b h t d"]:
        dtype = jnp.dtype(self.dtype)
        # Kernel sides no longer than reach across the grid: the rest would only meet zeros.
        side = tuple(min(self.kernel, 2 * size - 1) for size in x.shape[1:3])
        shape = (*side, x.shape[-1] // self.groups, self.width)
        kernel = self.param("kernel", torch_kernel, shape)
        bias = self.param("bias", torch_bias(int(np.prod(shape[:3]))), (self.width,), jnp.float32)
        y = grouped_conv(x.astype(dtype), kernel.astype(dtype))
        y = checkpoint_name(y, SAVED).astype(jnp.promote_types(x.dtype, bias.dtype))
        return _gelu_of_norm(y, bias)


def _gelu_of_norm(y: Float[Array, "b h t d"], bias: Float[Array, " d"]) -> Float[Array, "b h t d"]:
    """``gelu(norm(y + bias))``; on one CPU only ``y`` is kept for the backward pass."""

    def plain(y, bias):
        norm = nn.LayerNorm(epsilon=_EPS, use_scale=False, use_bias=False, parent=None)
        return nn.gelu(norm.apply({}, y + bias[None, None, None]), approximate=False)

    def on_cpu(y, bias):
        return cpu.gelu_of_norm(y.reshape(-1, y.shape[-1]), bias, _EPS).reshape(y.shape)

    if sharding.devices() > 1:
        return plain(y, bias)
    return jax.lax.platform_dependent(y, bias, cpu=on_cpu, default=plain)
