"""The latest window of a recording, again and again while its samples come.

Samples are counted in the first modality unless said otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from jfreq.encoder.outputs import Outputs, WindowOutput
from jfreq.encoder.windowing import (
    Buffer,
    Clip,
    InputWindow,
    WindowPlan,
    equal_durations,
    reach,
)
from jfreq.ranges import Milliseconds, check_value
from jfreq.types import InputError


class LatestCutter:
    """Cuts the latest window of a recording each time that so many samples have come.

    Windows start at whole token hops, so that their tokens lie where those of the recording do,
    and are shorter than that of the model by less than that, or as long as what there is. Shifted
    copies follow each. No more is kept in memory than one window and the block that completes it.
    """

    def __init__(self, plan: WindowPlan, every_ms: float):
        """Takes the next shorter step to ``every_ms`` that is a whole number of hops.

        Raises:
          InputError: for an ``every_ms`` that is not a positive number, shorter than a hop, or so
            long that windows would leave frames out.
        """
        check_value(Milliseconds, every_ms, "", "every_ms")
        self._plan = plan
        first, grid = plan.signals[0], plan.grid
        rates = [Fraction(s.rate) / Fraction(first.rate) for s in plan.signals]
        hop = Fraction(grid.hop).limit_denominator(10**6)
        hops = math.lcm(*((hop * ratio).denominator for ratio in rates))
        self._unit = int(hop * hops)
        self._ratios = rates
        inside = first.samples - self._unit + 1 - 2 * reach(grid) - plan.offsets[-1][0]
        most = int((inside // grid.hop + 1) * grid.hop // self._unit)
        ms = 1000 * self._unit / first.rate
        if most < 1:
            raise InputError(
                f"every_ms: the windows of {first.seconds:g} s hold too few frames; leave it out"
            )
        if not ms * (1 - 1e-9) <= every_ms <= most * ms * (1 + 1e-9):
            raise InputError(
                f"every_ms: must be between {ms:g} and {most * ms:g} milliseconds, got {every_ms:g}"
            )
        self._every = math.floor(every_ms / ms * (1 + 1e-9)) * self._unit
        self.every_ms = 1000 * self._every / first.rate
        self.latency = self._every + math.ceil(reach(grid))
        """Samples from the centre of a frame to the sample that completes it, at most."""
        self._buffer = Buffer(plan.signals)
        self._start, self._next = 0, self._every

    def push(self, block: Clip) -> Iterator[InputWindow]:
        """The windows that are due with the next ``block`` of the recording."""
        self._buffer.push(block)
        while self._due():
            yield from self._windows(self._next, last=False)
            self._next += self._every

    def finish(self) -> Iterator[InputWindow]:
        """The last window; raises ``InputError`` as :meth:`Cutter.finish`."""
        plan = self._plan
        left = self._buffer.counts[plan.signals[0].name]
        if self._start + left == 0:
            raise InputError("holds no samples")
        rest = equal_durations(self._buffer.all(), plan.signals, slack=plan.grid.hop)
        self._buffer.keep(rest)
        yield from self._windows(self._start + left, last=True)

    def _due(self) -> bool:
        wanted = [(self._next - self._start) * ratio for ratio in self._ratios]
        return all(n >= least for n, least in zip(self._buffer.counts.values(), wanted))

    def _windows(self, end: int, *, last: bool) -> Iterator[InputWindow]:
        """The window that ends at ``end``, with its shifted copies; drops what lies before it."""
        signals, samples = self._plan.signals, self._plan.signals[0].samples
        start = max(0, -((samples - end) // self._unit) * self._unit)
        self._buffer.drop([int((start - self._start) * ratio) for ratio in self._ratios])
        self._start, clip = start, self._buffer.all()
        found = []
        for shift, offsets in enumerate(self._plan.offsets):
            length = end - start - offsets[0]
            if shift and length < self._plan.grid.first:
                break
            ends = [math.ceil((end - start) * ratio) for ratio in self._ratios]
            parts = {
                s.name: clip[s.name][o : min(stop, o + s.samples)]
                for s, o, stop in zip(signals, offsets, ends)
            }
            begin = start + offsets[0]
            found.append(InputWindow(parts, length, begin, end, last, shift))
        yield from (window._replace(closes=window is found[-1]) for window in found)


class LatestJoiner:
    """Takes from each window, with its shifted copies, the frames that are new.

    Those are the frames whose patch ends inside the window, and in the last window all that are
    valid.
    """

    def __init__(self, plan: WindowPlan):
        self._plan = plan
        self._given = 0
        self._copies: list[tuple[int, int, np.ndarray]] = []

    def add(self, recording: int, window: InputWindow, outputs: Outputs) -> WindowOutput | None:
        """The output of the unshifted window once ``window`` is the last copy of it, else None."""
        grid, rate = self._plan.grid, self._plan.signals[0].rate
        clip, frames, valid, logits = outputs
        if window.shift == 0:
            self._copies = []
            start, end = window.start / rate, window.end / rate
            self._unshifted = WindowOutput(
                recording, clip, frames[:0], logits, valid, start, end, window.last
            )
        first = round((window.start - self._plan.offsets[window.shift][0]) / grid.hop)
        self._copies.append((first, valid, frames))
        return self._unshifted._replace(frames=self._new(window)) if window.closes else None

    def _new(self, window: InputWindow) -> np.ndarray:
        grid, n = self._plan.grid, len(self._plan.offsets)
        if window.last:
            known = [first + valid for first, valid, _ in self._copies]
            known += [len(range(k, self._given, n)) for k in range(len(known), n)]
            end = min(count * n + k for k, count in enumerate(known))
        else:
            beyond = window.end - reach(grid) - grid.first
            end = math.floor(beyond * n / grid.hop) + 1 if beyond >= 0 else 0
        rows = []
        for i in range(self._given, end):
            first, _, frames = self._copies[i % n]
            rows.append(frames[i // n - first])
        self._given = max(self._given, end)
        width = self._copies[0][2].shape[1]
        return np.stack(rows) if rows else np.zeros((0, width), np.float32)
