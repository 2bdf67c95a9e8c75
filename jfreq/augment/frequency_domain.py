"""Changes of one window ``[t c]`` of a sensor in the frequency domain; ``vmap`` over a batch.

All act on the half spectrum of every channel and leave its mean alone, so the result is real and
nothing is lost to an asymmetric spectrum. STF-CSL (Liu et al., ICCCN 2021) names the idea; these
definitions, F1 to F6, and their strengths are ours.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jfreq.augment.spectrogram import Key
from jfreq.augment.time_domain import Window
from jfreq.ops import dft

_LONGEST = 4096
Change = Callable[[Array, Array], tuple[Array, Array]]
"""``(real, imag)`` ``[c f]`` to the same, on all bins; edges are put back afterwards."""


def perturb_amplitude(key: Key, x: Window, *, sigma: float = 0.3, fraction: float = 0.5) -> Window:
    """F1: in one random band, every bin of every channel times ``max(0, 1 + sigma * normal)``."""
    band_key, key = jax.random.split(key)

    def change(real, imag):
        gain = jnp.maximum(0.0, 1 + sigma * jax.random.normal(key, real.shape))
        gain = jnp.where(_band(band_key, real.shape[-1], fraction)[None], gain, 1.0)
        return gain * real, gain * imag

    return _inside(x, change)


def perturb_phase(
    key: Key, x: Window, *, angle: float = np.pi / 4, fraction: float = 0.5
) -> Window:
    """F2: in one random band, the phase of every bin rotated by an angle up to ``angle`` radians
    either way, the same for all axes of the sensor."""
    band_key, key = jax.random.split(key)

    def change(real, imag):
        bins = real.shape[-1]
        delta = jax.random.uniform(key, (bins,), minval=-angle, maxval=angle)
        return _rotate_phase(
            real, imag, jnp.where(_band(band_key, bins, fraction), delta, 0.0)[None]
        )

    return _inside(x, change)


def shift_phase(key: Key, x: Window) -> Window:
    """F3: the phase of all bins rotated by one uniform angle: ``cos x - sin Hilbert(x)``.

    Windows of more than 4096 samples are rotated in touching blocks, as FOCAL does its intervals:
    as a matrix product, the transform of a whole one would not fit into memory.
    """
    theta = jax.random.uniform(key, (), minval=-np.pi, maxval=np.pi)

    def rotated(x: Array) -> Array:
        return _inside(x, lambda real, imag: _rotate_phase(real, imag, theta))

    t, c = x.shape
    size = _block(t)
    if size == t:
        return rotated(x)
    # Blocks side by side are more channels to the transform.
    blocks = x.reshape(t // size, size, c).transpose(1, 0, 2).reshape(size, -1)
    return rotated(blocks).reshape(size, t // size, c).transpose(1, 0, 2).reshape(t, c)


def _block(samples: int) -> int:
    """The largest divisor up to ``_LONGEST``; all samples where that is under 64."""
    best = max(n for n in range(1, min(samples, _LONGEST) + 1) if samples % n == 0)
    return best if best >= 64 else samples


def mask_band(key: Key, x: Window, *, widest: float = 0.3) -> Window:
    """F4: one contiguous band of 1 to ``widest`` of all bins set to zero."""
    width_key, start_key = jax.random.split(key)

    def change(real, imag):
        bins = real.shape[-1]
        width = jax.random.randint(width_key, (), 1, max(2, int(widest * bins) + 1))
        start = jax.random.randint(start_key, (), 1, jnp.maximum(2, bins - width))
        at = jnp.arange(bins)
        outside = ((at < start) | (at >= start + width))[None]
        return real * outside, imag * outside

    return _inside(x, change) if widest > 0 else x


def low_pass(key: Key, x: Window, *, lowest: float = 0.3) -> Window:
    """F5: nothing above a bin uniform in ``lowest`` to 1 of all bins, Nyquist included."""

    def change(real, imag):
        bins = real.shape[-1]
        cut = jax.random.uniform(key, (), minval=lowest * bins, maxval=float(bins))
        below = (jnp.arange(bins) <= cut)[None]
        return real * below, imag * below

    return _inside(x, change, nyquist=True)


def remove_add(key: Key, x: Window, *, prob: float = 0.1, amplitude: float = 0.1) -> Window:
    """F6: every bin removed with ``prob``; and with ``prob`` a component added, of up to
    ``amplitude`` times the channel's largest magnitude, at a random phase (after TF-C, Zhang et
    al. 2022)."""
    remove_key, add_key, size_key, phase_key = jax.random.split(key, 4)

    def change(real, imag):
        shape = real.shape
        left = ~jax.random.bernoulli(remove_key, prob, shape)
        add = jax.random.bernoulli(add_key, prob, shape)
        top = jnp.sqrt(jnp.max(jnp.square(real) + jnp.square(imag), -1, keepdims=True))
        size = add * amplitude * top * jax.random.uniform(size_key, shape)
        phase = jax.random.uniform(phase_key, shape, maxval=2 * np.pi)
        return real * left + size * jnp.cos(phase), imag * left + size * jnp.sin(phase)

    return _inside(x, change)


def _inside(x: Window, change: Change, *, nyquist: bool = False) -> Window:
    """``x`` with the bins between 0 and Nyquist (or up to it) changed."""
    t = x.shape[0]
    real, imag = dft.rdft(x.T, n_fft=t)
    at = np.arange(t // 2 + 1)
    free = (at > 0) & (nyquist | (2 * at != t))
    new = change(real, imag)
    real, imag = (jnp.where(free[None], a, b) for a, b in zip(new, (real, imag)))
    return dft.irdft(real, imag, n_fft=t).T.astype(x.dtype)


def _rotate_phase(real: Array, imag: Array, angle: Array) -> tuple[Array, Array]:
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return cos * real - sin * imag, sin * real + cos * imag


def _band(key: Key, bins: int, fraction: float) -> Array:
    """``[bins]`` bool: one random band of ``fraction`` of all bins."""
    width = max(1, round(fraction * bins))
    start = jax.random.randint(key, (), 0, max(1, bins - width + 1))
    at = jnp.arange(bins)
    return (at >= start) & (at < start + width)
