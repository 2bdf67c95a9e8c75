"""HHAR: phones and watches of many makes, which sample at different rates, with 9 users."""

from __future__ import annotations

import itertools
from collections import defaultdict
from functools import partial
from pathlib import Path

import numpy as np

from jfreq.config import check
from jfreq.data.options import Options
from jfreq.data.prepare.resampling import common_grid
from jfreq.data.sources.base import Row, Signal, Source, split_channels
from jfreq.data.sources.datasets.common import find, labelled, numbers, side_by_side
from jfreq.data.sources.sensor_files import IMU, longest_stretch
from jfreq.ranges import brief
from jfreq.types import InputError

SIGNS = ("Phones_accelerometer.csv", "Watch_accelerometer.csv")
RATE = 100.0
ACTIVITIES = ("bike", "sit", "stand", "walk", "stairsup", "stairsdown")
NONE = "null"
_DTYPE = np.dtype(
    [
        ("Creation_Time", "i8"),
        ("x", "f4"),
        ("y", "f4"),
        ("z", "f4"),
        ("User", "S16"),
        ("Device", "S32"),
        ("gt", "S32"),
    ]
)
_KEY = ["User", "Device", "gt"]
_BLOCK = 500_000

Key = tuple[str, str, str, str]
"""Phones or watches, user, device, activity."""
Stream = tuple[np.ndarray, np.ndarray]
"""Nanoseconds ``[n]`` int64 on the device's own clock, xyz ``[n 3]`` float32."""


def open_hhar(path: Path, options: Options) -> Source:
    """Reads ``Phones_accelerometer.csv``, ``Phones_gyroscope.csv`` and the same of ``Watch``.

    Stisen et al., "Smart devices are different", SenSys 2015. The modalities are ``acc`` in m/s^2
    and ``gyro`` in rad/s. Both sensors of a device are paired by user, device and activity, and
    put on one grid (100 Hz, or ``options.rate``) by the times at which the device took the
    samples. The files are read into memory once, about a gigabyte for all four.

    Raises:
      InputError: for a folder without this layout, and for a damaged file.
    """
    pairs, missing = _pairs(path, options)

    def read(row: Row) -> dict[str, Signal]:
        pair = pairs[_key(row.path)]
        streams = [stream for stream in pair if stream is not None]
        begin = min(int(t.min()) for t, _ in streams)
        grid = common_grid([((t - begin) * 1e-9, x) for t, x in streams], rate=options.rate or RATE)
        whole = side_by_side(grid, [stream is not None for stream in pair])
        return split_channels(IMU, whole, options.channels)

    entries = [
        (Row("/".join(key), subject=key[1]), key[3].replace(NONE, "")) for key in sorted(pairs)
    ]
    listed = labelled(entries, options, order=ACTIVITIES, missing=sorted(missing))
    seconds = partial(longest_stretch, read, options)
    return Source(path.name, "hhar", read=read, seconds=seconds, audio=False, **listed._asdict())


def _pairs(
    path: Path, options: Options
) -> tuple[dict[Key, tuple[Stream | None, Stream | None]], list[str]]:
    """Acceleration and rotation of every recording, and lines about those that lack one."""
    pairs: dict[Key, tuple[Stream | None, Stream | None]] = {}
    missing = []
    for acc_file in find(path, "*_accelerometer.csv", kind="hhar"):
        device_type = acc_file.name.partition("_")[0].lower()
        gyro_file = acc_file.with_name(acc_file.name.replace("accelerometer", "gyroscope"))
        if not gyro_file.is_file():
            raise InputError(
                f"{gyro_file}: is missing; acceleration and rotation are read together"
            )
        acc, gyro = _read(acc_file, device_type), _read(gyro_file, device_type)
        for key in acc.keys() | gyro:
            if options.allow_missing or (key in acc and key in gyro):
                pairs[key] = acc.get(key), gyro.get(key)
            else:
                missing.append(f"{'/'.join(key)}: has only one of the two sensors")
    return pairs, missing


def _key(path: str) -> Key:
    device_type, user, device, activity = path.split("/")
    return device_type, user, device, activity


def _read(path: Path, device_type: str) -> dict[Key, Stream]:
    """The samples of every user, device and activity of one file, in file order."""
    parts: dict[Key, list[Stream]] = defaultdict(list)
    check(path.is_file(), str(path), "is not a file")
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        header = file.readline().strip().split(",")
        for name in _DTYPE.names or ():
            if name not in header:
                raise InputError(
                    f"{path}: has no column {name!r}; it has: {brief(', '.join(header))}"
                )
        columns = [header.index(name) for name in _DTYPE.names or ()]
        while lines := list(itertools.islice(file, _BLOCK)):
            block = numbers(lines, where=str(path), dtype=_DTYPE, delimiter=",", usecols=columns)
            keys = block[_KEY]
            cuts = np.flatnonzero(keys[1:] != keys[:-1]) + 1
            for run in np.split(block, cuts):
                user, device, activity = (run[0][name].decode() for name in _KEY)
                xyz = np.stack([run[axis] for axis in "xyz"], 1)
                # A copy, because a view of the times would keep the whole block in memory.
                parts[device_type, user, device, activity].append(
                    (run["Creation_Time"].copy(), xyz)
                )
    return {
        key: (np.concatenate([t for t, _ in runs]), np.concatenate([x for _, x in runs]))
        for key, runs in parts.items()
    }
