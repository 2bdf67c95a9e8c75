"""Examples of the training data: clips to play, masks, and reconstructions."""

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
"""The lowest rate that browsers play; those of motion sensors are lower."""
AUDIO_BYTES = 900_000
"""The most bytes of sound on a page."""
MASKS = 512
"""How many masks are sampled for each clip to count masked cells."""


class Example(NamedTuple):
    """One clip; a field is None where the method or the data have no such thing."""

    title: str
    wav: bytes | None
    """The sound."""
    seconds: float
    """The length of the sound."""
    series: dict[str, tuple[np.ndarray, float]]
    """Slower signals ``[t c]`` and their rates in Hz, by name."""
    spectrogram: np.ndarray | None
    """``[t f]``, the first channel."""
    masked: np.ndarray | None
    """``[t f]`` bool."""
    reconstruction: np.ndarray | None
    """``[t f]``."""
    explained: float | None
    """The fraction of the variance of masked cells that the reconstruction explains, without
    frames of silence and padding."""


class ExampleSet(NamedTuple):
    """Several examples, and how often cells are masked."""

    examples: list[Example]
    fraction: np.ndarray | None
    """``[t f]`` the fraction of masks in which a cell is masked; None without masks."""
    masks: int
    """The number of masks."""
    sensors: tuple[tuple[str, int], ...] = ()
    """Names and bins of the sensors whose spectrograms are stacked along frequency."""


def collect_examples(
    trained: Trained, shards: Any, *, unseen: Sequence[int] = (), count: int = 4, seed: int = 0
) -> ExampleSet:
    """Reads clips, of different classes where there are labels, and reconstructs them.

    Args:
      trained: the encoder.
      shards: the clips.
      unseen: folds that training left out; all clips are of these if there are any.
      count: the number of clips.
      seed: of the sample of clips and of the masks.

    Raises:
      InputError: where the shards lack a signal that the encoder reads.
    """
    cfg = trained.experiment.method
    check_signals(cfg.signals, shards)
    rows = _rows(shards, unseen, count, seed)
    read = shards.read(rows)
    batch = _window(read, cfg.signals)
    reconstructed, fraction = _reconstruct(cfg, trained.params, batch, seed)
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
        examples.append(Example(title, wav, seconds, series, *_planes(reconstructed, i)))
    masks = MASKS * len(titles) if fraction is not None else 0
    stacked = () if reconstructed is None else sensors(cfg)
    return ExampleSet(examples, fraction, masks, stacked)


def frame_seconds(cfg: Method) -> float | None:
    """Seconds from one spectrogram frame to the next; None for a method without such frames."""
    return None if cfg.frame_hop is None else cfg.frame_hop / cfg.signals[0].rate


def sensors(cfg: Method) -> tuple[tuple[str, int], ...]:
    """Names and bins of the sensors whose spectrograms a method stacks along frequency."""
    bins = cfg.stacked_bins
    return tuple(bins.items()) if len(bins) > 1 else ()


def wav_bytes(x: np.ndarray, rate: float) -> bytes:
    """16-bit mono WAV of ``x`` ``[t]``, without its mean and scaled to a peak of 0.9."""
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
    """Random rows, of as many classes as possible."""
    order = np.random.default_rng(seed).permutation(len(shards))
    if unseen:
        order = order[np.isin(shards.column("fold")[order], list(unseen))]
    if shards.info.labels and not shards.info.multi_label:
        # The first row of every class, then the second of every class, and so on.
        label = shards.column("label")[order]
        earlier = np.array([np.sum(label[:i] == label[i]) for i in range(min(len(label), 2000))])
        order = order[np.argsort(earlier, kind="stable")]
    return np.sort(order[:count])


def _titles(shards: Any, rows: np.ndarray, label: np.ndarray) -> list[str]:
    names = shards.info.labels
    titles = []
    for row, y in zip(rows, label):
        classes = np.flatnonzero(y) if y.ndim else [y] if y >= 0 else []
        text = ", ".join(names[int(i)] for i in classes) if names else ""
        titles.append(f"{text or 'Clip'} · row {row}")
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
    """Reconstructs a batch, and counts in how many masks each cell ``[t f]`` is masked.

    For a method without masks the count is None and nothing is masked; without a front end the
    reconstruction is None as well.
    """
    rngs = Streams(jax.random.key(seed))
    reconstructed = jax.jit(method.reconstruct)(params, batch, rngs)
    if reconstructed is None:
        spec = jax.jit(method.with_spectrogram)(batch).get("spectrogram")
        if spec is None:
            return None, None
        return Reconstruction(spec, jnp.zeros(spec.shape[:3], bool), None), None

    def fraction_masked(params, batch):
        def masked(i):
            sample = method.reconstruct(params, batch, rngs.at(i))
            assert sample is not None
            return sample.masked.astype(jnp.float32).mean(0)

        return jax.lax.map(masked, jnp.arange(MASKS)).mean(0)

    return reconstructed, np.asarray(jax.jit(fraction_masked)(params, batch))


def _planes(batch: Reconstruction | None, i: int) -> tuple:
    """The fields ``spectrogram``, ``masked``, ``reconstruction`` and ``explained`` of a clip."""
    if batch is None:
        return None, None, None, None
    spec, masked = np.asarray(batch.spectrogram[i]), np.asarray(batch.masked[i])
    if not masked.any():
        return spec[..., 0], None, None, None
    if batch.reconstruction is None:
        return spec[..., 0], masked, None, None
    reconstruction = np.asarray(batch.reconstruction[i])
    counted = masked & (np.ptp(spec, axis=(1, 2)) > 0)[:, None]
    truth, guess = spec[counted], reconstruction[counted]
    total = float(((truth - truth.mean()) ** 2).sum()) if truth.size else 0.0
    explained = 1 - float(((truth - guess) ** 2).sum()) / total if total > 0 else None
    return spec[..., 0], masked, reconstruction[..., 0], explained
