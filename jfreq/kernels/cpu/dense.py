"""Dense layers, MLPs and layer norms, whose gradients sum over many tokens."""

from __future__ import annotations

import functools
import math
import os

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_vjp
def affine(
    x: Float[Array, "b i"], kernel: Float[Array, "i o"], bias: Float[Array, " o"]
) -> Float[Array, "b o"]:
    """``x kernel + bias``, whose gradients by kernel and bias are fast.

    That by the kernel sums over all tokens, and one product of two such long and narrow arrays runs
    at half of the speed of others. Here each core sums over its part of the tokens, and the longer
    side of the kernel is the last axis of what it adds up.
    """
    return x @ kernel + bias[None]


def _forward(x, kernel, bias):
    return affine(x, kernel, bias), (x, kernel)


def _backward(saved, dL_dy):
    x, kernel = saved
    i, o = kernel.shape
    parts = math.gcd(x.shape[0], os.cpu_count() or 1) if isinstance(x.shape[0], int) else 1
    x, dL_drows = x.reshape(parts, -1, i), dL_dy.reshape(parts, -1, o)
    if i > o:
        dL_dkernel = jnp.sum(jnp.einsum("pbo,pbi->poi", dL_drows, x), axis=0).T
    else:
        dL_dkernel = jnp.sum(jnp.einsum("pbi,pbo->pio", x, dL_drows), axis=0)
    return dL_dy @ kernel.T, dL_dkernel, jnp.sum(dL_drows, axis=(0, 1))


affine.defvjp(_forward, _backward)


@functools.partial(jax.checkpoint, prevent_cse=False)
def mlp(
    x: Float[Array, "b d"],
    kernel1: Float[Array, "d m"],
    bias1: Float[Array, " m"],
    kernel2: Float[Array, "m d"],
    bias2: Float[Array, " d"],
) -> Float[Array, "b d"]:
    """``gelu(x kernel1 + bias1) kernel2 + bias2``, of which only ``x`` is kept.

    The backward pass computes the hidden layer again: one product more costs less than writing and
    reading those of all blocks.
    """
    return affine(_gelu(affine(x, kernel1, bias1)), kernel2, bias2)


def _gelu(x):
    """By erf; jax.nn.gelu takes erfc, which is exact to the last bit far below zero and slower."""
    return x * (0.5 + 0.5 * jax.lax.erf(x * 2**-0.5))


@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=2)
def gelu_of_norm(
    x: Float[Array, "b d"], bias: Float[Array, " d"], eps: float
) -> Float[Array, "b d"]:
    """``gelu(norm(x + bias))``, the norm without parameters, of which only ``x`` is kept."""
    return _gelu(_normed(x + bias[None], eps)[0])


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(
    x: Float[Array, "b d"], scale: Float[Array, " d"], bias: Float[Array, " d"], eps: float
) -> Float[Array, "b d"]:
    """Layer norm over the last axis, of which only ``x`` is kept (Ba et al. 2016, section 3)."""
    return _normed(x, eps)[0] * scale[None] + bias[None]


def _normed(x, eps):
    """``x`` with mean 0 and variance 1, and what its deviations were multiplied by."""
    mean = jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(x - mean), axis=-1, keepdims=True)
    factor = jax.lax.rsqrt(variance + eps)
    return (x - mean) * factor, factor


def _norm_forward(x, scale, bias, eps):
    return layer_norm(x, scale, bias, eps), (x, scale)


def _norm_backward(eps, saved, dL_dy):
    x, scale = saved
    normed, factor = _normed(x, eps)
    dL_dn = dL_dy * scale[None]
    mean = jnp.mean(dL_dn, axis=-1, keepdims=True)
    along = jnp.mean(dL_dn * normed, axis=-1, keepdims=True)
    dL_dx = (dL_dn - mean - normed * along) * factor
    return dL_dx, jnp.sum(dL_dy * normed, axis=0), jnp.sum(dL_dy, axis=0)


layer_norm.defvjp(_norm_forward, _norm_backward)
