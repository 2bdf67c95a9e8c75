"""MOD: passing vehicles, by the microphone and geophone of Raspberry Shakes beside a road."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from jfreq.config import check
from jfreq.data.options import Options
from jfreq.data.sources.base import Row, Signal, Source
from jfreq.data.sources.datasets.common import find, labelled, lacking, numbers, sensors_of
from jfreq.types import InputError

SIGNS = ("rs[0-9]*/ehz.csv", "rs[0-9]*/aud*.csv")
RATES = {"audio": 16_000.0, "seismic": 100.0}
AUDIO_RATE = 8000.0
"""Hz of sound in the shards, as in FOCAL and FreqMAE; the geophone keeps its rate."""
VEHICLES = tuple(
    "Polaris Warhog Silverado motor tesla mustang walk bicycle forester pickup scooter".split()
)
"""In the order of the authors; the last four were recorded for pre-training."""
FILES = {"aud16000.csv": "audio", "aud.csv": "audio", "ehz.csv": "seismic"}
_FULL_SCALE = 32768.0


def open_mod(path: Path, options: Options) -> Source:
    """Reads ``Polaris0150pm/rs1/aud16000.csv``, ``ehz.csv`` and so on, which have no headers.

    Liu et al., "FOCAL", NeurIPS 2023. The microphone is in counts of 16 bits at 16 kHz, in the
    first column before a comma; the geophone in counts at 100 Hz, in the first column before a
    space. The class is the vehicle in the folder's name. A row is one node of one recording. All
    nodes record the same drive, so a recording is a subject, and no split has it on both sides;
    the authors split single windows at random instead.

    Raises:
      InputError: for a folder without this layout.
    """
    nodes = _nodes(path)
    entries, missing = [], []
    for name, files in nodes.items():
        recording = (path / name).parent.name
        vehicle = next((v for v in VEHICLES if v.lower() in recording.lower()), "")
        reason = lacking(tuple(files), tuple(RATES), options)
        if not vehicle and not options.unlabelled:
            reason = f"the folder {recording!r} names none of the vehicles {', '.join(VEHICLES)}"
        if reason:
            missing.append(f"{name}: {reason}")
        else:
            entries.append((Row(name, subject=recording), vehicle))
    listed = labelled(entries, options, order=VEHICLES, missing=missing)
    load = functools.lru_cache(maxsize=8)(_first_column)

    def read(row: Row) -> dict[str, Signal]:
        recorded = {
            name: Signal(load(file) / np.float32(_FULL_SCALE if name == "audio" else 1), rate)
            for name, rate in RATES.items()
            if (file := nodes[row.path].get(name)) is not None
        }
        return sensors_of(recorded, {name: (rate, 1) for name, rate in RATES.items()}, options)

    return Source(
        name=path.name,
        kind="mod",
        **listed._asdict(),
        read=read,
        seconds=lambda row: _seconds(nodes[row.path]),
        audio=False,
        rates={"audio": AUDIO_RATE},
    )


def _nodes(path: Path) -> dict[str, dict[str, Path]]:
    """The files of every node by modality; ``InputError`` where there are none."""
    nodes: dict[str, dict[str, Path]] = {}
    for file in find(path, "*.csv", kind="mod"):
        if file.name in FILES:
            # aud.csv comes after aud16000.csv, which is read where there are both.
            name = file.parent.relative_to(path).as_posix()
            nodes.setdefault(name, {}).setdefault(FILES[file.name], file)
    check(bool(nodes), "source", f"{path} has none of {', '.join(FILES)} in it, as mod has")
    return nodes


def _seconds(files: dict[str, Path]) -> float | None:
    """Length of a recording by the number of lines; None for a file that cannot be read."""
    name, file = max(files.items())  # the file of the geophone is much smaller
    try:
        with file.open("rb") as lines:
            return sum(1 for _ in lines) / RATES[name]
    except OSError:
        return None


def _first_column(file: Path) -> np.ndarray:
    """``[t 1]`` float32."""
    delimiter = "," if FILES[file.name] == "audio" else None
    x = numbers(file, where=file.name, delimiter=delimiter, usecols=0, dtype=np.float32, ndmin=2)
    if not x.size:
        raise InputError(f"{file.name} is empty")
    return x.reshape(-1, 1)
