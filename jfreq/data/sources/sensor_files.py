"""Sensor recordings in files of their own: tables, and archives of arrays."""

from __future__ import annotations

import functools
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from jfreq.data.options import Options
from jfreq.data.readers.clock import common_rate
from jfreq.data.readers.columns import modalities_of, parsed, sensor_of
from jfreq.data.readers.recordings import Recording, read_recording
from jfreq.data.readers.tables import Marks
from jfreq.data.sources.base import (
    ARRAYS,
    UNREADABLE,
    Listed,
    Row,
    Signal,
    Source,
    classes_of,
    split_channels,
)
from jfreq.data.sources.complex_signals import real_modalities
from jfreq.data.sources.folders import PERSON, are_people, listing, shown, splits_and_labels
from jfreq.ranges import brief, shortlist
from jfreq.types import InputError

IMU = {"acc": (0, 1, 2), "gyro": (3, 4, 5)}
_NOBODY = {"raw data", "data", "recording", "sensor", "sensors", "signal", "samples"}
"""Names of files that apps give to every recording, beside those of sensors."""
_MOST = 8
"""Files of which particulars are listed one by one."""


class SensorFile(NamedTuple):
    """A file and what is known of it without its samples; None for one that cannot be read."""

    name: str
    recording: Recording | None


class FromFolders(NamedTuple):
    """What the folders of a file say."""

    split: str
    label: str
    subject: str


def from_sensors(path: Path, options: Options) -> Source:
    """Recordings as tables (``.csv``, ``.tsv``) or arrays (``.npz``, ``.npy``).

    A label may be one word per file or one per sample; then every stretch of one label is a row
    of its own, and a window never mixes labels. Where no file has labels, they are the names of
    the folders.
    """
    files = (
        [path] if path.is_file() else [f for f in listing(path).files if f.suffix.lower() in ARRAYS]
    )
    root = path.parent if path.is_file() else path
    files = [f for f in files if options.keeps(f.relative_to(root).as_posix())] or files
    _check_one_sensor(files, root)
    listed = [SensorFile(f.relative_to(root).as_posix(), _listed(f, options.rate)) for f in files]
    rate = options.rate or common_rate([f.measured for _, f in listed if f and f.measured])
    listed = [
        SensorFile(name, _listed(root / name, rate) if rate and _differs(old, rate) else old)
        for name, old in listed
    ]
    from_folders, notes = _from_folders(listed)
    stretches = [
        (row, label)
        for (name, recording), said in zip(listed, from_folders)
        for row, label in _rows(name, recording, said)
    ]
    labels, numbers, dropped = classes_of([(row.path, label) for row, label in stretches], options)
    rows = tuple(
        row._replace(label=(numbers[label],) if label else ())
        for row, label in stretches
        if label not in dropped
    )
    name = path.stem if path.is_file() else path.name
    notes = (*_said(listed, rate), *notes)
    source_rows = Listed(rows, labels, dropped=dropped)
    return array_source(name, "sensors", source_rows, root, options, measured=rate, notes=notes)


def array_source(
    name: str,
    kind: str,
    listed: Listed,
    root: Path,
    options: Options,
    *,
    load: Callable[[Path], Signal] | None = None,
    groups: Mapping[str, Sequence[int]] | None = None,
    rate: float | None = None,
    measured: float | None = None,
    notes: Iterable[str] = (),
) -> Source:
    """Rows of files of sensors; six channels without names are acc xyz and gyro xyz by custom.

    ``load`` gives a whole file, ``[t c]`` or ``[n t c]``, by default any that
    :func:`jfreq.data.readers.recordings.read_recording` knows; ``groups`` are its modalities.
    ``measured``: Hz of the grid for samples with times.
    """

    @functools.lru_cache(maxsize=4)
    def whole(path: Path, grid: float | None) -> Recording:
        if load is not None:
            return Recording({"": load(path)})
        try:
            return read_recording(path, rate=grid)
        except InputError as error:
            raise InputError(f"{error}{_way_out(error, options.rate)}") from None

    def read(row: Row) -> dict[str, Signal]:
        path = root / row.path
        if not path.is_file():
            raise InputError("is not on disk")
        recording = whole(path, row.rate or options.rate or measured)
        if kind == "index" and recording.moved and (row.start or row.end is not None):
            raise InputError(
                "start and end count its lines, but samples are missing or uneven in time; cut the "
                "file itself"
            )
        signals = {name: _item(s, row) for name, s in recording.signals.items()}
        signals = _cut(signals, row)
        signals = {name: s._replace(rate=s.rate or row.rate) for name, s in signals.items()}
        if "" not in signals:
            return _picked(signals, options)
        signal = signals[""]
        if np.iscomplexobj(signal.x):
            return real_modalities(signal, options.complex_as, options.channels)
        modalities = groups or default_groups(signal)
        missing = options.allow_missing
        return split_channels(modalities, signal, options.channels, allow_missing=missing)

    return Source(
        name=name,
        kind=kind,
        **listed._asdict(),
        read=read,
        seconds=functools.partial(longest_stretch, read, options),
        audio=False,
        rate=rate,
        notes=tuple(notes),
        floating=True,
    )


