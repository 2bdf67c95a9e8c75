"""Continuous wavelet transform with complex Morlet wavelets, on real arrays.

    W[a, b] = c(a) sum_n x[n] conj(psi((n - b) / a))
    psi(s) = exp(2 pi i C s - s^2 / B) / sqrt(pi B)

with ``a`` in samples, ``C`` the centre frequency and ``B`` the bandwidth (``cmorB-C`` of
PyWavelets); a row of frequency ``f`` has ``a = C rate / f``. The signal goes on beyond its ends as
its mirror image, so it has a period of twice its length and the sum over all n is exact without
padding: a cosine transform, one gain per row and bin, and a transform back.

Two evaluators, held to the same tests. ``fft`` is XLA's FFT. ``matmul`` multiplies by real bases
built in float64: each row either through the bins that its wavelet passes, or, where fewer, as
a product of frames with its taps. It needs no collectives for a sharded batch, and is the faster
one for short windows.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32

from jfreq.ops import dft
from jfreq.ops.frames import frame
from jfreq.types import InputError

Norm = Literal["l2", "l1"]
PadMode = Literal["symmetric", "constant", "edge"]
Frequencies = Sequence[float] | np.ndarray
_HIGHEST = jax.lax.Precision.HIGHEST
_SHORT = 2048
"""``auto`` multiplies matrices for windows up to this many samples."""
_CUT = math.log(1e7)
"""Gaussians are cut where they have fallen to 1e-7 of their peak."""


def log_frequencies(low: float, high: float, count: int) -> np.ndarray:
    """``[count]`` float64 frequencies, ``low`` to ``high``, evenly spaced in their logarithm."""
    if not 0 < low < high or count < 2:
        raise InputError(f"no {count} frequencies from {low:g} up to {high:g} Hz")
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
    """``(real, imag)`` ``[... f t]`` of ``[... t]`` sampled at ``rate`` Hz, a row per frequency.

    ``frequencies`` in Hz, rising, up to ``rate / 2``. ``norm``: ``c(a)`` is ``1 / sqrt(a)``
    (``l2``, every wavelet has the same energy) or ``1 / a`` (``l1``, a tone keeps its amplitude,
    halved, in every row). ``pad``: beyond its ends the signal is its mirror image, 0 or its last
    sample; :func:`cone_of_influence` tells where that matters.
    Raises ``InputError`` for frequencies that the rate cannot hold.
    """
    wavelet = _wavelet(frequencies, rate, bandwidth, centre, norm)
    return _transform(x, wavelet, pad, evaluator, 1, lambda real, imag: (real, imag))


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
    """
    if not 1 <= pool <= x.shape[1]:
        raise InputError(f"pool {pool} must lie in 1..{x.shape[1]}, the samples of a window")

    def level(real, imag):
        # The small term makes the gradient at silence 0 instead of NaN.
        return jnp.log(1 + jnp.sqrt(jnp.square(real) + jnp.square(imag) + 1e-30))

    wavelet = _wavelet(frequencies, rate, bandwidth, centre, norm)
    rows = _transform(jnp.swapaxes(x, 1, 2), wavelet, pad, evaluator, pool, level)
    return rows.transpose(0, 3, 2, 1)


def cone_of_influence(
    frequencies: Frequencies,
    *,
    rate: float | int,
    samples: int,
    pool: int = 1,
    centre: float | int = 1.0,
    reach: float | int = 2.0,
) -> Bool[np.ndarray, "f {samples}//{pool}"]:
    """``[f samples // pool]``: True where both ends are ``reach`` scales or more away.

    At the default of 2 the wavelet has fallen to 7 % (bandwidth 1.5). A pooled value counts when
    all of its samples do.
    """
    scale = centre * rate / np.asarray(frequencies, np.float64)[:, None]
    count = samples // pool
    first = np.arange(count) * pool
    edge = np.minimum(first, samples - first - pool) + 0.5
    return edge[None] >= reach * scale


# ------------------------------------------------------------------ the wavelets, float64


