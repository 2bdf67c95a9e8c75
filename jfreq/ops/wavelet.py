"""Continuous wavelet transform with complex Morlet wavelets, on real arrays.

    W[a, b] = c(a) sum_n x[n] conj(psi((n - b) / a))
    psi(s) = exp(2 pi i C s - s^2 / B) / sqrt(pi B)

with ``a`` in samples, ``C`` the centre frequency and ``B`` the bandwidth (``cmorB-C`` of
PyWavelets); a row of frequency ``f`` has ``a = C rate / f``. The signal is mirrored at its ends, so
that it has a period of twice its length and the sum over all n is exact without padding: a cosine
transform, one gain for each row and bin, and a transform back.

There are two evaluators, which pass the same tests. ``fft`` is XLA's FFT. ``matmul`` multiplies by
real bases that are built in float64: a row is computed from the bins that its wavelet passes, or,
where they are fewer, as a product of frames with its taps. It needs no collectives where the batch
is sharded, and is faster for short windows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from jfreq.ops import dft, morlet
from jfreq.ops.frames import frame
from jfreq.ops.morlet import Frequencies, Morlet, Norm, Pooling
from jfreq.types import InputError

PadMode = Literal["symmetric", "constant", "edge"]
_HIGHEST = jax.lax.Precision.HIGHEST
_SHORT = 2048
"""``auto`` multiplies matrices for windows up to this many samples."""


def log_frequencies(low: float, high: float, count: int) -> np.ndarray:
    """``[count]`` float64 frequencies, ``low`` to ``high``, evenly spaced in their logarithm.

    >>> log_frequencies(1.0, 8.0, 4).round(3).tolist()
    [1.0, 2.0, 4.0, 8.0]
    """
    if not 0 < low < high or count < 2:
        raise InputError(
            f"there are no {count} frequencies from {low:g} up to {high:g} Hz: take two or more, "
            "and 0 < low < high"
        )
    return np.geomspace(low, high, count)


def cwt(
    x: Float[Array, "... t"],
    *,
    frequencies: Frequencies,
    rate: float | int,
    bandwidth: float | int = 1.5,
    centre: float | int = 1.0,
    norm: Norm = "l2",
    pad: PadMode = "symmetric",
    evaluator: dft.Evaluator = "auto",
) -> tuple[Float32[Array, "... f t"], Float32[Array, "... f t"]]:
    """Real and imaginary part of the transform, a row for every frequency.

    Args:
        x: Real signals.
        frequencies: Frequencies of the rows in Hz, rising, up to ``rate / 2``.
        rate: Sample rate in Hz.
        bandwidth: ``B``, the width of the Gaussian.
        centre: ``C``, cycles of the wavelet per scale.
        norm: ``c(a)`` is ``1 / sqrt(a)`` (``l2``: every wavelet has the same energy) or ``1 / a``
            (``l1``: a tone of amplitude 1 gives 1/2 in the row of its frequency).
        pad: How the signal goes on beyond its ends: as its mirror image, as 0, or as its last
            sample. That matters within about two scales of an end.
        evaluator: One of the two above; ``auto`` chooses by length and platform.

    Raises:
        InputError: For frequencies that the rate cannot hold, and for unknown options.

    >>> tone = jnp.cos(2 * jnp.pi * 4 * jnp.arange(256) / 64)  # 4 Hz
    >>> real, imag = cwt(tone, frequencies=(2.0, 4.0, 8.0), rate=64, norm="l1")
    >>> [round(float(a), 1) for a in jnp.hypot(real, imag)[:, 128]]
    [0.0, 0.5, 0.0]
    """
    wavelet = morlet.wavelets(frequencies, rate, bandwidth, centre, norm)
    return _transform(x, wavelet, _coefficients, pad=pad, pool=1, evaluator=evaluator)


def scalogram(
    x: Float[Array, "b t c"],
    *,
    frequencies: Frequencies,
    rate: float | int,
    pool: int = 4,
    bandwidth: float | int = 1.5,
    centre: float | int = 1.0,
    norm: Norm = "l2",
    pad: PadMode = "symmetric",
    evaluator: dft.Evaluator = "auto",
) -> Float32[Array, "b t//{pool} f c"]:
    """``log(1 + |W|)`` of every channel, averaged over ``pool`` samples: ``[b t // pool f c]``.

    Samples after the last whole ``pool`` are left out. Arguments and errors as in :func:`cwt`.

    >>> tone = jnp.cos(2 * jnp.pi * 4 * jnp.arange(256) / 64)  # 4 Hz
    >>> spec = scalogram(tone[None, :, None], frequencies=(2.0, 4.0, 8.0), rate=64, pool=4)
    >>> spec.shape, int(spec[0, 32, :, 0].argmax())
    ((1, 64, 3, 1), 1)
    """
    if not 1 <= pool <= x.shape[1]:
        raise InputError(f"pool {pool} must lie in 1..{x.shape[1]}, the samples of a window")
    wavelet = morlet.wavelets(frequencies, rate, bandwidth, centre, norm)
    by_channel = jnp.swapaxes(x, 1, 2)
    rows = _transform(by_channel, wavelet, _log_magnitude, pad=pad, pool=pool, evaluator=evaluator)
    return rows.transpose(0, 3, 2, 1)


def _coefficients(real: Array, imag: Array) -> tuple[Array, Array]:
    return real, imag


def _log_magnitude(real: Array, imag: Array) -> Array:
    # The small term makes the gradient at silence 0 instead of NaN.
    return jnp.log(1 + jnp.sqrt(jnp.square(real) + jnp.square(imag) + 1e-30))


# ------------------------------------------------------------------ evaluators


def _transform(
    x: Float[Array, "... t"],
    wavelet: Morlet,
    pointwise: Callable,
    *,
    pad: PadMode,
    pool: int,
    evaluator: dft.Evaluator,
):
    """``pointwise(real, imag)`` of all coefficients, averaged over cells of ``pool`` samples: one
    or several arrays ``[... f t // pool]``."""
    samples, margin = x.shape[-1], 0
    if samples < 1:
        raise InputError("a window without samples has no wavelet transform")
    x = x.astype(jnp.float32)
    if pad != "symmetric":
        if pad not in ("constant", "edge"):
            raise InputError(f"unknown pad {pad!r}: use symmetric, constant or edge")
        # The mirror image then begins one reach of the longest wavelet away.
        margin = -(-int(wavelet.reach.max()) // 2)
        x = jnp.pad(x, _last_axis(x, margin, margin), mode=pad)
    pooling = Pooling(x.shape[-1], margin, samples // pool, pool)
    if evaluator == "auto" and pooling.samples <= _SHORT:
        evaluator = "matmul"
    options = {"wavelet": wavelet, "pooling": pooling, "pointwise": pointwise}
    fft, matmul = functools.partial(_fft, **options), functools.partial(_matmul, **options)
    return dft.evaluate(evaluator, fft, matmul, x)


def _last_axis(x: Array, before: int, after: int) -> list[tuple[int, int]]:
    """Padding of the last axis alone."""
    return [(0, 0)] * (x.ndim - 1) + [(before, after)]


def _fft(x, *, wavelet: Morlet, pooling: Pooling, pointwise: Callable):
    """Real and imaginary part in one inverse transform of real output: on the mirrored signal the
    first is even and the second odd, so half sum and half difference separate them again."""
    n = pooling.samples
    spectrum = jnp.fft.rfft(jnp.concatenate([x, x[..., ::-1]], axis=-1))
    even, odd = wavelet.response(np.arange(n + 1) / (2 * n))
    bank = (even - 1j * odd).astype(np.complex64).reshape((1,) * (x.ndim - 1) + even.shape)
    both = jnp.fft.irfft(spectrum[..., None, :] * bank, 2 * n)
    ahead, back = both[..., :n], both[..., : n - 1 : -1]
    inside = slice(pooling.first, pooling.first + pooling.cells * pooling.pool)

    def pooled(rows):
        return rows.reshape(*rows.shape[:-1], pooling.cells, pooling.pool).mean(axis=-1)

    parts = ((ahead + back)[..., inside] / 2, (ahead - back)[..., inside] / 2)
    return jax.tree.map(pooled, pointwise(*parts))


def _matmul(x, *, wavelet: Morlet, pooling: Pooling, pointwise: Callable):
    """Rows in groups of similar cost, every group in the cheaper of two forms."""
    groups = morlet.groups(wavelet, pooling)
    most = max((group.size for group in groups if group.form == "bins"), default=0)
    spectrum = jnp.matmul(x, morlet.cosine_basis(pooling.samples, most), precision=_HIGHEST)
    parts = []
    for group in groups:
        if group.form == "taps":
            parts.append(
                _by_taps(x, morlet.shifted_taps(wavelet, pooling, group), pooling, pointwise)
            )
        else:
            gains, basis = morlet.synthesis(wavelet, pooling, group)
            low = spectrum[..., : group.size]
            parts.append(_by_bins(low, gains, basis, pooling, pointwise))
    return jax.tree.map(lambda *part: jnp.concatenate(part, axis=-2), *parts)


def _by_bins(spectrum, gains: np.ndarray, basis: np.ndarray, pooling: Pooling, pointwise: Callable):
    """Rows ``[... f cells]`` from the ``k`` bins that their wavelets pass.

    Args:
        spectrum: Cosine transform of the signal, ``[... k]``.
        gains: Gains of the real and of the imaginary part, ``[2 f k]``.
        basis: Basis of the transform back to samples, ``[2 k pool * cells]``.
        pooling: The part of the signal that is computed.
        pointwise: What is averaged over cells.
    """
    lead = (1,) * (spectrum.ndim - 1)
    real, imag = (
        jnp.matmul(
            spectrum[..., None, :] * gain.reshape(lead + gain.shape), back, precision=_HIGHEST
        )
        for gain, back in zip(gains, basis)
    )

    def pooled(rows):
        return rows.reshape(*rows.shape[:-1], pooling.pool, pooling.cells).mean(axis=-2)

    return jax.tree.map(pooled, pointwise(real, imag))


def _by_taps(x, bank: np.ndarray, pooling: Pooling, pointwise: Callable):
    """Rows ``[... f cells]`` as products of frames with taps.

    A frame of ``l`` samples holds all that ``hop = pool h`` neighbouring coefficients depend on, so
    that one product gives ``h`` cells of every row; the next frame starts a ``hop`` later.

    Args:
        x: Signal, ``[... t]``.
        bank: ``[l 2 f pool h]``: taps of the real and imaginary part of every row, shifted to each
            sample of a hop (sample ``i`` of cell ``j`` at ``[..., i, j]``).
        pooling: The part of the signal that is computed.
        pointwise: What is averaged over cells.
    """
    size, _, rows, pool, cells = bank.shape
    hop = pool * cells
    reach = (size - hop) // 2
    frames = -(-pooling.cells * pool // hop)
    x = jnp.pad(x, _last_axis(x, reach, reach), mode="symmetric")[..., pooling.first :]
    x = jnp.pad(x, _last_axis(x, 0, max(0, (frames - 1) * hop + size - x.shape[-1])))
    framed = frame(x, frame_length=size, hop_length=hop)[..., :frames, :]
    both = jnp.matmul(framed, bank.reshape(size, -1), precision=_HIGHEST)
    both = both.reshape(*framed.shape[:-1], 2, rows, pool, cells)

    def pooled(values):  # [... frames f pool h] to [... f cells]
        values = jnp.swapaxes(values.mean(axis=-2), -3, -2)
        return values.reshape(*values.shape[:-2], -1)[..., : pooling.cells]

    return jax.tree.map(pooled, pointwise(both[..., 0, :, :, :], both[..., 1, :, :, :]))
