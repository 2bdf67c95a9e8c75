"""Integer samples to float, and standardisation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Num

from jfreq.types import InputError


def pcm_to_float(x: Num[Array | np.ndarray, ...]) -> Float32[Array, ...]:
    """Samples as float32; signed integers of ``bits`` bits are divided by ``2**(bits - 1)``.

    ``[...]`` to ``[...]`` in [-1, 1) for integers; floats keep their values.
    Raises ``InputError`` for unsigned integers, whose zero depends on the file format.

    >>> pcm_to_float(np.array([-32768, 16384], np.int16)).tolist()
    [-1.0, 0.5]
    """
    dtype = x.dtype
    if jnp.issubdtype(dtype, jnp.unsignedinteger):
        raise InputError(f"samples have the unsigned type {dtype}: centre them and pass int16")
    x = jnp.asarray(x, jnp.float32)
    if jnp.issubdtype(dtype, jnp.integer):
        x = x * np.float32(2.0 ** -(np.iinfo(dtype).bits - 1))
    return x


def standardise(
    x: Float[Array, ...],
    mean: float | int | Float[Array | np.ndarray, ...],
    std: float | int | Float[Array | np.ndarray, ...],
    *,
    gain: float | int = 2.0,
) -> Float[Array, ...]:
    """``(x - mean) / (gain * std)`` with statistics of a whole data set.

    ``mean`` and ``std`` are scalars or line up with the last axes of ``x``. ``gain`` 2 is the
    AST convention (standard deviation 0.5), 1 the usual z-score.

    >>> standardise(jnp.array([1.0, 5.0]), 3.0, 1.0).tolist()
    [-1.0, 1.0]
    """
    return (x - _trailing(mean, x)) / (gain * _trailing(std, x))


def standardise_clip(
    x: Float[Array, ...],
    axes: int | tuple[int, ...],
    *,
    valid: Bool[Array, ...] | None = None,
    eps: float | int | Float[Array, ...] = 1e-5,
) -> Float[Array, ...]:
    """Zero mean and unit variance of every clip over ``axes``.

    Args:
        x: Clips.
        axes: Axes of one clip.
        valid: Broadcasts to ``x`` with the same rank; entries where it is False do not count and
            become 0.
        eps: Added to the variance, so that silence gives 0 and a finite gradient: a number, or an
            array that broadcasts to ``x``, in units of its square.

    >>> x, valid = jnp.array([[1.0, 3.0, 9.0]]), jnp.array([[True, True, False]])
    >>> standardise_clip(x, 1, valid=valid).round(3).tolist()
    [[-1.0, 1.0, 0.0]]
    """
    where = jnp.ones((1,) * x.ndim, bool) if valid is None else valid
    where = jnp.broadcast_to(where, x.shape)
    count = jnp.maximum(jnp.sum(where, axes, keepdims=True), 1).astype(x.dtype)
    centred = x - jnp.sum(jnp.where(where, x, 0), axes, keepdims=True) / count
    centred = jnp.where(where, centred, 0)
    variance = jnp.sum(jnp.square(centred), axes, keepdims=True) / count
    return centred / jnp.sqrt(variance + eps)


def unit(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """Rows of length 1; a row of zeros stays zero.

    >>> print(unit(jnp.array([[3.0, 4.0], [0.0, 0.0]])).round(3))
    [[0.6 0.8]
     [0.  0. ]]
    """
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), -1, keepdims=True), 1e-12))


def _trailing(value, x):
    """``value`` with leading axes of size 1 up to the rank of ``x``; scalars stay scalars."""
    value = jnp.asarray(value, x.dtype)
    return value if value.ndim == 0 else value.reshape((1,) * (x.ndim - value.ndim) + value.shape)
