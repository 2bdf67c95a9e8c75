"""What an encoder was trained on: clips to play, what is masked, and how it is reconstructed."""

from __future__ import annotations

import io
import wave
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jfreq.evaluate.probe_protocol import check_signals
from jfreq.method import Method, Streams
from jfreq.train.state import Trained
from jfreq.types import Batch, Reconstruction, SignalSpec

AUDIBLE_HZ = 3000
"""Lowest rate that browsers play; motion sensors lie below."""
AUDIO_BYTES = 900_000
"""For all players of a page together."""
MASKS = 512
"""Masks sampled for each clip when masked cells are counted."""


class Example(NamedTuple):
    """One clip: where from, its first ``seconds`` as WAV (None where it is no sound), slower
    signals as ``series`` ``[t c]`` by name with samples a second, its
    spectrogram ``[t f]`` (first channel) and, for a method that masks, what was ``masked``
    ``[t f]`` and its ``reconstruction`` ``[t f]``. ``explained`` is the fraction of the variance
    of masked cells that the reconstruction accounts for, without frames of silence and padding."""

    title: str
    wav: bytes | None
    seconds: float
    series: dict[str, tuple[np.ndarray, float]]
    spectrogram: np.ndarray | None
    masked: np.ndarray | None
    reconstruction: np.ndarray | None
    explained: float | None


class ExampleSet(NamedTuple):
    """Examples, and how often each cell ``[t f]`` was masked in ``masks`` masks (None without a
    mask). ``sensors``: names and bins of those that lie one above the other in these planes; none
    where a plane is one spectrogram."""

    examples: list[Example]
    fraction: np.ndarray | None
    masks: int
    sensors: tuple[tuple[str, int], ...] = ()


def collect_examples(
    trained: Trained, shards: Any, *, unseen: Sequence[int] = (), count: int = 4, seed: int = 0
) -> ExampleSet:
    """Examples from ``shards``, of different classes where there are labels, and of the folds
    ``unseen`` in training if there are any.

    Raises ``InputError`` where the shards lack a signal that the encoder reads.
    """
    cfg = trained.experiment.method
    check_signals(cfg.signals, shards)
    rows = _rows(shards, unseen, count, seed)
    read = shards.read(rows)
    batch = _window(read, cfg.signals)
    found, fraction = _reconstruct(cfg, trained.params, batch, seed)
    titles = _titles(shards, rows, read["label"])
    first = cfg.signals[0]
    examples = []
    for i, title in enumerate(titles):
        sound = read[first.name][i, : read["length"][i], 0]
        sound = sound[: int(AUDIO_BYTES * 3 / 4 / 2 / len(titles))]
        wav = wav_bytes(sound, first.rate) if first.rate >= AUDIBLE_HZ else None
        series = {
            s.name: (read[s.name][i, : int(read["length"][i] * s.rate / first.rate)], s.rate)
            for s in cfg.signals
            if s.rate < AUDIBLE_HZ
        }
        seconds = len(sound) / first.rate
        examples.append(Example(title, wav, seconds, series, *_planes(found, i)))
    masks = MASKS * len(titles) if fraction is not None else 0
    stacked = () if found is None else sensors(cfg)
    return ExampleSet(examples, fraction, masks, stacked)


def frame_seconds(cfg: Method) -> float | None:
    """Seconds from one spectrogram frame to the next, where the method has such frames."""
    return None if cfg.frame_hop is None else cfg.frame_hop / cfg.signals[0].rate


def sensors(cfg: Method) -> tuple[tuple[str, int], ...]:
    """Names and bins of the sensors whose spectra a method stacks along frequency."""
    bins = cfg.stacked_bins
    return tuple(bins.items()) if len(bins) > 1 else ()


def wav_bytes(x: np.ndarray, rate: float) -> bytes:
    """16-bit mono WAV of ``x`` ``[t]``, its mean taken out and its peak brought to 0.9."""
    x = x.astype(np.float64)
    x = x - x.mean()
    x = 0.9 * x / max(float(np.abs(x).max()), 1e-9)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(round(rate))
        file.writeframes((x * 32767).round().astype("<i2").tobytes())
    return buffer.getvalue()


def _rows(shards: Any, unseen: Sequence[int], count: int, seed: int) -> np.ndarray:
    """Rows of as many classes as there are."""
    order = np.random.default_rng(seed).permutation(len(shards))
    if unseen:
        order = order[np.isin(shards.column("fold")[order], list(unseen))]
    if shards.info.labels and not shards.info.multi_label:
        # The first of each class in turn, then the second of each, and so on.
        label = shards.column("label")[order]
        turn = np.array([np.sum(label[:i] == label[i]) for i in range(min(len(label), 2000))])
        order = order[np.argsort(turn, kind="stable")]
    return np.sort(order[:count])


def _titles(shards: Any, rows: np.ndarray, label: np.ndarray) -> list[str]:
    names = shards.info.labels
    titles = []
    for row, given in zip(rows, label):
        hot = np.flatnonzero(given) if given.ndim else [given] if given >= 0 else []
        said = ", ".join(names[int(i)] for i in hot) if names else ""
        titles.append(f"{said or 'Clip'} · row {row}")
    return titles


def _window(read: dict[str, np.ndarray], signals: Sequence[SignalSpec]) -> Batch:
    """Rows cut or zero-padded to what the method reads."""
    out: dict[str, np.ndarray] = {}
    for spec in signals:
        x = read[spec.name][:, : spec.samples]
        out[spec.name] = np.pad(x, ((0, 0), (0, spec.samples - x.shape[1]), (0, 0)))
    out["length"] = np.minimum(read["length"], signals[0].samples).astype(np.int32)
    return {name: jnp.asarray(value) for name, value in out.items()}


def _reconstruct(
    method: Method, params: Any, batch: Batch, seed: int
) -> tuple[Reconstruction | None, np.ndarray | None]:
    """One mask for each clip, and the fraction of many masks in which a cell is masked.

    Without a mask only the spectrogram, without a front end nothing.
    """
    rngs = Streams(jax.random.key(seed))
    found = jax.jit(method.reconstruct)(params, batch, rngs)
    if found is None:
        spec = jax.jit(method.with_spectrogram)(batch).get("spectrogram")
        plain = (
            None if spec is None else Reconstruction(spec, jnp.zeros(spec.shape[:3], bool), None)
        )
        return plain, None

    def fraction_masked(params, batch):
        def one(i):
            again = method.reconstruct(params, batch, rngs.at(i))
            assert again is not None
            return again.masked.astype(jnp.float32).mean(0)

        return jax.lax.map(one, jnp.arange(MASKS)).mean(0)

    return found, np.asarray(jax.jit(fraction_masked)(params, batch))


def _planes(found: Reconstruction | None, i: int) -> tuple:
    """``spectrogram masked reconstruction explained`` of one clip."""
    if found is None:
        return None, None, None, None
    spec, masked = np.asarray(found.spectrogram[i]), np.asarray(found.masked[i])
    if not masked.any():
        return spec[..., 0], None, None, None
    if found.reconstruction is None:
        return spec[..., 0], masked, None, None
    reconstruction = np.asarray(found.reconstruction[i])
    counted = masked & (np.ptp(spec, axis=(1, 2)) > 0)[:, None]
    truth, guess = spec[counted], reconstruction[counted]
    total = float(((truth - truth.mean()) ** 2).sum()) if truth.size else 0.0
    explained = 1 - float(((truth - guess) ** 2).sum()) / total if total > 0 else None
    return spec[..., 0], masked, reconstruction[..., 0], explained
