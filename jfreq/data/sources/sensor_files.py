"""Sources of sensor recordings in tables and archives of arrays."""

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
_NOT_SUBJECTS = {"raw data", "data", "recording", "sensor", "sensors", "signal", "samples"}
"""Names that apps give to the files of every recording, beside names of sensors."""
_MOST_NOTES = 8
"""Files whose remarks are printed one by one."""


class SensorFile(NamedTuple):
    """A file by its path below the source, and its recording without samples."""

    name: str
    recording: Recording | None
    """None where the file cannot be read."""


class FolderInfo(NamedTuple):
    """What the folders of a file state; an empty string for what they do not."""

    split: str
    label: str
    subject: str


def from_sensors(path: Path, options: Options) -> Source:
    """Recordings as tables (``.csv``, ``.tsv``) or arrays (``.npz``, ``.npy``).

    A label may be one word per file or one per sample. With one per sample, every stretch of one
    label is a row of its own, so that no window mixes labels. Where no file has labels, they are
    the names of the folders.

    Raises:
      InputError: for files of several sensors of one recording, which cannot be joined.
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
    folder_info, notes = _from_folders(listed)
    stretches = [
        pair for file, info in zip(listed, folder_info) for pair in _labelled_rows(file, info)
    ]
    labels, numbers, dropped = classes_of([(row.path, label) for row, label in stretches], options)
    rows = tuple(
        row._replace(label=(numbers[label],) if label else ())
        for row, label in stretches
        if label not in dropped
    )
    name = path.stem if path.is_file() else path.name
    notes = (*_layout_notes(listed, rate), *notes)
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
    """A source whose rows are in files of sensors below ``root``.

    Args:
      load: reads a whole file, ``[t c]`` or ``[n t c]``; by default
        :func:`jfreq.data.readers.recordings.read_recording` does.
      groups: the channels of each modality; by default as :func:`default_groups` finds them.
      rate: Hz of the shards where the caller states no rate.
      measured: Hz of the grid for samples with times, where the caller states no rate.
    """

    @functools.lru_cache(maxsize=4)
    def whole(path: Path, grid: float | None) -> Recording:
        if load is not None:
            return Recording({"": load(path)})
        try:
            return read_recording(path, rate=grid)
        except InputError as error:
            raise InputError(f"{error}{_rate_advice(error, options.rate)}") from None

    def read(row: Row) -> dict[str, Signal]:
        path = root / row.path
        if not path.is_file():
            raise InputError("is not on disk")
        recording = whole(path, row.rate or options.rate or measured)
        if kind == "index" and recording.regridded and (row.start or row.end is not None):
            raise InputError(
                "start and end count its lines, but its samples are missing or uneven in time; cut "
                "the file itself"
            )
        signals = _cut({name: _item(s, row) for name, s in recording.signals.items()}, row)
        signals = {name: s._replace(rate=s.rate or row.rate) for name, s in signals.items()}
        return _modalities(signals, groups, options)

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


def _modalities(
    signals: dict[str, Signal], groups: Mapping[str, Sequence[int]] | None, options: Options
) -> dict[str, Signal]:
    """The modalities of a row, from arrays of their own or from channels of a single array."""
    if "" not in signals:
        return _selected(signals, options)
    signal = signals[""]
    if np.iscomplexobj(signal.x):
        return real_modalities(signal, options.complex_as, options.channels)
    return split_channels(
        groups or default_groups(signal),
        signal,
        options.channels,
        allow_missing=options.allow_missing,
    )


def default_groups(signal: Signal) -> Mapping[str, Sequence[int] | None]:
    """The channels of the modalities of one array; None for all channels.

    Sensors are recognised by the names of their axes. Six channels without names are ``acc`` and
    ``gyro``, three axes each, by convention.
    """
    if signal.names:
        return modalities_of(signal.names) or {"signal": None}
    return IMU if signal.x.shape[1] == 6 else {"signal": None}


def _rate_advice(error: InputError, rate: float | None) -> str:
    """Advice where the times of a file contradict ``--rate``; empty for other errors."""
    if rate is None or f"not {rate:g} Hz" not in str(error):
        return ""
    return (
        f"; leave --rate {rate:g} out, or resample on purpose with --rates signal:{rate:g} (or "
        "the name of another modality)"
    )


def _selected(signals: dict[str, Signal], options: Options) -> dict[str, Signal]:
    """Of modalities in arrays of their own, those and the channels that the caller names."""
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
    """Seconds of the longest stretch without a break; None where they or the rate are unknown."""
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
            raise InputError(f"has one recording of shape {x.shape}, and no row {row.item}")
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
        raise InputError(f"samples {row.start}..{end} lie outside its {size} samples")
    out = {}
    for name, s in signals.items():
        ratio = (s.rate or 1.0) / (first.rate or 1.0)
        a, b = round(row.start * ratio), len(s.x) if row.end is None else round(end * ratio)
        breaks = tuple(k - a for k in s.breaks if a < k < b)
        out[name] = s._replace(x=s.x[a:b], breaks=breaks)
    return out


# ------------------------------------------------------------------ listing


def _listed(path: Path, rate: float | None) -> Recording | None:
    """A file without its samples; None for one that cannot be read, which is reported later."""
    try:
        return read_recording(path, rate=rate, values=False)
    except UNREADABLE:
        return None


def _check_one_sensor(files: Sequence[Path], root: Path) -> None:
    """``InputError`` for sensors of one recording in a file each, because a row is one file."""
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
    """Whether the rate by the file's times is another than that of the set."""
    return recording is not None and recording.measured not in (None, rate)


