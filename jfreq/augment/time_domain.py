"""Changes of one window ``[t c]`` of a sensor in the time domain; ``vmap`` them over a batch.

Random times are relative to the length of the window, so that with one key two sensors of different
rates change in the same way. Default strengths are those of public human-activity code (Tang et al.
2020).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jfreq.augment.spectrogram import Key
from jfreq.types import InputError

Window = Float[Array, "t c"]


def jitter(key: Key, x: Window, *, sigma: float = 0.05) -> Window:
    """White noise of standard deviation ``sigma`` added."""
    return x + sigma * jax.random.normal(key, x.shape, x.dtype)


def scale(key: Key, x: Window, *, sigma: float = 0.1) -> Window:
    """Every channel times a factor, normal about 1."""
    return x * (1 + sigma * jax.random.normal(key, (1, x.shape[1]), x.dtype))


def rotate(key: Key, x: Window) -> Window:
    """All triads of channels rotated by one random rotation: its axis is uniform in the cube, then
    normalised, its angle uniform in (-pi, pi). Raises ``InputError`` unless channels are triads."""
    t, c = x.shape
    if c % 3:
        raise InputError(f"rotate: rotates triads of axes, got {c} channels")
    triads = x.reshape(t, c // 3, 3)
    return jnp.einsum("tgi,ji->tgj", triads, _rotation(key), precision="highest").reshape(t, c)


def _rotation(key: Key) -> Array:
    """``[3 3]`` by Rodrigues' formula."""
    axis_key, angle_key = jax.random.split(key)
    axis = jax.random.uniform(axis_key, (3,), minval=-1.0, maxval=1.0)
    x, y, z = axis / jnp.maximum(jnp.linalg.norm(axis), 1e-6)
    angle = jax.random.uniform(angle_key, (), minval=-jnp.pi, maxval=jnp.pi)
    zero = jnp.zeros(())
    cross = jnp.array([[zero, -z, y], [z, zero, -x], [-y, x, zero]])
    step = jnp.matmul(cross, cross, precision="highest")
    return jnp.eye(3) + jnp.sin(angle) * cross + (1 - jnp.cos(angle)) * step


def negate(key: Key, x: Window) -> Window:
    """The sign changed."""
    del key
    return -x


def flip(key: Key, x: Window) -> Window:
    """Reversed in time."""
    del key
    return x[::-1]


def shuffle_channels(key: Key, x: Window) -> Window:
    """The axes of all triads in another order; where there are no triads, all channels."""
    t, c = x.shape
    size = 3 if c % 3 == 0 else c
    if size == 1:
        return x
    roll_key, order_key = jax.random.split(key)
    order = jax.random.permutation(order_key, size)
    same = jnp.all(order == jnp.arange(size))
    by = jax.random.randint(roll_key, (), 1, size)
    order = jnp.where(same, jnp.roll(order, by), order)
    return x.reshape(t, c // size, size)[:, :, order].reshape(t, c)


def permute(key: Key, x: Window, *, segments: int = 5) -> Window:
    """Cut at random times into ``segments``, whose order is shuffled."""
    cut_key, order_key = jax.random.split(key)
    t = x.shape[0]
    cuts = jax.random.uniform(cut_key, (segments - 1,)) * t
    at = jnp.arange(t)
    segment = jnp.sum(at[:, None] >= cuts[None], axis=1)
    rank = jax.random.permutation(order_key, segments)[segment]
    return x[jnp.argsort(rank, stable=True)]


def warp_time(key: Key, x: Window, *, sigma: float = 0.2, knots: int = 4) -> Window:
    """Played at a speed that varies smoothly about 1; first and last sample stay the same."""
    t = x.shape[0]
    speed = jnp.maximum(_smooth_curve(key, t, 1, sigma, knots)[:, 0], 0.1)
    path = jnp.cumsum(speed) - speed[0]
    path = path / path[-1] * (t - 1)
    low = jnp.clip(jnp.floor(path).astype(int), 0, t - 2)
    fraction = (path - low)[:, None].astype(x.dtype)
    return (1 - fraction) * x[low] + fraction * x[low + 1]


def warp_magnitude(key: Key, x: Window, *, sigma: float = 0.2, knots: int = 4) -> Window:
    """Every channel times a smooth curve about 1."""
    t, c = x.shape
    return x * _smooth_curve(key, t, c, sigma, knots).astype(x.dtype)


def _smooth_curve(key: Key, t: int, c: int, sigma: float, knots: int) -> Array:
    """``[t c]``: cubic splines through ``knots + 2`` values, normal about 1."""
    values = 1 + sigma * jax.random.normal(key, (knots + 2, c))
    return jnp.matmul(_spline(t, knots + 2), values, precision="highest")


@functools.lru_cache(maxsize=16)
def _spline(t: int, knots: int) -> np.ndarray:
    """``[t knots]`` float32: the cubic spline through evenly spaced knots, as a linear map of
    these."""
    from scipy.interpolate import CubicSpline

    at = np.linspace(0, 1, knots)
    return CubicSpline(at, np.eye(knots))(np.linspace(0, 1, t)).astype(np.float32)
