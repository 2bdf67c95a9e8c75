"""RealWorld2016: phones at seven positions on the body, 15 subjects, 8 activities."""

from __future__ import annotations

import io
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterator
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
RATE = 50.0
SENSORS = {"acc": "acc", "gyroscope": "gyro", "gyr": "gyro", "magneticfield": "mag", "mag": "mag"}
"""By the first word of a file's name; GPS, light and sound are left out."""
_FILE = re.compile(
    r"(?P<sensor>[a-z]+)_(?P<activity>[a-z]+)(_\d+)?_(?P<position>[a-z]+)\.csv", re.I
)
_COLUMNS = ("attr_time", "attr_x", "attr_y", "attr_z")

Chain = tuple[Path, tuple[str, ...]]
"""A file on disk, and the way to a CSV through the archives in it."""
Streams = dict[str, list[Chain]]


def open_realworld(path: Path, options: Options) -> Source:
    """``proband1/data/acc_walking_csv.zip`` and so on, packed or unpacked.

    Sztyler and Stuckenschmidt, "On-body localization of wearable devices", PerCom 2016: m/s^2,
    rad/s and microtesla. A row is one position of one subject in one activity, with the sensors
    that any position has; they are put on one grid by time (50 Hz, or the rate that is given). An
    activity recorded in several parts is one row with breaks.
    """
    found: dict[tuple[str, str, str], Streams] = defaultdict(lambda: defaultdict(list))
    missing: list[str] = []
    for folder in find(path, "proband*/data", kind="realworld"):
        for chain in _csvs(folder, missing):
            name = _FILE.fullmatch(chain[1][-1].rpartition("/")[2] if chain[1] else chain[0].name)
            if name and name["sensor"].lower() in SENSORS:
                key = (folder.parent.name, name["activity"].lower(), name["position"].lower())
                found[key][SENSORS[name["sensor"].lower()]].append(chain)
    sensors = [s for s in ("acc", "gyro", "mag") if any(s in streams for streams in found.values())]
    groups = {sensor: range(3 * i, 3 * i + 3) for i, sensor in enumerate(sensors)}
    entries = []
    for key in sorted(found, key=lambda k: (natural(k[0].removeprefix("proband")), k)):
        lost = [s for s in sensors if s not in found[key]]
        if lost and not options.allow_missing:
            missing.append(f"{'/'.join(key)}: has no {' and no '.join(lost)}")
        else:
            entries.append((Row("/".join(key), subject=key[0]), key[1]))

    def read(row: Row) -> dict[str, Signal]:
        proband, activity, position = row.path.split("/")
        streams = found[proband, activity, position]
        present = [sensor in streams for sensor in sensors]
        parts = [[_samples(c) for c in streams[sensor]] for sensor in sensors if sensor in streams]
        begin = min(t.min() for chains in parts for t, _ in chains)
        joined = [
            (np.concatenate([t - begin for t, _ in chains]), np.concatenate([x for _, x in chains]))
            for chains in parts
        ]
        grid = common_grid(joined, rate=options.rate or RATE)
        return split_channels(groups, side_by_side(grid, present), options.channels)

    listed = labelled(entries, options, missing=missing)
    return Source(
        name=path.name,
        kind="realworld",
        **listed._asdict(),
        read=read,
        seconds=partial(longest_stretch, read, options),
        audio=False,
    )


def _csvs(folder: Path, damaged: list[str]) -> Iterator[Chain]:
    """Every CSV in a folder, also in archives and in archives in archives.

    An unpacked file hides its packed twin. Archives that cannot be opened go to ``damaged``.
    """
    inside_folder = listing(folder)
    loose = inside_folder.matching("*.csv")
    yield from ((file, ()) for file in loose)
    unpacked = {file.name for file in loose}
    for file in inside_folder.matching("*.zip"):
        try:
            with zipfile.ZipFile(file) as archive:
                inside = list(_members(archive))
        except UNREADABLE as error:
            damaged.append(f"{folder.parent.name}/data/{file.name}: {error}")
            continue
        for steps in inside:
            if steps[-1].rpartition("/")[2] not in unpacked:
                yield file, steps


def _members(archive: zipfile.ZipFile) -> Iterator[tuple[str, ...]]:
    for name in sorted(archive.namelist()):
        if any(map(hidden, name.split("/"))):
            continue
        if name.endswith(".csv"):
            yield (name,)
        elif name.endswith(".zip"):
            with zipfile.ZipFile(io.BytesIO(archive.read(name))) as inner:
                yield from ((name, *rest) for rest in _members(inner))


def _samples(chain: Chain) -> tuple[np.ndarray, np.ndarray]:
    """Seconds ``[n]`` since 1970 and xyz ``[n 3]``."""
    file, steps = chain
    data = file.read_bytes()
    for step in steps:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            data = archive.read(step)
    lines = iter(data.decode("utf-8-sig").splitlines())
    x = table(lines, _COLUMNS, where="/".join((file.name, *steps)))
    return x[:, 0] / 1000, x[:, 1:].astype(np.float32)
