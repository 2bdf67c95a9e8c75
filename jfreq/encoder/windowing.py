"""Cuts a recording of any length, block by block, into windows of the length of the model.

All samples are counted in the first modality unless said otherwise.
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


class Window(NamedTuple):
    """How recordings longer than the model's window are cut."""

    tokens: int
    """Every window but the last contributes its first ``tokens`` times of the token grid."""
    steps: tuple[int, ...]
    """Samples from one window to the next, for each modality: exactly ``tokens`` hops."""
    length: int
    """Valid samples of every window but the last. Where the first ``tokens`` allow it, they end
    before the centre of the token after those, which then counts in the next window only."""


class Piece(NamedTuple):
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


def cut(
    blocks: Iterable[Clip], signals: Sequence[SignalSpec], grid: TokenGrid, window: Window | None
) -> Iterator[Piece]:
    """The windows of one recording; the last one holds the last token centred inside it.

    No more is kept in memory than one window and the block that completes it.

    Args:
      blocks: parts of the recording in the order of time; several modalities come as one block.
      signals: the modalities and the window of the model.
      grid: the tokens of one window.
      window: from :func:`cut_window`; None if the recording must not be longer than one window.

    Raises:
      InputError: for a recording without samples, or longer than a window that cannot be cut.
    """
    first = signals[0]
    _, steps, length = window or Window(1, (0,) * len(signals), first.samples)
    # With so many samples held, another window surely follows the one that starts here.
    enough = max(first.samples + 1, steps[0] + math.ceil(grid.first))
    source, ended, start = iter(blocks), False, 0
    held = {s.name: np.zeros((0, s.channels), np.float32) for s in signals}
    while True:
        while not ended and len(held[first.name]) < enough:
            block = next(source, None)
            ended = block is None
            held = held if block is None else _joined(held, block)
        left = len(held[first.name])
        if start == left == 0:
            raise InputError("holds no samples")
        last = ended and (left <= first.samples or left - steps[0] < grid.first)
        if window is None and not last:
            raise InputError(
                f"recordings over {first.seconds:g} s cannot be cut: no whole number of token "
                f"hops ({grid.hop:g} samples) is a whole number of samples"
            )
        yield Piece(
            {s.name: held[s.name][: s.samples] for s in signals},
            min(first.samples, left) if last else length,
            start,
            start + (left if last else steps[0]),
            last,
        )
        if last:
            return
        held = {s.name: held[s.name][step:] for s, step in zip(signals, steps)}
        start += steps[0]


def _joined(held: Clip, block: Clip) -> Clip:
    """The samples of both, one after the other."""
    if not len(next(iter(held.values()))):
        return block
    return {name: np.concatenate([x, block[name]]) for name, x in held.items()}


def cut_window(grid: TokenGrid, signals: Sequence[SignalSpec]) -> Window | None:
    """How to cut long recordings, with the longest step from one window to the next.

    A step is a whole number of hops and, in every modality, a whole number of samples. Tokens that
    reach beyond the window are left to the next one. None where no step fits.
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
            # The token after the last that counts is not valid if its centre lies beyond
            # ``length``; all samples of the last must be valid, even where they reach further.
            before_next = math.ceil(count * grid.hop + grid.first) - 1
            end_of_last = math.ceil((count - 1) * grid.hop + grid.first + _reach(grid))
            length = min(first.samples, max(before_next, end_of_last))
            return Window(count, tuple(int(step) for step in steps), length)
    return None


def grid_of_window(grid: TokenGrid, signal: SignalSpec) -> TokenGrid:
    """The grid, except that a single token of a method without a time axis spans the window.

    Such a method leaves ``time`` and ``hop`` of its grid at 1. The token is centred in the window
    of ``signal``, and its hop is the window.
    """
    if grid.time > 1 or grid.hop > 1:
        return grid
    return TokenGrid(1, grid.freq, grid.order, first=signal.samples / 2, hop=float(signal.samples))


def _reach(grid: TokenGrid) -> float:
    """Samples from the centre of a token to its end.

    Where tokens begin with the signal, that is how far the centre of the first lies in it. Where
    the first is centred on the first sample, its length is not known, and half a hop is taken.
    """
    return max(grid.first, grid.hop / 2)
