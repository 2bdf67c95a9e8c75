"""Frozen embeddings of signals of any length and rate: numpy and jax, nothing of the trainer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jfreq.encoder.signals import as_signal, equal_durations
from jfreq.encoder.windowing import Clip, Piece, cut, cut_window, grid_of_window
from jfreq.export.bundle import encoder_shapes, load_trained
from jfreq.method import Method
from jfreq.ranges import brief
from jfreq.types import Array, Batch, Embedding, Features, InputError, PyTree, SignalSpec, TokenGrid


class Part(NamedTuple):
    """What one window gave, or why the recording could not be read on.

    ``frames`` ``[t frame_size]`` are those that it adds to the recording, of which ``weight``
    are valid; ``clip`` ``[clip_size]`` and ``logits`` ``[classes]`` are of the whole window.
    ``start`` and ``end`` in seconds of the recording are what the frames stand for; ``last``
    ends the recording.
    """

    recording: int
    clip: np.ndarray
    frames: np.ndarray
    logits: np.ndarray | None
    weight: int
    start: float
    end: float
    last: bool


class Failed(NamedTuple):
    """A recording that could not be read to its end."""

    recording: int
    error: InputError


class Whole:
    """One recording, added up while its windows come: their means weighted by valid frames.

    Windows without any signal weigh nothing; a single window is taken as it is.
    """

    def __init__(self):
        self._weight, self._clip, self._logits = 0, np.zeros(()), np.zeros(())
        self._only: Part | None = None
        self._count = 0
        self.end = 0.0

    def add(self, part: Part) -> None:
        self._only = part
        self._count += 1
        self._weight += part.weight
        self._clip = self._clip + part.weight * part.clip.astype(np.float64)
        if part.logits is not None:
            self._logits = self._logits + part.weight * part.logits.astype(np.float64)
        self.end = part.end

    @property
    def clip(self) -> np.ndarray:
        """``[clip_size]`` float32."""
        assert self._only is not None
        return self._only.clip if self._count == 1 else self._mean(self._clip)

    @property
    def logits(self) -> np.ndarray | None:
        """``[classes]`` float32 of a supervised encoder."""
        assert self._only is not None
        if self._only.logits is None or self._count == 1:
            return self._only.logits
        return self._mean(self._logits)

    def _mean(self, total: np.ndarray) -> np.ndarray:
        return (total / max(1, self._weight)).astype(np.float32)


def load_encoder(path: str | Path) -> Encoder:
    """An :class:`Encoder` from a bundle or run folder; ``InputError`` where it is neither."""
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

    ``sample_rate`` (Hz, first modality), ``clip_size``, ``frame_size``, ``hop_ms`` and
    ``signals`` describe it. A recording is embedded the same alone or in company. With ``gaps``
    samples may be NaN: a modality that is NaN somewhere in a window, or all zero, is absent there.

    One that was trained with labels also names its classes, ``labels``, and has :meth:`predict`;
    with ``multi_label`` a recording may have several of them.
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
        self._window = cut_window(self.grid, self.signals)
        self._params = jax.device_put(params)
        self._encode = jax.jit(lambda params, batch: encode_frames(method, params, batch))

    def __call__(
        self,
        wave: Any,
        rate: float | Mapping[str, float] | None = None,
        *,
        batch: int = 8,
    ) -> Embedding:
        """Embeds one recording or a list of them, of any length from one sample up.

        ``wave``: ``[t]`` or ``[t c]``, ``[b t c]``, or a list of ``[t]``/``[t c]`` of different
        lengths; float in [-1, 1] or signed integer PCM. For several modalities a dict of such
        arrays, or a list of dicts. ``rate`` in Hz (the model's own where None), by modality
        where they differ. ``batch`` windows are computed at once, in one compiled shape.

        Returns ``clip`` ``[b clip_size]``, ``frames`` ``[b t frame_size]`` (zero beyond
        ``valid``), ``valid`` ``[b]`` int64 and ``times_ms`` ``[t]`` float64. The clip vector is
        the method's own; over several windows it is their mean weighted by valid frames, in which
        an absent modality counts as the zeros that the method gives. ``logits`` ``[b classes]``
        are averaged in the same way; None of an encoder that was trained without labels.

        Raises ``InputError`` for empty, non-finite or wrongly shaped signals.
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
        """Probabilities ``[b classes]`` of the classes ``labels``, of what a call takes.

        The softmax of the logits, or their sigmoid where the classes were trained one by one;
        over several windows of the logits' mean, weighted by valid frames. ``InputError`` for an
        encoder that was trained without labels.
        """
        self.check_classes()
        return self.probabilities(self(wave, rate, batch=batch).logits)

    def check_classes(self, where: str = "encoder") -> None:
        """``InputError`` unless the encoder tells classes apart."""
        if not self.labels:
            raise InputError(
                f"{where}: was trained without labels and tells no classes apart; fine-tune it "
                "first (`jfreq finetune RUN --data SHARDS --workdir RUN2`)"
            )

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """``[... classes]`` float32 of logits of the same shape."""
        z = logits.astype(np.float64)
        if self._scores == "sigmoid":
            return (0.5 * (1 + np.tanh(0.5 * z))).astype(np.float32)
        e = np.exp(z - z.max(axis=-1, keepdims=True))
        return (e / e.sum(axis=-1, keepdims=True)).astype(np.float32)

    def encode(self, clips: Sequence[Clip], batch: int = 8) -> Embedding:
        """As a call, of recordings that :meth:`clip` returned."""
        if not clips:
            raise InputError("nothing to embed: the list of recordings is empty")
        whole = [Whole() for _ in clips]
        frames: list[list[np.ndarray]] = [[] for _ in clips]
        for part in self.parts(([clip] for clip in clips), batch):
            if isinstance(part, Failed):
                raise part.error
            whole[part.recording].add(part)
            frames[part.recording].append(part.frames)
        return self._stack(whole, [np.concatenate(parts) for parts in frames])

    def parts(
        self, recordings: Iterable[Iterable[Clip]], batch: int = 8
    ) -> Iterator[Part | Failed]:
        """What each window of each recording gives, in order, while the samples come.

        A recording is an iterable of blocks that follow each other (several modalities: a single
        block). One that raises ``InputError`` ends with :class:`Failed`. ``batch`` windows are
        computed at once, those of several recordings together; two batches are held at a time.
        """
        if batch < 1:
            raise InputError(f"batch: must be 1 or more, got {batch}")
        running: Iterator[Part | Failed] = iter(())
        told: list[tuple[int, Piece | InputError]] = []
        rows, used = self._rows(batch), 0
        first = True
        for entry in self._pieces(recordings):
            told.append((entry[0], self._put(rows, used, entry[1])))
            used += isinstance(entry[1], Piece)
            if used == batch:
                started = self._start(rows, told)
                yield from running
                running, first = started, False
                told, (rows, used) = [], (self._rows(batch), 0)
        if first and used == 1:
            rows = {name: x[:1] for name, x in rows.items()}
        started = self._start(rows, told) if used else self._read((), told)
        yield from running
        yield from started

    def _pieces(
        self, recordings: Iterable[Iterable[Clip]]
    ) -> Iterator[tuple[int, Piece | InputError]]:
        for i, blocks in enumerate(recordings):
            try:
                for piece in cut(blocks, self.signals, self.grid, self._window):
                    yield i, piece
            except InputError as error:
                yield i, error

    def _rows(self, size: int) -> dict[str, np.ndarray]:
        """A batch without any signal."""
        rows = {s.name: np.zeros((size, s.samples, s.channels), np.float32) for s in self.signals}
        return rows | {"length": np.full(size, self.signals[0].samples, np.int32)}

    def _put(
        self, rows: dict[str, np.ndarray], row: int, piece: Piece | InputError
    ) -> Piece | InputError:
        """Copies the samples of a window into the batch; the rest of what is known of it."""
        if isinstance(piece, InputError):
            return piece
        for name, x in piece.signals.items():
            rows[name][row, : len(x)] = x
        rows["length"][row] = piece.length
        return piece._replace(signals={})

    def _start(
        self, rows: dict[str, np.ndarray], told: list[tuple[int, Piece | InputError]]
    ) -> Iterator[Part | Failed]:
        """Sends a batch off; what comes back is waited for when it is read."""
        return self._read(self._encode(self._params, rows), told)

    def _read(
        self, outputs: Any, told: list[tuple[int, Piece | InputError]]
    ) -> Iterator[Part | Failed]:
        values = iter(())
        if outputs:
            clip, frames, valid, logits = jax.device_get(outputs)
            values = zip(clip, frames, valid, [None] * len(clip) if logits is None else logits)
        rate = self.signals[0].rate
        for recording, piece in told:
            if isinstance(piece, InputError):
                yield Failed(recording, piece)
                continue
            clip, frames, valid, logits = next(values)
            kept = int(valid) if piece.last or self._window is None else self._window.tokens
            yield Part(
                recording,
                clip,
                frames[:kept],
                logits,
                min(kept, int(valid)),
                piece.start / rate,
                piece.end / rate,
                piece.last,
            )

    def _stack(self, whole: Sequence[Whole], frames: Sequence[np.ndarray]) -> Embedding:
        """Recordings of different lengths as one embedding, padded with zeros."""
        valid = np.array([len(part) for part in frames], np.int64)
        length = max(1, int(valid.max()))
        padded = np.zeros((len(whole), length, self.frame_size), np.float32)
        for row, part in zip(padded, frames):
            row[: len(part)] = part
        logits = [one.logits for one in whole if one.logits is not None]
        return Embedding(
            np.stack([one.clip for one in whole]).astype(np.float32),
            padded,
            valid,
            self.times_ms(length),
            np.stack(logits) if logits else None,
        )

    def times_ms(self, count: int) -> np.ndarray:
        """Centres of the first ``count`` frames of a recording, float64."""
        # From the index, never by adding up a rounded hop: no drift however long it gets.
        centres = self.grid.first + np.arange(count) * np.float64(self.grid.hop)
        return centres * 1000.0 / self.signals[0].rate

    def clip(
        self, item: Any, rate: float | Mapping[str, float] | None = None, where: str = "recording"
    ) -> Clip:
        """One recording checked, scaled and resampled; ``InputError`` names ``where``."""
        names = [spec.name for spec in self.signals]
        if not isinstance(item, Mapping):
            if len(names) > 1:
                raise InputError(f"{where}: give a dict of the signals {', '.join(names)}")
            item = {names[0]: item}
        if set(item) != set(names):
            raise InputError(
                f"{where}: has signals {brief(', '.join(item))}; wanted {', '.join(names)}"
            )
        rates = rate if isinstance(rate, Mapping) else dict.fromkeys(names, rate)
        clip = {}
        for spec in self.signals:
            hertz, here = rates.get(spec.name), f"{where}, {spec.name}"
            clip[spec.name] = as_signal(
                item[spec.name], spec, rate=hertz, where=here, gaps=self.gaps
            )
        return equal_durations(clip, self.signals, slack=self.grid.hop, where=where)


def encode_frames(
    method: Method, params: PyTree, batch: Batch
) -> tuple[Array, Array, Array, Array | None]:
    """:func:`pool_frames` of the encoded batch, and its logits where there are any."""
    features = method.encode(params, batch)
    return *pool_frames(features), features.logits


def pool_frames(features: Features) -> tuple[Array, Array, Array]:
    """``(clip [b d], frames [b t d], valid [b])``: tokens averaged over the frequency rows."""
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
    """One recording or several, always as a list."""
    if isinstance(wave, Mapping):
        return [wave]
    if isinstance(wave, list | tuple):
        return [wave] if wave and np.isscalar(wave[0]) else list(wave)
    return list(wave) if np.ndim(wave) == 3 else [wave]
