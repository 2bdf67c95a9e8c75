"""WiFi channel state information (CSI) in complex ``.mat`` files, as Intel 5300 tools write."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from jfreq.data.options import Options
from jfreq.data.sources.base import Row, Signal, Source
from jfreq.data.sources.complex_signals import check_ways
from jfreq.data.sources.datasets.common import find, labelled
from jfreq.data.sources.datasets.mat import load_mat, stated_rate, variables
from jfreq.data.sources.sensor_files import array_source
from jfreq.types import InputError

_ACTIVITIES = (
    "lying sitting running walking pick_up wave_hand jump squat sit_down stand_up fall_down".split()
)
ACTIVITIES = {str(i): name for i, name in enumerate(_ACTIVITIES, start=1)}
"""Activities by number in qiang5love1314/CSI-dataset-for-human-activity-recognition, whose files
are called ``PERSON_ACTIVITY N.mat``."""
_NAMED = re.compile(r"(?P<person>.+)_(?P<activity>\d+) \d+")
_SUBCARRIERS = 30


def open_csi(path: Path, options: Options) -> Source:
    """Any tree of ``.mat`` files with one complex array ``[antennas, subcarriers, packets]``.

    Arrays ``[packets, subcarriers, antennas]`` are recognised by the card's 30 subcarriers in the
    middle and at most 3 antennas at the end. A fourth axis holds recordings. A name such as
    ``PERSON_ACTIVITY N.mat`` states subject and label; for other files the label is the folder.
    ``options.complex_as`` says which real modalities are made. The rate is the one that the file
    states, else ``options.rate``.

    Raises:
      InputError: for a folder without ``.mat`` files.
    """
    check_ways(options.complex_as)
    entries = []
    for file in find(path, "*.mat", kind="csi"):
        name = file.relative_to(path).as_posix()
        match = _NAMED.fullmatch(file.stem)
        known = match is not None and match["activity"] in ACTIVITIES
        label = ACTIVITIES[match["activity"]] if match and known else _folder(file, path)
        row = Row(name, subject=match["person"] if match and known else "")
        items = _recordings(file)
        rows = [row] if items is None else [row._replace(item=i) for i in range(items)]
        entries += [(row, label) for row in rows]
    listed = labelled(entries, options)
    return array_source(path.name, "csi", listed, path, options, load=_load)


def _folder(file: Path, root: Path) -> str:
    return "" if file.parent == root else file.parent.name


def _recordings(path: Path) -> int | None:
    """Length of the fourth axis; None for a single recording, or a file that cannot be read."""
    try:
        shapes = [shape for name, shape in variables(path) if len(shape) == 4]
    except (InputError, OSError):
        return None
    return shapes[0][-1] if shapes else None


def _load(path: Path) -> Signal:
    """Complex64 ``[t a k]``, or ``[n t a k]``: packets, antennas, subcarriers."""
    wanted = {name for name, shape in variables(path) if len(shape) in (3, 4)}
    arrays = [x for x in load_mat(path, wanted.__contains__).values() if np.iscomplexobj(x)]
    if len(arrays) != 1:
        raise InputError(
            f"expected one complex array [antennas, subcarriers, packets], found {len(arrays)}"
        )
    x = arrays[0].astype(np.complex64)
    packets_first = x.shape[1] == _SUBCARRIERS and x.shape[2] <= 3 < x.shape[0]
    x = np.swapaxes(x, 1, 2) if packets_first else np.moveaxis(x, 2, 0)
    return Signal(x if x.ndim == 3 else np.moveaxis(x, 3, 0), stated_rate(path))
