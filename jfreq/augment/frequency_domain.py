"""Changes of one window ``[t c]`` of a sensor in the frequency domain; ``vmap`` over a batch.

A window holds ``t`` samples of ``c`` channels. Every function changes the ``t // 2 + 1`` bins of
the half spectrum of a channel, so that the result is real, and returns a window ``[t c]`` of the
same dtype. The mean stays as it is, and so does the bin at the Nyquist frequency, except in
:func:`low_pass`. The idea is that of STF-CSL (Liu et al., ICCCN 2021); the definitions, F1 to F6,
and the default strengths are ours.
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
"""Samples of the longest block that :func:`shift_phase` transforms as a whole."""
_SHORTEST = 64
"""Samples of the shortest block: there are few phases to rotate in a shorter one."""
Change = Callable[[Array, Array], tuple[Array, Array]]
"""Takes the real and the imaginary part of all bins, ``[c f]`` each, and returns both changed."""


def perturb_amplitude(key: Key, x: Window, *, sigma: float = 0.3, fraction: float = 0.5) -> Window:
    """F1: multiplies every bin of every channel by a gain of its own, in one random band.

    The gain is ``max(0, 1 + sigma * normal)``. The band is ``fraction`` of all bins wide and the
    same for all channels.
    """
    band_key, key = jax.random.split(key)

    def change(real, imag):
        gain = jnp.maximum(0.0, 1 + sigma * jax.random.normal(key, real.shape))
        band = _random_band(band_key, real.shape[-1], fraction)
        gain = jnp.where(band[None], gain, 1.0)
        return gain * real, gain * imag

    return _change_bins(x, change)


def perturb_phase(
    key: Key, x: Window, *, angle: float = np.pi / 4, fraction: float = 0.5
) -> Window:
    """F2: rotates the phase of every bin by an angle of its own, in one random band.

    The angles are uniform in ``(-angle, angle)`` radians. They and the band, which is ``fraction``
    of all bins wide, are the same for all channels.
    """
    band_key, key = jax.random.split(key)

    def change(real, imag):
        bins = real.shape[-1]
        angles = jax.random.uniform(key, (bins,), minval=-angle, maxval=angle)
        angles = jnp.where(_random_band(band_key, bins, fraction), angles, 0.0)
        return _rotate_phase(real, imag, angles[None])

    return _change_bins(x, change)


def shift_phase(key: Key, x: Window) -> Window:
    """F3: rotates the phase of all bins by one angle ``a``, uniform in ``(-pi, pi)`` radians.

    But for mean and Nyquist, ``x`` becomes ``cos(a) x - sin(a) h``, where ``h`` is its Hilbert
    transform. A window of more than 4096 samples is cut into blocks of equal length, as FOCAL cuts
    its intervals, which are transformed separately: where the transform is a matrix product
    (:mod:`jfreq.ops.dft`), the matrix for a whole window would not fit into memory.
    """
    angle = jax.random.uniform(key, (), minval=-np.pi, maxval=np.pi)

    def rotated(x: Array) -> Array:
        return _change_bins(x, lambda real, imag: _rotate_phase(real, imag, angle))

    t, c = x.shape
    size = _block_size(t)
    if size == t:
        return rotated(x)
    # Blocks laid side by side, [size blocks*c], are further channels to the transform.
    blocks = x.reshape(t // size, size, c).transpose(1, 0, 2).reshape(size, -1)
    return rotated(blocks).reshape(size, t // size, c).transpose(1, 0, 2).reshape(t, c)


def _block_size(samples: int) -> int:
    """The largest divisor of ``samples`` up to ``_LONGEST``.

    Where that is under ``_SHORTEST``, as for a prime number, all samples are one block.
    """
    divisor = max(n for n in range(1, min(samples, _LONGEST) + 1) if samples % n == 0)
    return divisor if divisor >= _SHORTEST else samples


def mask_band(key: Key, x: Window, *, widest: float = 0.3) -> Window:
    """F4: sets one random band to zero in all channels.

    Its width is uniform from one bin to the fraction ``widest`` of all bins; 0 changes nothing.
    """
    width_key, start_key = jax.random.split(key)

    def change(real, imag):
        bins = real.shape[-1]
        width = jax.random.randint(width_key, (), 1, max(2, int(widest * bins) + 1))
        start = jax.random.randint(start_key, (), 1, jnp.maximum(2, bins - width))
        index = jnp.arange(bins)
        outside = ((index < start) | (index >= start + width))[None]
        return real * outside, imag * outside

    return _change_bins(x, change) if widest > 0 else x


def low_pass(key: Key, x: Window, *, lowest: float = 0.3) -> Window:
    """F5: sets all bins above a random one to zero in all channels, that of Nyquist included.

    The highest bin that stays is uniform between the fractions ``lowest`` and 1 of all bins.
    """

    def change(real, imag):
        bins = real.shape[-1]
        highest = jax.random.uniform(key, (), minval=lowest * bins, maxval=float(bins))
        below = (jnp.arange(bins) <= highest)[None]
        return real * below, imag * below

    return _change_bins(x, change, nyquist=True)


def remove_add(key: Key, x: Window, *, prob: float = 0.1, amplitude: float = 0.1) -> Window:
    """F6: removes every bin with probability ``prob``, then adds to it with the same probability.

    What is added has a magnitude uniform up to ``amplitude`` times the channel's largest and a
    uniform phase. All bins and channels are sampled independently. After TF-C (Zhang et al.,
    NeurIPS 2022).
    """
    remove_key, add_key, magnitude_key, phase_key = jax.random.split(key, 4)

    def change(real, imag):
        shape = real.shape
        kept = ~jax.random.bernoulli(remove_key, prob, shape)
        added = jax.random.bernoulli(add_key, prob, shape)
        largest = jnp.sqrt(jnp.max(jnp.square(real) + jnp.square(imag), -1, keepdims=True))
        magnitude = added * amplitude * largest * jax.random.uniform(magnitude_key, shape)
        phase = jax.random.uniform(phase_key, shape, maxval=2 * np.pi)
        real = real * kept + magnitude * jnp.cos(phase)
        return real, imag * kept + magnitude * jnp.sin(phase)

    return _change_bins(x, change)


def _change_bins(x: Window, change: Change, *, nyquist: bool = False) -> Window:
    """``x`` ``[t c]`` after ``change`` of its spectrum, without bin 0, which holds the mean.

    The bin at Nyquist, which only an even ``t`` has, changes only with ``nyquist``: it is real, so
    that a rotation of its phase would lose energy.
    """
    t = x.shape[0]
    real, imag = dft.rdft(x.T, n_fft=t)
    index = np.arange(t // 2 + 1)
    may_change = (index > 0) & (nyquist | (2 * index != t))
    changed = change(real, imag)
    real, imag = (jnp.where(may_change[None], new, old) for new, old in zip(changed, (real, imag)))
    return dft.irdft(real, imag, n_fft=t).T.astype(x.dtype)


def _rotate_phase(real: Array, imag: Array, angle: Array) -> tuple[Array, Array]:
    """Multiplies spectra ``[c f]`` by ``exp(i angle)``; ``angle`` is a scalar or ``[1 f]``."""
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return cos * real - sin * imag, sin * real + cos * imag


def _random_band(key: Key, bins: int, fraction: float) -> Array:
    """``[bins]`` bool: true in neighbouring bins, ``fraction`` of all, from a random one on."""
    width = max(1, round(fraction * bins))
    start = jax.random.randint(key, (), 0, max(1, bins - width + 1))
    index = jnp.arange(bins)
    return (index >= start) & (index < start + width)
