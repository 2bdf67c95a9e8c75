"""Recordings of sensors for an encoder, read as ``prepare`` reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jfreq.data.options import Channels, Options
from jfreq.data.prepare.missing_samples import Stretch, stretches
from jfreq.data.readers.recordings import RATE, hertz, read_recording
from jfreq.data.sources.base import UNREADABLE, Signal, one_line, split_channels
from jfreq.data.sources.sensor_files import IMU, default_groups
from jfreq.ranges import brief
from jfreq.types import InputError, SignalSpec


def read_sensors(
    path: Path,
    signals: Sequence[SignalSpec],
    *,
    rate: float | None = None,
    modalities: Channels | None = None,
) -> list[Stretch]:
    """The stretches of a file, with every signal that an encoder reads as ``[t c]`` at its Hz.

    Channels are matched by name where the file and the encoder name them. As in ``prepare``, short
    gaps are filled, longer ones and pauses of the recording cut it, and stretches of less than
    half a window are left out. An array that is NaN throughout stands for an absent sensor.

    Args:
      rate: Hz of files that state none. modalities: channels of an array that holds several.

    Raises:
      InputError: naming the file, for anything that cannot be read or does not fit.
    """
    names = [s.name for s in signals]
    try:
        recording = read_recording(path, rate=rate, wanted=names)
        if recording.windows is not None:
            raise InputError(
                f"holds {recording.windows} windows [n, time, channels]; embed one recording a "
                "file, or make shards of it with `jfreq data prepare`"
            )
        found = recording.signals
        if "" in found:
            found = _from_channels(found[""], signals, modalities)
        lacking = [name for name in names if name not in found]
        if lacking:
            raise InputError(
                f"no array {', '.join(map(repr, lacking))}; it has {brief(', '.join(found))}, "
                f"the encoder reads {', '.join(names)} (NaN for a sensor that is absent)"
            )
        return _stretches({name: _rated(name, found[name], rate) for name in names}, signals[0])
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except UNREADABLE as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)})") from None


def _rated(name: str, signal: Signal, rate: float | None) -> Signal:
    found = rate if signal.rate is None else signal.rate
    if found is None:
        raise InputError(
            f"no rate of {name!r}; add {name}_{RATE}, {RATE} or a column of times, or "
            "give --rate in Hz"
        )
    return signal._replace(rate=hertz(found, name))


def _from_channels(
    signal: Signal, signals: Sequence[SignalSpec], modalities: Channels | None
) -> dict[str, Signal]:
    """The signals among the channels of one array: as told, by their names, or by custom."""
    if signal.x.ndim != 2:
        raise InputError(f"expected real [time, channels], got shape {signal.x.shape}")
    groups = modalities or _by_name(signal, signals) or _by_custom(signal, signals)
    lacking = [s.name for s in signals if s.name not in groups]
    if lacking:
        raise InputError(
            f"one array of {signal.x.shape[1]} channels, which of them are {', '.join(lacking)}? "
            f"Give --modalities, for instance {signals[0].name}:0-2"
        )
    return split_channels(groups, signal, None)


def _by_name(signal: Signal, signals: Sequence[SignalSpec]) -> Channels | None:
    """The channels that an encoder knows by name."""
    if not all(s.names for s in signals):
        return None
    if not signal.names:
        wanted = " ".join(f"{s.name}:{','.join(s.names)}" for s in signals)
        raise InputError(
            f"does not name its channels, and the encoder reads {wanted}; give "
            f"--modalities with their numbers, for instance {signals[0].name}:0-"
            f"{signals[0].channels - 1}"
        )
    return {s.name: s.names for s in signals}


def _by_custom(signal: Signal, signals: Sequence[SignalSpec]) -> Mapping[str, Sequence[int] | None]:
    names = [s.name for s in signals]
    own = default_groups(signal)
    if set(names) <= set(own):
        return own
    several = len(names) > 1 or (signal.x.shape[1] == 6 and names[0] in IMU)
    return IMU if several else {names[0]: None}


def _stretches(found: dict[str, Signal], window: SignalSpec) -> list[Stretch]:
    """What lies between gaps and pauses, where it is long enough for an encoder."""
    present = {name: s for name, s in found.items() if np.isfinite(s.x).any()}
    if not present or all(np.isfinite(s.x).all() and not s.breaks for s in found.values()):
        return [Stretch(0.0, found, True)]
    if len(present) < len(found):
        parts = stretches(present, fill_seconds=Options.fill_seconds)
        if len(parts) > 1:
            absent = ", ".join(sorted(found.keys() - present))
            raise InputError(f"has gaps and nothing of {absent}; cut the file at the gaps")
        return [part._replace(signals={**found, **part.signals}) for part in parts]
    parts = stretches(present, fill_seconds=Options.fill_seconds)
    long = [part for part in parts if part.whole or 2 * part.duration >= window.seconds]
    if not long:
        raise InputError(
            f"its gaps leave no stretch of half a window ({window.seconds / 2:g} s) without "
            "missing samples"
        )
    return long
