"""Dropout of values from one random byte each, and of whole rows (drop path)."""

from __future__ import annotations

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Dropout(nn.Module):
    """Zeroes with probability ``rate`` and scales the rest to keep the mean.

    Values one by one, at a rate rounded to 1/256: four values share a 32-bit draw, because on a
    CPU random bits cost more than the matrix products around them. Or, with ``rows``, each row of
    the batch as a whole (stochastic depth, Huang et al. 2016, section 3); then the rate may be
    traced. Needs the ``dropout`` key unless ``deterministic``.
    """

    rate: float | Float[Array, ""]
    rows: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b ..."], *, deterministic: bool) -> Float[Array, "b ..."]:
        if deterministic or (isinstance(self.rate, float | int) and self.rate == 0):
            return x
        return self._rows(x) if self.rows else self._values(x)

    def _rows(self, x: Array) -> Array:
        kept = 1.0 - self.rate
        shape = (len(x), *[1] * (x.ndim - 1))
        draws = jax.random.bernoulli(self.make_rng("dropout"), kept, shape)
        return jnp.where(draws, x / kept, 0.0)

    def _values(self, x: Array) -> Array:
        kept = max(1, round((1 - self.rate) * 256))
        if kept == 256:
            return x
        size = math.prod(x.shape[1:])
        # The batch axis stays as it is, so that a sharded batch draws its own rows only.
        words = jax.random.bits(self.make_rng("dropout"), (len(x), -(-size // 4)), jnp.uint32)
        draws = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(len(x), -1)
        draws = draws[:, :size].reshape(x.shape)
        return jnp.where(draws < kept, x * (256 / kept), 0.0)


def dropping(rate: float | Array, *, train: bool, rows: bool = False) -> Callable[[Array], Array]:
    """A :class:`Dropout` that knows whether it is on; call inside a compact method."""
    layer = Dropout(rate, rows)
    return lambda x: layer(x, deterministic=not train)
