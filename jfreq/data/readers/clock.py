"""Times of samples: their unit, their rate, and the regular grid that samples are put on."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from jfreq.data.prepare.resampling import LONGEST_GAP
from jfreq.types import InputError

NEAR = 0.05
"""A requested rate may differ from the measured one by this fraction; more contradicts it."""
_SAME = 1e-3
"""Samples are not interpolated where the measured rate differs from the grid's by less than this
fraction."""
_JITTER = 0.25
"""Samples further than this fraction of a step from the regular grid are interpolated."""
_BLOCK = 64
"""Steps whose mean is compared with the mean of all."""
_STEADY, _UNEVEN = 0.7, 0.25
"""Fraction of the time that steps of about the median must fill; largest difference of mean and
median, relative to the mean."""
_DRIFT = 0.02
"""Largest difference of the mean step of a block from the mean of all, as a fraction."""
_REPEAT = 0.2
"""Largest fraction of samples that have the time of the sample before."""
_LEAST = 100
"""Samples between two steps back in time, on average; with fewer, the lines are out of order."""
_EPOCHS = ((1e9, 1e10, 1.0), (1e12, 1e13, 1e-3), (1e15, 1e16, 1e-6), (1e18, 1e19, 1e-9))
"""Ranges of times since 1970 in s, ms, us and ns, for any date of a recording, with the unit in
seconds."""
_ENOUGH = 100_000
"""Times by which the unit is determined."""
_STEPS = ((2.0, 500.0, 1e-3), (2e3, 5e5, 1e-6), (2e6, 5e8, 1e-9))
"""Ranges of steps in ms, us and ns for rates between 2 and 500 Hz, with the unit in seconds."""


class Clock(NamedTuple):
    """How ``t`` samples with times are put on a regular grid of ``g`` points at ``rate`` Hz.

    Where ``times`` is None, samples are not interpolated, and ``missing`` marks points of the grid
    without a sample.
    """

    rate: float
    nearest: np.ndarray
    """``[g]`` int: the sample nearest to every point of the grid."""
    missing: np.ndarray | None
    """``[g]`` bool."""
    times: np.ndarray | None
    """``[g]`` seconds at which samples are interpolated."""
    seconds: np.ndarray
    """``[t]`` seconds of the samples."""
    breaks: tuple[int, ...] = ()
    """Points of the grid before which recording stopped."""
    notes: tuple[str, ...] = ()

    @property
    def regridded(self) -> bool:
        """Whether points of the grid are something else than the samples one by one."""
        return self.missing is not None or self.times is not None

    def on_grid(self, x: np.ndarray) -> np.ndarray:
        """Samples ``[t c]`` float32 put on the grid ``[g c]``; NaN where one is missing."""
        if self.times is None:
            whole = len(self.nearest) == len(x) and self.missing is None
            out = x if whole and self.nearest[0] == 0 else x[self.nearest]
            if self.missing is not None:
                out[self.missing] = np.nan
            return out
        edges = (0, *self.breaks, len(self.nearest))
        return np.concatenate([self._stretch(x, a, b) for a, b in itertools.pairwise(edges)])

    def _stretch(self, x: np.ndarray, a: int, b: int) -> np.ndarray:
        """Points ``a`` to ``b`` of the grid, interpolated linearly between samples ``x``."""
        assert self.times is not None
        lines = slice(int(self.nearest[a]), int(self.nearest[b - 1]) + 1)
        t, part, at = self.seconds[lines], x[lines], self.times[a:b]
        t, first = np.unique(t, return_index=True)
        first = first[np.isfinite(t)]
        t = t[np.isfinite(t)]
        out = np.empty((b - a, x.shape[1]), np.float32)
        for j, channel in enumerate(part[first].T):
            known = np.isfinite(channel)
            if known.any():
                out[:, j] = np.interp(at, t[known], channel[known])
            out[~np.isfinite(x[self.nearest[a:b], j]), j] = np.nan
        return out


def seconds_of(raw: np.ndarray, unit: float | None, column: str) -> np.ndarray | None:
    """Times ``[t]`` as seconds since the first, float64.

    Args:
      raw: numbers (integers or floats, NaN for none) or datetime64.
      unit: of the times in seconds, as the column's name states it; None to determine it by the
        size of the times and of their steps.
      column: its name, for messages.

    Returns:
      None where the column counts samples, 0 1 2 3, or holds no numbers.

    Raises:
      InputError: where the unit cannot be determined.
    """
    if raw.dtype.kind == "M":
        t = raw.astype("datetime64[ns]")
        known = ~np.isnat(t)
        first = t[known][0] if known.any() else np.datetime64(0, "ns")
        return np.where(known, (t - first).astype(np.int64) * 1e-9, np.nan)
    known = np.isfinite(raw)
    if not known.any():
        return None
    first = raw[known][0]
    elapsed = np.asarray(raw - first, np.float64)
    if unit is None:
        unit = _unit(float(first), elapsed[known][:_ENOUGH], column)
    return None if unit is None else elapsed if unit == 1 else elapsed * unit


def _unit(first: float, elapsed: np.ndarray, column: str) -> float | None:
    """The unit in seconds of times that begin at ``first``; None for a count of samples."""
    steps = np.diff(elapsed)
    steps = steps[steps > 0]
    step = float(np.median(steps)) if len(steps) else 0.0
    if step == 0:
        raise InputError(f"the times in {column!r} are all equal, so they tell no rate")
    epoch = next((unit for low, high, unit in _EPOCHS if low <= first < high), None)
    whole = not np.mod(elapsed, 1).any()
    if whole and step == 1 and epoch is None:
        return None
    if step < 1 and not whole:
        return 1.0
    by_step = next((unit for low, high, unit in _STEPS if low <= step <= high), None)
    if by_step is not None and epoch is not None and by_step != epoch and epoch == 1.0:
        by_step = epoch = None
    unit = by_step or epoch
    if unit is None:
        raise InputError(
            f"column {column!r} steps by {step:g} and names no unit; rename it with its unit, for "
            "instance 'time (ms)' or 'time (s)'"
        )
    return unit


def clock_of(t: np.ndarray, *, rate: float | None = None, first_line: int = 1) -> Clock:
    """The grid of samples at ``t`` ``[t]`` seconds.

    Steps back in time, and gaps of more than 2 s (10 steps where that is longer), are breaks; in
    shorter gaps samples are missing. Samples whose steps vary are interpolated.

    Args:
      t: seconds ``[t]`` float64; samples without a time (NaN) are left out.
      rate: Hz of the grid, within 5 % of the measured rate; by default that rate, rounded.
      first_line: line of the file with the first sample, for messages.

    Raises:
      InputError: for times that are out of order, too few, all equal, or of another rate.
    """
    lines = np.flatnonzero(np.isfinite(t))
    seconds, notes = t, []
    if len(lines) < len(t):
        notes.append(f"{len(t) - len(lines)} lines without a time are left out")
    t = t[lines]
    if len(t) < 3:
        raise InputError(
            f"{len(t)} samples with a time are too few to measure the rate; at least 3 are needed"
        )
    dt = np.diff(t)
    step = float((t[-1] - t[0]) / len(dt))
    if step > 0 and np.abs(dt - step).max() <= _DRIFT * step:
        stops, regular = np.zeros(0, np.int64), True
    else:
        stops, step, regular = _uneven(t, dt, lines, first_line)
    measured = 1 / step
    if rate is not None and abs(rate * step - 1) > NEAR:
        raise InputError(f"its times say {_rounded(measured, _SAME):g} Hz, not {rate:g} Hz")
    grid = rate or _rounded(measured, 5e-4)
    notes += _stop_notes(dt, stops, lines, first_line)
    if regular and abs(grid * step - 1) <= _SAME:
        return _not_interpolated(seconds, lines, dt, step, stops, grid, notes)
    return _interpolated(seconds, lines, t, dt, stops, grid, notes)


def _uneven(
    t: np.ndarray, dt: np.ndarray, lines: np.ndarray, first_line: int
) -> tuple[np.ndarray, float, bool]:
    """Where recording stopped, the mean step in seconds, and whether steps are regular."""
    back = np.flatnonzero(dt < 0)
    _check_order(t, back, lines, first_line)
    if not (dt > 0).any():
        raise InputError("its times are all equal, so they tell no rate")
    repeat = float((dt == 0).mean())
    if repeat > _REPEAT:
        raise InputError(
            f"{repeat:.0%} of the times repeat the one before, so they are too coarse to place "
            "samples; record finer times, or remove the column and give --rate"
        )
    median = float(np.median(dt[dt > 0]))
    gap = max(LONGEST_GAP, 10 * median)
    stops = np.flatnonzero((dt < 0) | (dt > gap)) + 1
    return stops, *_step(dt, median, stops)


def _check_order(t: np.ndarray, back: np.ndarray, lines: np.ndarray, first_line: int) -> None:
    if len(back) and len(t) < _LEAST * (len(back) + 1):
        at = back[0] + 1
        raise InputError(
            f"line {first_line + lines[at]}: the time goes backwards, and in {len(back)} lines in "
            "all; sort the lines by time"
        )


def _step(dt: np.ndarray, median: float, stops: np.ndarray) -> tuple[float, bool]:
    """Mean step in seconds where no sample is missing, and whether steps are regular."""
    within = np.delete(dt, stops - 1)
    near = within[within < 1.5 * median]
    step = float(near.mean())
    if near.sum() >= _STEADY * within.sum() and _regular(within, step):
        return step, True
    # Samples that come in bursts have a median step far from the mean, which is then the better
    # one. Where both agree, no sample is missing, and the mean has the smaller error.
    mean = float(within.mean())
    difference = abs(median / mean - 1)
    return (median if _DRIFT < difference < _UNEVEN else mean), False


def _regular(steps: np.ndarray, step: float) -> bool:
    """Whether steps are multiples of ``step``: a steady clock, of which samples may be missing."""
    positive = steps[steps > 0]
    tick = float(positive.min()) if len(positive) else 0.0
    tick = tick if _are_multiples(positive, tick) else 0.0
    counts = np.maximum(np.rint(steps / step), 1)
    error = np.abs(steps - counts * step)
    if (error > max(_JITTER * step, tick)).any():
        return False
    single = steps[counts == 1]
    whole = len(single) // _BLOCK * _BLOCK
    blocks = single[:whole].reshape(-1, _BLOCK).mean(1)
    return bool((np.abs(blocks - step) <= max(_DRIFT * step, 1.5 * tick / _BLOCK)).all())


def _are_multiples(steps: np.ndarray, tick: float) -> bool:
    """Whether all steps are whole numbers of ticks, as those of rounded times are."""
    if tick == 0:
        return False
    counts = steps[:10_000] / tick
    return bool((np.abs(counts - np.rint(counts)) < 0.01 * counts.max(initial=1)).all())


def _not_interpolated(
    seconds: np.ndarray,
    lines: np.ndarray,
    dt: np.ndarray,
    step: float,
    stops: np.ndarray,
    rate: float,
    notes: list[str],
) -> Clock:
    """A grid whose points are samples, or are missing."""
    if dt.max(initial=0.0) < 1.5 * step and not len(stops):
        return Clock(rate, lines, None, None, seconds, (), tuple(notes))
    counts = np.maximum(np.rint(dt / step), 1).astype(np.int64)
    counts[stops - 1] = 1
    at = np.concatenate([[0], np.cumsum(counts)])
    count = int(at[-1]) + 1
    breaks = tuple(at[stops].tolist())
    if count == len(lines):
        return Clock(rate, lines, None, None, seconds, breaks, tuple(notes))
    missing = np.ones(count, bool)
    missing[at] = False
    nearest = np.zeros(count, np.int64)
    nearest[at] = np.arange(len(lines))
    nearest = lines[np.maximum.accumulate(nearest)]
    notes.append(f"{count - len(lines)} of {count} samples are missing")
    return Clock(rate, nearest, missing, None, seconds, breaks, tuple(notes))


def _interpolated(
    seconds: np.ndarray,
    lines: np.ndarray,
    t: np.ndarray,
    dt: np.ndarray,
    stops: np.ndarray,
    rate: float,
    notes: list[str],
) -> Clock:
    """A grid of points ``1 / rate`` apart in every stretch of two samples or more."""
    times, nearest, breaks, total = [], [], [], 0
    for a, b in itertools.pairwise((0, *stops.tolist(), len(t))):
        if b - a < 2 or t[b - 1] <= t[a]:
            continue
        count = int(np.floor((t[b - 1] - t[a]) * rate + 1e-6)) + 1
        at = t[a] + np.arange(count) / rate
        right = np.clip(np.searchsorted(t[a:b], at), 1, b - a - 1) + a
        near = np.where(at - t[right - 1] <= t[right] - at, right - 1, right)
        near[0], near[-1] = a, b - 1
        breaks += [total] if total else []
        total += count
        times.append(at)
        nearest.append(lines[near])
    low, high = np.quantile(dt[(dt > 0) & (dt < LONGEST_GAP)], [0.01, 0.99]) * 1e3
    notes.append(f"steps of {low:.3g} to {high:.3g} ms, put on a grid of {rate:g} Hz")
    return Clock(
        rate,
        np.concatenate(nearest),
        None,
        np.concatenate(times),
        seconds,
        tuple(breaks),
        tuple(notes),
    )


def _stop_notes(dt: np.ndarray, stops: np.ndarray, lines: np.ndarray, first_line: int) -> list[str]:
    if not len(stops):
        return []
    at = stops[0]
    what = "jumps by" if dt[at - 1] > 0 else "goes back by"
    more = f" and in {len(stops) - 1} more places" if len(stops) > 1 else ""
    return [
        f"the time {what} {abs(dt[at - 1]):.4g} s at line {first_line + lines[at]}{more}, cut there"
    ]


def _rounded(rate: float, tolerance: float) -> float:
    """The rate with as few digits as the relative tolerance allows."""
    for digits in range(1, 7):
        short = float(f"{rate:.{digits}g}")
        if abs(short - rate) <= tolerance * rate:
            return short
    return rate


def common_rate(rates: list[float]) -> float | None:
    """One rate for files whose measured rates differ by at most 5 %; None for other files."""
    if not rates or max(rates) > (1 + NEAR) * min(rates):
        return None
    equal = max(rates) <= (1 + _SAME) * min(rates)
    return _rounded(float(np.median(rates)), 5e-4 if equal else 0.01)
