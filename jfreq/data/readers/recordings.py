"""One file of sensors, a table or an archive of arrays, as signals, labels and subjects.

``prepare`` and ``embed`` read through this module alone, so both see the same channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jfreq.data.readers.archives import Archive
from jfreq.data.readers.clock import Clock, clock_of, seconds_of
from jfreq.data.readers.columns import LABEL, parsed, role_of
from jfreq.data.readers.table_layout import Layout
from jfreq.data.readers.tables import TABLES, Marks, read_table
from jfreq.data.sources.base import Signal
from jfreq.ranges import brief
from jfreq.types import InputError

RATE = "rate"
"""Array with the Hz of all modalities; ``NAME_rate`` that of one."""
RATES = ("sr", RATE, "fs", "sample_rate", "sampling_rate")
NAMES = ("channel_names", "columns", "channels")
"""Arrays of words that name the channels of ``x``."""
_NUMBERS = "fiubc"
_HASTY = 20
"""Labels that change this often, and on average after fewer than two samples, are no labels."""


class Recording(NamedTuple):
    """What a file holds."""

    signals: dict[str, Signal]
    """By modality; under an empty name the one array of all channels. Without ``values`` empty."""
    label: Marks | None = None
    """A word for every sample, for every window, or one for all."""
    subject: Marks | None = None
    windows: int | None = None
    """Of arrays ``[n t c]``."""
    measured: float | None = None
    """Hz that the times of the samples say, before any is asked for."""
    said: str = ""
    """What became of columns or arrays, the same for files of the same layout."""
    remarks: tuple[str, ...] = ()
    """What is particular to this file."""
    moved: bool = False
    """Samples are not where the file's lines are: missing ones were put in, or interpolated."""


def read_recording(
    path: Path, *, rate: float | None = None, values: bool = True, wanted: Sequence[str] = ()
) -> Recording:
    """Reads one file of sensors.

    Args:
      rate: Hz that samples with times are put on, within 5 % of the measured rate.
      values: read the samples too; without them only labels, subjects and times.
      wanted: modalities that are looked for first, by the names of arrays.

    Raises:
      InputError: saying what is wrong with the file.
    """
    if path.suffix.lower() in TABLES:
        return _from_table(path, rate, values)
    return _from_archive(Archive(path), rate, values, wanted)


# ------------------------------------------------------------------ tables


def _from_table(path: Path, rate: float | None, values: bool) -> Recording:
    table = read_table(path, values=values)
    layout, label, subject = table.layout, table.label, table.subject
    _check_steady(label, None)
    if table.seconds is None:
        signals = {} if table.x is None else {"": Signal(table.x, None, names=layout.names)}
        return Recording(signals, label, subject, said=_said(layout, ""), remarks=())
    column = layout.columns[layout.uses.index("time")]
    clock = _clock(table.seconds, rate, f"column {column!r}", layout.skip + 1)
    signals = {}
    if table.x is not None:
        x = clock.on_grid(table.x)
        signals = {"": Signal(x, clock.rate, clock.breaks, layout.names)}
    label, subject = (m and m._replace(codes=m.codes[clock.nearest]) for m in (label, subject))
    return Recording(
        signals,
        label,
        subject,
        measured=clock.rate,
        said=_said(layout, f"time from {column!r}"),
        remarks=clock.notes,
        moved=clock.moved,
    )


def _check_steady(label: Marks | None, windows: int | None) -> None:
    """``InputError`` for a label that changes nearly with every sample."""
    if label is None or windows is not None:
        return
    changes = int(np.count_nonzero(np.diff(label.codes)))
    if changes >= _HASTY and len(label.codes) < 2 * changes:
        raise InputError(
            f"its label changes {changes} times in {len(label.codes)} samples, so it names no "
            "activities; windows are saved as [n, time, channels] with a label each"
        )


def _clock(seconds: np.ndarray, rate: float | None, owner: str, first_line: int) -> Clock:
    try:
        return clock_of(seconds, rate=rate, first_line=first_line)
    except InputError as error:
        raise InputError(f"{owner}: {error}") from None


def _said(layout: Layout, time: str) -> str:
    parts = [time] if time else []
    names = ", ".join(layout.names) or f"{len(layout.channels)}, which have no names"
    parts.append(f"channels {names}")
    for use in ("label", "subject"):
        if (at := layout.place(use)) is not None:
            parts.append(f"{use} from {layout.columns[at]!r}")
    return "; ".join([*parts, *layout.notes])


# ------------------------------------------------------------------ arrays


class _Roles(NamedTuple):
    """Which array of an archive is what, by name; None for what is not there."""

    signals: dict[str, str]
    """The array of each modality."""
    label: str | None
    subject: str | None
    time: str | None
    rate: str | None
    names: str | None


