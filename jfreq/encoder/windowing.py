"""Cuts a recording of any length, block by block, into windows of the length that a model reads.

Samples are counted in the first modality unless said otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

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
    """Sample at which the next window starts, or the length of the recording."""
    last: bool
    """Whether no other window of the recording follows."""


def cut_windows(
    blocks: Iterable[Clip],
    signals: Sequence[SignalSpec],
    grid: TokenGrid,
    windowing: Windowing | None,
) -> Iterator[InputWindow]:
    """The windows of one recording, until one holds the last token that is centred inside it.

    No more is kept in memory than one window and the block that completes it.

    Args:
      blocks: parts of the recording in the order of time; several modalities come as one block.
      signals: the modalities and the window of the model.
      grid: the tokens of one window.
      windowing: from :func:`choose_windowing`; None where long recordings cannot be cut.

    Raises:
      InputError: for a recording without samples, or one that is longer than a window and cannot
        be cut.
    """
    first = signals[0]
    _, steps, length = windowing or Windowing(1, (0,) * len(signals), first.samples)
    # With so many samples in the buffer another window surely follows the one that starts here.
    enough = max(first.samples + 1, steps[0] + math.ceil(grid.first))
    source, ended, start = iter(blocks), False, 0
    buffer = {s.name: np.zeros((0, s.channels), np.float32) for s in signals}
    while True:
        while not ended and len(buffer[first.name]) < enough:
            block = next(source, None)
            ended = block is None
            buffer = buffer if block is None else _joined(buffer, block)
        left = len(buffer[first.name])
        if start == left == 0:
            raise InputError("holds no samples")
        last = ended and (left <= first.samples or left - steps[0] < grid.first)
        if windowing is None and not last:
            raise InputError(
                f"recordings longer than {first.seconds:g} s cannot be cut into windows, because "
                f"no whole number of token hops ({grid.hop:g} samples) is a whole number of "
                "samples; give shorter recordings"
            )
        yield InputWindow(
            {s.name: buffer[s.name][: s.samples] for s in signals},
            min(first.samples, left) if last else length,
            start,
            start + (left if last else steps[0]),
            last,
        )
        if last:
            return
        buffer = {s.name: buffer[s.name][step:] for s, step in zip(signals, steps)}
        start += steps[0]


def _joined(buffer: Clip, block: Clip) -> Clip:
    """The samples of both, one after the other."""
    if not len(next(iter(buffer.values()))):
        return block
    return {name: np.concatenate([x, block[name]]) for name, x in buffer.items()}


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
    inside = math.floor((first.samples - grid.first - _reach(grid)) / grid.hop) + 1
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
            end_of_last = math.ceil((count - 1) * grid.hop + grid.first + _reach(grid))
            length = min(first.samples, max(before_next, end_of_last))
            return Windowing(count, tuple(int(step) for step in steps), length)
    return None


def grid_of_window(grid: TokenGrid, signal: SignalSpec) -> TokenGrid:
    """The grid of a window, also for a method without a time axis.

    Such a method leaves ``time`` and ``hop`` of its grid at 1. Its single token is then centred in
    the window of ``signal`` and as long as the window.
    """
    if grid.time > 1 or grid.hop > 1:
        return grid
    return TokenGrid(1, grid.freq, grid.order, first=signal.samples / 2, hop=float(signal.samples))


def _reach(grid: TokenGrid) -> float:
    """Samples from the centre of a token to its end.

    Where the first token begins with the signal, these are as many as lie before its centre. Where
    it is centred on the first sample, its length is unknown, and half a hop is assumed.
    """
    return max(grid.first, grid.hop / 2)
