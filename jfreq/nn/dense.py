"""Dense layers that run in the form of their platform, and the MLP of a block."""

from __future__ import annotations

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from jfreq import sharding
from jfreq.kernels import cpu
from jfreq.nn.attention import SAVED

Params = tuple[Array, Array]
"""Kernel and bias."""


class Affine(nn.Module):
    """Kernel and bias of a dense layer over the last axes, with the names, shapes and initial
    values of flax's ``DenseGeneral``.

    Attributes:
        inputs: Sizes of the axes that are summed over.
        outputs: Sizes of the axes that take their place.
        kernel_init: Initial values of the kernel as a matrix; those of the bias are 0.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self) -> Params:
        """``[*inputs *outputs]`` and ``[*outputs]``."""

        def init(key, shape):
            matrix = math.prod(self.inputs), math.prod(self.outputs)
            return self.kernel_init(key, matrix).reshape(shape)

        kernel = self.param("kernel", init, (*self.inputs, *self.outputs))
        return kernel, self.param("bias", nn.initializers.zeros, self.outputs)


def as_matrix(params: Params) -> Params:
    """Kernel ``[i o]`` and bias ``[o]`` of a layer with one axis on either side."""
    kernel, bias = params
    return kernel.reshape(-1, bias.size), bias.reshape(-1)


def dense(x: Float[Array, ...], params: Params) -> Float[Array, ...]:
    """The last axes of ``x`` times the kernel, plus the bias, in the type of ``x``; on one CPU
    :func:`jfreq.kernels.cpu.affine`."""
    kernel, bias = (p.astype(x.dtype) for p in params)
    size = kernel.ndim - bias.ndim

    def plain(x, kernel, bias):
        axes = tuple(range(x.ndim - size, x.ndim)), tuple(range(size))
        return _with_bias(jax.lax.dot_general(x, kernel, (axes, ((), ()))), bias)

    def on_cpu(x, kernel, bias):
        matrix, row = as_matrix((kernel, bias))
        y = cpu.affine(x.reshape(-1, len(matrix)), matrix, row)
        return y.reshape(*x.shape[: x.ndim - size], *bias.shape)

    if sharding.devices() > 1:
        return plain(x, kernel, bias)
    return jax.lax.platform_dependent(x, kernel, bias, cpu=on_cpu, default=plain)


class LayerNorm(nn.Module):
    """Flax's layer norm with scale and bias, which on one CPU keeps only its input for the backward
    pass."""

    eps: float

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        params = [
            self.param(name, init, x.shape[-1:])
            for name, init in (("scale", nn.initializers.ones), ("bias", nn.initializers.zeros))
        ]

        def plain(x, scale, bias):
            norm = nn.LayerNorm(epsilon=self.eps, parent=None)
            return norm.apply({"params": {"scale": scale, "bias": bias}}, x)

        if sharding.devices() > 1:
            return plain(x, *params)

        def on_cpu(x, scale, bias):
            rows = x.reshape(-1, x.shape[-1]).astype(jnp.promote_types(x.dtype, scale.dtype))
            return cpu.layer_norm(rows, scale, bias, self.eps).reshape(x.shape)

        return jax.lax.platform_dependent(x, *params, cpu=on_cpu, default=plain)


def mlp(
    x: Float[Array, "*b d"],
    first: Params,
    second: Params,
    drop: Callable[[Array], Array] | None = None,
) -> Float[Array, "*b d"]:
    """Two dense layers with the exact GELU and, where given, dropout between them, in the type of
    ``x``; on one CPU without dropout :func:`jfreq.kernels.cpu.mlp`, which keeps ``x`` only."""

    def plain(x, kernel1, bias1, kernel2, bias2):
        y = checkpoint_name(_with_bias(x @ kernel1, bias1), SAVED)
        y = nn.gelu(y, approximate=False)
        y = y if drop is None else drop(y)
        return _with_bias(y @ kernel2, bias2)

    params = [p.astype(x.dtype) for p in (*first, *second)]
    if drop is not None or sharding.devices() > 1:
        return plain(x, *params)

    def on_cpu(x, *params):
        return cpu.mlp(x.reshape(-1, x.shape[-1]), *params).reshape(x.shape)

    return jax.lax.platform_dependent(x, *params, cpu=on_cpu, default=plain)


def _with_bias(y: Array, bias: Array) -> Array:
    return y + jnp.expand_dims(bias, tuple(range(y.ndim - bias.ndim)))
