"""Cuts a recording of any length, block by block, into windows of the length that a model reads.

Samples are counted in the first modality unless said otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from jfreq.ranges import Milliseconds, check_value
from jfreq.types import InputError, SignalSpec, TokenGrid

Clip = dict[str, np.ndarray]
"""A recording or a block of one: float32 ``[t c]`` by modality, at the rates of the model.

NaN is a missing sample.
"""


class Windowing(NamedTuple):
    """How recordings longer than the model's window are cut."""

    tokens: int
    """Every window but the last gives the first ``tokens`` time steps of its token grid."""
    steps: tuple[int, ...]
    """Samples from one window to the next, for each modality: exactly ``tokens`` hops."""
    length: int
    """Valid samples of every window but the last. Where possible they end before the centre of the
    token after the first ``tokens``, so that this token is valid in the next window only."""


class InputWindow(NamedTuple):
    """One window of a recording."""

    signals: Clip
    """Shorter than the window of the model where the recording ends."""
    length: int
    """Valid samples, those that the model reads."""
    start: int
    """Sample of the recording at which the window starts."""
    end: int
    """Sample at which the next window of this shift starts, or the length of the recording."""
    last: bool
    """Whether no other window of this shift follows."""
    shift: int = 0
    """Which of the offsets of :func:`choose_offsets` the window is shifted by."""
    closes: bool = True
    """Whether no other window follows that is a shifted copy of the same unshifted one."""


Offsets = tuple[tuple[int, ...], ...]
"""Samples by which windows are shifted, for each shift and modality; the first shift has none."""


class WindowPlan(NamedTuple):
    """How an encoder cuts recordings."""

    signals: tuple[SignalSpec, ...]
    """The modalities and the window of the model."""
    grid: TokenGrid
    """The tokens of one window."""
    windowing: Windowing | None
    """None where long recordings cannot be cut."""
    offsets: Offsets
    """One for each shift."""

    @property
    def cut(self) -> Windowing:
        """How recordings are cut; where they cannot be, each is a single whole window."""
        samples = tuple(s.samples for s in self.signals)
        return self.windowing or Windowing(1, samples, samples[0])

    @property
    def enough(self) -> int:
        """Samples with which another unshifted window surely follows the one that starts now."""
        return max(self.signals[0].samples + 1, self.cut.steps[0] + math.ceil(self.grid.first))


def plan_windows(
    grid: TokenGrid, signals: Sequence[SignalSpec], frame_ms: float | None = None
) -> WindowPlan:
    """The plan of a model with this grid; raises ``InputError`` as :func:`choose_offsets`."""
    grid = grid_of_window(grid, signals[0])
    offsets = choose_offsets(grid, signals, frame_ms)
    return WindowPlan(tuple(signals), grid, choose_windowing(grid, signals), offsets)


class Buffer:
    """The samples of a recording that are still needed, by modality.

    Blocks are joined when they are asked for, so that many short ones cost no more than a long one.
    """

    def __init__(self, signals: Sequence[SignalSpec]):
        self._parts: list[Clip] = [{s.name: np.zeros((0, s.channels), np.float32) for s in signals}]
        self.counts = {s.name: 0 for s in signals}

    def push(self, block: Clip) -> None:
        self._parts.append(block)
        for name, x in block.items():
            self.counts[name] += len(x)

    def all(self) -> Clip:
        names = self._parts[0]
        parts = {n: [x for part in self._parts if len(x := part[n])] for n in names}
        joined = {
            n: found[0] if len(found) == 1 else np.concatenate(found or [names[n]])
            for n, found in parts.items()
        }
        self._parts = [joined]
        return joined

    def keep(self, clip: Clip) -> None:
        """Keeps these samples and no others."""
        self._parts = [clip]
        self.counts = {name: len(x) for name, x in clip.items()}

    def drop(self, counts: Sequence[int]) -> None:
        """Forgets the first ``counts`` samples of each modality."""
        self.keep({n: x[count:] for (n, x), count in zip(self.all().items(), counts)})


