"""What an encoder returns for the windows of a recording, and how it is put together."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jfreq.encoder.windowing import InputWindow, WindowPlan
from jfreq.types import InputError


class Outputs(NamedTuple):
    """What the model returns for one window: ``clip`` ``[d]``, ``frames`` ``[t d]``, the count of
    valid frames, and ``logits`` ``[classes]`` where there are any."""

    clip: np.ndarray
    frames: np.ndarray
    valid: int
    logits: np.ndarray | None


class WindowOutput(NamedTuple):
    """What the encoder returns for one window of a recording.

    ``frames`` ``[t frame_size]`` continue those of the window before; ``weight`` of them are valid.
    ``clip`` ``[clip_size]`` and ``logits`` ``[classes]`` describe the whole window. The frames
    reach from ``start`` to ``end``, in seconds of the recording. ``last`` marks its last window.
    """

    recording: int
    """Index of the recording."""
    clip: np.ndarray
    frames: np.ndarray
    logits: np.ndarray | None
    weight: int
    start: float
    end: float
    last: bool


class FailedRecording(NamedTuple):
    """A recording that could not be read to its end."""

    recording: int
    error: InputError


class RecordingMean:
    """The mean over the windows of a recording, weighted by their valid frames.

    Windows are added one by one. The outputs of a single window are returned bit for bit.
    """

    def __init__(self):
        self._weight, self._clip, self._logits = 0, np.zeros(()), np.zeros(())
        self._latest: WindowOutput | None = None
        self._count = 0
        self.end = 0.0

    def add(self, window: WindowOutput) -> None:
        self._latest = window
        self._count += 1
        self._weight += window.weight
        self._clip = self._clip + window.weight * window.clip.astype(np.float64)
        if window.logits is not None:
            self._logits = self._logits + window.weight * window.logits.astype(np.float64)
        self.end = window.end

    @property
    def clip(self) -> np.ndarray:
        """``[clip_size]`` float32."""
        assert self._latest is not None
        return self._latest.clip if self._count == 1 else self._mean(self._clip)

    @property
    def logits(self) -> np.ndarray | None:
        """``[classes]`` float32; None for an encoder that was trained without labels."""
        assert self._latest is not None
        if self._latest.logits is None or self._count == 1:
            return self._latest.logits
        return self._mean(self._logits)

    def _mean(self, total: np.ndarray) -> np.ndarray:
        return (total / max(1, self._weight)).astype(np.float32)


class Joiner:
    """Joins the outputs of the windows of one recording.

    An unshifted window and its shifted copies become one :class:`WindowOutput`. Frame ``j`` of
    shift ``k`` of ``n`` is frame ``j n + k`` of the recording; a frame is given out once all before
    it are known.
    """

    def __init__(self, plan: WindowPlan):
        self._windowing, self._rate = plan.windowing, plan.signals[0].rate
        self._waiting: list[list[np.ndarray]] = [[] for _ in plan.offsets]
        self._given = 0
        self._unshifted: WindowOutput | None = None

    def add(self, recording: int, window: InputWindow, outputs: Outputs) -> WindowOutput | None:
        """The output of the unshifted window once ``window`` is the last copy of it, else None."""
        clip, frames, valid, logits = outputs
        count = valid if window.last or self._windowing is None else self._windowing.tokens
        self._waiting[window.shift].append(frames[:count])
        if window.shift == 0:
            start, end = window.start / self._rate, window.end / self._rate
            self._unshifted = WindowOutput(
                recording, clip, frames[:0], logits, min(count, valid), start, end, window.last
            )
        if not window.closes:
            return None
        assert self._unshifted is not None
        return self._unshifted._replace(frames=self._frames())

    def _frames(self) -> np.ndarray:
        """The frames ``[t d]`` that follow those given out before, as far as all are known."""
        n = len(self._waiting)
        parts = [np.concatenate(part) if part else None for part in self._waiting]
        # Shift k has given out the frames j n + k below ``given``.
        given = [len(range(k, self._given, n)) for k in range(n)]
        known = [0 if part is None else len(part) for part in parts]
        end = min((g + count) * n + k for k, (g, count) in enumerate(zip(given, known)))
        like = next(part for part in parts if part is not None)
        out = np.empty((end - self._given, like.shape[1]), like.dtype)
        for k, part in enumerate(parts):
            if part is None:
                continue
            rows = out[(k - self._given) % n :: n]
            rows[:] = part[: len(rows)]
            self._waiting[k] = [part[len(rows) :]]
        self._given = end
        return out