class _Wavelet(NamedTuple):
    """Scales in samples, falling, and the shape they share. Hashable."""

    scales: tuple[float, ...]
    bandwidth: float
    centre: float
    norm: Norm

    @property
    def a(self) -> np.ndarray:
        return np.asarray(self.scales)

    @property
    def gain(self) -> np.ndarray:
        return self.a**-0.5 if self.norm == "l2" else 1 / self.a

    @property
    def reach(self) -> np.ndarray:
        """``[f]`` samples to either side, beyond which the taps count as 0."""
        return np.ceil(math.sqrt(_CUT * self.bandwidth) * self.a).astype(int)

    def taps(self, row: int) -> np.ndarray:
        """``[2 2 * reach + 1]``: real and imaginary part of ``c conj(psi)`` around sample 0."""
        s = np.arange(-self.reach[row], self.reach[row] + 1) / self.scales[row]
        size = self.gain[row] * np.exp(-(s**2) / self.bandwidth)
        angle = 2 * np.pi * self.centre * s
        size = size / math.sqrt(np.pi * self.bandwidth)
        return np.stack([size * np.cos(angle), -size * np.sin(angle)])

    def response(self, cycles: np.ndarray) -> np.ndarray:
        """``[2 f k]``: gain of the real (even) and imaginary (odd) part at ``k`` frequencies in
        cycles per sample. A sampled wavelet's spectrum: that of the wavelet, folded."""
        a = self.a[:, None, None]
        width = np.pi**2 * self.bandwidth
        folds = 1 + math.ceil((self.centre + math.sqrt(_CUT / width)) / self.a.min())
        shift = np.arange(-folds, folds + 1)

        def spectrum(at: np.ndarray) -> np.ndarray:
            bell = np.exp(-width * (a * (at[:, None] - shift) - self.centre) ** 2)
            return (self.gain * self.a)[:, None] * bell.sum(-1)

        above, below = spectrum(cycles), spectrum(-cycles)
        return np.stack([above + below, above - below]) / 2

    def bins(self, samples: int) -> np.ndarray:
        """``[f]``: how many bins of ``1 / (2 samples)`` from 0 up hold the row's spectrum."""
        edge = self.centre + math.sqrt(_CUT / (np.pi**2 * self.bandwidth))
        return np.minimum(samples, np.ceil(edge / self.a * 2 * samples)).astype(int)


def _wavelet(frequencies: Frequencies, rate, bandwidth, centre, norm: Norm) -> _Wavelet:
    f = np.asarray(frequencies, np.float64)
    if f.ndim != 1 or not f.size or np.any(np.diff(f) <= 0):
        raise InputError("frequencies: give one or more, rising")
    if not 0 < f[0] <= f[-1] <= rate / 2:
        raise InputError(
            f"frequencies: {f[0]:g} to {f[-1]:g} Hz must lie above 0 and up to half of {rate:g} Hz"
        )
    if bandwidth <= 0 or centre <= 0:
        raise InputError(f"wavelet: bandwidth {bandwidth} and centre {centre} must be positive")
    if norm not in ("l2", "l1"):
        raise InputError(f"unknown norm {norm!r}: use l2 or l1")
    return _Wavelet(tuple(map(float, centre * rate / f)), float(bandwidth), float(centre), norm)


# ------------------------------------------------------------------ evaluators


class _Span(NamedTuple):
    """A signal of ``samples`` and the part of it that is wanted, in cells of ``pool``."""

    samples: int
    first: int
    cells: int
    pool: int


