"""Dropout by few random bits."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def dropout(key: Key[Array, ""], x: Float[Array, "b ..."], rate: float) -> Float[Array, "b ..."]:
    """Dropout by one random byte for each value, at a rate that is rounded to 1/256.

    A 32-bit word serves four values: random bits cost more than the matrix products around them.
    """
    kept = max(1, round((1 - rate) * 256))
    if kept == 256:
        return x
    size = math.prod(x.shape[1:])
    words = jax.random.bits(key, (x.shape[0], -(-size // 4)), jnp.uint32)
    random = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(x.shape[0], -1)
    return jnp.where(random[:, :size].reshape(x.shape) < kept, x * (256 / kept), 0.0)
