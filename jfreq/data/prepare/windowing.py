"""Makes the windows that are stored from one row of a source.

Its signals are checked, cut at long gaps, resampled, cut into windows and padded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from jfreq.data.prepare.missing_samples import Stretch, stretches
from jfreq.data.prepare.resampling import resample
from jfreq.data.readers.sound import mixed
from jfreq.data.shards.example import serialise
from jfreq.data.shards.metadata import ShardsInfo, SignalInfo
from jfreq.data.sources.base import Row, Signal, ordered
from jfreq.ranges import Mix
from jfreq.types import InputError

CLIPPED = "clipped"
"""Last part of the column that counts the samples of an int16 signal beyond full scale."""


class Window(NamedTuple):
    """One window as it is stored."""

    record: bytes
    """The serialised window, as the shard holds it."""
    columns: dict[str, Any]
    """What is kept about it outside of the shard: what ``rows.npz`` holds, one value of each."""


@dataclasses.dataclass(frozen=True)
class Cutter:
    """How the rows of a source become windows, the same for all of them."""

    signals: tuple[SignalInfo, ...]
    """What the signals of every row must agree with; empty while that is still undecided."""
    rate: float | None
    """Hz of the modalities in the shards; None leaves each at the rate of its recording."""
    seconds: float
    """Length of a window."""
    hop_seconds: float
    """From the start of one window to the start of the next."""
    mix: Mix
    """How the channels of ``audio`` become those of the shards."""
    fill_seconds: float = 0.0
    """Gaps up to this length are filled; longer ones cut a row into stretches."""
    dtype: Literal["int16", "float32"] = "int16"
    """Of ``audio`` in the shards; everything else is float32."""
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Hz of single modalities; they take precedence over ``rate``."""
    allow_missing: bool = False
    """A modality that is NaN throughout becomes zeros, instead of the row being refused."""

    def rate_of(self, name: str) -> float | None:
        """Hz of a modality in the shards; None where it keeps the rate of its recording."""
        return self.rates.get(name, self.rate)

    def absent(self, x: np.ndarray) -> bool:
        """Whether the samples ``[t c]`` stand for a modality that was not recorded.

        That is so where all of them are zero, NaN or infinite, and never without
        ``allow_missing``.
        """
        return self.allow_missing and not (np.isfinite(x) & (x != 0)).any()

    def convert(self, row: Row, signals: dict[str, Signal]) -> list[Stretch]:
        """The signals of a row as ``[t c]`` at the rates of the shards, stretch by stretch.

        Sound stays int16 where ``dtype`` says so and its rate stays as it is; everything else is
        float32, sound with a full scale of 1. A row without long gaps is a single stretch; of one
        with gaps, stretches shorter than half a window are left out.

        Raises:
          InputError: says what is wrong with the row: an unknown or contradictory sampling rate,
            no samples, no modality, NaN in sound, signals other than ``signals``, or gaps that
            leave no stretch long enough.
        """
        checked = {name: self._checked(row, name, s) for name, s in signals.items()}
        if all(self.absent(s.x) for s in checked.values()):
            raise InputError("holds none of the modalities")
        converted = []
        for part in stretches(checked, fill_seconds=self.fill_seconds):
            if part.whole or 2 * part.duration >= self.seconds:
                resampled = {name: self._resampled(name, s) for name, s in part.signals.items()}
                converted.append(part._replace(signals=self._compared(resampled)))
        if not converted:
            raise InputError(
                f"its gaps leave no stretch of half a window ({self.seconds / 2:g} s) without "
                "missing samples"
            )
        return converted

    def _compared(self, signals: dict[str, Signal]) -> dict[str, Signal]:
        """The signals with their channels in the order of ``self.signals``.

        Raises ``InputError`` where a signal is missing or has other channels or another rate.
        """
        out = dict(signals)
        for info in self.signals:
            if info.name not in signals:
                raise InputError(f"has no signal {info.name!r}")
            signal = signals[info.name]
            if signal.x.shape[1] != info.channels:
                raise InputError(
                    f"{info.name} has {signal.x.shape[1]} channels, the set has {info.channels}"
                )
            if signal.rate != info.rate:
                raise InputError(
                    f"{info.name} has {signal.rate:g} Hz, the set has {info.rate:g} Hz; give a rate"
                )
            out[info.name] = ordered(info.name, signal, info.channel_names, "the set")
        return out

    def _checked(self, row: Row, name: str, signal: Signal) -> Signal:
        """The signal with a rate that is known, zeros for what is absent, and sound mixed.

        Raises ``InputError`` for a rate that is unknown, not positive, or not the one that the
        index states, for a signal without samples, and for NaN or infinity in sound.
        """
        x, rate = signal.x, signal.rate
        if rate is not None and row.rate is not None and abs(rate - row.rate) > 1e-6 * rate:
            raise InputError(f"the file says {rate:g} Hz, the index {row.rate:g} Hz")
        rate = self.rate_of(name) if rate is None else rate
        if rate is None:
            raise InputError("nothing states its sampling rate; give a rate")
        if not rate > 0:
            raise InputError(f"its sampling rate is {rate:g} Hz")
        if len(x) == 0:
            raise InputError("is empty")
        if self.absent(x):
            x = np.zeros_like(x)
        if name != "audio":
            return signal._replace(x=x, rate=rate)
        x = mixed(x, self.mix)
        if np.issubdtype(x.dtype, np.floating) and not np.isfinite(x).all():
            raise InputError("holds NaN or infinity")
        return signal._replace(x=x, rate=rate)

    def _resampled(self, name: str, signal: Signal) -> Signal:
        """The signal at the rate of the shards: int16 if it was so and stays so, else float32."""
        x, rate = signal.x, signal.rate or 0.0
        target = self.rate_of(name) or rate
        audio = name == "audio"
        int16_allowed = audio and self.dtype == "int16"
        if x.dtype == np.int16 and (target != rate or (audio and not int16_allowed)):
            x = x.astype(np.float32) / 32768  # PCM at full scale becomes 1
        if target != rate:
            x = resample(x, rate, target, ends="mean" if audio else "line")
        x = x if int16_allowed and x.dtype == np.int16 else np.asarray(x, np.float32)
        return signal._replace(x=x, rate=float(target))