def _transform(
    x: Float[Array, "... t"],
    wavelet: _Wavelet,
    pad: PadMode,
    evaluator: dft.Evaluator,
    pool: int,
    value: Callable,
):
    """``value(real, imag)``, averaged over cells of ``pool`` samples, ``[... f t // pool]``."""
    samples, margin = x.shape[-1], 0
    if samples < 1:
        raise InputError("a window without samples has no wavelet transform")
    x = x.astype(jnp.float32)
    if pad != "symmetric":
        if pad not in ("constant", "edge"):
            raise InputError(f"unknown pad {pad!r}: use symmetric, constant or edge")
        # The mirror image then begins one whole reach away.
        margin = -(-int(wavelet.reach.max()) // 2)
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(margin, margin)], mode=pad)
    span = _Span(x.shape[-1], margin, samples // pool, pool)
    if evaluator == "auto" and span.samples <= _SHORT:
        evaluator = "matmul"
    run = functools.partial(dft.evaluate, evaluator)
    return run(
        functools.partial(_fft, wavelet=wavelet, span=span, value=value),
        functools.partial(_matmul, wavelet=wavelet, span=span, value=value),
        x,
    )


def _fft(x, *, wavelet: _Wavelet, span: _Span, value: Callable):
    """Real and imaginary part in one inverse transform of real output: on the mirrored signal the
    first is even and the second odd, so half sum and half difference part them again."""
    n = span.samples
    spectrum = jnp.fft.rfft(jnp.concatenate([x, x[..., ::-1]], axis=-1))
    even, odd = wavelet.response(np.arange(n + 1) / (2 * n))
    bank = (even - 1j * odd).astype(np.complex64).reshape((1,) * (x.ndim - 1) + even.shape)
    both = jnp.fft.irfft(spectrum[..., None, :] * bank, 2 * n)
    ahead, back = both[..., :n], both[..., : n - 1 : -1]
    kept = slice(span.first, span.first + span.cells * span.pool)

    def cells(rows):
        return rows.reshape(*rows.shape[:-1], span.cells, span.pool).mean(axis=-1)

    parts = ((ahead + back)[..., kept] / 2, (ahead - back)[..., kept] / 2)
    return jax.tree.map(cells, value(*parts))


def _matmul(x, *, wavelet: _Wavelet, span: _Span, value: Callable):
    """Rows in groups of similar cost, every group in the cheaper of two forms."""
    parts, spectrum = [], None
    for group in _groups(wavelet, span):
        if group.form == "taps":
            parts.append(_by_taps(x, _taps(wavelet, span, group), span, value))
            continue
        if spectrum is None:
            most = max(g.size for g in _groups(wavelet, span) if g.form == "bins")
            spectrum = jnp.matmul(x, _cosines(span.samples, most), precision=_HIGHEST)
        gains, basis = _synthesis(wavelet, span, group)
        parts.append(_by_bins(spectrum[..., : group.size], gains, basis, span, value))
    return jax.tree.map(lambda *part: jnp.concatenate(part, axis=-2), *parts)


def _by_bins(spectrum, gains: np.ndarray, basis: np.ndarray, span: _Span, value: Callable):
    """``[... k]`` and ``[2 f k]``, ``[2 k pool * cells]`` to ``[... f cells]``."""
    lead = (1,) * (spectrum.ndim - 1)
    real, imag = (
        jnp.matmul(
            spectrum[..., None, :] * gain.reshape(lead + gain.shape), back, precision=_HIGHEST
        )
        for gain, back in zip(gains, basis)
    )

    def cells(rows):
        return rows.reshape(*rows.shape[:-1], span.pool, span.cells).mean(axis=-2)

    return jax.tree.map(cells, value(real, imag))


def _by_taps(x, bank: np.ndarray, span: _Span, value: Callable):
    """``[... t]`` and ``[l 2 f pool h]`` to ``[... f cells]``: frames that overlap by the wavelet's
    support, ``h`` cells of each at once."""
    size, hop = bank.shape[0], bank.shape[3] * bank.shape[4]
    reach = (size - hop) // 2
    count = -(-span.cells * span.pool // hop)
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(reach, reach)], mode="symmetric")
    x = x[..., span.first :]
    short = max(0, (count - 1) * hop + size - x.shape[-1])
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, short)])
    cut = frame(x, frame_length=size, hop_length=hop)[..., :count, :]
    out = jnp.matmul(cut, bank.reshape(size, -1), precision=_HIGHEST)
    out = out.reshape(*cut.shape[:-1], *bank.shape[1:])

    def cells(rows):
        rows = jnp.swapaxes(rows.mean(axis=-2), -3, -2)
        return rows.reshape(*rows.shape[:-2], -1)[..., : span.cells]

    return jax.tree.map(cells, value(out[..., 0, :, :, :], out[..., 1, :, :, :]))


