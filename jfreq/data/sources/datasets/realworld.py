"""RealWorld2016: phones at seven positions on the body of 15 subjects, in 8 activities."""

from __future__ import annotations

import io
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from jfreq.data.options import Options
from jfreq.data.prepare.resampling import common_grid
from jfreq.data.sources.base import UNREADABLE, Row, Signal, Source, split_channels
from jfreq.data.sources.datasets.common import find, labelled, side_by_side, table
from jfreq.data.sources.folders import hidden, listing, natural
from jfreq.data.sources.sensor_files import longest_stretch

SIGNS = ("proband*/data",)
"""Patterns of paths by which a folder is known to hold RealWorld2016."""
RATE = 50.0
"""Hz of the grid where the caller names no rate; the sensors sample at about that rate."""
SENSORS = {"acc": "acc", "gyroscope": "gyro", "gyr": "gyro", "magneticfield": "mag", "mag": "mag"}
"""Modalities by the first word of a file's name; GPS, light and sound are left out."""
_FILE = re.compile(
    r"(?P<sensor>[a-z]+)_(?P<activity>[a-z]+)(_\d+)?_(?P<position>[a-z]+)\.csv", re.I
)
_COLUMNS = ("attr_time", "attr_x", "attr_y", "attr_z")
"""Milliseconds since 1970, then the three axes."""

CsvLocation = tuple[Path, tuple[str, ...]]
"""Where a CSV is: a file on disk, then the member of each archive to open, the CSV last.

A CSV that is not packed has no members.
"""
CsvsByModality = dict[str, list[CsvLocation]]
"""The CSVs of one row by modality; an activity recorded in several parts has several of each."""


def open_realworld(path: Path, options: Options) -> Source:
    """The recordings in ``proband1/data/acc_walking_csv.zip`` and so on, packed or unpacked.

    Sztyler and Stuckenschmidt, "On-body localization of wearable devices", PerCom 2016. The
    modalities are ``acc`` in m/s^2, ``gyro`` in rad/s and ``mag`` in microtesla, ``[t 3]`` each, as
    far as any recording has them. A row is one position of one subject in one activity. Its sensors
    are interpolated to one grid of times, at 50 Hz or the rate that is given. An activity recorded
    in several parts is one row with breaks.

    ``Source.missing`` names each row that lacks a modality; with ``options.allow_missing`` such a
    row is kept, and the modality is NaN here and zeros in the shards. Archives that cannot be
    opened are named there as well.

    Raises:
      InputError: for a folder without this layout.
    """
    missing: list[str] = []
    rows = _find_streams(path, missing)
    sensors = [s for s in ("acc", "gyro", "mag") if any(s in streams for streams in rows.values())]
    groups = {sensor: range(3 * i, 3 * i + 3) for i, sensor in enumerate(sensors)}
    entries = []
    for key in sorted(rows, key=lambda k: (natural(k[0].removeprefix("proband")), k)):
        absent = [s for s in sensors if s not in rows[key]]
        if absent and not options.allow_missing:
            missing.append(f"{'/'.join(key)}: has no {' and no '.join(absent)}")
        else:
            entries.append((Row("/".join(key), subject=key[0]), key[1]))

    def read(row: Row) -> dict[str, Signal]:
        proband, activity, position = row.path.split("/")
        streams = rows[proband, activity, position]
        grid = common_grid(
            _joined([streams[s] for s in sensors if s in streams]), rate=options.rate or RATE
        )
        whole = side_by_side(grid, [sensor in streams for sensor in sensors])
        return split_channels(groups, whole, options.channels)

    listed = labelled(entries, options, missing=missing)
    seconds = partial(longest_stretch, read, options)
    return Source(
        path.name, "realworld", read=read, seconds=seconds, audio=False, **listed._asdict()
    )


def _find_streams(path: Path, damaged: list[str]) -> dict[tuple[str, str, str], CsvsByModality]:
    """The CSVs of every row by subject, activity and position; ``damaged`` as of :func:`_csvs`."""
    rows: dict[tuple[str, str, str], CsvsByModality] = defaultdict(lambda: defaultdict(list))
    for folder in find(path, "proband*/data", kind="realworld"):
        for location in _csvs(folder, damaged):
            name = location[1][-1].rpartition("/")[2] if location[1] else location[0].name
            match = _FILE.fullmatch(name)
            if match and match["sensor"].lower() in SENSORS:
                key = (folder.parent.name, match["activity"].lower(), match["position"].lower())
                rows[key][SENSORS[match["sensor"].lower()]].append(location)
    return rows


def _csvs(folder: Path, damaged: list[str]) -> Iterator[CsvLocation]:
    """Every CSV in a folder and in its archives, which may hold archives themselves.

    Where a CSV lies there unpacked as well as packed, only the unpacked one is yielded. A line
    about every archive that cannot be opened is appended to ``damaged``.
    """
    contents = listing(folder)
    unpacked = contents.matching("*.csv")
    yield from ((file, ()) for file in unpacked)
    names = {file.name for file in unpacked}
    for file in contents.matching("*.zip"):
        try:
            with zipfile.ZipFile(file) as archive:
                packed = list(_members(archive))
        except UNREADABLE as error:
            damaged.append(f"{folder.parent.name}/data/{file.name}: {error}")
            continue
        for members in packed:
            if members[-1].rpartition("/")[2] not in names:
                yield file, members


def _members(archive: zipfile.ZipFile) -> Iterator[tuple[str, ...]]:
    """The members to open one after the other, for every CSV in an archive."""
    for name in sorted(archive.namelist()):
        if any(map(hidden, name.split("/"))):
            continue
        if name.endswith(".csv"):
            yield (name,)
        elif name.endswith(".zip"):
            with zipfile.ZipFile(io.BytesIO(archive.read(name))) as inner:
                yield from ((name, *rest) for rest in _members(inner))


def _joined(streams: Sequence[Sequence[CsvLocation]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Times ``[n]`` in seconds and axes ``[n 3]`` of every sensor, its parts one after another."""
    recorded = [[_samples(location) for location in parts] for parts in streams]
    # Seconds since 1970 are large; counted from the first sample they are more precise.
    begin = min(t.min() for parts in recorded for t, _ in parts)
    return [
        (np.concatenate([t - begin for t, _ in parts]), np.concatenate([x for _, x in parts]))
        for parts in recorded
    ]


def _samples(location: CsvLocation) -> tuple[np.ndarray, np.ndarray]:
    """Times ``[n]`` in seconds since 1970, float64, and the three axes ``[n 3]``, float32."""
    file, members = location
    data = file.read_bytes()
    for member in members:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            data = archive.read(member)
    lines = iter(data.decode("utf-8-sig").splitlines())
    x = table(lines, _COLUMNS, where="/".join((file.name, *members)))
    return x[:, 0] / 1000, x[:, 1:].astype(np.float32)
