"""Samples of any dtype and rate at the rate that an encoder reads, whole or block by block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from jfreq.data.prepare.resampling import resample
from jfreq.encoder.windowing import Clip
from jfreq.types import InputError, SignalSpec


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
      x: ``[t]`` or ``[t c]``: float, or signed integers, which are PCM and divided by
        2^(bits - 1).
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
        _check_rate(rate, where)
    x = np.asarray(x)
    if x.dtype.kind not in "fi":
        raise InputError(f"{where}: expected float or signed integer samples, got {x.dtype}")
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
    _check_rate(rate, where)
    if rate == spec.rate:
        for block in blocks:
            yield _finite(block, where)
        return
    import soxr

    try:
        stream = soxr.ResampleStream(rate, spec.rate, spec.channels, dtype="float32")
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{where}: {rate:g} Hz cannot be resampled ({error})") from None
    total, count, written = np.zeros(spec.channels), 0, 0
    for block in blocks:
        total += _finite(block, where).sum(0, dtype=np.float64)
        count += len(block)
        y = stream.resample_chunk(np.ascontiguousarray(block))
        written += len(y)
        yield y
    y = stream.resample_chunk(np.zeros((0, spec.channels), np.float32), last=True)
    # A recording shorter than one output sample becomes its mean.
    short = not written and not len(y) and count
    yield (total / count).astype(np.float32)[None] if short else y


def _check_rate(rate: float, where: str) -> None:
    if not (np.isfinite(rate) and rate > 0):
        raise InputError(f"{where}: the rate must be a positive number of Hz, got {rate}")


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


def equal_durations(clip: Clip, signals: Sequence[SignalSpec], *, slack: float, where: str) -> Clip:
    """Cuts or zero-pads every modality to the duration of the first.

    Args:
      clip: ``[t c]`` by modality.
      signals: the modalities with their rates.
      slack: samples of the first modality by which durations may differ.
      where: begins the messages.

    Raises:
      InputError: where durations differ by more.
    """
    first = signals[0]
    equal = dict(clip)
    for spec in signals[1:]:
        x = clip[spec.name]
        wanted = max(1, round(len(clip[first.name]) * spec.rate / first.rate))
        if abs(len(x) - wanted) > max(1, slack * spec.rate / first.rate):
            raise InputError(
                f"{where}: {spec.name} lasts {len(x) / spec.rate:.3f} s and {first.name} "
                f"{len(clip[first.name]) / first.rate:.3f} s; cut them to the same duration"
            )
        equal[spec.name] = np.pad(x, ((0, max(0, wanted - len(x))), (0, 0)))[:wanted]
    return equal
