"""Samples of any dtype and rate at the rate that an encoder reads, whole or block by block."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jfreq.data.prepare.resampling import resample
from jfreq.ranges import brief, shown
from jfreq.types import InputError, SignalSpec

Rate = float | Mapping[str, float] | None
"""Hz of a recording, by modality where they differ; None where it is that of the model."""
FILTER = 256
"""More samples of the lower rate than the filter of a resampler reaches."""
WIDEST = 1000
"""Most times that the rate of a recording may lie above or below the one that an encoder reads."""


def rates_by_signal(rate: Rate, signals: Sequence[SignalSpec]) -> dict[str, float | None]:
    """The rate of each signal, still to be checked; raises ``InputError`` for one of another."""
    names = [spec.name for spec in signals]
    if not isinstance(rate, Mapping):
        return dict.fromkeys(names, rate)
    if unknown := [name for name in rate if name not in names]:
        raise InputError(
            f"rate: names {brief(', '.join(map(str, unknown)))}, but the encoder reads "
            f"{', '.join(names)}"
        )
    return {name: rate.get(name) for name in names}


def as_signal(
    x: Any,
    spec: SignalSpec,
    *,
    rate: float | None = None,
    where: str = "signal",
    gaps: bool = False,
) -> np.ndarray:
    """Checks, scales and resamples one signal.

    Args:
      x: ``[t]`` or ``[t c]``: float, or signed integers of up to 32 bits, which are PCM and divided
        by 2^(bits - 1).
      spec: the channels and the rate that the encoder reads.
      rate: Hz of ``x``; None where it is that of ``spec``.
      where: begins the messages.
      gaps: NaN marks missing samples, which stay NaN.

    Returns:
      ``[t c]`` float32 at the rate of ``spec``.

    Raises:
      InputError: for another dtype or shape, no samples, samples that are NaN or infinite, and an
        impossible rate.
    """
    x = check_signal(x, spec, rate=rate, where=where, gaps=gaps)
    missing = np.isnan(x).any(1)
    if rate is None or not missing.any():
        return x if rate is None else _resample(x, rate, spec, where)
    return _resample_around(x, missing, rate, spec, where)


def check_signal(
    x: Any,
    spec: SignalSpec,
    *,
    rate: float | None = None,
    where: str = "signal",
    gaps: bool = False,
    empty: bool = False,
) -> np.ndarray:
    """Checks and scales one signal, or with ``empty`` a part of one that may hold no samples.

    Other arguments and what is raised are those of :func:`as_signal`.

    Returns:
      ``[t c]`` float32 at ``rate``.
    """
    if rate is not None:
        checked_rate(rate, spec, where)
    x = np.asarray(x)
    if x.dtype.kind not in "fi":
        raise InputError(f"{where}: expected float or signed integer samples, got {x.dtype}")
    if x.dtype.kind == "i" and x.dtype.itemsize > 4:
        raise InputError(
            f"{where}: {x.dtype} is no format of PCM, so the full scale is unknown; give int16 or "
            "int32, or floats in [-1, 1]"
        )
    if x.ndim not in (1, 2) or (x.size == 0 and not empty):
        raise InputError(f"{where}: expected samples [t] or [t, c], got shape {x.shape}")
    x = x[:, None] if x.ndim == 1 else x
    if x.shape[1] != spec.channels:
        raise InputError(
            f"{where}: has {x.shape[1]} channels, but the model reads {spec.channels}; the shape "
            "must be [time, channels], and several recordings must be a list"
        )
    scale = 2.0 ** (8 * x.dtype.itemsize - 1) if x.dtype.kind == "i" else 1.0
    with np.errstate(over="ignore"):
        x = (x / scale).astype(np.float32)
    missing = np.isnan(x).any(1)
    if np.isinf(x).any() or (missing.any() and not gaps):
        raise InputError(f"{where}: holds NaN or infinite samples")
    return x


def resampled(
    blocks: Iterable[np.ndarray], rate: float, spec: SignalSpec, where: str
) -> Iterator[np.ndarray]:
    """Resamples one recording block by block, with the same samples as if it were resampled whole.

    Args:
      blocks: ``[t c]`` float32 each, in the order of time.
      rate: Hz of the blocks.
      spec: the channels and the rate that the encoder reads.
      where: begins the messages.

    Yields:
      Blocks ``[t c]`` float32 at the rate of ``spec``.

    Raises:
      InputError: for samples that are NaN or infinite, and an impossible rate.
    """
    resampler = BlockResampler(rate, spec, where)
    for block in blocks:
        yield resampler.push(block)
    yield resampler.finish()


class BlockResampler:
    """Resamples one recording while its samples come, as if it were resampled whole.

    The filter assumes zeros beyond both ends. With ``hold`` it assumes the first and the last
    sample there, so that an offset such as gravity does not ring.
    """

    def __init__(self, rate: float, spec: SignalSpec, where: str, *, hold: bool = False):
        """Raises ``InputError`` for an impossible rate; see :func:`resampled` for the arguments."""
        self.rate, self.target = checked_rate(rate, spec, where), spec.rate
        self._spec, self._where, self._hold = spec, where, hold
        self._total, self._count, self._written = np.zeros(spec.channels), 0, 0
        self._first = self._latest = np.zeros(spec.channels, np.float32)
        self._stream = None if self.rate == spec.rate else self._open()

    def _open(self) -> Any:
        import soxr

        try:
            return soxr.ResampleStream(self.rate, self.target, self._spec.channels, dtype="float32")
        except (ValueError, RuntimeError) as error:
            raise InputError(
                f"{self._where}: {self.rate:g} Hz cannot be resampled ({error})"
            ) from None

    def push(self, block: np.ndarray) -> np.ndarray:
        """The samples ``[t' c]`` that the next ``block`` ``[t c]`` float32 completes."""
        if self._stream is None:
            return _finite(block, self._where)
        self._total += _finite(block, self._where).sum(0, dtype=np.float64)
        if self._hold and len(block):
            self._first = block[0].copy() if self._count == 0 else self._first
            self._latest = block[-1].copy()
        self._count += len(block)
        y = self._stream.resample_chunk(np.ascontiguousarray(block - self._first))
        self._written += len(y)
        return y + self._first

    def finish(self) -> np.ndarray:
        """The samples that remain."""
        nothing = np.zeros((0, self._spec.channels), np.float32)
        if self._stream is None:
            return nothing
        # soxr rounds the count of samples, at .5 up.
        left = int(self._count * self.target / self.rate + 0.5) - self._written
        beyond = math.ceil(FILTER * max(1, self.rate / self.target)) if self._hold else 0
        y = self._stream.resample_chunk(
            np.tile(self._latest - self._first, (beyond, 1)).astype(np.float32), last=True
        )
        y = y[:left] + self._first
        # A recording shorter than one output sample becomes its mean.
        short = not self._written and not len(y) and self._count
        return (self._total / self._count).astype(np.float32)[None] if short else y


@functools.lru_cache
def resampler_delay(rate: float, target: float) -> float:
    """Seconds by which the output of :class:`BlockResampler` lags behind its input at most.

    The filter works on blocks; how long they are is measured on zeros, about one of the lower rate
    at a time.
    """
    if rate == target:
        return 0.0
    size = max(1, int(rate / target))
    spec, zeros = SignalSpec("x", target, 1), np.zeros((size, 1), np.float32)
    resampler = BlockResampler(rate, spec, "stream")
    pushed, written, longest, first = 0, 0, 0.0, 0
    while first == 0 or pushed < 8 * first:
        written += len(resampler.push(zeros))
        pushed += size
        first = first or (pushed if written else 0)
        longest = max(longest, pushed / rate - written / target)
    return 1.01 * longest


def checked_rate(rate: Any, spec: SignalSpec, where: str) -> float:
    """``rate`` as a number of Hz; raises ``InputError`` for one that no recording of ``spec`` has.

    ``where`` begins the message.
    """
    try:
        positive = bool(np.isfinite(rate) and rate > 0) if np.ndim(rate) == 0 else None
    except (TypeError, ValueError):
        positive = None
    if positive is None:
        raise InputError(
            "rate: must be a positive number of Hz, one for all recordings of a call, or a dict by "
            f"modality; got {shown(rate)}"
        )
    if not positive:
        raise InputError(f"{where}: the rate must be a positive number of Hz, got {rate}")
    if not 1 / WIDEST <= rate / spec.rate <= WIDEST:
        side = "above" if rate > spec.rate else "below"
        raise InputError(
            f"{where}: {rate:g} Hz is more than {WIDEST:,} times {side} the {spec.rate:g} Hz that "
            "the encoder reads; give the rate of these samples"
        )
    return float(rate)


def _finite(x: np.ndarray, where: str) -> np.ndarray:
    if not np.isfinite(x).all():
        raise InputError(f"{where}: holds NaN or infinite samples")
    return x


def _resample_around(
    x: np.ndarray, missing: np.ndarray, rate: float, spec: SignalSpec, where: str
) -> np.ndarray:
    """Interpolates ``missing`` ``[t]`` samples, resamples, and sets them to NaN again."""
    known = np.flatnonzero(~missing)
    if len(known):
        index = np.arange(len(x))
        x = np.stack([np.interp(index, known, x[known, c]) for c in range(x.shape[1])], 1)
    y = _resample(np.nan_to_num(x).astype(np.float32), rate, spec, where)
    # A new sample is missing where either of the old samples beside it is.
    position = np.arange(len(y)) * (rate / spec.rate)
    beside = (np.clip(edge(position).astype(int), 0, len(x) - 1) for edge in (np.floor, np.ceil))
    y[np.logical_or(*(missing[index] for index in beside))] = np.nan
    return y


def _resample(x: np.ndarray, rate: float, spec: SignalSpec, where: str) -> np.ndarray:
    """Resamples a whole recording as ``data/prepare`` does: an offset does not ring at its ends."""
    if rate == spec.rate:
        return x
    ends = "mean" if spec.name == "audio" else "line"
    try:
        y = resample(x, rate, spec.rate, ends=ends)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{where}: {rate:g} Hz cannot be resampled ({error})") from None
    # A recording shorter than one output sample becomes its mean.
    return (y if len(y) else x.mean(0, keepdims=True)).astype(np.float32)