# ------------------------------------------------------------------ bases of the matmul form


class _Group(NamedTuple):
    """Rows ``first .. last - 1``; ``size``: their bins or taps."""

    form: Literal["bins", "taps"]
    first: int
    last: int
    size: int


def _hop(reach: int, pool: int) -> int:
    """Samples that a frame adds: about the taps' half, in whole cells."""
    return pool * -(-max(32, reach) // pool)


@functools.lru_cache(maxsize=16)
def _groups(wavelet: _Wavelet, span: _Span) -> tuple[_Group, ...]:
    """The form of every row by its cost, rows of about the same cost together."""
    reach = wavelet.reach.tolist()
    bins = wavelet.bins(span.samples).tolist()

    def form(row: int) -> tuple[Literal["bins", "taps"], int]:
        if 2 * reach[row] + 1 + _hop(reach[row], span.pool) < bins[row]:
            return "taps", round(2 * math.log2(reach[row]))
        return "bins", -(-bins[row] // 64)

    groups = []
    for (kind, _), members in itertools.groupby(range(len(reach)), form):
        rows = list(members)
        size = max(bins[row] if kind == "bins" else 2 * reach[row] + 1 for row in rows)
        groups.append(_Group(kind, rows[0], rows[-1] + 1, size))
    return tuple(groups)


def _order(count: int, pool: int) -> np.ndarray:
    """``count`` samples by their place in a cell, then by cell: averages over cells then add whole
    rows up."""
    return np.arange(count).reshape(-1, pool).T.reshape(-1)


@functools.lru_cache(maxsize=16)
def _cosines(samples: int, bins: int) -> np.ndarray:
    """``[t k]`` float32: the cosine transform (DCT-II) of a window."""
    return np.cos(_angles(samples, bins)).T.astype(np.float32)


def _angles(samples: int, bins: int) -> np.ndarray:
    """``[k t]`` radians ``pi k (t + 1/2) / samples``, reduced as integers."""
    product = np.arange(bins)[:, None] * (2 * np.arange(samples) + 1) % (4 * samples)
    return np.pi * product / (2 * samples)


@functools.lru_cache(maxsize=64)
def _synthesis(wavelet: _Wavelet, span: _Span, group: _Group) -> tuple[np.ndarray, np.ndarray]:
    """Gains ``[2 f k]`` and bases ``[2 k pool * cells]``, float32: from bins back to samples."""
    k = np.arange(group.size)
    gains = wavelet.response(k / (2 * span.samples))[:, group.first : group.last]
    gains = gains * np.where(k == 0, 1.0, 2.0) / span.samples
    angle = _angles(span.samples, group.size)
    angle = angle[:, span.first + _order(span.cells * span.pool, span.pool)]
    basis = np.stack([np.cos(angle), np.sin(angle)])
    return gains.astype(np.float32), basis.astype(np.float32)


@functools.lru_cache(maxsize=64)
def _taps(wavelet: _Wavelet, span: _Span, group: _Group) -> np.ndarray:
    """``[l 2 f pool h]`` float32: the taps of every row at every sample of a frame's hop."""
    reach = group.size // 2
    hop = _hop(reach, span.pool)
    bank = np.zeros((2 * reach + hop, 2, group.last - group.first, hop))
    for i, row in enumerate(range(group.first, group.last)):
        taps = wavelet.taps(row)
        begin = reach - taps.shape[1] // 2
        for b in range(hop):
            bank[begin + b : begin + b + taps.shape[1], :, i, b] = taps.T
    bank = bank[..., _order(hop, span.pool)]
    return bank.reshape(*bank.shape[:3], span.pool, -1).astype(np.float32)
