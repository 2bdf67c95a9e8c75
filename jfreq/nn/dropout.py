"""Dropout from one random byte per value."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Dropout(nn.Module):
    """Zeroes values with probability ``rate``, rounded to 1/256; scales the rest to keep the mean.

    Four values share a 32-bit draw. On a CPU random bits cost more than the matrix products around
    them; this takes a quarter. Needs the ``dropout`` key unless ``deterministic``.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "b ..."], *, deterministic: bool) -> Float[Array, "b ..."]:
        kept = max(1, round((1 - self.rate) * 256))
        if deterministic or kept == 256:
            return x
        size = math.prod(x.shape[1:])
        # The batch axis stays as it is, so that a sharded batch draws its own rows only.
        words = jax.random.bits(self.make_rng("dropout"), (len(x), -(-size // 4)), jnp.uint32)
        draws = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(len(x), -1)
        draws = draws[:, :size].reshape(x.shape)
        return jnp.where(draws < kept, x * (256 / kept), 0.0)
