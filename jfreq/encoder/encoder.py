"""Embeds signals of any length and rate with a frozen encoder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jfreq.encoder.resampling import as_signal, equal_durations
from jfreq.encoder.windowing import (
    Clip,
    InputWindow,
    choose_windowing,
    cut_windows,
    grid_of_window,
)
from jfreq.export.bundle import encoder_shapes, load_trained
from jfreq.method import Method
from jfreq.ranges import brief
from jfreq.types import Array, Batch, Embedding, Features, InputError, PyTree, SignalSpec, TokenGrid


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


def load_encoder(path: str | Path) -> Encoder:
    """Loads an :class:`Encoder` from a bundle or a run folder.

    Raises:
      InputError: as :func:`jfreq.export.bundle.load_trained`.
    """
    experiment, params = load_trained(path)
    cfg = experiment.method
    return Encoder(
        cfg,
        params,
        signals=cfg.signals,
        gaps=cfg.allows_gaps,
        labels=cfg.labels,
        multi_label=cfg.multi_label,
        scores=cfg.scores,
    )


class Encoder:
    """A frozen encoder: ``encoder(wave, rate) -> Embedding``.

    ``sample_rate`` (Hz, first modality), ``clip_size``, ``frame_size``, ``hop_ms`` and ``signals``
    describe it. The embedding of a recording does not depend on the others in its batch. With
    ``gaps`` samples may be NaN: a modality that is NaN somewhere in a window, or zero throughout,
    is absent there.

    An encoder that was trained with labels names its classes in ``labels`` and has
    :meth:`predict`; with ``multi_label`` a recording may have several of them.
    """

    def __init__(
        self,
        method: Method,
        params: PyTree,
        *,
        signals: Sequence[SignalSpec],
        gaps: bool = False,
        labels: Sequence[str] = (),
        multi_label: bool = False,
        scores: Literal["softmax", "sigmoid"] = "softmax",
    ):
        self.signals = tuple(signals)
        self.gaps = gaps
        self.labels = tuple(labels)
        self.multi_label = multi_label
        self._scores = scores
        rate = self.signals[0].rate
        self.sample_rate: int | float = int(rate) if float(rate).is_integer() else rate
        shapes = encoder_shapes(method, self.signals, params)
        self.grid = grid_of_window(shapes.grid, self.signals[0])
        self.clip_size: int = shapes.clip.shape[-1]
        self.frame_size: int = shapes.tokens.shape[-1]
        self.hop_ms = 1000.0 * self.grid.hop / rate
        self._windowing = choose_windowing(self.grid, self.signals)
        self._params = jax.device_put(params)
        self._encode = jax.jit(lambda params, batch: encode_frames(method, params, batch))

    def __call__(
        self,
        wave: Any,
        rate: float | Mapping[str, float] | None = None,
        *,
        batch: int = 8,
    ) -> Embedding:
        """Embeds one recording or a list of recordings, each of at least one sample.

        Args:
          wave: ``[t]`` or ``[t c]``, ``[b t c]``, or a list of ``[t]`` or ``[t c]`` of different
            lengths; float in [-1, 1] or signed integer PCM. For several modalities a dict of such
            arrays, or a list of dicts.
          rate: Hz of ``wave``, by modality where they differ; None where it is that of the model.
          batch: windows that are computed at once, in one compiled shape.

        Returns:
          ``clip`` ``[b clip_size]`` and ``frames`` ``[b t frame_size]`` (zero beyond ``valid``),
          both float32, ``valid`` ``[b]`` int64, ``times_ms`` ``[t]`` float64, and ``logits``
          ``[b classes]`` float32, or None for an encoder that was trained without labels. The clip
          vector and the logits of several windows are means weighted by valid frames; an absent
          modality counts in them as the zeros that the method returns for it.

        Raises:
          InputError: for signals that are empty, not finite, or of another shape or name.
        """
        items = enumerate(_listed(wave))
        return self.encode([self.clip(item, rate, f"recording {i}") for i, item in items], batch)

    def predict(
        self,
        wave: Any,
        rate: float | Mapping[str, float] | None = None,
        *,
        batch: int = 8,
    ) -> np.ndarray:
        """Probabilities of the classes; takes the arguments of a call.

        Returns:
          ``[b classes]`` float32, in the order of ``labels``: the softmax of the logits, or their
          sigmoid where the classes were trained independently of each other.

        Raises:
          InputError: as a call, and for an encoder that was trained without labels.
        """
        self.check_classes()
        return self.probabilities(self(wave, rate, batch=batch).logits)

    def check_classes(self, where: str = "encoder") -> None:
        """Raises ``InputError`` for an encoder without classes."""
        if not self.labels:
            raise InputError(
                f"{where}: was trained without labels and has no classes to predict; fine-tune it "
                "first (`jfreq finetune RUN --data SHARDS --workdir RUN2`)"
            )

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Float32 probabilities of logits ``[... classes]``, in the same shape."""
        from scipy.special import expit, softmax

        z = logits.astype(np.float64)
        return (expit(z) if self._scores == "sigmoid" else softmax(z, axis=-1)).astype(np.float32)

    def encode(self, clips: Sequence[Clip], batch: int = 8) -> Embedding:
        """Embeds recordings that :meth:`clip` returned, as a call does."""
        if not clips:
            raise InputError("nothing to embed: the list of recordings is empty")
        means = [RecordingMean() for _ in clips]
        frames: list[list[np.ndarray]] = [[] for _ in clips]
        for window in self.windows(([clip] for clip in clips), batch):
            if isinstance(window, FailedRecording):
                raise window.error
            means[window.recording].add(window)
            frames[window.recording].append(window.frames)
        return self._stack(means, [np.concatenate(parts) for parts in frames])

    def windows(
        self, recordings: Iterable[Iterable[Clip]], batch: int = 8
    ) -> Iterator[WindowOutput | FailedRecording]:
        """The outputs of all windows, in order, while the samples are read.

        Args:
          recordings: each an iterable of blocks that follow each other; several modalities come
            as a single block.
          batch: windows that are computed at once, also of different recordings. Two batches are
            in memory at a time.

        Yields:
          An output for each window. A recording whose blocks raise ``InputError`` ends with a
          :class:`FailedRecording`.
        """
        if batch < 1:
            raise InputError(f"batch: must be 1 or more, got {batch}")
        running: Iterator[WindowOutput | FailedRecording] = iter(())
        queue: list[tuple[int, InputWindow | InputError]] = []
        rows, used = self._empty_batch(batch), 0
        first = True
        for recording, window in self._cut(recordings):
            if isinstance(window, InputWindow):
                window = _put(rows, used, window)
                used += 1
            queue.append((recording, window))
            if used == batch:
                # The device computes this batch while the outputs of the one before are read.
                started = self._read(self._encode(self._params, rows), queue)
                yield from running
                running, first = started, False
                queue, rows, used = [], self._empty_batch(batch), 0
        if first and used == 1:
            rows = {name: x[:1] for name, x in rows.items()}
        started = self._read(self._encode(self._params, rows) if used else None, queue)
        yield from running
        yield from started

    def _cut(
        self, recordings: Iterable[Iterable[Clip]]
    ) -> Iterator[tuple[int, InputWindow | InputError]]:
        for i, blocks in enumerate(recordings):
            try:
                for window in cut_windows(blocks, self.signals, self.grid, self._windowing):
                    yield i, window
            except InputError as error:
                yield i, error

    def _empty_batch(self, size: int) -> dict[str, np.ndarray]:
        rows = {s.name: np.zeros((size, s.samples, s.channels), np.float32) for s in self.signals}
        return rows | {"length": np.full(size, self.signals[0].samples, np.int32)}

    def _read(
        self, outputs: Any, queue: list[tuple[int, InputWindow | InputError]]
    ) -> Iterator[WindowOutput | FailedRecording]:
        """Waits for the outputs of a batch (None: there is none) when it is iterated over."""
        values = iter(())
        if outputs is not None:
            clip, frames, valid, logits = jax.device_get(outputs)
            values = zip(clip, frames, valid, [None] * len(clip) if logits is None else logits)
        rate = self.signals[0].rate
        for recording, window in queue:
            if isinstance(window, InputError):
                yield FailedRecording(recording, window)
                continue
            clip, frames, valid, logits = next(values)
            valid = int(valid)
            windowing = None if window.last else self._windowing
            count = valid if windowing is None else windowing.tokens
            yield WindowOutput(
                recording,
                clip,
                frames[:count],
                logits,
                min(count, valid),
                window.start / rate,
                window.end / rate,
                window.last,
            )

    def _stack(self, means: Sequence[RecordingMean], frames: Sequence[np.ndarray]) -> Embedding:
        """Recordings of different lengths as one embedding, padded with zeros."""
        valid = np.array([len(x) for x in frames], np.int64)
        length = max(1, int(valid.max()))
        padded = np.zeros((len(means), length, self.frame_size), np.float32)
        for row, x in zip(padded, frames):
            row[: len(x)] = x
        logits = [mean.logits for mean in means if mean.logits is not None]
        return Embedding(
            np.stack([mean.clip for mean in means]).astype(np.float32),
            padded,
            valid,
            self.times_ms(length),
            np.stack(logits) if logits else None,
        )

    def times_ms(self, count: int) -> np.ndarray:
        """Centres of the first ``count`` frames in milliseconds, ``[count]`` float64."""
        # A product and not a running sum of rounded hops, which would drift.
        centres = self.grid.first + np.arange(count) * np.float64(self.grid.hop)
        return centres * 1000.0 / self.signals[0].rate

    def clip(
        self, item: Any, rate: float | Mapping[str, float] | None = None, where: str = "recording"
    ) -> Clip:
        """Checks, scales and resamples one recording.

        Args:
          item: ``[t]`` or ``[t c]``, or a dict of such arrays by modality.
          rate: Hz of ``item``, as in a call.
          where: begins the messages.

        Raises:
          InputError: as a call.
        """
        names = [spec.name for spec in self.signals]
        if not isinstance(item, Mapping):
            if len(names) > 1:
                raise InputError(
                    f"{where}: the encoder reads several signals; give a dict with the arrays "
                    f"{', '.join(names)}"
                )
            item = {names[0]: item}
        if set(item) != set(names):
            raise InputError(
                f"{where}: has the signals {brief(', '.join(item))}; expected {', '.join(names)}"
            )
        rates = rate if isinstance(rate, Mapping) else dict.fromkeys(names, rate)
        clip = {}
        for spec in self.signals:
            hertz, here = rates.get(spec.name), f"{where}, {spec.name}"
            clip[spec.name] = as_signal(
                item[spec.name], spec, rate=hertz, where=here, gaps=self.gaps
            )
        return equal_durations(clip, self.signals, slack=self.grid.hop, where=where)


