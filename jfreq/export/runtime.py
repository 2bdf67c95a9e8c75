"""Frozen embeddings of signals of any length and rate: numpy and jax, nothing of the trainer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jfreq.export.bundle import encoder_shapes, load_trained
from jfreq.methods.base import Method
from jfreq.types import Array, Batch, Embedding, Features, Grid, InputError, PyTree, SignalSpec

Clip = dict[str, np.ndarray]
"""One recording: ``[t c]`` float32 by modality, at the model's rates; NaN where a sample is
missing."""


class Window(NamedTuple):
    """How recordings longer than the model's window are cut.

    Each window but the last gives its first ``tokens`` frames and the next one starts
    ``steps`` samples later (one count per modality), exactly ``tokens`` hops. It is read up to
    ``length`` samples of the first modality, short of the centre of the token after those.
    """

    tokens: int
    steps: tuple[int, ...]
    length: int


def load_encoder(path: str | Path) -> Encoder:
    """An :class:`Encoder` from a bundle or run folder; ``InputError`` where it is neither."""
    from jfreq.methods import build

    experiment, params = load_trained(path)
    cfg = experiment.method
    return Encoder(build(cfg), params, signals=cfg.signals, gaps=cfg.allows_gaps)


class Encoder:
    """A frozen encoder: ``encoder(wave, rate) -> Embedding``.

    ``sample_rate`` (Hz, first modality), ``clip_size``, ``frame_size``, ``hop_ms`` and
    ``signals`` describe it. A recording is embedded the same alone or in company. With ``gaps``
    samples may be NaN: a modality that is NaN somewhere in a window, or all zero, is absent there.
    """

    def __init__(
        self, method: Method, params: PyTree, *, signals: Sequence[SignalSpec], gaps: bool = False
    ):
        self.signals = tuple(signals)
        self.gaps = gaps
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
        an absent modality counts as the zeros that the method gives.

        Raises ``InputError`` for empty, non-finite or wrongly shaped signals.
        """
        items = enumerate(_listed(wave))
        return self.encode([self.clip(item, rate, f"recording {i}") for i, item in items], batch)

    def encode(self, clips: Sequence[Clip], batch: int = 8) -> Embedding:
        """As a call, of recordings that :meth:`clip` returned."""
        if batch < 1:
            raise InputError(f"batch: must be 1 or more, got {batch}")
        if not clips:
            raise InputError("nothing to embed: the list of recordings is empty")
        counts = [self._windows(clip) for clip in clips]
        jobs = [(clip, j) for clip, count in zip(clips, counts) for j in range(count)]
        size = 1 if len(jobs) == 1 else batch
        outputs = [
            self._encode(self._params, self._batch(jobs[i : i + size], size))
            for i in range(0, len(jobs), size)
        ]
        parts = [np.concatenate(leaves) for leaves in zip(*jax.device_get(outputs))]
        ends = np.cumsum(counts)
        whole = [
            self._join(*(part[end - count : end] for part in parts))
            for end, count in zip(ends, counts)
        ]
        return self._stack(whole)

    def _windows(self, clip: Clip) -> int:
        """How many windows cover the recording, up to the last token centred inside it."""
        length = len(clip[self.signals[0].name])
        beyond = length - self.signals[0].samples
        if beyond <= 0:
            return 1
        if self._window is None:
            raise InputError(
                f"recordings over {self.signals[0].seconds:g} s cannot be cut: no whole number of "
                f"token hops ({self.grid.hop:g} samples) is a whole number of samples"
            )
        last = math.ceil(beyond / self._window.steps[0])
        return last + (length - last * self._window.steps[0] >= self.grid.first)

    def _batch(self, jobs: Sequence[tuple[Clip, int]], size: int) -> dict[str, np.ndarray]:
        """Windows ``(recording, number)`` as one batch of ``size`` rows, zeros where none is."""
        first = self.signals[0]
        window = self._window or Window(1, (0,) * len(self.signals), first.samples)
        batch: dict[str, np.ndarray] = {}
        for spec, step in zip(self.signals, window.steps):
            rows = np.zeros((size, spec.samples, spec.channels), np.float32)
            for row, (clip, j) in zip(rows, jobs):
                part = clip[spec.name][j * step : j * step + spec.samples]
                row[: len(part)] = part
            batch[spec.name] = rows
        lengths = np.full(size, first.samples, np.int32)
        for i, (clip, j) in enumerate(jobs):
            left = len(clip[first.name]) - j * window.steps[0]
            last = j + 1 == self._windows(clip)
            lengths[i] = min(first.samples, left) if last else window.length
        return batch | {"length": lengths}

    def _join(
        self, clip: np.ndarray, frames: np.ndarray, valid: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """One recording from its windows: ``clip [w d]``, ``frames [w t d]``, ``valid [w]``."""
        if len(clip) == 1:
            return clip[0], frames[0, : valid[0]]
        assert self._window is not None
        kept = np.append(np.full(len(clip) - 1, self._window.tokens), valid[-1])
        # Windows without any signal keep their place in time and have no weight.
        counts = np.minimum(kept, valid)
        weight = (counts / max(1, counts.sum()))[:, None]
        return (clip * weight).sum(axis=0), np.concatenate(
            [part[:n] for part, n in zip(frames, kept)]
        )

    def _stack(self, whole: Sequence[tuple[np.ndarray, np.ndarray]]) -> Embedding:
        """Recordings of different lengths as one embedding, padded with zeros."""
        valid = np.array([len(frames) for _, frames in whole], np.int64)
        length = max(1, int(valid.max()))
        frames = np.zeros((len(whole), length, self.frame_size), np.float32)
        for row, (_, part) in zip(frames, whole):
            row[: len(part)] = part
        clip = np.stack([clip for clip, _ in whole]).astype(np.float32)
        # From the index, never by adding up a rounded hop: no drift however long it gets.
        centres = self.grid.first + np.arange(length) * np.float64(self.grid.hop)
        return Embedding(clip, frames, valid, centres * 1000.0 / self.signals[0].rate)

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
            raise InputError(f"{where}: has signals {', '.join(item)}; wanted {', '.join(names)}")
        rates = rate if isinstance(rate, Mapping) else dict.fromkeys(names, rate)
        clip = {}
        for spec in self.signals:
            hertz, here = rates.get(spec.name), f"{where}, {spec.name}"
            clip[spec.name] = as_signal(
                item[spec.name], spec, rate=hertz, where=here, gaps=self.gaps
            )
        return _equal_durations(clip, self.signals, slack=self.grid.hop, where=where)


def encode_frames(method: Method, params: PyTree, batch: Batch) -> tuple[Array, Array, Array]:
    """:func:`pool_frames` of the encoded batch."""
    return pool_frames(method.encode(params, batch))


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


def by_time(x: Array, grid: Grid) -> Array:
    """Unfolds a flat token axis: ``[b n ...] -> [b time freq ...]`` in either order."""
    x = x.reshape(x.shape[0], *grid.shape, *x.shape[2:])
    return jnp.swapaxes(x, 1, 2) if grid.order == "freq_major" else x


def cut_window(grid: Grid, signals: Sequence[SignalSpec]) -> Window | None:
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


def grid_of_window(grid: Grid, signal: SignalSpec) -> Grid:
    """The grid, with a single token per window (no lattice) spread over the whole window."""
    if grid.time > 1 or grid.hop > 1:
        return grid
    return Grid(1, grid.freq, grid.order, first=signal.samples / 2, hop=float(signal.samples))


def _reach(grid: Grid) -> float:
    """Half a token in samples: the first token starts with the signal or is centred on it."""
    return max(grid.first, grid.hop / 2)


def _listed(wave: Any) -> list[Any]:
    """One recording or several, always as a list."""
    if isinstance(wave, Mapping):
        return [wave]
    if isinstance(wave, list | tuple):
        return [wave] if wave and np.isscalar(wave[0]) else list(wave)
    return list(wave) if np.ndim(wave) == 3 else [wave]


def as_signal(
    x: Any,
    spec: SignalSpec,
    *,
    rate: float | None = None,
    where: str = "signal",
    gaps: bool = False,
) -> np.ndarray:
    """``[t]`` or ``[t c]`` of any real dtype as ``[t c]`` float32 at the rate of ``spec``.

    Signed integers are PCM and divided by 2^(bits - 1). With ``gaps`` NaN may mark missing
    samples; they stay NaN. Raises ``InputError`` naming ``where``.
    """
    x = np.asarray(x)
    if x.dtype.kind not in "fi":
        raise InputError(f"{where}: wanted float or signed integer samples, got {x.dtype}")
    if x.ndim not in (1, 2) or x.size == 0:
        raise InputError(f"{where}: wanted samples [t] or [t, c], got shape {x.shape}")
    x = x[:, None] if x.ndim == 1 else x
    if x.shape[1] != spec.channels:
        raise InputError(
            f"{where}: {x.shape[1]} channels where the model reads {spec.channels}; the shape is "
            "[time, channels], and several recordings go in a list"
        )
    scale = 2.0 ** (8 * x.dtype.itemsize - 1) if x.dtype.kind == "i" else 1.0
    with np.errstate(over="ignore"):
        x = (x / scale).astype(np.float32)
    missing = np.isnan(x).any(1)
    if np.isinf(x).any() or (missing.any() and not gaps):
        raise InputError(f"{where}: holds NaN or infinite samples")
    if rate is None or not missing.any():
        return x if rate is None else _resample(x, rate, spec, where)
    return _resample_around(x, missing, rate, spec, where)


def _resample_around(
    x: np.ndarray, missing: np.ndarray, rate: float, spec: SignalSpec, where: str
) -> np.ndarray:
    """:func:`_resample` of a series with missing samples ``[t]``: bridged, and NaN again after."""
    known = np.flatnonzero(~missing)
    if len(known):
        places = np.arange(len(x))
        x = np.stack([np.interp(places, known, x[known, c]) for c in range(x.shape[1])], 1)
    y = _resample(np.nan_to_num(x).astype(np.float32), rate, spec, where)
    # A new sample is missing where either of the old ones beside it is.
    place = np.arange(len(y)) * (rate / spec.rate)
    beside = (np.clip(edge(place).astype(int), 0, len(x) - 1) for edge in (np.floor, np.ceil))
    y[np.logical_or(*(missing[index] for index in beside))] = np.nan
    return y


def _resample(x: np.ndarray, rate: float, spec: SignalSpec, where: str) -> np.ndarray:
    if not (np.isfinite(rate) and rate > 0):
        raise InputError(f"{where}: the rate must be a positive number of Hz, got {rate}")
    if rate == spec.rate:
        return x
    import soxr

    y = soxr.resample(x, rate, spec.rate)
    # Less than one output sample long: what is left is its level.
    return y if len(y) else x.mean(0, keepdims=True, dtype=np.float64).astype(np.float32)


def _equal_durations(
    clip: Clip, signals: Sequence[SignalSpec], *, slack: float, where: str
) -> Clip:
    """Cuts or zero-pads every modality to the first one's duration, by at most ``slack`` of it."""
    first = signals[0]
    equal = dict(clip)
    for spec in signals[1:]:
        x = clip[spec.name]
        wanted = max(1, round(len(clip[first.name]) * spec.rate / first.rate))
        if abs(len(x) - wanted) > max(1, slack * spec.rate / first.rate):
            raise InputError(
                f"{where}: {spec.name} lasts {len(x) / spec.rate:.3f} s and {first.name} "
                f"{len(clip[first.name]) / first.rate:.3f} s; cut them to the same time"
            )
        equal[spec.name] = np.pad(x, ((0, max(0, wanted - len(x))), (0, 0)))[:wanted]
    return equal
