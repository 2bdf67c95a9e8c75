"""Embeds signals of any length and rate with a frozen encoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jfreq.encoder.batches import fast_batch_size, in_batches
from jfreq.encoder.outputs import FailedRecording, Joiner, RecordingMean, WindowOutput
from jfreq.encoder.resampling import Rate, as_signal, check_signal, rates_by_signal
from jfreq.encoder.stream import Stream, say_step
from jfreq.encoder.windowing import (
    Clip,
    InputWindow,
    cut_windows,
    equal_durations,
    plan_windows,
)
from jfreq.export.bundle import encoder_shapes, load_trained
from jfreq.kernels import cpu
from jfreq.method import Method, encode
from jfreq.ranges import brief
from jfreq.types import Array, Batch, Embedding, Features, InputError, PyTree, SignalSpec, TokenGrid

EMPTY = "nothing to embed: the list of recordings is empty"


def load_encoder(
    path: str | Path, frame_ms: float | None = None, step: int | None = None
) -> Encoder:
    """Loads an :class:`Encoder` from a bundle or a run folder.

    Args:
      path: the folder.
      frame_ms: the longest time between two frames, in milliseconds, where those of the tokens lie
        too far apart; see :class:`Encoder`. Warns on the logger ``jfreq`` which step is taken where
        it is not exactly this.
      step: of a run, the checkpoint of this step; None: what the run ends in.

    Raises:
      InputError: as :func:`jfreq.export.bundle.load_trained`, and for a ``frame_ms`` that is not
        positive, above the hop of the tokens, or shorter than a sample.
    """
    trained = load_trained(path, step=step)
    cfg = trained.experiment.method
    encoder = Encoder(
        cfg,
        trained.params,
        signals=cfg.signals,
        frame_ms=frame_ms,
        gaps=cfg.allows_gaps,
        labels=cfg.labels,
        multi_label=cfg.multi_label,
        scores=cfg.scores,
    )
    if frame_ms is not None:
        say_step("frame_ms", frame_ms, encoder.hop_ms, "a whole part of the token hop")
    return encoder


class Encoder:
    """A frozen encoder: ``encoder(wave, rate) -> Embedding``.

    ``sample_rate`` (Hz, first modality), ``clip_size``, ``frame_size``, ``hop_ms`` and ``signals``
    describe it. The embedding of a recording does not depend on the others in its batch. With
    ``gaps`` samples may be NaN: a modality that is NaN somewhere in a window, or zero throughout,
    is absent there.

    With ``frame_ms`` frames lie closer together than tokens. Windows are then also encoded shifted
    by k n-ths of the token hop, and frame ``j n + k`` is frame ``j`` of the recording without the
    samples before shift ``k``. That costs n times as much. Frames begin with the first token and
    end with the last that is centred inside the recording. The clip vector and the logits are those
    of the unshifted windows.

    An encoder that was trained with labels names its classes in ``labels`` and has
    :meth:`predict`; with ``multi_label`` a recording may have several of them.
    """

    def __init__(
        self,
        method: Method,
        params: PyTree,
        *,
        signals: Sequence[SignalSpec],
        frame_ms: float | None = None,
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
        self.plan = plan_windows(shapes.grid, self.signals, frame_ms)
        self.shifts = len(self.plan.offsets)
        """How often each window is encoded."""
        tokens = self.plan.grid
        self.grid = dataclasses.replace(
            tokens, time=tokens.time * self.shifts, hop=tokens.hop / self.shifts
        )
        """The frames of a window, and where they lie on the first modality."""
        self.clip_size: int = shapes.clip.shape[-1]
        self.frame_size: int = shapes.tokens.shape[-1]
        self.hop_ms = 1000.0 * self.grid.hop / rate
        self.batch_size = fast_batch_size(tokens.size, self.frame_size)
        """How many windows are computed at once where a call does not say."""
        self._params = jax.device_put(params)
        self._encode = jax.jit(
            lambda params, batch: encode_frames(method, params, batch),
            compiler_options=cpu.compiler_options(),
        )

    def __call__(
        self,
        wave: Any,
        rate: Rate = None,
        *,
        batch_size: int | None = None,
    ) -> Embedding:
        """Embeds one recording or a list of recordings, each of at least one sample.

        Args:
          wave: ``[t]`` or ``[t c]``, ``[b t c]``, or a list of ``[t]`` or ``[t c]`` of different
            lengths; float in [-1, 1] or signed integer PCM. For several modalities a dict of such
            arrays, or a list of dicts.
          rate: Hz of ``wave``, by modality where they differ; None where it is that of the model.
          batch_size: windows that are computed at once, in one compiled shape; None: as many as
            run fast on this machine.

        Returns:
          ``clip`` ``[b clip_size]`` and ``frames`` ``[b t frame_size]`` (zero beyond ``valid``),
          both float32, ``valid`` ``[b]`` int64, ``times_ms`` ``[t]`` float64, and ``logits``
          ``[b classes]`` float32, or None for an encoder that was trained without labels. The clip
          vector and the logits of several windows are means weighted by valid frames; an absent
          modality counts in them as the zeros that the method returns for it.

        Raises:
          InputError: for signals that are empty, not finite, or of another shape or name, and for
            rates that are impossible or more than 1,000 times above or below those of the model.
        """
        clips = [self.clip(x, rate, f"recording {i}") for i, x in enumerate(_listed(wave))]
        if not clips:
            raise InputError(EMPTY)
        means = [RecordingMean() for _ in clips]
        frames: list[list[np.ndarray]] = [[] for _ in clips]
        for window in self.windows(([clip] for clip in clips), batch_size):
            if isinstance(window, FailedRecording):
                raise window.error
            means[window.recording].add(window)
            frames[window.recording].append(window.frames)
        return self._stack(means, [np.concatenate(parts) for parts in frames])

    def encode(
        self,
        waves: Any,
        rate: Rate = None,
        *,
        batch_size: int | None = None,
        normalize: bool = False,
    ) -> np.ndarray:
        """Clip vectors of recordings of any lengths.

        Frames are not kept, and recordings are resampled and cut one after the other: memory does
        not grow with their number where ``waves`` is an iterator that reads them.

        Args:
          waves: as ``wave`` of a call, or an iterator over recordings, each as in a list.
          rate: as in a call.
          batch_size: as in a call; windows of different recordings share a batch.
          normalize: divide each vector by its Euclidean norm; one of norm zero stays zero.

        Returns:
          ``[n clip_size]`` float32, in the order of ``waves``: ``clip`` of a call.

        Raises:
          InputError: as a call. Recordings that are already in memory are all checked first.
        """
        if not isinstance(waves, Iterator):
            waves = _listed(waves)
            for i, wave in enumerate(waves):
                for x, spec, hertz in self.by_signal(wave, rate, f"recording {i}"):
                    here = f"recording {i}, {spec.name}"
                    check_signal(x, spec, rate=hertz, where=here, gaps=self.gaps)
        clips = ([self.clip(x, rate, f"recording {i}")] for i, x in enumerate(waves))
        mean, vectors = RecordingMean(), []
        for window in self.windows(clips, batch_size):
            if isinstance(window, FailedRecording):
                raise window.error
            mean.add(window)
            if window.last:
                vectors.append(mean.clip)
                mean = RecordingMean()
        if not vectors:
            raise InputError(EMPTY)
        out = np.stack(vectors).astype(np.float32)
        if not normalize:
            return out
        norm = np.linalg.norm(out, axis=1, keepdims=True)
        return out / np.where(norm > 0, norm, 1)

    def predict(
        self,
        wave: Any,
        rate: Rate = None,
        *,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Probabilities of the classes; takes the arguments of a call.

        Returns:
          ``[b classes]`` float32, in the order of ``labels``: the softmax of the logits, or their
          sigmoid where the classes were trained independently of each other.

        Raises:
          InputError: as a call, and for an encoder that was trained without labels.
        """
        self.check_classes()
        return self.probabilities(self(wave, rate, batch_size=batch_size).logits)

    def stream(self, rate: Rate = None, *, every_ms: float | None = None) -> Stream:
        """Starts to embed a recording whose samples are still to come.

        Args:
          rate: Hz of the samples, as in a call.
          every_ms: encode the latest window again each so many milliseconds, instead of waiting
            until a window is full; see :class:`jfreq.encoder.stream.Stream`. Warns on the logger
            ``jfreq`` which step is taken where it is not exactly this.

        Returns:
          The stream; any number of them share the compiled program.

        Raises:
          InputError: for an impossible rate, and an ``every_ms`` that is shorter than a token hop
            or too long for frames to be without gaps.
        """
        return Stream(self, rate, every_ms)

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

    def windows(
        self, recordings: Iterable[Iterable[Clip]], batch_size: int | None = None
    ) -> Iterator[WindowOutput | FailedRecording]:
        """The outputs of all windows, in order, while the samples are read.

        Args:
          recordings: each an iterable of blocks that follow each other; several modalities come
            as a single block.
          batch_size: windows that are computed at once, also of different recordings. Two batches
            are in memory at a time.

        Yields:
          An output for each window that is not shifted. A recording whose blocks raise
          ``InputError`` ends with a :class:`FailedRecording`.
        """
        current, joiner = -1, Joiner(self.plan)
        cut = self._cut(recordings)
        size = self.batch_size if batch_size is None else batch_size
        for i, window, outputs in in_batches(cut, self.start, self.signals, size):
            if i != current:
                current, joiner = i, Joiner(self.plan)
            if isinstance(window, InputError):
                yield FailedRecording(i, window)
            elif (joined := joiner.add(i, window, outputs)) is not None:
                yield joined

    def _cut(
        self, recordings: Iterable[Iterable[Clip]]
    ) -> Iterator[tuple[int, InputWindow | InputError]]:
        for i, blocks in enumerate(recordings):
            try:
                for window in cut_windows(blocks, self.plan):
                    yield i, window
            except InputError as error:
                yield i, error

    def start(self, batch: dict[str, np.ndarray]) -> Any:
        """Starts to compute a batch of windows; see :func:`encode_frames`."""
        return self._encode(self._params, batch)

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

    def times_ms(self, count: int, start: int = 0) -> np.ndarray:
        """Centres of ``count`` frames from ``start`` on in milliseconds, ``[count]`` float64."""
        # A product and not a running sum of rounded hops, which would drift.
        centres = self.grid.first + (start + np.arange(count)) * np.float64(self.grid.hop)
        return centres * 1000.0 / self.signals[0].rate

    def clip(self, item: Any, rate: Rate = None, where: str = "recording") -> Clip:
        """Checks, scales and resamples one recording.

        Args:
          item: ``[t]`` or ``[t c]``, or a dict of such arrays by modality.
          rate: Hz of ``item``, as in a call.
          where: begins the messages.

        Raises:
          InputError: as a call.
        """
        clip = {
            spec.name: as_signal(x, spec, rate=hertz, where=f"{where}, {spec.name}", gaps=self.gaps)
            for x, spec, hertz in self.by_signal(item, rate, where)
        }
        try:
            return equal_durations(clip, self.signals, slack=self.plan.grid.hop)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None

    def by_signal(
        self, item: Any, rate: Rate, where: str
    ) -> list[tuple[Any, SignalSpec, float | None]]:
        """The samples of each signal that the encoder reads, with their rate."""
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
        rates = rates_by_signal(rate, self.signals)
        return [(item[s.name], s, rates[s.name]) for s in self.signals]


def encode_frames(
    method: Method, params: PyTree, batch: Batch
) -> tuple[Array, Array, Array, Array | None]:
    """Encodes a batch: :func:`pool_frames`, and logits ``[b classes]`` where there are any."""
    features = encode(method, params, batch)
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