def _from_archive(
    archive: Archive, rate: float | None, values: bool, wanted: Sequence[str]
) -> Recording:
    roles = _roles(archive, wanted)
    windows = _windows(archive, roles)
    first = archive[next(iter(roles.signals.values()))]
    clock = _own_clock(archive, roles, rate, windows)
    length = first.shape[0]
    label = _words(archive, roles.label, windows, length)
    subject = _words(archive, roles.subject, windows, length)
    if clock is not None:
        label, subject = (
            m._replace(codes=m.codes[clock.nearest]) if m and len(m.codes) > 1 else m
            for m in (label, subject)
        )
    signals = {}
    if values:
        signals = {m: _signal(archive, m, name, roles, clock) for m, name in roles.signals.items()}
    _check_steady(label, windows)
    return Recording(
        signals,
        label,
        subject,
        windows,
        clock.rate if clock else None,
        _said_arrays(archive, roles),
        clock.notes if clock else (),
        clock is not None and clock.moved,
    )


def _said_arrays(archive: Archive, roles: _Roles) -> str:
    parts = [f"signals from {', '.join(roles.signals.values())}"]
    whole = [n for m, n in roles.signals.items() if m and archive[n].dtype.kind == "i"]
    parts += [f"whole numbers of {', '.join(whole)} as PCM, full scale 1"] if whole else []
    for use in ("label", "subject", "time"):
        name = getattr(roles, use)
        parts += [f"{use} from {name!r}"] if name else []
    used = {*roles.signals.values(), *roles[1:], "scale"}
    used |= {f"{name}_{RATE}" for name in roles.signals}
    others = [repr(name) for name in archive if name not in used]
    return "; ".join([*parts, *([f"left out: {', '.join(others)}"] if others else [])])


def _roles(archive: Archive, wanted: Sequence[str]) -> _Roles:
    """By name alone, without regard to case."""
    lower = {name.lower(): name for name in reversed(list(archive))} | {n: n for n in archive}

    def first(names: Sequence[str]) -> str | None:
        return next((lower[n] for n in names if n in lower), None)

    by_role = {role: [n for n in archive if role_of(n) == role] for role in ("label", "subject")}
    label = min(by_role["label"], key=lambda n: _place(parsed(n).words), default=None)
    subject = next(iter(by_role["subject"]), None)
    taken = {label, subject, first(("scale",)), first(NAMES), *map(first, [(r,) for r in RATES])}
    numeric = [
        n
        for n, m in archive.items()
        if n not in taken and (m.dtype.kind in _NUMBERS or m.dtype.hasobject)
    ]
    time = next((n for n in numeric if role_of(n) == "time" and len(archive[n].shape) == 1), None)
    signals = {name: name for name in wanted if name in archive}
    if not signals and (x := first(("x",))):
        signals = {"": x}
    signals = signals or _modalities(archive, numeric, time)
    if not signals:
        raise InputError(f"no array 'x'; it has: {brief(', '.join(archive))}")
    return _Roles(signals, label, subject, time, first(RATES), first(NAMES))


def _place(words: str) -> int:
    return LABEL.index(words) if words in LABEL else len(LABEL)


def _modalities(archive: Archive, numeric: Sequence[str], time: str | None) -> dict[str, str]:
    """Arrays by their own names; a single one without a rate of its own is simply the signal."""
    rated = {n for n in numeric if f"{n}_{RATE}" in archive}
    found = [n for n in numeric if n != time and (len(archive[n].shape) >= 2 or n in rated)]
    if len(found) == 1 and not rated:
        return {"": found[0]}
    return {name: name for name in found}


def _windows(archive: Archive, roles: _Roles) -> int | None:
    """How many recordings the arrays hold, where they are ``[n t c]``."""
    dims = {name: len(archive[name].shape) for name in roles.signals.values()}
    for name, dim in dims.items():
        shape = archive[name].shape
        if not 1 <= dim <= 3:
            raise InputError(f"{name}: expected [time, channels], got shape {shape}")
        if 0 in shape:
            raise InputError(f"{name}: is empty, its shape is {shape}")
    counts = {archive[name].shape[0] for name, dim in dims.items() if dim == 3}
    if len(counts) > 1 or (counts and set(dims.values()) != {3}):
        shapes = ", ".join(f"{name} {archive[name].shape}" for name in dims)
        raise InputError(f"its arrays do not go together: {shapes}")
    return counts.pop() if counts else None


def _own_clock(
    archive: Archive, roles: _Roles, rate: float | None, windows: int | None
) -> Clock | None:
    """Of an array of times beside a single array of samples."""
    if roles.time is None or windows is not None or len(roles.signals) > 1:
        return None
    name = next(iter(roles.signals.values()))
    raw = archive.read(roles.time)
    if len(raw) != archive[name].shape[0]:
        raise InputError(f"{roles.time} has {len(raw)} times for {archive[name].shape[0]} samples")
    stated = _rate(archive, "", roles)
    seconds = seconds_of(raw, parsed(roles.time).unit, roles.time)
    return None if seconds is None else _clock(seconds, stated or rate, roles.time, 1)


