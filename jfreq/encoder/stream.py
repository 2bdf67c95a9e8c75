"""Embeds a recording while its samples come."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jfreq.encoder.batches import in_batches
from jfreq.encoder.latest_windows import LatestCutter, LatestJoiner
from jfreq.encoder.outputs import Joiner, RecordingMean, WindowOutput
from jfreq.encoder.resampling import (
    BlockResampler,
    Rate,
    check_signal,
    checked_rate,
    rates_by_signal,
    resampler_delay,
)
from jfreq.encoder.windowing import Cutter, InputWindow
from jfreq.types import InputError

if TYPE_CHECKING:
    from jfreq.encoder.encoder import Encoder

log = logging.getLogger("jfreq")


class StreamOutput(NamedTuple):
    """What became final with the samples that were pushed.

    ``frames`` ``[k d]`` float32 follow those of the output before, centred at ``times_ms`` ``[k]``
    of the recording. ``clip`` ``[clip_size]`` and ``logits`` ``[classes]`` are those of the
    recording so far, or with ``every_ms`` of its latest window; None before the first window.
    """

    frames: np.ndarray
    times_ms: np.ndarray
    clip: np.ndarray | None
    logits: np.ndarray | None


class Stream:
    """One recording that is embedded while its samples come; :meth:`Encoder.stream` makes it.

    A window is encoded once it is full. Together the outputs are then those of the encoder for the
    whole recording, and ``clip`` and ``logits`` of the last are its clip vector and logits. With
    ``every_ms`` the latest window is encoded each so many milliseconds, at first as far as it is
    filled, and gives its frames that are new and whose patch has come to its end. These lie where
    the frames of the recording do and have heard what came before, but nothing that comes after.

    Samples at another rate are resampled as they come. The filter is the one of whole recordings
    and works in blocks of about 900 samples of the lower of both rates; sound is taken as silent
    beyond both ends, other signals as constant. No more is kept than a window and the samples
    that were pushed last.
    """

    def __init__(self, encoder: Encoder, rate: Rate = None, every_ms: float | None = None):
        """See :meth:`Encoder.stream`."""
        self._encoder, plan = encoder, encoder.plan
        rates = rates_by_signal(rate, plan.signals)
        self._resamplers: dict[str, BlockResampler] = {}
        for s in plan.signals:
            hertz, where = rates[s.name], f"stream, {s.name}"
            if hertz is not None and checked_rate(hertz, s, where) != s.rate:
                self._resamplers[s.name] = BlockResampler(hertz, s, where, hold=s.name != "audio")
        self._latest = every_ms is not None
        if every_ms is None:
            self._cutter, self._joiner = Cutter(plan), Joiner(plan)
        else:
            self._cutter = LatestCutter(plan, every_ms)
            self._joiner = LatestJoiner(plan)
            say_step("every_ms", every_ms, self._cutter.every_ms, "a multiple of the token hop")
        self._mean = RecordingMean()
        self._clip: np.ndarray | None = None
        self._logits: np.ndarray | None = None
        self._given = 0
        self._finished = False

    @property
    def latency_ms(self) -> float:
        """Milliseconds from the centre of a frame to the sample that makes it final, at most.

        This is a window and the shifts of finer frames, or with ``every_ms`` this time and half a
        patch; with another rate also the delay of the resampler. Computing takes its time beside.
        """
        delays = [resampler_delay(r.rate, r.target) for r in self._resamplers.values()]
        return 1000 * (
            self._cutter.latency / self._encoder.signals[0].rate + max(delays, default=0)
        )

    def push(self, samples: Any) -> StreamOutput:
        """Takes the samples that follow.

        Args:
          samples: ``[t]`` or ``[t c]`` with any number of samples, also none; float in [-1, 1] or
            signed integer PCM. For several modalities a dict of such arrays; one may be ahead of
            another.

        Returns:
          What became final.

        Raises:
          InputError: for samples as in a call, for missing samples at another rate than that of the
            encoder, and after :meth:`finish`. The stream stays as it was.
        """
        self._check_open()
        block = {}
        for x, spec, _ in self._encoder.by_signal(samples, None, "stream"):
            where, gaps = f"stream, {spec.name}", self._encoder.gaps
            block[spec.name] = check_signal(x, spec, where=where, gaps=gaps, empty=True)
            if spec.name in self._resamplers and np.isnan(block[spec.name]).any():
                raise InputError(
                    f"{where}: holds NaN, and missing samples cannot be resampled as they come; "
                    f"push samples at {spec.rate:g} Hz"
                )
        block |= {name: r.push(block[name]) for name, r in self._resamplers.items()}
        return self._encode(self._cutter.push(block))

    def finish(self) -> StreamOutput:
        """Ends the recording.

        Returns:
          The frames that remain.

        Raises:
          InputError: for a stream without samples or that is finished already, and for modalities
            whose durations differ by more than a token.
        """
        self._check_open()
        self._finished = True
        block = {s.name: np.zeros((0, s.channels), np.float32) for s in self._encoder.signals}
        block |= {name: r.finish() for name, r in self._resamplers.items()}

        def windows() -> Iterator[InputWindow]:
            yield from self._cutter.push(block)
            yield from self._cutter.finish()

        return self._encode(windows())

    def _check_open(self) -> None:
        if self._finished:
            raise InputError("stream: is finished; start another one with encoder.stream()")

    def _encode(self, windows: Iterable[InputWindow]) -> StreamOutput:
        encoder = self._encoder
        frames = [np.zeros((0, encoder.frame_size), np.float32)]
        cut = ((0, window) for window in windows)
        try:
            for _, window, outputs in in_batches(cut, encoder.start, encoder.signals, 1):
                assert isinstance(window, InputWindow)
                if (joined := self._joiner.add(0, window, outputs)) is not None:
                    self._add(joined)
                    frames.append(joined.frames)
        except InputError as error:
            raise InputError(f"stream: {error}") from None
        found = np.concatenate(frames)
        times = encoder.times_ms(len(found), self._given)
        self._given += len(found)
        return StreamOutput(found, times, self._clip, self._logits)

    def _add(self, window: WindowOutput) -> None:
        if self._latest:
            self._clip, self._logits = window.clip, window.logits
            return
        self._mean.add(window)
        self._clip, self._logits = self._mean.clip, self._mean.logits


def say_step(option: str, asked: float, taken: float, steps: str) -> None:
    """Logs which step in milliseconds was taken where it is not the one asked for."""
    if not math.isclose(asked, taken, rel_tol=1e-6):
        log.warning(
            "%s %g: takes %g ms, the next shorter step that is %s in whole samples",
            option,
            asked,
            taken,
            steps,
        )
