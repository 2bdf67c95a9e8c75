"""Changes of scalograms ``[b t f c]`` of ``log(1 + |W|)``; only a crop moves anything in time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

Key = PRNGKeyArray | Array
Range = tuple[float | int, float | int]


def scale_amplitude(
    key: Key, x: Float[Array, "b t f c"], *, gain: Range = (0.5, 2.0)
) -> Float[Array, "b t f c"]:
    """Every channel of every clip as if its signal had been louder by one factor, log-uniform in
    ``gain``: ``log(1 + g |W|)``, exact for frames of one sample."""
    b, _, _, c = x.shape
    low, high = np.log(gain)
    factor = jnp.exp(jax.random.uniform(key, (b, 1, 1, c), x.dtype, minval=low, maxval=high))
    return jnp.log1p(factor * jnp.expm1(x))


def shift_frequency(
    key: Key, x: Float[Array, "b t f c"], *, rows: float | int = 2.0
) -> Float[Array, "b t f c"]:
    """Every clip moved along its (logarithmic) frequency axis by up to ``rows`` rows, uniformly
    and in fractions; beyond the ends stands the last row. A faster or slower pace."""
    b, _, f, _ = x.shape
    by = jax.random.uniform(key, (b, 1), x.dtype, minval=-rows, maxval=rows)
    at = jnp.arange(f, dtype=x.dtype)[None] + by
    return _resample(x, at, axis=2)


def random_crop(
    key: Key,
    x: Float[Array, "b t f c"],
    *,
    area: Range = (0.3, 0.7),
    aspect: Range = (0.5, 2.0),
) -> Float[Array, "b t f c"]:
    """A random rectangle of time and frequency of every clip, stretched to the whole.

    Its share of the area is uniform in ``area``; the ratio of its relative extents in time and
    frequency is log-uniform in ``aspect`` as far as the rectangle fits.
    """
    b, t, f, _ = x.shape
    keys = jax.random.split(key, 4)
    share = jax.random.uniform(keys[0], (b, 1), x.dtype, minval=area[0], maxval=area[1])
    low, high = np.log(aspect)
    ratio = jnp.exp(jax.random.uniform(keys[1], (b, 1), x.dtype, minval=low, maxval=high))
    ratio = jnp.clip(ratio, share, 1 / share)
    for axis, size, part, place in (
        (1, t, jnp.sqrt(share * ratio), keys[2]),
        (2, f, jnp.sqrt(share / ratio), keys[3]),
    ):
        part = jnp.minimum(part, 1.0)
        begin = jax.random.uniform(place, (b, 1), x.dtype) * (1 - part)
        cells = (jnp.arange(size, dtype=x.dtype)[None] + 0.5) / size
        x = _resample(x, (begin + part * cells) * size - 0.5, axis=axis)
    return x


def _resample(x: Float[Array, "b t f c"], at: Float[Array, "b k"], *, axis: int):
    """Linear interpolation at places ``at`` of time (1) or frequency (2), held at the ends.

    A product with a matrix of two entries a line: cheap at these sizes, and free of gathers.
    """
    size = x.shape[axis]
    at = jnp.clip(at, 0, size - 1)[:, :, None]
    weight = jnp.maximum(0, 1 - jnp.abs(at - jnp.arange(size, dtype=x.dtype)[None, None]))
    form = "bkt,btfc->bkfc" if axis == 1 else "bkf,btfc->btkc"
    return jnp.einsum(form, weight, x, precision=jax.lax.Precision.HIGHEST)
