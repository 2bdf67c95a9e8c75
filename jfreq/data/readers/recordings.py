"""Reads a file of sensors, a table or an archive of arrays, as signals, labels and subjects.

``prepare`` and ``embed`` both read through this module, so they see the same channels.
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
from jfreq.data.readers.tables import TABLES, Categorical, read_table
from jfreq.data.sources.base import Signal
from jfreq.ranges import brief
from jfreq.types import InputError

RATE = "rate"
"""Name of the array with the Hz of all modalities; ``NAME_rate`` holds that of one."""
RATES = ("sr", RATE, "fs", "sample_rate", "sampling_rate")
NAMES = ("channel_names", "columns", "channels")
"""Names of an array of words that are the names of the channels."""
_NUMBERS = "fiubc"
"""Kinds of dtypes that are numbers."""
_MOST_CHANGES = 20
"""Labels that change so often, and after fewer than two samples on average, are refused."""


class Recording(NamedTuple):
    """What a file holds."""

    signals: dict[str, Signal]
    """By modality; a single array of all channels has an empty name. Empty without samples."""
    label: Categorical | None = None
    """One for every sample, for every window, or one for all."""
    subject: Categorical | None = None
    """As ``label``."""
    windows: int | None = None
    """Number of windows in arrays ``[n t c]``; None for arrays ``[t c]``."""
    measured: float | None = None
    """Hz by the times of the samples, rounded or as the caller asked; None without times."""
    layout: str = ""
    """What the columns or arrays are read as, for a note; equal for files of the same layout."""
    remarks: tuple[str, ...] = ()
    """Notes about this file, such as missing samples."""
    regridded: bool = False
    """Samples are not the lines of the file: some are missing, or all are interpolated."""


def read_recording(
    path: Path, *, rate: float | None = None, values: bool = True, wanted: Sequence[str] = ()
) -> Recording:
    """Reads one file of sensors.

    Args:
      rate: Hz of the grid for samples with times, within 5 % of the measured rate.
      values: read the samples too, not only labels, subjects and times.
      wanted: names of arrays that are the modalities, where the file has any of them.

    Raises:
      InputError: for a file that is damaged, or of no layout that docs/data.md describes.
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
        return Recording(signals, label, subject, layout=_layout_of_table(layout, ""))
    column = layout.columns[layout.uses.index("time")]
    clock = _clock(table.seconds, rate, f"column {column!r}", layout.skip + 1)
    signals = {}
    if table.x is not None:
        x = clock.on_grid(table.x)
        signals = {"": Signal(x, clock.rate, clock.breaks, layout.names)}
    label, subject = (c and c._replace(codes=c.codes[clock.nearest]) for c in (label, subject))
    return Recording(
        signals,
        label,
        subject,
        measured=clock.rate,
        layout=_layout_of_table(layout, f"time from {column!r}"),
        remarks=clock.notes,
        regridded=clock.regridded,
    )


def _check_steady(label: Categorical | None, windows: int | None) -> None:
    """``InputError`` for a label that changes with nearly every sample."""
    if label is None or windows is not None:
        return
    changes = int(np.count_nonzero(np.diff(label.codes)))
    if changes >= _MOST_CHANGES and len(label.codes) < 2 * changes:
        raise InputError(
            f"its label changes {changes} times in {len(label.codes)} samples, so it is no label "
            "of stretches; save windows with a label each as [n, time, channels]"
        )


def _clock(seconds: np.ndarray, rate: float | None, owner: str, first_line: int) -> Clock:
    try:
        return clock_of(seconds, rate=rate, first_line=first_line)
    except InputError as error:
        raise InputError(f"{owner}: {error}") from None


def _layout_of_table(layout: Layout, time: str) -> str:
    """A note about what the columns are read as."""
    parts = [time] if time else []
    names = ", ".join(layout.names) or f"{len(layout.channels)}, which have no names"
    parts.append(f"channels {names}")
    for use in ("label", "subject"):
        if (at := layout.column_of(use)) is not None:
            parts.append(f"{use} from {layout.columns[at]!r}")
    return "; ".join([*parts, *layout.notes])


# ------------------------------------------------------------------ arrays


class _Roles(NamedTuple):
    """The names of the arrays of each role in an archive; None for what it does not have."""

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
    clock = _clock_of_array(archive, roles, rate, windows)
    length = first.shape[0]
    label = _categorical(archive, roles.label, windows, length)
    subject = _categorical(archive, roles.subject, windows, length)
    if clock is not None:
        label, subject = (
            c._replace(codes=c.codes[clock.nearest]) if c and len(c.codes) > 1 else c
            for c in (label, subject)
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
        _layout_of_arrays(archive, roles),
        clock.notes if clock else (),
        clock is not None and clock.regridded,
    )


