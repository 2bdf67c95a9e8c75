"""MotionSense: an iPhone in the front pocket of 24 subjects, in 15 trials."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jfreq.data.options import Options
from jfreq.data.sources.base import Row, Signal, Source
from jfreq.data.sources.datasets.common import find, labelled, table
from jfreq.data.sources.folders import listing, natural
from jfreq.data.sources.sensor_files import array_source

SIGNS = ("A_DeviceMotion_data",)
RATE = 50.0
ACTIVITIES = {
    "dws": "downstairs",
    "ups": "upstairs",
    "wlk": "walking",
    "jog": "jogging",
    "sit": "sitting",
    "std": "standing",
}
_NAMES = tuple(
    f"{name}.{axis}" for name in ("userAcceleration", "gravity", "rotationRate") for axis in "xyz"
)


def open_motionsense(path: Path, options: Options) -> Source:
    """Reads ``dws_1/sub_1.csv`` and so on.

    Malekzadeh et al., "Mobile sensor data anonymization", IoTDI 2019. The modalities are ``acc``
    in g, with gravity, and ``gyro`` in rad/s. The number of the trial is in the path.

    Raises:
      InputError: for a folder without this layout.
    """
    entries, missing = [], []
    # The folders B_ and C_ repeat accelerometer and gyroscope with other clocks.
    folders = listing(path).matching("A_DeviceMotion_data")
    folder = max(folders, key=lambda p: len(p.parts), default=path)
    for file in sorted(find(folder, "sub_*.csv", kind="motionsense"), key=_order):
        code = file.parent.name.partition("_")[0]
        name = file.relative_to(path).as_posix()
        if code in ACTIVITIES:
            entries.append((Row(name, subject=file.stem), ACTIVITIES[code]))
        else:
            known = ", ".join(f"{code}_N" for code in ACTIVITIES)
            missing.append(f"{name}: its folder is not one of {known}")
    listed = labelled(entries, options, order=tuple(ACTIVITIES.values()), missing=missing)
    return array_source(path.name, "motionsense", listed, path, options, load=_load)


def _order(file: Path) -> tuple:
    return file.parent.name, natural(file.stem.rpartition("_")[2])


def _load(path: Path) -> Signal:
    with path.open(encoding="utf-8-sig") as file:
        x = table(file, _NAMES, where=str(path))
    acc = x[:, :3] + x[:, 3:6]
    return Signal(np.hstack([acc, x[:, 6:]]).astype(np.float32), RATE)