def windows_of(
    cutter: Cutter, row: Row, signals: dict[str, Signal], info: ShardsInfo
) -> list[Window]:
    """All windows of one row, whose ``signals`` by modality come as the source reads them.

    Each stretch of the row is cut by itself. Where it holds a whole window, samples at its end
    that belong to none are dropped if they are less than half a window. A window with too few
    samples is padded with zeros at its end, and its ``length`` counts the valid samples of the
    first signal of ``info``.

    Raises ``InputError`` as :meth:`Cutter.convert` does.
    """
    first = info.signals[0]
    parts = cutter.convert(row, signals)
    row_rate = signals[first.name].rate or row.rate or first.rate
    return [window for part in parts for window in _windows(cutter, row, part, info, row_rate)]


def _windows(
    cutter: Cutter, row: Row, part: Stretch, info: ShardsInfo, row_rate: float
) -> Iterator[Window]:
    """The windows of one stretch.

    ``row_rate`` is Hz of the recording itself: ``start`` counts samples at that rate, in the row
    and in what is stored.
    """
    first, signals = info.signals[0], part.signals
    seconds = min(len(signals[s.name].x) / s.rate for s in info.signals)
    samples = round(seconds * first.rate)
    hop = max(1, round(cutter.hop_seconds * first.rate))
    for start in starts(samples, first.samples, hop):
        values: dict[str, Any] = {
            "label": _label(row, info),
            "length": np.int32(min(first.samples, samples - start)),
            "fold": np.int32(row.fold),
            "start": np.int64(row.start + round((part.seconds + start / first.rate) * row_rate)),
            "split": row.split,
            "subject": row.subject,
            "path": row.path,
        }
        columns = {**values, "item": np.int64(-1 if row.item is None else row.item)}
        for s in info.signals:
            begin = round(start * s.rate / first.rate)
            valid, clipped = _stored(signals[s.name].x[begin : begin + s.samples], s)
            values[s.name] = np.zeros((s.samples, s.channels), s.dtype)
            values[s.name][: len(valid)] = valid
            # Without a sample there is no mean; a zero stands in, and its count is 0.
            physical = (valid if len(valid) else values[s.name][:1]).astype(np.float64) * s.scale
            columns |= {
                # Statistics of the set are weighted by counts: what is absent has no weight.
                f"{s.name}.count": np.int64(0 if cutter.absent(valid) else len(valid)),
                f"{s.name}.mean": physical.mean(0),
                f"{s.name}.var": physical.var(0),
            }
            if s.dtype == "int16":
                columns[f"{s.name}.{CLIPPED}"] = np.int64(clipped)
        yield Window(serialise(values, info), columns)


def starts(samples: int, window: int, hop: int) -> Iterator[int]:
    """Samples at which windows start in a stretch of ``samples``.

    Every whole window has a start, and there is at least one. Another follows if it holds half a
    window or more of samples that are in no other.
    """
    whole = 1 + max(0, samples - window) // hop
    yield from range(0, whole * hop, hop)
    # Windows overlap where the hop is shorter, and leave samples out where it is longer.
    unseen = min(samples - (whole - 1) * hop - window, samples - whole * hop)
    if 2 * unseen >= window:
        yield whole * hop


def _label(row: Row, info: ShardsInfo) -> np.ndarray:
    """The number of the class, int32, or -1; with several per row ``[classes]`` of 0 and 1."""
    if info.multi_label:
        present = np.zeros(len(info.labels), np.float32)
        present[list(row.label)] = 1
        return present
    return np.int32(row.label[0] if row.label else -1)  # type: ignore[return-value]


def _stored(x: np.ndarray, info: SignalInfo) -> tuple[np.ndarray, int]:
    """Samples ``[t c]`` in the dtype of the shards, and how many were clipped at full scale."""
    if x.dtype == info.dtype:
        return x, 0
    over = int(np.count_nonzero(np.abs(x) > 1))
    return np.clip(np.rint(x * np.float32(32768)), -32768, 32767).astype(np.int16), over
