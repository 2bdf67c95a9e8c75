"""Sensor recordings kept as arrays: ``.npz`` and ``.csv``."""

from __future__ import annotations

import csv
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jfreq.data.complexes import real_modalities
from jfreq.data.source import (
    ARRAYS,
    UNREADABLE,
    Options,
    Row,
    Signal,
    Source,
    files_in,
    is_number,
    label_numbers,
    split_channels,
)
from jfreq.types import InputError

LABEL_COLUMNS = ("label", "labels", "y", "activity", "class")
IMU = {"acc": (0, 1, 2), "gyro": (3, 4, 5)}
TIME_COLUMNS = ("time", "timestamp", "t")


def from_sensors(path: Path, options: Options) -> Source:
    """Recordings as ``.npz`` (array ``x`` ``[t c]``, ``scale``, ``sr``, ``label``) or ``.csv``.

    A label may be one name per file or one value per sample; then every stretch of one label is
    a row of its own, and a recording never mixes labels in a window.
    """
    files = [path] if path.is_file() else sorted(files_in(path, ARRAYS))
    root = path.parent if path.is_file() else path
    segments = [(file.relative_to(root).as_posix(), *s) for file in files for s in _segments(file)]
    segments = [s for s in segments if not options.drops(s[3])]
    labels, known = label_numbers([(file, name) for file, *_, name in segments], options)
    rows = [
        Row(file, (known[name],) if name else (), start=a, end=b, subject=Path(file).stem)
        for file, a, b, name in segments
    ]
    return array_source(path.stem, "sensors", rows, root, options, labels=labels)


def array_source(
    name: str,
    kind: str,
    rows: Iterable[Row],
    root: Path,
    options: Options,
    *,
    labels: tuple[str, ...] = (),
    rest: Iterable[Row] = (),
    missing: Iterable[str] = (),
    load: Callable[[Path], Signal] | None = None,
    groups: Mapping[str, Sequence[int]] | None = None,
    rate: float | None = None,
) -> Source:
    """Rows of array files; six channels are acc xyz and gyro xyz by custom.

    ``load`` gives a whole file, ``[t c]`` or ``[n t c]``; ``groups`` are its modalities.
    """
    whole = functools.lru_cache(maxsize=4)(load or load_array)

    def read(row: Row) -> dict[str, Signal]:
        path = root / row.path
        if not path.is_file():
            raise InputError("is not on disk")
        signal = whole(path)
        if row.item is not None:
            signal = signal._replace(x=signal.x[row.item])
        if signal.x.ndim != 2 + np.iscomplexobj(signal.x):
            raise InputError(f"expected [time, channels], got shape {signal.x.shape}")
        signal = _cut(signal, row)
        if signal.rate is None:
            signal = signal._replace(rate=row.rate)
        if np.iscomplexobj(signal.x):
            return real_modalities(signal, options.complex_as, options.modalities)
        default = groups or (IMU if signal.x.shape[1] == 6 else {"signal": None})
        return split_channels(
            default, signal, options.modalities, allow_missing=options.allow_missing
        )

    return Source(
        name, kind, tuple(rows), read, functools.partial(longest_stretch, read, options), False,
        labels, missing=tuple(missing), rest=tuple(rest), rate=rate,
    )  # fmt: skip


def longest_stretch(
    read: Callable[[Row], Mapping[str, Signal]], options: Options, row: Row
) -> float | None:
    """Seconds of the longest stretch without a break; None where it or the rate is unknown."""
    try:
        signal = next(iter(read(row).values()))
    except UNREADABLE:
        return None
    rate = signal.rate or options.rate
    edges = (0, *signal.breaks, len(signal.x))
    return max(b - a for a, b in itertools.pairwise(edges)) / rate if rate else None


def _cut(signal: Signal, row: Row) -> Signal:
    """The row's samples of a file."""
    size = len(signal.x)
    end = size if row.end is None else row.end
    if not 0 <= row.start < end <= size:
        raise InputError(f"samples {row.start}..{end} lie outside its {size}")
    breaks = tuple(b - row.start for b in signal.breaks if row.start < b < end)
    return Signal(signal.x[row.start : end], signal.rate, breaks)


def load_array(path: Path) -> Signal:
    """``x`` of an ``.npz`` or ``.csv`` with its stored rate.

    Float32 ``[t c]`` or ``[n t c]``; complex64 ``[t c 1]`` or ``[n t c 1]`` where it is complex.
    """
    if path.suffix == ".csv":
        return Signal(_load_table(path)[0], None)
    with np.load(path, allow_pickle=False) as file:
        name = "x" if "x" in file.files else _only_signal(file)
        raw = file[name]
        x = np.asarray(raw, np.complex64 if np.iscomplexobj(raw) else np.float32)
        x = x[:, None] if x.ndim == 1 else x
        x = x * file["scale"].astype(np.float32) if "scale" in file.files else x
        rate = next((float(file[k]) for k in ("sr", "rate", "fs") if k in file.files), None)
    return Signal(x[..., None] if np.iscomplexobj(x) else x, rate)


def _only_signal(file: Any) -> str:
    big = [name for name in file.files if file[name].ndim == 2]
    if len(big) != 1:
        raise InputError(f"no array 'x'; it has: {', '.join(file.files)}")
    return big[0]


def _load_table(path: Path) -> tuple[np.ndarray, list[str] | None]:
    """The numeric columns ``[t c]`` of a CSV and its label column, if any."""
    with path.open(newline="", encoding="utf-8") as file:
        lines = [line for line in csv.reader(file) if line]
    if not lines:
        raise InputError("is empty")
    header = None if all(is_number(v) for v in lines[0]) else [v.strip() for v in lines.pop(0)]
    skip = {i for i, v in enumerate(header or ()) if v.lower() in (*LABEL_COLUMNS, *TIME_COLUMNS)}
    label = next((i for i, v in enumerate(header or ()) if v.lower() in LABEL_COLUMNS), None)
    width = len(lines[0]) if lines else 0
    rows = [[v for i, v in enumerate(line) if i not in skip] for line in lines]
    x = np.array(rows, np.float32).reshape(len(rows), width - len(skip))
    return x, None if label is None else [line[label].strip() for line in lines]


def _segments(path: Path) -> list[tuple[int, int | None, str]]:
    """``(start, end, label)`` of the stretches of one label in a sensor file."""
    try:
        if path.suffix == ".csv":
            values = _load_table(path)[1]
        else:
            with np.load(path, allow_pickle=False) as file:
                key = next((k for k in LABEL_COLUMNS if k in file.files), None)
                array = None if key is None else file[key]
                values = None if array is None else np.atleast_1d(array).astype(str).tolist()
    except UNREADABLE:
        return [(0, None, "")]
    if values is None or len(values) == 1:
        return [(0, None, values[0] if values else "")]
    cuts = [0, *(i for i in range(1, len(values)) if values[i] != values[i - 1]), len(values)]
    return [(a, b, values[a]) for a, b in itertools.pairwise(cuts)]
