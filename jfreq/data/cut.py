"""One row of a source to the windows that are stored: down-mix, resample, check, cut, pad."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np

from jfreq.data.records import serialise
from jfreq.data.schema import ShardsInfo, SignalInfo
from jfreq.data.source import Row, Signal
from jfreq.types import InputError

Mix = Literal["first", "mean", "keep"]


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

    def convert(self, row: Row, found: dict[str, Signal]) -> dict[str, Signal]:
        """Checked signals at the shards' rate: int16 for audio, float32 for everything else.

        Raises ``InputError`` saying what is wrong with the row.
        """
        out = {name: self._convert(row, name, s) for name, s in found.items()}
        for info in self.signals:
            if info.name not in out:
                raise InputError(f"has no signal {info.name!r}")
            got = out[info.name]
            if got.x.shape[1] != info.channels:
                raise InputError(
                    f"{info.name} has {got.x.shape[1]} channels, the set has {info.channels}"
                )
            if got.rate != info.rate:
                raise InputError(
                    f"{info.name} has {got.rate:g} Hz, the set has {info.rate:g} Hz; give a rate"
                )
        return out

    def _convert(self, row: Row, name: str, signal: Signal) -> Signal:
        x, rate = signal
        if rate is not None and row.rate is not None and abs(rate - row.rate) > 1e-6 * rate:
            raise InputError(f"the file says {rate:g} Hz, the index {row.rate:g} Hz")
        rate = self.rate if rate is None else rate
        if rate is None:
            raise InputError("nothing states its sampling rate; give a rate")
        if not rate > 0:
            raise InputError(f"its sampling rate is {rate:g} Hz")
        if len(x) == 0:
            raise InputError("is empty")
        audio = name == "audio"
        x = _downmix(x, self.mix) if audio else x
        if np.issubdtype(x.dtype, np.floating) and not np.isfinite(x).all():
            raise InputError("holds NaN or infinity")
        target = self.rate or rate
        if target != rate and x.dtype == np.int16:
            x = x.astype(np.float32) / 32768
        x = x if target == rate else _resample(x, rate, target)
        return Signal(_pcm(x) if audio else np.asarray(x, np.float32), float(target))


def windows_of(
    cutter: Cutter, row: Row, found: dict[str, Signal], info: ShardsInfo
) -> list[Window]:
    """All windows of one row.

    A rest of less than half a window is dropped where a whole window stands before it; what is
    shorter than a window is zero-padded at the end, and ``length`` says how much is valid.
    """
    signals = cutter.convert(row, found)
    first = info.signals[0]
    total = min(len(signals[s.name].x) / s.rate for s in info.signals)
    samples = round(total * first.rate)
    hop = max(1, round(cutter.hop_seconds * first.rate))
    out = []
    for start in _starts(samples, first.samples, hop):
        values: dict[str, Any] = {
            "label": _label(row, info),
            "length": np.int32(min(first.samples, samples - start)),
            "fold": np.int32(row.fold),
            "start": np.int64(row.start + round(start / first.rate * (row.rate or first.rate))),
            "split": row.split,
            "subject": row.subject,
            "path": row.path,
        }
        columns = dict(values)
        for s in info.signals:
            begin = round(start * s.rate / first.rate)
            valid = signals[s.name].x[begin : begin + s.samples]
            values[s.name] = np.zeros((s.samples, s.channels), s.dtype)
            values[s.name][: len(valid)] = valid
            physical = (valid if len(valid) else values[s.name][:1]).astype(np.float64) * s.scale
            columns |= {
                f"{s.name}.count": np.int64(len(valid)),
                f"{s.name}.mean": physical.mean(0),
                f"{s.name}.var": physical.var(0),
            }
        out.append(Window(serialise(values, info), columns))
    return out


def _starts(samples: int, window: int, hop: int) -> Iterator[int]:
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


def _downmix(x: np.ndarray, how: Mix) -> np.ndarray:
    if how == "keep" or x.shape[1] == 1:
        return x
    if how == "first":
        return x[:, :1]
    mean = x.mean(1, keepdims=True)
    return np.rint(mean).astype(np.int16) if x.dtype == np.int16 else mean


def _resample(x: np.ndarray, rate: float, target: float) -> np.ndarray:
    """Band-limited; the mean is set aside, or gravity would ring at both ends of a recording."""
    import soxr

    mean = x.mean(0)
    return soxr.resample(x - mean, rate, target, quality="HQ") + mean


def _pcm(x: np.ndarray) -> np.ndarray:
    """Full scale 1 to int16, saturating; int16 as it is."""
    if x.dtype == np.int16:
        return x
    return np.clip(np.rint(x * np.float32(32768)), -32768, 32767).astype(np.int16)