def _signal(
    archive: Archive, modality: str, name: str, roles: _Roles, clock: Clock | None
) -> Signal:
    """Float32 ``[t c]`` or ``[n t c]``; complex64 ``[t c 1]`` or ``[n t c 1]``."""
    raw = archive.read(name)
    if raw.dtype.kind not in _NUMBERS:
        raise InputError(f"{name}: holds {raw.dtype}, not numbers")
    raw = raw[:, None] if raw.ndim == 1 else raw
    dense = np.iscomplexobj(raw)
    if not dense and raw.shape[-1] > raw.shape[-2]:
        how = f"{name}.T" if raw.ndim == 2 else f"np.swapaxes({name}, 1, 2)"
        raise InputError(
            f"{name}: shape {raw.shape} means {raw.shape[-1]} channels of {raw.shape[-2]} samples; "
            f"if time comes last, save {how}, for [time, channels]"
        )
    x = _single(raw, name)
    if modality and raw.dtype.kind in "iu":
        x = x / _full_scale(raw.dtype, name)
    elif not modality and "scale" in archive:
        x = x * _scale(archive.read("scale"), x.shape[-1])
    rate = _rate(archive, modality, roles)
    if clock is not None and not dense:
        x, rate = clock.on_grid(x), clock.rate
    names = _names(archive, roles, x.shape[-1]) if not modality and not dense else ()
    breaks = clock.breaks if clock is not None else ()
    return Signal(x[..., None] if dense else x, rate, breaks, names)


def _single(raw: np.ndarray, name: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        x = np.asarray(raw, np.complex64 if np.iscomplexobj(raw) else np.float32)
    if raw.dtype.itemsize > x.dtype.itemsize and (np.isinf(x) & np.isfinite(raw)).any():
        raise InputError(f"{name}: holds numbers larger than float32 can hold")
    return x


def _full_scale(dtype: np.dtype, name: str) -> np.float32:
    """What integers of a modality are divided by: they are PCM, as sound is."""
    if dtype.kind == "u":
        raise InputError(
            f"{name}: holds {dtype}; signed integers are read as PCM, save others as float32"
        )
    return np.float32(2.0 ** (8 * dtype.itemsize - 1))


def _scale(raw: np.ndarray, channels: int) -> np.ndarray:
    plain = raw.dtype.kind in "fiu" and raw.shape in ((), (1,), (channels,), (1, channels))
    if not plain or not np.isfinite(raw).all():
        raise InputError(
            f"scale: expected a number, or one for each of {channels} channels, got {raw.dtype} of "
            f"shape {raw.shape}"
        )
    return raw.astype(np.float32)


def _rate(archive: Archive, modality: str, roles: _Roles) -> float | None:
    own = f"{modality}_{RATE}"
    name = own if modality and own in archive else roles.rate
    return None if name is None else hertz(archive.read(name), name)


def hertz(value: Any, where: str) -> float:
    """A rate in Hz; ``InputError`` for anything but one positive number."""
    array = np.asarray(value)
    plain = array.size == 1 and array.dtype.kind in "fiu"
    found = float(array.reshape(-1)[0]) if plain else 0.0
    if not (np.isfinite(found) and found > 0):
        shown = array.reshape(-1)[0] if array.size == 1 else f"an array of shape {array.shape}"
        raise InputError(f"{where}: the rate must be a positive number of Hz, got {shown}")
    return found


def _names(archive: Archive, roles: _Roles, channels: int) -> tuple[str, ...]:
    if roles.names is None or archive[roles.names].dtype.kind not in "US":
        return ()
    marks = np.atleast_1d(archive.read(roles.names)).reshape(-1)
    if len(marks) != channels:
        raise InputError(f"{roles.names} has {len(marks)} names for {channels} channels")
    return tuple(_texts(marks, roles.names))


def _words(archive: Archive, name: str | None, windows: int | None, samples: int) -> Marks | None:
    """One word for the file, or one for every window or sample."""
    if name is None:
        return None
    raw = archive.read(name)
    wanted = samples if windows is None else windows
    what = "samples" if windows is None else "windows"
    flat = raw.reshape(-1)
    if raw.size == 0 or (raw.size > 1 and max(raw.shape) != raw.size):
        hint = "; of one-hot rows save .argmax(1)" if raw.ndim == 2 else ""
        raise InputError(
            f"{name}: expected a word or number for each of {wanted} {what}, got shape "
            f"{raw.shape}{hint}"
        )
    if len(flat) not in (1, wanted):
        raise InputError(f"{name} has {len(flat)} values for {wanted} {what}")
    values, codes = np.unique(flat, return_inverse=True)
    return Marks(codes.astype(np.int32), tuple(_texts(values, name)))


def _texts(values: np.ndarray, name: str) -> list[str]:
    """Words as they are, whole numbers without a point; NaN is none."""
    if values.dtype.kind == "S":
        try:
            return [value.decode().strip() for value in values.tolist()]
        except UnicodeDecodeError as error:
            raise InputError(f"{name}: is not UTF-8 text") from error
    if values.dtype.kind == "f":
        if (np.mod(values[np.isfinite(values)], 1) != 0).any() or np.isinf(values).any():
            raise InputError(f"{name}: holds fractions; labels are words or whole numbers")
        return ["" if np.isnan(value) else str(int(value)) for value in values]
    if values.dtype.kind not in "Uiub":
        raise InputError(f"{name}: holds {values.dtype}; labels are words or whole numbers")
    return [str(value).strip() for value in values.tolist()]