class Cutter:
    """Cuts one recording into windows while its samples come.

    Windows come in the order of time: each unshifted one, then its shifted copies. The windows of
    a shift are those of the recording without the samples before it; a shift ends with the window
    that holds its last token that is centred inside the recording, and does not begin where there
    is none. No more is kept in memory than one window and the block that completes it.
    """

    def __init__(self, plan: WindowPlan):
        self._signals, self._grid, self._windowing, offsets = plan
        _, self._steps, self._length = plan.cut
        self._running = list(enumerate(offsets))
        self.enough = plan.enough + offsets[-1][0]
        """Samples of the first modality after which a window of every shift is complete."""
        self.latency = self.enough - math.floor(self._grid.first)
        """Samples from the centre of a frame to the sample that completes its window, at most."""
        self._buffer = Buffer(self._signals)
        self._start = 0

    def push(self, block: Clip) -> Iterator[InputWindow]:
        """The windows that are complete with the next ``block`` of the recording."""
        self._buffer.push(block)
        while self._left >= self.enough and self._all_there():
            yield from self._windows(ended=False)

    def _all_there(self) -> bool:
        """Whether every modality fills the windows that start now; streams come unequally."""
        offsets = self._running[-1][1]
        counts = self._buffer.counts
        return all(counts[s.name] >= s.samples + o for s, o in zip(self._signals[1:], offsets[1:]))

    @property
    def _left(self) -> int:
        return self._buffer.counts[self._signals[0].name]

    def finish(self) -> Iterator[InputWindow]:
        """The windows that remain where the recording ends.

        Raises:
          InputError: for a recording without samples, one that is longer than a window and cannot
            be cut, and modalities whose durations differ by more than a token.
        """
        if self._start == self._left == 0:
            raise InputError("holds no samples")
        rest = equal_durations(self._buffer.all(), self._signals, slack=self._grid.hop)
        self._buffer.keep(rest)
        while self._running:
            yield from self._windows(ended=True)

    def _windows(self, *, ended: bool) -> Iterator[InputWindow]:
        """The window that starts now, with its shifted copies, and on to the next start."""
        buffer = self._buffer.all()
        found: list[InputWindow] = []
        for shift, offsets in self._running:
            window = self._window(buffer, shift, offsets, ended)
            found += [window] if window is not None else []
        self._running = [(w.shift, o) for w, (_, o) in zip(found, self._running) if not w.last]
        yield from (w._replace(closes=w is found[-1]) for w in found)
        self._buffer.drop(self._steps)
        self._start += self._steps[0]

    def _window(
        self, buffer: Clip, shift: int, offsets: tuple[int, ...], ended: bool
    ) -> InputWindow | None:
        first, step = self._signals[0], self._steps[0]
        left = self._left - offsets[0]
        if shift and self._start == 0 and left < self._grid.first:
            return None
        if self._windowing is None and left > first.samples:
            raise InputError(
                f"recordings longer than {first.seconds:g} s cannot be cut into windows, because "
                f"no whole number of token hops ({self._grid.hop:g} samples) is a whole number of "
                "samples; give shorter recordings"
            )
        last = ended and (left <= first.samples or left - step < self._grid.first)
        start = self._start + offsets[0]
        return InputWindow(
            {s.name: buffer[s.name][o : o + s.samples] for s, o in zip(self._signals, offsets)},
            min(first.samples, left) if last else self._length,
            start,
            start + (left if last else step),
            last,
            shift,
        )


def cut_windows(blocks: Iterable[Clip], plan: WindowPlan) -> Iterator[InputWindow]:
    """The windows of one recording that comes in ``blocks``; several modalities come as one block.

    Order and what is raised are those of :class:`Cutter`.
    """
    cutter = Cutter(plan)
    for block in blocks:
        yield from cutter.push(block)
    yield from cutter.finish()


def choose_windowing(grid: TokenGrid, signals: Sequence[SignalSpec]) -> Windowing | None:
    """How to cut long recordings, with the longest possible step from one window to the next.

    A step is a whole number of hops and, in every modality, a whole number of samples. Tokens that
    reach beyond the window are left to the next one.

    Args:
      grid: the tokens of one window, see :func:`grid_of_window`.
      signals: the modalities and the window of the model.

    Returns:
      The windowing; None where no step fits.
    """
    first = signals[0]
    inside = math.floor((first.samples - grid.first - reach(grid)) / grid.hop) + 1
    # A step longer than the window would leave samples out.
    most = max(1, min(grid.time, inside, math.floor(first.samples / grid.hop)))
    # Fractions tell exactly which steps are whole; a float hop such as 7/3 is rounded to one.
    hop_seconds = Fraction(grid.hop).limit_denominator(10**6) / Fraction(first.rate)
    for count in range(most, 0, -1):
        steps = [count * hop_seconds * Fraction(spec.rate) for spec in signals]
        if all(step.denominator == 1 for step in steps):
            # The token after the first ``count`` is not valid if its centre lies beyond ``length``;
            # all samples of the tokens before it must be valid, even where they reach further.
            before_next = math.ceil(count * grid.hop + grid.first) - 1
            end_of_last = math.ceil((count - 1) * grid.hop + grid.first + reach(grid))
            length = min(first.samples, max(before_next, end_of_last))
            return Windowing(count, tuple(int(step) for step in steps), length)
    return None


