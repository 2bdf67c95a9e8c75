"""PAMAP2: three inertial sensors at 100 Hz on 9 subjects in 18 activities."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from jfreq.config import check
from jfreq.data.options import Options
from jfreq.data.sources.base import Row, Signal, Source
from jfreq.data.sources.datasets.common import find, labelled, numbers
from jfreq.data.sources.sensor_files import array_source, stretch_edges
from jfreq.types import InputError

SIGNS = ("Protocol/subject1*.dat",)
RATE = 100.0
_NAMED = (
    "1 lying 2 sitting 3 standing 4 walking 5 running 6 cycling 7 nordic_walking 9 watching_tv "
    "10 computer_work 11 car_driving 12 ascending_stairs 13 descending_stairs 16 vacuum_cleaning "
    "17 ironing 18 folding_laundry 19 house_cleaning 20 playing_soccer 24 rope_jumping"
).split()
ACTIVITIES = dict(zip(map(int, _NAMED[::2]), _NAMED[1::2]))
"""Activities by code; 0, the time between activities, has no label."""
GROUPS = {"acc": range(9), "gyro": range(9, 18), "mag": range(18, 27)}
"""Channels of each modality: x, y and z at hand, chest and ankle."""
_WIDTH = 54
_IMUS = (3, 20, 37)
"""First columns of hand, chest and ankle."""
_PARTS = (1, 7, 10)
"""Acceleration to 16 g, gyroscope and magnetometer among the columns of one sensor. Temperature
is left out, acceleration to 6 g, which saturates, and orientation, which the authors call
invalid."""
_COLUMNS = [imu + part + axis for part in _PARTS for imu in _IMUS for axis in range(3)]


def open_pamap2(path: Path, options: Options) -> Source:
    """Reads ``Protocol/subject101.dat`` and so on, and those in ``Optional`` where it is there.

    Reiss and Stricker, "Introducing a new dataset for physical activity monitoring", ISWC 2012.
    The modalities are ``acc`` in m/s^2, ``gyro`` in rad/s and ``mag`` in microtesla. Stretches of
    one activity are rows. Samples that were lost by radio are NaN.

    Raises:
      InputError: for a folder without this layout.
    """
    entries, missing = [], []
    for file in find(path, "subject1*.dat", kind="pamap2"):
        name = file.relative_to(path).as_posix()
        try:
            codes = _codes(file)
        except InputError as error:
            missing.append(f"{name}: {error}")
            continue
        for start, end in itertools.pairwise(stretch_edges([codes])):
            row = Row(name, subject=file.stem, start=start, end=end, rate=RATE)
            entries.append((row, ACTIVITIES.get(int(codes[start]), "")))
    listed = labelled(entries, options, order=tuple(ACTIVITIES.values()), missing=missing)
    return array_source(path.name, "pamap2", listed, path, options, load=_load, groups=GROUPS)


def _codes(file: Path) -> np.ndarray:
    """The code of the activity ``[t]`` int of every sample; ``InputError`` for an unknown code."""
    check(file.stat().st_size > 0, file.name, "is empty")
    codes = numbers(file, where=file.name, usecols=1)[:, 0].astype(int)
    check(len(codes) > 0, file.name, "has no samples")
    unknown = set(codes.tolist()) - {0, *ACTIVITIES}
    check(not unknown, file.name, f"activity {min(unknown, default=0)} is not one of PAMAP2")
    return codes


def _load(path: Path) -> Signal:
    """A whole file; recording stopped where its clock jumps."""
    x = numbers(path, where=str(path), usecols=(0, *_COLUMNS, _WIDTH - 1))
    jumps = np.flatnonzero(np.abs(np.diff(x[:, 0]) * RATE - 1) > 0.5) + 1
    return Signal(x[:, 1:-1].astype(np.float32), RATE, tuple(jumps.tolist()))
