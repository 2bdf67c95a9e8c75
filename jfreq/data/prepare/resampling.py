"""Resampling: samples with timestamps to a regular grid, regular samples to another rate."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from jfreq.data.sources.base import Signal

Ends = Literal["line", "mean"]
LONGEST_GAP = 2.0
"""Seconds: a longer time without a sample means that the recording stopped (HHAR-Data-Process)."""


def common_grid(
    sensors: Sequence[tuple[np.ndarray, np.ndarray]], *, rate: float, gap: float = LONGEST_GAP
) -> Signal:
    """Puts several sensors of one device on one regular grid.

    Where any sensor has no sample for more than ``gap`` seconds, the grid ends; a new one begins
    once every sensor has samples again. A sample with such a gap on both sides is discarded.
    Elsewhere samples are interpolated linearly in time; a sensor that is more than 5 % faster than
    ``rate`` is low-pass filtered as well.

    Args:
      sensors: for each sensor the times ``[n]`` in seconds on one clock, in any order, and the
        samples ``[n c]``. Of several samples at one time the first counts.
      rate: of the grid, in Hz.
      gap: longest time between two samples to interpolate over, in seconds.

    Returns:
      Samples ``[t c]`` float32, the channels of all sensors side by side; ``breaks`` where the
      grid stopped.
    """
    ordered = [_ordered(t, x) for t, x in sensors]
    spans = _overlaps([_spans(t, gap) for t, _ in ordered])
    parts, breaks, total = [], [], 0
    for begin, end in spans:
        count = math.floor((end - begin) * rate + 1e-6) + 1
        breaks += [total] if total else []
        total += count
        parts.append(np.hstack([_on_grid(t, x, begin, count, rate, gap) for t, x in ordered]))
    width = sum(x.shape[1] for _, x in ordered)
    x = np.concatenate(parts) if parts else np.zeros((0, width))
    return Signal(x.astype(np.float32), rate, tuple(breaks))


def resample(x: np.ndarray, rate: float, target: float, *, ends: Ends = "line") -> np.ndarray:
    """Resamples ``[t c]`` from ``rate`` to ``target`` Hz with a band-limited filter (soxr HQ).

    The filter assumes zeros beyond both ends of a recording, so an offset such as gravity would
    ring there. A baseline is therefore subtracted before filtering and added again afterwards.

    Args:
      x: the samples.
      rate: Hz of ``x``.
      target: Hz of the result.
      ends: the baseline: the ``line`` from the first to the last sample, or the ``mean``, for sound
        and for a single sample.

    Returns:
      ``[t' c]`` at ``target`` Hz.
    """
    import soxr

    if ends == "mean" or len(x) < 2:
        mean = x.mean(0)
        return soxr.resample(x - mean, rate, target, quality="HQ") + mean
    slope = (x[-1] - x[0]) * rate / (len(x) - 1)

    def line(count: int, rate: float) -> np.ndarray:
        return x[0] + np.arange(count)[:, None] / rate * slope

    out = soxr.resample(x - line(len(x), rate), rate, target, quality="HQ")
    return out + line(len(out), target)


def _ordered(t: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finite samples sorted by time; of several at one time the first."""
    known = np.isfinite(t) & np.isfinite(x).all(1)
    t, first = np.unique(t[known], return_index=True)
    return t, x[known][first]


def _spans(t: np.ndarray, gap: float) -> list[tuple[float, float]]:
    """First and last time of all stretches of two samples or more without a gap above ``gap``."""
    cuts = np.flatnonzero(np.diff(t) > gap) + 1
    edges = [0, *cuts.tolist(), len(t)]
    return [(float(t[a]), float(t[b - 1])) for a, b in itertools.pairwise(edges) if b - a > 1]


def _overlaps(sensors: Sequence[list[tuple[float, float]]]) -> list[tuple[float, float]]:
    """The times at which all sensors have samples."""
    common = sensors[0]
    for spans in sensors[1:]:
        both = [(max(a, c), min(b, d)) for a, b in common for c, d in spans]
        common = sorted((a, b) for a, b in both if a < b)
    return common


def _on_grid(
    t: np.ndarray, x: np.ndarray, begin: float, count: int, rate: float, gap: float
) -> np.ndarray:
    """``x`` at ``count`` times ``begin + i / rate``. A sensor that is more than 5 % faster is first
    interpolated to a finer grid and then resampled, which filters what lies above ``rate / 2``."""
    near = slice(*np.searchsorted(t, [begin - gap, begin + count / rate + gap]))
    t, x = t[near], x[near]
    measured = (len(t) - 1) / (t[-1] - t[0])
    finer = max(1, math.ceil(measured / rate - 0.05))
    grid = begin + np.arange(count * finer) / (rate * finer)
    out = np.stack([np.interp(grid, t, channel) for channel in x.T], 1)
    return out if finer == 1 else resample(out, rate * finer, rate)[:count]
