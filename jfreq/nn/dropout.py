"""Dropout of single values and of whole rows (drop path)."""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jfreq.kernels import cpu


class Dropout(nn.Module):
    """Zeroes with probability ``rate`` and scales the rest to keep the mean.

    Needs the ``dropout`` key unless ``deterministic``. Random bits on the CPU differ from those on
    other platforms (:func:`jfreq.kernels.cpu.dropout`).

    Attributes:
        rate: Below 1; with ``rows`` it may be traced.
        rows: Drops each row of the batch as a whole (stochastic depth, Huang et al., ECCV 2016,
            section 3), else values one by one.
    """

    rate: float | Float[Array, ""]
    rows: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b ..."], *, deterministic: bool) -> Float[Array, "b ..."]:
        if deterministic or (isinstance(self.rate, float | int) and self.rate == 0):
            return x
        key = self.make_rng("dropout")
        if self.rows:
            return _dropout(key, x, self.rate, shape=(len(x), *[1] * (x.ndim - 1)))
        rate = float(self.rate)
        on_cpu = functools.partial(cpu.dropout, rate=rate)
        plain = functools.partial(_dropout, rate=rate)
        return jax.lax.platform_dependent(key, x, cpu=on_cpu, default=plain)


def _dropout(key: Array, x: Array, rate: float | Array, shape: tuple | None = None) -> Array:
    """Dropout with one decision for each index of ``shape``, which broadcasts to that of ``x``."""
    kept = 1.0 - rate
    return jnp.where(jax.random.bernoulli(key, kept, shape or x.shape), x / kept, 0.0)


def dropping(rate: float | Array, *, train: bool, rows: bool = False) -> Callable[[Array], Array]:
    """A :class:`Dropout` that knows whether it is on; call inside a compact method."""
    layer = Dropout(rate, rows)
    return lambda x: layer(x, deterministic=not train)
