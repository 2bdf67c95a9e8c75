"""From one row of a source to the windows that are stored.

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
"""Last part of the name of a column: samples of an int16 signal that were beyond full scale."""


class Window(NamedTuple):
    """One window as it is stored."""

    record: bytes
    """The serialised ``tf.train.Example``."""
    columns: dict[str, Any]
    """Its value in every column of ``rows.npz``, by name."""


@dataclasses.dataclass(frozen=True)
class Cutter:
    """How the rows of a source become windows, the same for all of them."""

    signals: tuple[SignalInfo, ...]
    """What the signals of every row must agree with; empty before the first row is read."""
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
    """Whether a modality that is NaN throughout becomes zeros; otherwise the row is refused."""

    def rate_of(self, name: str) -> float | None:
        """Hz of a modality in the shards; None where it keeps the rate of its recording."""
        return self.rates.get(name, self.rate)

    def absent(self, x: np.ndarray) -> bool:
        """Whether a modality with the samples ``[t c]`` was not recorded.

        That is so where all samples are zero, NaN or infinite; never without ``allow_missing``.
        """
        return self.allow_missing and not (np.isfinite(x) & (x != 0)).any()

    def convert(self, row: Row, signals: dict[str, Signal]) -> list[Stretch]:
        """Checks the signals of a row, cuts them at long gaps, and resamples them.

        Args:
          row: of the source.
          signals: the signals ``[t c]`` of the row by modality, as the source reads them.

        Returns:
          The stretches of the row, a single one where it has no long gaps. Those shorter than
          half a window are left out of several. Signals are ``[t c]`` at the rates of the shards:
          int16 for sound that is int16 and is neither resampled nor stored as float32, otherwise
          float32, in which sound has a full scale of 1.

        Raises:
          InputError: for an unknown or contradictory sampling rate, no samples, no modality, NaN
            in sound, signals other than ``self.signals``, or gaps that leave no stretch that is
            long enough.
        """
        checked = {name: self._checked(row, name, s) for name, s in signals.items()}
        if all(self.absent(s.x) for s in checked.values()):
            raise InputError("holds none of the modalities")
        converted = []
        for stretch in stretches(checked, fill_seconds=self.fill_seconds):
            if stretch.whole or 2 * stretch.duration >= self.seconds:
                resampled = {name: self._resampled(name, s) for name, s in stretch.signals.items()}
                converted.append(stretch._replace(signals=self._compared(resampled)))
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
        """The signal with a known rate, zeros where it is absent, and sound mixed.

        Raises ``InputError`` for a rate that is unknown, not positive, or not the one that the
        index states, for a signal without samples, and for NaN or infinity in sound.
        """
        x, rate = signal.x, signal.rate
        if rate is not None and row.rate is not None and abs(rate - row.rate) > 1e-6 * rate:
            raise InputError(f"the file says {rate:g} Hz, the index says {row.rate:g} Hz")
        rate = self.rate_of(name) if rate is None else rate
        if rate is None:
            raise InputError("nothing states its sampling rate; give a rate")
        if not rate > 0:
            raise InputError(f"its sampling rate is {rate:g} Hz; it must be positive")
        if len(x) == 0:
            raise InputError("is empty")
        if self.absent(x):
            x = np.zeros_like(x)
        if name == "audio":
            x = mixed(x, self.mix)
            if not np.isfinite(x).all():
                raise InputError("holds NaN or infinity")
        return signal._replace(x=x, rate=rate)

    def _resampled(self, name: str, signal: Signal) -> Signal:
        """The signal at the rate of the shards, in the dtype that :meth:`convert` describes."""
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
    """All windows of one row.

    The stretches of the row are cut one by one. In a stretch that holds a whole window, samples at
    the end that belong to no window are dropped if they are less than half a window. A window with
    too few samples is padded with zeros at its end; its ``length`` counts the valid samples of the
    first signal of ``info``.

    Args:
      row: of the source.
      signals: the signals ``[t c]`` of the row by modality, as the source reads them.
      info: the set that the windows belong to.

    Raises:
      InputError: as :meth:`Cutter.convert`.
    """
    first = info.signals[0]
    cut = cutter.convert(row, signals)
    row_rate = signals[first.name].rate or row.rate or first.rate
    return [window for stretch in cut for window in _windows(cutter, row, stretch, info, row_rate)]


def _windows(
    cutter: Cutter, row: Row, stretch: Stretch, info: ShardsInfo, row_rate: float
) -> Iterator[Window]:
    """The windows of one stretch.

    ``row_rate`` is the rate of the recording in Hz, at which the stored ``start`` counts samples.
    """
    first, signals = info.signals[0], stretch.signals
    seconds = min(len(signals[s.name].x) / s.rate for s in info.signals)
    samples = round(seconds * first.rate)
    hop = max(1, round(cutter.hop_seconds * first.rate))
    for start in starts(samples, first.samples, hop):
        values: dict[str, Any] = {
            "label": _label(row, info),
            "length": np.int32(min(first.samples, samples - start)),
            "fold": np.int32(row.fold),
            "start": np.int64(row.start + round((stretch.seconds + start / first.rate) * row_rate)),
            "split": row.split,
            "subject": row.subject,
            "path": row.path,
        }
        columns = {**values, "item": np.int64(-1 if row.item is None else row.item)}
        if info.multi_label:
            columns["label"] = values["label"].astype(np.uint8)
        for s in info.signals:
            begin = round(start * s.rate / first.rate)
            valid, clipped = _stored(signals[s.name].x[begin : begin + s.samples], s)
            values[s.name] = np.zeros((s.samples, s.channels), s.dtype)
            values[s.name][: len(valid)] = valid
            # A window without a valid sample has no mean: it is stored as 0, and so is its count.
            physical = (valid if len(valid) else values[s.name][:1]).astype(np.float64) * s.scale
            columns |= {
                # Counts are the weights of the set's statistics: an absent modality has none.
                f"{s.name}.count": np.int64(0 if cutter.absent(valid) else len(valid)),
                f"{s.name}.mean": physical.mean(0),
                f"{s.name}.var": physical.var(0),
            }
            if s.dtype == "int16":
                columns[f"{s.name}.{CLIPPED}"] = np.int64(clipped)
        yield Window(serialise(values, info), columns)


def starts(samples: int, window: int, hop: int) -> Iterator[int]:
    """Positions at which windows of ``window`` samples start in a stretch of ``samples``.

    There is one for every whole window, and at least one. Another follows if it holds half a
    window or more of samples that no other window holds.
    """
    whole = 1 + max(0, samples - window) // hop
    yield from range(0, whole * hop, hop)
    # Windows overlap where the hop is shorter than a window; a longer hop leaves samples out.
    new_samples = min(samples - (whole - 1) * hop - window, samples - whole * hop)
    if 2 * new_samples >= window:
        yield whole * hop


def _label(row: Row, info: ShardsInfo) -> np.ndarray:
    """The class as int32, or -1; of several labels a row ``[classes]`` float32 of 0 and 1."""
    if info.multi_label:
        present = np.zeros(len(info.labels), np.float32)
        present[list(row.label)] = 1
        return present
    return np.int32(row.label[0] if row.label else -1)  # type: ignore[return-value]


def _stored(x: np.ndarray, info: SignalInfo) -> tuple[np.ndarray, int]:
    """Samples ``[t c]`` in the dtype of the shards, and how many were clipped at full scale."""
    if x.dtype == info.dtype:
        return x, 0
    clipped = int(np.count_nonzero(np.abs(x) > 1))
    return np.clip(np.rint(x * np.float32(32768)), -32768, 32767).astype(np.int16), clipped