def default_groups(signal: Signal) -> Mapping[str, Sequence[int] | None]:
    """The modalities of one array: sensors by the names of their axes, six unnamed channels."""
    if signal.names:
        return modalities_of(signal.names) or {"signal": None}
    return IMU if signal.x.shape[1] == 6 else {"signal": None}


def _way_out(error: InputError, rate: float | None) -> str:
    """What to do where times contradict ``--rate``."""
    if rate is None or f"not {rate:g} Hz" not in str(error):
        return ""
    return (
        f"; leave --rate {rate:g} out, or resample on purpose with --rates signal:{rate:g} (or "
        "the name of another modality)"
    )


def _picked(signals: dict[str, Signal], options: Options) -> dict[str, Signal]:
    """Modalities that come as arrays of their own; ``--modalities`` picks some, and channels."""
    if not options.channels:
        return signals
    out = {}
    for name, channels in options.channels.items():
        if name not in signals:
            raise InputError(f"has no array {name!r}; it has: {brief(', '.join(signals))}")
        out |= split_channels({}, signals[name], {name: channels})
    return out


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


def _item(signal: Signal, row: Row) -> Signal:
    """The row's recording of a file that holds many."""
    x, dims = signal.x, 2 + np.iscomplexobj(signal.x)
    if row.item is not None:
        if x.ndim != dims + 1:
            raise InputError(f"row {row.item} of an array of shape {x.shape}, which holds one")
        if not 0 <= row.item < len(x):
            raise InputError(f"row {row.item} lies outside its {len(x)} recordings")
        x = x[row.item]
    if x.ndim != dims:
        raise InputError(f"expected [time, channels], got shape {x.shape}")
    return signal._replace(x=x)


def _cut(signals: Mapping[str, Signal], row: Row) -> dict[str, Signal]:
    """The row's samples; ``start`` and ``end`` count those of the first signal."""
    first = next(iter(signals.values()))
    size = len(first.x)
    end = size if row.end is None else row.end
    if not 0 <= row.start < end <= size:
        raise InputError(f"samples {row.start}..{end} lie outside its {size}")
    out = {}
    for name, s in signals.items():
        ratio = (s.rate or 1.0) / (first.rate or 1.0)
        a, b = round(row.start * ratio), len(s.x) if row.end is None else round(end * ratio)
        breaks = tuple(k - a for k in s.breaks if a < k < b)
        out[name] = s._replace(x=s.x[a:b], breaks=breaks)
    return out


# ------------------------------------------------------------------ listing


def _listed(path: Path, rate: float | None) -> Recording | None:
    """A file without its samples; None where reading it will say what is wrong with it."""
    try:
        return read_recording(path, rate=rate, values=False)
    except UNREADABLE:
        return None


def _check_one_sensor(files: Sequence[Path], root: Path) -> None:
    """A row is one file, so sensors of one recording in a file each would become one modality."""
    sensors: dict[Path, dict[str, Path]] = defaultdict(dict)
    for file in files:
        if (sensor := sensor_of(file.stem)) is not None:
            sensors[file.parent].setdefault(sensor, file)
    for by_sensor in sensors.values():
        if len(by_sensor) > 1:
            a, b, *_ = (shown(file.relative_to(root)) for file in by_sensor.values())
            name = next(iter(by_sensor.values())).name
            raise InputError(
                f"source: {a} and {b} are different sensors of one recording, and a row is one "
                f"file; read one sensor, for instance with --only '*{name}', or write them side by "
                "side into one table"
            )


def _differs(recording: Recording | None, rate: float) -> bool:
    """Whether the file's times say another rate than that of the set."""
    return recording is not None and recording.measured not in (None, rate)


def _rows(name: str, recording: Recording | None, said: FromFolders) -> list[tuple[Row, str]]:
    """Rows of a file with their labels: its windows, or its stretches of one label and subject."""
    row = Row(name, split=said.split, subject=said.subject)
    if recording is None:
        return [(row, "")]
    label, subject = recording.label, recording.subject

    def at(marks: Marks | None, i: int, default: str) -> str:
        return default if marks is None else marks.names[marks.codes[min(i, len(marks.codes) - 1)]]

    def made(i: int, **more: int | None) -> tuple[Row, str]:
        owner = at(subject, i, said.subject)
        return row._replace(subject=owner, **more), at(label, i, said.label)

    if recording.windows is not None:
        return [made(i, item=i) for i in range(recording.windows)]
    cuts = _cuts([m.codes for m in (label, subject) if m is not None and len(m.codes) > 1])
    if not cuts:
        return [made(0)]
    return [made(a, start=a, end=b) for a, b in itertools.pairwise(cuts)]


