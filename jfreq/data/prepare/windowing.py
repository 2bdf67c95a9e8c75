"""One row of a source to the windows that are stored: check, fill gaps, resample, cut, pad."""

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
"""Column of an int16 signal: how many samples of a row reached beyond full scale."""


class Window(NamedTuple):
    """One record, and what is kept about it outside of the shard."""

    record: bytes
    columns: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Cutter:
    """What every row is made into. Without ``signals`` it converts and does not compare."""

    signals: tuple[SignalInfo, ...]
    rate: float | None
    seconds: float
    hop_seconds: float
    mix: Mix
    fill_seconds: float = 0.0
    dtype: Literal["int16", "float32"] = "int16"
    """Of ``audio`` in the shards; everything else is float32."""
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Hz of single modalities, before ``rate``."""
    allow_missing: bool = False
    """A modality that is NaN throughout becomes zeros, instead of the row being refused."""

    def rate_of(self, name: str) -> float | None:
        """Hz of a modality in the shards; None for its own."""
        return self.rates.get(name, self.rate)

    def absent(self, x: np.ndarray) -> bool:
        """Whether the samples ``[t c]`` stand for a modality that is not there: all NaN, all 0."""
        return self.allow_missing and not (np.isfinite(x) & (x != 0)).any()

    def convert(self, row: Row, signals: dict[str, Signal]) -> list[Stretch]:
        """Checked signals at the shards' rate: int16 or float32 ``[t c]``, full scale 1 for float.

        A row with gaps comes as several stretches, without those of less than half a window.
        Raises ``InputError`` saying what is wrong with the row.
        """
        checked = {name: self._checked(row, name, s) for name, s in signals.items()}
        if all(self.absent(s.x) for s in checked.values()):
            raise InputError("holds none of the modalities")
        out = []
        for part in stretches(checked, fill_seconds=self.fill_seconds):
            if part.whole or 2 * part.duration >= self.seconds:
                signals = {name: self._converted(name, s) for name, s in part.signals.items()}
                signals = self._compared(signals)
                out.append(part._replace(signals=signals))
        if not out:
            raise InputError(
                f"its gaps leave no stretch of half a window ({self.seconds / 2:g} s) without "
                "missing samples"
            )
        return out

    def _compared(self, signals: dict[str, Signal]) -> dict[str, Signal]:
        """The signals with their channels in the set's order; ``InputError`` where they differ."""
        out = dict(signals)
        for info in self.signals:
            if info.name not in signals:
                raise InputError(f"has no signal {info.name!r}")
            got = signals[info.name]
            if got.x.shape[1] != info.channels:
                raise InputError(
                    f"{info.name} has {got.x.shape[1]} channels, the set has {info.channels}"
                )
            if got.rate != info.rate:
                raise InputError(
                    f"{info.name} has {got.rate:g} Hz, the set has {info.rate:g} Hz; give a rate"
                )
            out[info.name] = ordered(info.name, got, info.channel_names, "the set")
        return out

    def _checked(self, row: Row, name: str, signal: Signal) -> Signal:
        """The signal at a known rate of its row_rate, audio down-mixed."""
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

    def _converted(self, name: str, signal: Signal) -> Signal:
        x, rate = signal.x, signal.rate or 0.0
        target = self.rate_of(name) or rate
        audio = name == "audio"
        stays = audio and self.dtype == "int16"
        if x.dtype == np.int16 and (target != rate or (audio and not stays)):
            x = x.astype(np.float32) / 32768
        if target != rate:
            x = resample(x, rate, target, ends="mean" if audio else "line")
        x = x if stays and x.dtype == np.int16 else np.asarray(x, np.float32)
        return signal._replace(x=x, rate=float(target))


def windows_of(
    cutter: Cutter, row: Row, signals: dict[str, Signal], info: ShardsInfo
) -> list[Window]:
    """All windows of one row.

    A rest of less than half a window is dropped where a whole window stands before it; what is
    shorter than a window is zero-padded at the end, and ``length`` says how much is valid.
    """
    first = info.signals[0]
    parts = cutter.convert(row, signals)
    row_rate = signals[first.name].rate or row.rate or first.rate
    return [window for part in parts for window in _windows(cutter, row, part, info, row_rate)]


def _windows(
    cutter: Cutter, row: Row, part: Stretch, info: ShardsInfo, row_rate: float
) -> Iterator[Window]:
    """Those of one stretch; ``row_rate`` is the rate that the row's ``start`` counts in."""
    first, signals = info.signals[0], part.signals
    total = min(len(signals[s.name].x) / s.rate for s in info.signals)
    samples = round(total * first.rate)
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
            physical = (valid if len(valid) else values[s.name][:1]).astype(np.float64) * s.scale
            columns |= {
                # What is absent has no say in the statistics.
                f"{s.name}.count": np.int64(0 if cutter.absent(valid) else len(valid)),
                f"{s.name}.mean": physical.mean(0),
                f"{s.name}.var": physical.var(0),
            }
            columns |= {f"{s.name}.{CLIPPED}": np.int64(clipped)} if s.dtype == "int16" else {}
        yield Window(serialise(values, info), columns)


def starts(samples: int, window: int, hop: int) -> Iterator[int]:
    """Every whole window, and one more that would hold half a window of samples not yet seen."""
    whole = 1 + max(0, samples - window) // hop
    yield from range(0, whole * hop, hop)
    unseen = min(samples - (whole - 1) * hop - window, samples - whole * hop)
    if 2 * unseen >= window:
        yield whole * hop


def _label(row: Row, info: ShardsInfo) -> np.ndarray:
    if info.multi_label:
        hot = np.zeros(len(info.labels), np.float32)
        hot[list(row.label)] = 1
        return hot
    return np.int32(row.label[0] if row.label else -1)  # type: ignore[return-value]


def _stored(x: np.ndarray, info: SignalInfo) -> tuple[np.ndarray, int]:
    """Samples as the shards hold them, and how many were clipped at full scale."""
    if x.dtype == info.dtype:
        return x, 0
    over = int(np.count_nonzero(np.abs(x) > 1))
    return np.clip(np.rint(x * np.float32(32768)), -32768, 32767).astype(np.int16), over
