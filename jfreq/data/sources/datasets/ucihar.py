"""UCI HAR: a smartphone on the waist, windows of 128 samples, an official split by subject."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jfreq.config import check
from jfreq.data.options import Options
from jfreq.data.sources.base import Row, Signal, Source
from jfreq.data.sources.csv_lines import read_text
from jfreq.data.sources.datasets.common import find, labelled, numbers
from jfreq.data.sources.sensor_files import array_source

SIGNS = ("Inertial Signals", "train/Inertial Signals", "test/Inertial Signals")
RATE = 50.0
_FIRST = "total_acc_x"
_CHANNELS = tuple(f"{name}_{axis}" for name in ("total_acc", "body_gyro") for axis in "xyz")


def open_ucihar(path: Path, options: Options) -> Source:
    """Folders ``train`` and ``test`` with ``Inertial Signals``.

    Anguita et al., "A public domain dataset for human activity recognition using smartphones",
    ESANN 2013. The modalities are ``acc`` in g, with gravity, and ``gyro`` in rad/s. Windows
    overlap by half. A subject is in one split only.

    Raises:
      InputError: for a folder without this layout, and for lists that do not agree.
    """
    root = find(path, "activity_labels.txt", kind="ucihar")[0].parent
    names = _names(root / "activity_labels.txt")
    entries = []
    for split in ("train", "test"):
        file = f"{split}/Inertial Signals/{_FIRST}_{split}.txt"
        activity = read_text(root / split / f"y_{split}.txt").split()
        subject = read_text(root / split / f"subject_{split}.txt").split()
        check(
            len(activity) == len(subject),
            str(root / split),
            f"y_{split}.txt has {len(activity)} lines, subject_{split}.txt {len(subject)}",
        )
        for i, (code, person) in enumerate(zip(activity, subject)):
            check(
                code in names,
                f"{root / split}/y_{split}.txt:{i + 1}",
                f"activity {code!r} is not in activity_labels.txt",
            )
            row = Row(file, split=split, subject=f"subject{person}", item=i)
            entries.append((row, names[code].lower()))
    order = [name.lower() for name in names.values()]
    listed = labelled(entries, options, order=order)
    return array_source(path.name, "ucihar", listed, root, options, load=_load)


def _names(file: Path) -> dict[str, str]:
    """The activity of every code, from lines such as ``1 WALKING``."""
    names = {}
    for i, line in enumerate(read_text(file).splitlines(), start=1):
        words = line.split()
        check(len(words) in (0, 2), f"{file}:{i}", "is not a number and a name")
        if words:
            names[words[0]] = words[1]
    return names


def _load(path: Path) -> Signal:
    """All windows ``[n 128 6]`` of a split, by the path of its first channel."""
    files = [path.with_name(path.name.replace(_FIRST, channel)) for channel in _CHANNELS]
    for file in files:
        check(file.is_file(), str(file), "is missing")
    channels = [numbers(file, where=str(file), dtype=np.float32, ndmin=2) for file in files]
    same = len({x.shape for x in channels}) == 1
    check(same, str(path.parent), "its files differ in length")
    return Signal(np.stack(channels, -1), RATE)
