"""Recordings of any length as windows of one length, cut while the samples come."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from jfreq.types import InputError, SignalSpec, TokenGrid

Clip = dict[str, np.ndarray]
"""One recording or a block of one: ``[t c]`` float32 by modality, at the model's rates; NaN where
a sample is missing."""


class Window(NamedTuple):
    """How recordings longer than the model's window are cut.

    Each window but the last gives its first ``tokens`` frames and the next one starts
    ``steps`` samples later (one count per modality), exactly ``tokens`` hops. It is read up to
    ``length`` samples of the first modality, short of the centre of the token after those.
    """

    tokens: int
    steps: tuple[int, ...]
    length: int


class Piece(NamedTuple):
    """One window of a recording: ``signals`` ``[t c]``, shorter than the window where the
    recording ends, of which ``length`` samples of the first modality count.

    ``start`` and ``end`` are the samples of the recording (first modality) that its own frames
    stand for; ``last`` ends the recording.
    """

    signals: Clip
    length: int
    start: int
    end: int
    last: bool


def cut(
    blocks: Iterable[Clip], signals: Sequence[SignalSpec], grid: TokenGrid, window: Window | None
) -> Iterator[Piece]:
    """The windows of one recording, up to the last token centred inside it.

    ``blocks`` follow each other in time; several modalities come as a single block. No more is
    held than one window and the block that completes it. ``InputError`` for a recording without
    samples, and for one that is longer than the window where ``window`` is None.
    """
    first = signals[0]
    _, steps, length = window or Window(1, (0,) * len(signals), first.samples)
    # Enough to see whether another window comes after the one that starts here.
    ahead = max(first.samples + 1, steps[0] + math.ceil(grid.first))
    source, ended, start = iter(blocks), False, 0
    held = {s.name: np.zeros((0, s.channels), np.float32) for s in signals}
    while True:
        while not ended and len(held[first.name]) < ahead:
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
    if not len(next(iter(held.values()))):
        return block
    return {name: np.concatenate([x, block[name]]) for name, x in held.items()}


def cut_window(grid: TokenGrid, signals: Sequence[SignalSpec]) -> Window | None:
    """The longest step that is a whole number of hops and of samples in every modality.

    Tokens that reach beyond the window are left to the next one. None where no step fits.
    """
    first = signals[0]
    whole = math.floor((first.samples - grid.first - _reach(grid)) / grid.hop) + 1
    tokens = max(1, min(grid.time, whole, math.floor(first.samples / grid.hop)))
    hop = Fraction(grid.hop).limit_denominator(10**6) / Fraction(first.rate)
    for count in range(tokens, 0, -1):
        steps = [count * hop * Fraction(spec.rate) for spec in signals]
        if all(step.denominator == 1 for step in steps):
            end = (count - 1) * grid.hop + grid.first + _reach(grid)
            stop = math.ceil(count * grid.hop + grid.first) - 1
            length = min(first.samples, max(stop, math.ceil(end)))
            return Window(count, tuple(int(step) for step in steps), length)
    return None


def grid_of_window(grid: TokenGrid, signal: SignalSpec) -> TokenGrid:
    """The grid, with a single token per window (no lattice) spread over the whole window."""
    if grid.time > 1 or grid.hop > 1:
        return grid
    return TokenGrid(1, grid.freq, grid.order, first=signal.samples / 2, hop=float(signal.samples))


def _reach(grid: TokenGrid) -> float:
    """Half a token in samples: the first token starts with the signal or is centred on it."""
    return max(grid.first, grid.hop / 2)