def choose_offsets(
    grid: TokenGrid, signals: Sequence[SignalSpec], frame_ms: float | None
) -> Offsets:
    """By how many samples to shift windows for frames that lie no further apart than ``frame_ms``.

    The n shifts are multiples of an n-th of the token hop. n is the smallest number for which this
    is short enough and a whole number of samples in every modality.

    Args:
      grid: the tokens of one window, see :func:`grid_of_window`.
      signals: the modalities.
      frame_ms: milliseconds; None for frames as far apart as tokens.

    Returns:
      The offsets; their count is n.

    Raises:
      InputError: for a ``frame_ms`` that is not positive, above the hop, or too short.
    """
    none = (0,) * len(signals)
    if frame_ms is None:
        return (none,)
    check_value(Milliseconds, frame_ms, "", "frame_ms")
    rate = signals[0].rate
    hop_ms = 1000 * grid.hop / rate
    least = hop_ms / frame_ms * (1 - 1e-9)
    if frame_ms > hop_ms * (1 + 1e-9):
        raise InputError(
            f"frame_ms: the encoder gives a frame every {hop_ms:g} ms; give that or less, got "
            f"{frame_ms:g}"
        )
    if least <= 1:
        return (none,)
    hops = [Fraction(grid.hop).limit_denominator(10**6) * Fraction(s.rate) / Fraction(rate)
            for s in signals]  # fmt: skip
    whole = math.gcd(*map(int, hops)) if all(hop.denominator == 1 for hop in hops) else 1
    count = next((n for n in range(math.ceil(least), whole + 1) if whole % n == 0), None)
    if count is None:
        names = " and ".join(s.name for s in signals)
        raise InputError(
            f"frame_ms: steps are whole parts of {hop_ms:g} ms that are whole samples of {names}, "
            f"the shortest is {hop_ms / whole:g} ms; got {frame_ms:g}"
        )
    return tuple(tuple(k * int(hop) // count for hop in hops) for k in range(count))


def grid_of_window(grid: TokenGrid, signal: SignalSpec) -> TokenGrid:
    """The grid of a window, also for a method without a time axis.

    Such a method leaves ``time`` and ``hop`` of its grid at 1. Its single token is then centred in
    the window of ``signal`` and as long as the window.
    """
    if grid.time > 1 or grid.hop > 1:
        return grid
    return TokenGrid(1, grid.freq, grid.order, first=signal.samples / 2, hop=float(signal.samples))


def reach(grid: TokenGrid) -> float:
    """Samples from the centre of a token to its end.

    Where the first token begins with the signal, these are as many as lie before its centre. Where
    it is centred on the first sample, its length is unknown, and half a hop is assumed.
    """
    return max(grid.first, grid.hop / 2)


def equal_durations(clip: Clip, signals: Sequence[SignalSpec], *, slack: float) -> Clip:
    """Cuts or zero-pads every modality to the duration of the first.

    Args:
      clip: ``[t c]`` by modality.
      signals: the modalities with their rates.
      slack: samples of the first modality by which durations may differ.

    Raises:
      InputError: where durations differ by more.
    """
    first = signals[0]
    equal = dict(clip)
    for spec in signals[1:]:
        x = clip[spec.name]
        exact = len(clip[first.name]) * spec.rate / first.rate
        if abs(len(x) - exact) <= 0.5:
            continue
        wanted = max(1, round(exact))
        if abs(len(x) - wanted) > max(1, slack * spec.rate / first.rate):
            raise InputError(
                f"{spec.name} lasts {len(x) / spec.rate:.3f} s and {first.name} "
                f"{len(clip[first.name]) / first.rate:.3f} s; cut them to the same duration"
            )
        equal[spec.name] = np.pad(x, ((0, max(0, wanted - len(x))), (0, 0)))[:wanted]
    return equal