def _put(rows: dict[str, np.ndarray], row: int, window: InputWindow) -> InputWindow:
    """Copies the samples of a window into the batch and returns the window without them."""
    for name, x in window.signals.items():
        rows[name][row, : len(x)] = x
    rows["length"][row] = window.length
    return window._replace(signals={})


def encode_frames(
    method: Method, params: PyTree, batch: Batch
) -> tuple[Array, Array, Array, Array | None]:
    """Encodes a batch: :func:`pool_frames`, and logits ``[b classes]`` where there are any."""
    features = method.encode(params, batch)
    return *pool_frames(features), features.logits


def pool_frames(features: Features) -> tuple[Array, Array, Array]:
    """Averages valid tokens over frequency.

    Returns:
      ``clip`` ``[b d]`` and ``frames`` ``[b t d]`` float32, and ``valid`` ``[b]`` int32, the count
      of valid frames.
    """
    tokens = by_time(features.tokens, features.grid)
    valid = by_time(features.valid, features.grid)
    weight = valid[..., None].astype(tokens.dtype)
    frames = (tokens * weight).sum(2) / jnp.maximum(weight.sum(2), 1)
    return (
        features.clip.astype(jnp.float32),
        frames.astype(jnp.float32),
        valid.any(2).sum(1),
    )


def by_time(x: Array, grid: TokenGrid) -> Array:
    """Unfolds a flat token axis: ``[b n ...] -> [b time freq ...]`` in either order."""
    x = x.reshape(x.shape[0], *grid.shape, *x.shape[2:])
    return jnp.swapaxes(x, 1, 2) if grid.order == "freq_major" else x


def _listed(wave: Any) -> list[Any]:
    """The recordings of ``wave`` as a list, also where it is a single one."""
    if isinstance(wave, Mapping):
        return [wave]
    if isinstance(wave, list | tuple):
        return [wave] if wave and np.isscalar(wave[0]) else list(wave)
    return list(wave) if np.ndim(wave) == 3 else [wave]
