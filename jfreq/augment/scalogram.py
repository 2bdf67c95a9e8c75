"""Changes of scalograms ``[b t f c]`` of ``log(1 + |W|)``; only crops change times."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

Key = PRNGKeyArray | Array
Range = tuple[float | int, float | int]


def scale_amplitude(
    key: Key, x: Float[Array, "b t f c"], *, gain: Range = (0.5, 2.0)
) -> Float[Array, "b t f c"]:
    """Every channel of every clip as if its signal were louder by a factor ``g`` that is
    log-uniform in ``gain``: ``log(1 + g |W|)``, exact for frames of one sample."""
    b, _, _, c = x.shape
    low, high = np.log(gain)
    factor = jnp.exp(jax.random.uniform(key, (b, 1, 1, c), x.dtype, minval=low, maxval=high))
    return jnp.log1p(factor * jnp.expm1(x))


def shift_frequency(
    key: Key, x: Float[Array, "b t f c"], *, rows: float | int = 2.0
) -> Float[Array, "b t f c"]:
    """Every clip moved along its logarithmic frequency axis, as if its signal were faster or
    slower, by a uniform fractional number of up to ``rows`` rows; the last row is repeated."""
    b, t, f, _ = x.shape
    by = jax.random.uniform(key, (b, 1), x.dtype, minval=-rows, maxval=rows)
    beyond = math.ceil(rows)
    x = jnp.pad(x, ((0, 0), (0, 0), (beyond, beyond), (0, 0)), mode="edge")
    return _resample(x, (t, f), (1,), jnp.ones_like(by), -by - beyond)


def random_crop(
    key: Key,
    x: Float[Array, "b t f c"],
    *,
    area: Range = (0.3, 0.7),
    aspect: Range = (0.5, 2.0),
) -> Float[Array, "b t f c"]:
    """A random rectangle of time and frequency of every clip, stretched to the full size.

    Its fraction of the area is uniform in ``area``; the ratio of its relative extents in time and
    frequency is log-uniform in ``aspect`` as far as the rectangle fits.
    """
    b, t, f, _ = x.shape
    keys = jax.random.split(key, 4)
    fraction = jax.random.uniform(keys[0], (b, 1), x.dtype, minval=area[0], maxval=area[1])
    low, high = np.log(aspect)
    ratio = jnp.exp(jax.random.uniform(keys[1], (b, 1), x.dtype, minval=low, maxval=high))
    ratio = jnp.clip(ratio, fraction, 1 / fraction)
    sides = jnp.sqrt(jnp.concatenate([fraction * ratio, fraction / ratio], 1))
    sides = jnp.minimum(sides, 1.0)
    position = jnp.concatenate([jax.random.uniform(k, (b, 1), x.dtype) for k in keys[2:]], 1)
    begin = position * (1 - sides) * jnp.asarray(((t, f),), x.dtype)
    return _resample(x, (t, f), (0, 1), 1 / sides, -begin / sides)


def _resample(
    x: Float[Array, "b t f c"],
    shape: tuple[int, int],
    axes: tuple[int, ...],
    scale: Float[Array, "b k"],
    offset: Float[Array, "b k"],
) -> Float[Array, "b t2 f2 c"]:
    """Linear interpolation to ``shape`` along ``axes`` of ``[t f c]``, with a scale and an offset
    for every clip. It multiplies by matrices, which is cheap at these sizes and needs no
    gathers."""

    def of_clip(clip, scale, offset):
        return jax.image.scale_and_translate(
            clip, (*shape, x.shape[3]), axes, scale, offset, "linear", antialias=False
        )

    return jax.vmap(of_clip)(x, scale, offset)
