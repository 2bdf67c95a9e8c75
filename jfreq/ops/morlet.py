"""Complex Morlet wavelets in float64, and the bases of their transform as matrix products."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from jfreq.types import InputError

Norm = Literal["l2", "l1"]
Frequencies = Sequence[float] | np.ndarray
_CUT = math.log(1e7)
"""Gaussians are cut at 1e-7 of their peak."""


class Morlet(NamedTuple):
    """Wavelets of one shape: their scales in samples, falling. Hashable."""

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
        """``[f]``: how many samples to either side have taps that are not negligible."""
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
        cycles per sample. The spectrum of a sampled wavelet is that of the wavelet, aliased."""
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
        """``[f]``: how many bins of ``1 / (2 samples)`` from 0 up hold the spectrum of a row."""
        edge = self.centre + math.sqrt(_CUT / (np.pi**2 * self.bandwidth))
        return np.minimum(samples, np.ceil(edge / self.a * 2 * samples)).astype(int)


def wavelets(frequencies: Frequencies, rate, bandwidth, centre, norm: Norm) -> Morlet:
    """The wavelets of rising ``frequencies`` in Hz for samples at ``rate`` Hz.

    Raises ``InputError`` for frequencies that the rate cannot hold, and for unknown options.

    >>> wavelets((2.0, 4.0), rate=64, bandwidth=1.5, centre=1.0, norm="l2").scales
    (32.0, 16.0)
    """
    f = np.asarray(frequencies, np.float64)
    if f.ndim != 1 or not f.size or np.any(np.diff(f) <= 0):
        raise InputError("frequencies: must be one or more, in rising order")
    if not 0 < f[0] <= f[-1] <= rate / 2:
        raise InputError(
            f"frequencies: {f[0]:g} to {f[-1]:g} Hz must lie above 0 and up to half of {rate:g} Hz"
        )
    if bandwidth <= 0 or centre <= 0:
        raise InputError(f"wavelet: bandwidth {bandwidth} and centre {centre} must be positive")
    if norm not in ("l2", "l1"):
        raise InputError(f"unknown norm {norm!r}: use l2 or l1")
    return Morlet(tuple(map(float, centre * rate / f)), float(bandwidth), float(centre), norm)


# ------------------------------------------------------------------ bases of the matmul form


class Pooling(NamedTuple):
    """A signal of ``samples`` and its part from ``first`` on, in ``cells`` of ``pool`` samples."""

    samples: int
    first: int
    cells: int
    pool: int


class Group(NamedTuple):
    """Rows ``first .. last - 1`` that are computed at once from ``size`` bins or taps."""

    form: Literal["bins", "taps"]
    first: int
    last: int
    size: int


def _hop(reach: int, pool: int) -> int:
    """Samples from one frame to the next: about half of the taps, in whole cells."""
    return pool * -(-max(32, reach) // pool)


@functools.lru_cache(maxsize=16)
def groups(wavelet: Morlet, pooling: Pooling) -> tuple[Group, ...]:
    """The cheaper form of every row; neighbours of one form and a similar cost are one group.

    >>> rows = wavelets((2.0, 4.0, 200.0), rate=512, bandwidth=1.5, centre=1.0, norm="l2")
    >>> [group.form for group in groups(rows, Pooling(1024, 0, 256, 4))]
    ['bins', 'taps']
    """
    reach = wavelet.reach.tolist()
    bins = wavelet.bins(pooling.samples).tolist()

    def form(row: int) -> tuple[Literal["bins", "taps"], int]:
        if 2 * reach[row] + 1 + _hop(reach[row], pooling.pool) < bins[row]:
            return "taps", round(2 * math.log2(reach[row]))
        return "bins", -(-bins[row] // 64)

    out = []
    for (kind, _), members in itertools.groupby(range(len(reach)), form):
        rows = list(members)
        size = max(bins[row] if kind == "bins" else 2 * reach[row] + 1 for row in rows)
        out.append(Group(kind, rows[0], rows[-1] + 1, size))
    return tuple(out)


def _order(count: int, pool: int) -> np.ndarray:
    """``count`` samples sorted by their position in a cell, then by cell, so that whole rows are
    added for an average over cells."""
    return np.arange(count).reshape(-1, pool).T.reshape(-1)


@functools.lru_cache(maxsize=16)
def cosine_basis(samples: int, bins: int) -> np.ndarray:
    """``[t k]`` float32: the cosine transform (DCT-II) of a window.

    >>> basis = cosine_basis(8, 3)
    >>> bool(np.allclose(basis.T @ basis, np.diag([8, 4, 4]), atol=1e-5))
    True
    """
    return np.cos(_angles(samples, bins)).T.astype(np.float32)


def _angles(samples: int, bins: int) -> np.ndarray:
    """``[k t]`` radians ``pi k (t + 1/2) / samples``, reduced as integers."""
    product = np.arange(bins)[:, None] * (2 * np.arange(samples) + 1) % (4 * samples)
    return np.pi * product / (2 * samples)


@functools.lru_cache(maxsize=64)
def synthesis(wavelet: Morlet, pooling: Pooling, group: Group) -> tuple[np.ndarray, np.ndarray]:
    """Gains ``[2 f k]`` and bases ``[2 k pool * cells]``, float32: from bins back to samples.

    >>> rows, pooling = wavelets((2.0,), 64, 1.5, 1.0, "l2"), Pooling(256, 0, 64, 4)
    >>> gains, bases = synthesis(rows, pooling, groups(rows, pooling)[0])
    >>> gains.shape[:2], bases.shape[2]
    ((2, 1), 256)
    """
    k = np.arange(group.size)
    gains = wavelet.response(k / (2 * pooling.samples))[:, group.first : group.last]
    gains = gains * np.where(k == 0, 1.0, 2.0) / pooling.samples
    angle = _angles(pooling.samples, group.size)
    angle = angle[:, pooling.first + _order(pooling.cells * pooling.pool, pooling.pool)]
    basis = np.stack([np.cos(angle), np.sin(angle)])
    return gains.astype(np.float32), basis.astype(np.float32)


@functools.lru_cache(maxsize=64)
def shifted_taps(wavelet: Morlet, pooling: Pooling, group: Group) -> np.ndarray:
    """``[l 2 f pool h]`` float32: the taps of every row at every sample of a frame's hop.

    >>> rows, pooling = wavelets((16.0,), 64, 1.5, 1.0, "l2"), Pooling(256, 0, 64, 4)
    >>> shifted_taps(rows, pooling, Group("taps", 0, 1, 2 * int(rows.reach[0]) + 1)).shape[1:]
    (2, 1, 4, 8)
    """
    reach = group.size // 2
    hop = _hop(reach, pooling.pool)
    bank = np.zeros((2 * reach + hop, 2, group.last - group.first, hop))
    for i, row in enumerate(range(group.first, group.last)):
        taps = wavelet.taps(row)
        begin = reach - taps.shape[1] // 2
        for b in range(hop):
            bank[begin + b : begin + b + taps.shape[1], :, i, b] = taps.T
    bank = bank[..., _order(hop, pooling.pool)]
    return bank.reshape(*bank.shape[:3], pooling.pool, -1).astype(np.float32)