def _labelled_rows(file: SensorFile, info: FolderInfo) -> list[tuple[Row, str]]:
    """Rows of a file with their labels: its windows, or its stretches of one label and subject."""
    row, recording = Row(file.name, split=info.split, subject=info.subject), file.recording
    if recording is None:
        return [(row, "")]
    label, subject = recording.label, recording.subject

    def row_at(i: int, **position: int | None) -> tuple[Row, str]:
        row_subject = subject.word_at(i) if subject else info.subject
        row_label = label.word_at(i) if label else info.label
        return row._replace(subject=row_subject, **position), row_label

    if recording.windows is not None:
        return [row_at(i, item=i) for i in range(recording.windows)]
    edges = stretch_edges([c.codes for c in (label, subject) if c and len(c.codes) > 1])
    if not edges:
        return [row_at(0)]
    return [row_at(a, start=a, end=b) for a, b in itertools.pairwise(edges)]


def stretch_edges(columns: Sequence[np.ndarray]) -> list[int]:
    """Where any of the codes ``[t]`` changes, with both ends; empty for no columns."""
    if not columns:
        return []
    changes = np.logical_or.reduce([codes[1:] != codes[:-1] for codes in columns])
    return [0, *(np.flatnonzero(changes) + 1).tolist(), len(columns[0])]


def _from_folders(listed: Sequence[SensorFile]) -> tuple[list[FolderInfo], list[str]]:
    """Split, label and subject of every file from its folders, and notes about them.

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
    subjects_stated = all(entry.recording is None or entry.recording.subject for entry in listed)
    notes = [note for note in notes if note.startswith("splits")]
    if people or (labelled and repeat):
        words = stems if not labelled and are_people(tops, names) else [""] * len(stems)
        if not subjects_stated:
            notes.append(f"subjects from folders: {shortlist(sorted(tops), 6)}")
        if any(words):
            notes.append(f"labels from the names of files: {shortlist(sorted(set(words)), 6)}")
        return [
            FolderInfo(split, word, top or stem)
            for (split, top), word, stem in zip(split_and_top, words, stems)
        ], notes
    classes = not labelled and len(tops) > 1
    if classes:
        hint = " (if these are people, call them p1, p2, ..., or write an index.csv)" * repeat
        few = shortlist(sorted(tops), 6)
        notes.append(f"no file has labels, so they are the names of folders: {few}{hint}")
    stems = ["" if _names_no_subject(stem) else stem for stem in stems]
    if not subjects_stated and len(set(stems) - {""}) > 1:
        notes.append("subjects from the names of files")
    subjects = _stem_subjects(names, [split for split, _ in split_and_top], stems, classes)
    return [
        FolderInfo(split, top if classes else "", subject)
        for (split, top), subject in zip(split_and_top, subjects)
    ], notes


def _stem_subjects(
    names: Sequence[str], splits: Sequence[str], stems: Sequence[str], classes: bool
) -> list[str]:
    """The stem of every file; its path where files of other folders have the same stem.

    In folders of classes, files of one stem are one subject, unless they are in several splits.
    """
    count = Counter(stems)
    splits_of: dict[str, set[str]] = defaultdict(set)
    for stem, split in zip(stems, splits):
        splits_of[stem].add(split)
    return [
        stem
        if stem and (count[stem] == 1 or (classes and len(splits_of[stem]) == 1))
        else str(PurePosixPath(name).with_suffix(""))
        for name, stem in zip(names, stems)
    ]


def _names_no_subject(stem: str) -> bool:
    """Whether a file is called after a sensor, or as apps call every recording."""
    return sensor_of(stem) is not None or parsed(stem).words in _NOT_SUBJECTS


def _layout_notes(listed: Sequence[SensorFile], rate: float | None) -> list[str]:
    """A line for every layout, and one for each of the first files that have remarks."""
    layouts: dict[str, list[SensorFile]] = defaultdict(list)
    for entry in listed:
        if entry.recording is not None:
            layouts[entry.recording.layout].append(entry)
    lines = []
    for layout, entries in layouts.items():
        more = f" (and {len(entries) - 1} more)" if len(entries) > 1 else ""
        lines.append(f"{entries[0].name}{more}: {layout}{_rate_note(entries, rate)}")
    remarks = [
        f"{e.name}: {'; '.join(e.recording.remarks)}"
        for e in listed
        if e.recording is not None and e.recording.remarks
    ]
    lines += remarks[:_MOST_NOTES]
    if len(remarks) > _MOST_NOTES:
        lines.append(f"and {len(remarks) - _MOST_NOTES} more files with missing or uneven times")
    return lines


def _rate_note(entries: Sequence[SensorFile], rate: float | None) -> str:
    rates = sorted({e.recording.measured for e in entries if e.recording and e.recording.measured})
    if not rates:
        return ""
    if rate or len(rates) == 1:
        return f"; {rate or rates[0]:g} Hz by the times"
    return f"; {rates[0]:g} to {rates[-1]:g} Hz by the times"
