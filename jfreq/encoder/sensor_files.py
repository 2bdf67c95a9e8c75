"""Reads recordings of sensors for an encoder, as ``prepare`` reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jfreq.data.options import Channels, Options
from jfreq.data.prepare.missing_samples import Stretch, stretches
from jfreq.data.readers.recordings import RATE, hertz, read_recording
from jfreq.data.sources.base import UNREADABLE, Signal, split_channels
from jfreq.data.sources.sensor_files import IMU, default_groups
from jfreq.ranges import brief, first_line
from jfreq.types import InputError, SignalSpec


def read_sensors(
    path: Path,
    signals: Sequence[SignalSpec],
    *,
    rate: float | None = None,
    modalities: Channels | None = None,
) -> list[Stretch]:
    """Reads the signals that an encoder reads, cut at long gaps.

    Channels are matched by name where the file and the encoder name them. As in ``prepare``, short
    gaps are filled, longer gaps and pauses cut the recording, and stretches of less than half a
    window are left out. An array that is NaN throughout stands for an absent sensor.

    Args:
      path: the file.
      signals: what the encoder reads.
      rate: Hz of a file that states none.
      modalities: which channels of an array that holds several belong to which modality.

    Returns:
      For each stretch the signals ``[t c]`` by name, at the rates of the file.

    Raises:
      InputError: naming the file, for anything that cannot be read or does not fit.
    """
    names = [s.name for s in signals]
    try:
        recording = read_recording(path, rate=rate, wanted=names)
        if recording.windows is not None:
            raise InputError(
                f"holds {recording.windows} windows [n, time, channels]; give files of one "
                "recording each, or make shards of it with `jfreq data prepare`"
            )
        present = recording.signals
        if "" in present:
            present = _from_channels(present[""], signals, modalities)
        lacking = [name for name in names if name not in present]
        if lacking:
            raise InputError(
                f"lacks the array {', '.join(map(repr, lacking))}; it has "
                f"{brief(', '.join(present))}, the encoder reads {', '.join(names)} (give NaN for "
                "an absent sensor)"
            )
        return _stretches({name: _rated(name, present[name], rate) for name in names}, signals[0])
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except UNREADABLE as error:
        raise InputError(f"{path}: cannot be read ({first_line(error)})") from None


def _rated(name: str, signal: Signal, rate: float | None) -> Signal:
    """The signal with its rate, which is that of the file or ``rate``."""
    hz = rate if signal.rate is None else signal.rate
    if hz is None:
        raise InputError(
            f"states no rate of {name!r}; add {name}_{RATE}, {RATE} or a column of times, or "
            "give --rate in Hz"
        )
    return signal._replace(rate=hertz(hz, name))


def _from_channels(
    signal: Signal, signals: Sequence[SignalSpec], modalities: Channels | None
) -> dict[str, Signal]:
    """The signals among the channels of one array: by option, by their names, or by convention."""
    if signal.x.ndim != 2:
        raise InputError(f"expected real [time, channels], got shape {signal.x.shape}")
    groups = modalities or _by_name(signal, signals) or _by_convention(signal, signals)
    lacking = [s.name for s in signals if s.name not in groups]
    if lacking:
        raise InputError(
            f"holds one array of {signal.x.shape[1]} channels and does not say which of them are "
            f"{', '.join(lacking)}; give --modalities, for instance {signals[0].name}:0-2"
        )
    return split_channels(groups, signal, None)


def _by_name(signal: Signal, signals: Sequence[SignalSpec]) -> Channels | None:
    """The channels that the encoder knows by name; None where it knows none."""
    if not all(s.names for s in signals):
        return None
    if not signal.names:
        wanted = " ".join(f"{s.name}:{','.join(s.names)}" for s in signals)
        raise InputError(
            f"does not name its channels, but the encoder reads {wanted}; give "
            f"--modalities with their numbers, for instance {signals[0].name}:0-"
            f"{signals[0].channels - 1}"
        )
    return {s.name: s.names for s in signals}


def _by_convention(
    signal: Signal, signals: Sequence[SignalSpec]
) -> Mapping[str, Sequence[int] | None]:
    """The usual order: six channels are acceleration and rotation; a single signal has them all.

    Empty for another number of channels that several signals would have to share.
    """
    names = [s.name for s in signals]
    groups = default_groups(signal)
    if set(names) <= set(groups):
        return groups
    if signal.x.shape[1] == 6 and (len(names) > 1 or names[0] in IMU):
        return IMU
    return {} if len(names) > 1 else {names[0]: None}


def _stretches(signals: dict[str, Signal], window: SignalSpec) -> list[Stretch]:
    """The stretches between gaps and pauses that are long enough for an encoder."""
    present = {name: s for name, s in signals.items() if np.isfinite(s.x).any()}
    if not present or all(np.isfinite(s.x).all() and not s.breaks for s in signals.values()):
        return [Stretch(0.0, signals, True)]
    parts = stretches(present, fill_seconds=Options.fill_seconds)
    if len(present) < len(signals):
        if len(parts) > 1:
            absent = ", ".join(sorted(signals.keys() - present))
            raise InputError(f"has gaps and no samples of {absent}; cut the file at the gaps")
        return [part._replace(signals={**signals, **part.signals}) for part in parts]
    long = [part for part in parts if part.whole or 2 * part.duration >= window.seconds]
    if not long:
        raise InputError(
            f"its gaps leave no stretch of half a window ({window.seconds / 2:g} s) without "
            "missing samples"
        )
    return long