def _cuts(marks: Sequence[np.ndarray]) -> list[int]:
    """Where any of the marks ``[t]`` changes, with both ends; empty where none is given."""
    if not marks:
        return []
    changes = np.logical_or.reduce([codes[1:] != codes[:-1] for codes in marks])
    return [0, *(np.flatnonzero(changes) + 1).tolist(), len(marks[0])]


def _from_folders(listed: Sequence[SensorFile]) -> tuple[list[FromFolders], list[str]]:
    """Split, label and subject of every file from its folders, and sentences about them.

    Where files have labels of their own, folders are people, if names of files repeat in them;
    where none has, folders are classes, unless they are called like people (``p1``, ``user_2``).
    """
    names = [entry.name for entry in listed]
    split_and_top, notes = splits_and_labels(names)
    stems = [PurePosixPath(name).stem for name in names]
    tops = {top for _, top in split_and_top} - {""}
    repeat = len(tops) > 1 and len(set(stems)) < len(stems)
    people = bool(tops) and all(PERSON.fullmatch(top) for top in tops)
    labelled = any(entry.recording and entry.recording.label for entry in listed)
    owned = all(entry.recording is None or entry.recording.subject for entry in listed)
    notes = [note for note in notes if note.startswith("splits")]
    if people or (labelled and repeat):
        words = stems if not labelled and are_people(tops, names) else [""] * len(stems)
        notes += [] if owned else [f"subjects from folders: {shortlist(sorted(tops), 6)}"]
        if any(words):
            notes.append(f"labels from the names of files: {shortlist(sorted(set(words)), 6)}")
        return [
            FromFolders(split, word, top or stem)
            for (split, top), word, stem in zip(split_and_top, words, stems)
        ], notes
    classes = not labelled and len(tops) > 1
    if classes:
        hint = " (if these are people, call them p1, p2, ..., or write an index.csv)" * repeat
        few = shortlist(sorted(tops), 6)
        notes.append(f"no file has labels, so they are the names of folders: {few}{hint}")
    stems = ["" if _names_nobody(stem) else stem for stem in stems]
    notes += [] if owned or len(set(stems) - {""}) < 2 else ["subjects from the names of files"]
    subjects = _stem_subjects(names, [split for split, _ in split_and_top], stems, classes)
    return [
        FromFolders(split, top if classes else "", subject)
        for (split, top), subject in zip(split_and_top, subjects)
    ], notes


def _stem_subjects(
    names: Sequence[str], splits: Sequence[str], stems: Sequence[str], classes: bool
) -> list[str]:
    """The stem of a file; its path where files of other folders have the same stem.

    In folders of classes one stem is one subject, so that no split has it on both sides.
    """
    count = Counter(stems)
    sides: dict[str, set[str]] = defaultdict(set)
    for stem, split in zip(stems, splits):
        sides[stem].add(split)
    return [
        stem
        if stem and (count[stem] == 1 or (classes and len(sides[stem]) == 1))
        else str(PurePosixPath(name).with_suffix(""))
        for name, stem in zip(names, stems)
    ]


def _names_nobody(stem: str) -> bool:
    """Whether a file is called after a sensor or as an app calls every recording."""
    return sensor_of(stem) is not None or parsed(stem).words in _NOBODY


def _said(listed: Sequence[SensorFile], rate: float | None) -> list[str]:
    """A line for every layout, and one for each of the first files that has particulars."""
    layouts: dict[str, list[SensorFile]] = defaultdict(list)
    for entry in listed:
        if entry.recording is not None:
            layouts[entry.recording.said].append(entry)
    lines = []
    for said, entries in layouts.items():
        more = f" (and {len(entries) - 1} more)" if len(entries) > 1 else ""
        lines.append(f"{entries[0].name}{more}: {said}{_at_rate(entries, rate)}")
    odd = [
        (e.name, e.recording.remarks)
        for e in listed
        if e.recording is not None and e.recording.remarks
    ]
    lines += [f"{name}: {'; '.join(remarks)}" for name, remarks in odd[:_MOST]]
    if len(odd) > _MOST:
        lines.append(f"and {len(odd) - _MOST} more files with missing or uneven times")
    return lines


def _at_rate(entries: Sequence[SensorFile], rate: float | None) -> str:
    rates = sorted({e.recording.measured for e in entries if e.recording and e.recording.measured})
    if not rates:
        return ""
    return (
        f"; {rate or rates[0]:g} Hz by the times"
        if rate or len(rates) == 1
        else f"; {rates[0]:g} to {rates[-1]:g} Hz by the times"
    )
