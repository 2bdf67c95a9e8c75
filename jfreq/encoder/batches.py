"""Computes windows in batches of one shape while they are being cut."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jfreq.encoder.outputs import Outputs
from jfreq.encoder.windowing import InputWindow
from jfreq.types import InputError, SignalSpec

CACHE_BYTES = 2 * 2**20
"""Of a core: that much of a batch stays close to it."""
CPU_MOST, DEVICE = 16, 32
"""The largest batch on a CPU, and the batch on other platforms."""
Queue = list[tuple[int, InputWindow | InputError]]


def fast_batch_size(tokens: int, width: int) -> int:
    """How many windows of ``tokens`` vectors of this ``width`` to compute at once.

    An accelerator takes many. The cores of a CPU are fastest while the widest array of a block,
    ``4 width`` float32 numbers for each token, stays in their caches.
    """
    if jax.default_backend() != "cpu":
        return DEVICE
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    rows = round((cores or 1) * CACHE_BYTES / (4 * 4 * width * tokens))
    return min(max(1, rows), CPU_MOST)


def in_batches(
    windows: Iterable[tuple[int, InputWindow | InputError]],
    encode: Callable[[dict[str, np.ndarray]], Any],
    signals: Sequence[SignalSpec],
    batch_size: int,
) -> Iterator[tuple[int, InputWindow | InputError, Any]]:
    """Computes windows, in order.

    The device computes a batch while the outputs of the one before are read: two batches are in
    memory at a time. A single window is computed alone, all others in batches of one shape.

    Args:
      windows: with the index of their recording, or the error that ended one.
      encode: starts the computation of a batch; returns device arrays as :class:`Outputs`.
      signals: the modalities and the window of the model.
      batch_size: windows that are computed at once, also of different recordings.

    Yields:
      The index, the window without its samples, and its :class:`Outputs`; or the index, the error
      and None.
    """
    if not hasattr(batch_size, "__index__"):
        raise InputError(f"batch_size: must be a whole number, got {batch_size!r}")
    if batch_size < 1:
        raise InputError(f"batch_size: must be 1 or more, got {batch_size}")
    running: Iterator = iter(())
    queue: Queue = []
    rows, used = empty_batch(signals, batch_size), 0
    first = True
    for recording, window in windows:
        if isinstance(window, InputWindow):
            window = put(rows, used, window)
            used += 1
        queue.append((recording, window))
        if used == batch_size:
            started = _read(encode(rows), queue)
            yield from running
            running, first = started, False
            queue, rows, used = [], empty_batch(signals, batch_size), 0
    if first and used == 1:
        rows = {name: x[:1] for name, x in rows.items()}
    started = _read(encode(rows) if used else None, queue)
    yield from running
    yield from started


def empty_batch(signals: Sequence[SignalSpec], size: int) -> dict[str, np.ndarray]:
    """``size`` windows of zeros: each signal ``[b t c]`` float32 by its name, and ``length``."""
    rows = {s.name: np.zeros((size, s.samples, s.channels), np.float32) for s in signals}
    return rows | {"length": np.full(size, signals[0].samples, np.int32)}


def put(rows: dict[str, np.ndarray], row: int, window: InputWindow) -> InputWindow:
    """Copies the samples of a window into the batch and returns the window without them."""
    for name, x in window.signals.items():
        rows[name][row, : len(x)] = x
    rows["length"][row] = window.length
    return window._replace(signals={})


def _read(outputs: Any, queue: Queue) -> Iterator[Any]:
    """Waits for the outputs of a batch (None: there is none) when it is iterated over."""
    values = iter(())
    if outputs is not None:
        clip, frames, valid, logits = jax.device_get(outputs)
        values = zip(clip, frames, valid, [None] * len(clip) if logits is None else logits)
    for recording, window in queue:
        if isinstance(window, InputError):
            yield recording, window, None
            continue
        clip, frames, valid, logits = next(values)
        yield recording, window, Outputs(clip, frames, int(valid), logits)