def _layout_of_arrays(archive: Archive, roles: _Roles) -> str:
    """A note about what the arrays are read as."""
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
    """Roles by name alone, without regard to case; ``InputError`` where no array is a signal."""
    lower = {name.lower(): name for name in reversed(list(archive))} | {n: n for n in archive}

    def first(names: Sequence[str]) -> str | None:
        return next((lower[n] for n in names if n in lower), None)

    rank = {words: i for i, words in enumerate(LABEL)}
    by_role = {role: [n for n in archive if role_of(n) == role] for role in ("label", "subject")}
    label = min(by_role["label"], key=lambda n: rank.get(parsed(n).words, len(LABEL)), default=None)
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
        raise InputError(f"has no array 'x' of samples; it has: {brief(', '.join(archive))}")
    return _Roles(signals, label, subject, time, first(RATES), first(NAMES))


def _modalities(archive: Archive, numeric: Sequence[str], time: str | None) -> dict[str, str]:
    """Arrays as modalities of the same names; a single one without a rate has an empty name."""
    rated = {n for n in numeric if f"{n}_{RATE}" in archive}
    names = [n for n in numeric if n != time and (len(archive[n].shape) >= 2 or n in rated)]
    if len(names) == 1 and not rated:
        return {"": names[0]}
    return {name: name for name in names}


def _windows(archive: Archive, roles: _Roles) -> int | None:
    """The number of windows where arrays are ``[n t c]``, else None; ``InputError`` for others."""
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
        raise InputError(
            "its arrays must all be [time, channels], or all [n, time, channels] with the same n; "
            f"they are {shapes}"
        )
    return counts.pop() if counts else None


def _clock_of_array(
    archive: Archive, roles: _Roles, rate: float | None, windows: int | None
) -> Clock | None:
    """The clock by an array of times, which belongs to a single array of samples."""
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
    """Samples float32 ``[t c]`` or ``[n t c]``; complex64 ``[t c 1]`` or ``[n t c 1]``."""
    raw = archive.read(name)
    if raw.dtype.kind not in _NUMBERS:
        raise InputError(f"{name}: holds {raw.dtype}, not numbers")
    raw = raw[:, None] if raw.ndim == 1 else raw
    is_complex = np.iscomplexobj(raw)
    if not is_complex and raw.shape[-1] > raw.shape[-2]:
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
    if clock is not None and not is_complex:
        x, rate = clock.on_grid(x), clock.rate
    names = _names(archive, roles, x.shape[-1]) if not modality and not is_complex else ()
    breaks = clock.breaks if clock is not None else ()
    return Signal(x[..., None] if is_complex else x, rate, breaks, names)


def _single(raw: np.ndarray, name: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        x = np.asarray(raw, np.complex64 if np.iscomplexobj(raw) else np.float32)
    if raw.dtype.itemsize > x.dtype.itemsize and (np.isinf(x) & np.isfinite(raw)).any():
        raise InputError(f"{name}: holds numbers larger than float32 can hold")
    return x


def _full_scale(dtype: np.dtype, name: str) -> np.float32:
    """The full scale of integers, which are PCM as those of sound.

    Raises:
      InputError: for unsigned integers and those of 64 bits, which are no format of PCM.
    """
    if dtype.kind == "u" or dtype.itemsize > 4:
        raise InputError(
            f"{name}: holds {dtype}; signed integers of up to 32 bits are read as PCM, save others "
            "as float32"
        )
    return np.float32(2.0 ** (8 * dtype.itemsize - 1))


def _scale(raw: np.ndarray, channels: int) -> np.ndarray:
    valid = raw.dtype.kind in "fiu" and raw.shape in ((), (1,), (channels,), (1, channels))
    if not valid or not np.isfinite(raw).all():
        raise InputError(
            f"scale: expected a number, or one for each of {channels} channels, got {raw.dtype} of "
            f"shape {raw.shape}"
        )
    return raw.astype(np.float32)


def _rate(archive: Archive, modality: str, roles: _Roles) -> float | None:
    specific = f"{modality}_{RATE}"
    name = specific if modality and specific in archive else roles.rate
    return None if name is None else hertz(archive.read(name), name)


def hertz(value: Any, where: str) -> float:
    """A rate in Hz; ``InputError`` for anything but one positive number."""
    array = np.asarray(value)
    rate = float(array.item()) if array.size == 1 and array.dtype.kind in "fiu" else 0.0
    if not (np.isfinite(rate) and rate > 0):
        got = array.reshape(-1)[0] if array.size == 1 else f"an array of shape {array.shape}"
        raise InputError(f"{where}: the rate must be a positive number of Hz, got {got}")
    return rate


def _names(archive: Archive, roles: _Roles, channels: int) -> tuple[str, ...]:
    if roles.names is None or archive[roles.names].dtype.kind not in "US":
        return ()
    names = archive.read(roles.names).reshape(-1)
    if len(names) != channels:
        raise InputError(f"{roles.names} has {len(names)} names for {channels} channels")
    return tuple(_texts(names, roles.names))


def _categorical(
    archive: Archive, name: str | None, windows: int | None, samples: int
) -> Categorical | None:
    """The words of an array: one for the file, or one for every window or sample."""
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
    return Categorical(codes.astype(np.int32), tuple(_texts(values, name)))


def _texts(values: np.ndarray, name: str) -> list[str]:
    """Words as they are, and whole numbers without a decimal point; NaN is an empty word."""
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
