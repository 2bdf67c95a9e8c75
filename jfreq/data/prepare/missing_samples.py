"""Missing samples: short gaps are filled, and longer gaps cut a row into stretches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from jfreq.data.sources.base import Signal
from jfreq.types import InputError

_TOLERANCE = 1e-6
"""In samples: rounding of times in seconds."""


class Stretch(NamedTuple):
    """The signals of a row between two long gaps."""

    seconds: float
    """Where the stretch begins in the row."""
    signals: dict[str, Signal]
    whole: bool
    """Whether it is the whole row."""

    @property
    def duration(self) -> float:
        """Seconds of the shortest signal."""
        return min(len(s.x) / (s.rate or 1.0) for s in self.signals.values())


def stretches(signals: Mapping[str, Signal], *, fill_seconds: float) -> list[Stretch]:
    """Cuts a row where samples are missing for long, and fills shorter gaps.

    NaN and infinity are missing samples. A gap of one channel that is no longer than
    ``fill_seconds`` is filled with the line between its neighbours. A longer gap, and any gap at
    either end of the row, cuts all signals at that time. ``Signal.breaks`` cut as well.

    Args:
      signals: signals ``[t c]`` by name, all of them with a rate.
      fill_seconds: the longest gap to fill; 0 fills nothing.

    Returns:
      The stretches in the order of time, without missing samples.

    Raises:
      InputError: where all samples of a channel are missing.
    """
    gaps: list[tuple[float, float]] = []
    for name, s in signals.items():
        assert s.rate is not None
        gaps += [(a / s.rate, b / s.rate) for a, b in _long_gaps(name, s, fill_seconds)]
        gaps += [(b / s.rate, b / s.rate) for b in s.breaks]
    end = max(len(s.x) / (s.rate or 1.0) for s in signals.values())
    if not gaps:
        return [Stretch(0.0, {k: _filled(s) for k, s in signals.items()}, True)]
    out = []
    for a, b in _between(gaps, end):
        parts = {k: _filled(_slice(s, a, b)) for k, s in signals.items()}
        if all(len(s.x) for s in parts.values()):
            out.append(Stretch(a, parts, False))
    return out


def runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """Half-open ranges of positions at which ``flags`` ``[t]`` are true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _long_gaps(name: str, signal: Signal, fill_seconds: float) -> list[tuple[int, int]]:
    """Half-open ranges of samples that are missing in some channel and are not filled."""
    x, rate = signal.x, signal.rate or 1.0
    if np.isfinite(x).all():
        return []
    most = math.floor(fill_seconds * rate + _TOLERANCE)
    out = []
    for channel, missing in enumerate(~np.isfinite(x).T):
        if missing.all():
            label = f"{channel} ({signal.names[channel]})" if signal.names else channel
            raise InputError(f"{name}: channel {label} is missing throughout (NaN or infinity)")
        ranges = runs(missing)
        out += [(a, b) for a, b in ranges if b - a > most or a == 0 or b == len(x)]
    return out


def _between(gaps: Iterable[tuple[float, float]], end: float) -> list[tuple[float, float]]:
    """The parts of ``[0, end)`` that lie outside of ``gaps``."""
    out, at = [], 0.0
    for a, b in sorted(gaps):
        if a > at:
            out.append((at, a))
        at = max(at, b)
    if at < end:
        out.append((at, end))
    return out


def _slice(signal: Signal, start: float, end: float) -> Signal:
    """The samples at times in ``[start, end)`` seconds."""
    assert signal.rate is not None
    a, b = (max(0, math.ceil(t * signal.rate - _TOLERANCE)) for t in (start, end))
    return signal._replace(x=signal.x[a:b], breaks=())


def _filled(signal: Signal) -> Signal:
    """The signal with missing samples interpolated linearly and without ``breaks``."""
    x = signal.x
    if np.isfinite(x).all():
        return signal._replace(breaks=())
    x, at = x.copy(), np.arange(len(x))
    for channel in x.T:
        known = np.isfinite(channel)
        if known.any():
            channel[~known] = np.interp(at[~known], at[known], channel[known])
    return signal._replace(x=x, breaks=())
