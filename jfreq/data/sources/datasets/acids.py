"""ACIDS: passing vehicles, by microphones and geophones of the Army Research Laboratory."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jfreq.data.options import Options
from jfreq.data.sources.base import UNREADABLE, Row, Signal, Source
from jfreq.data.sources.csv_lines import records
from jfreq.data.sources.datasets.common import find, labelled, lacking, sensors_of
from jfreq.data.sources.datasets.mat import load_mat
from jfreq.data.sources.folders import hidden
from jfreq.types import InputError

SIGNS = ("Acoustics/*.mat",)
RATE = 1025.641
"""Hz; the code of the authors takes 1024."""
BACKGROUND = "background"
LIMITS = (-10.0, -3.0)
"""dB; a second below the first is background, one above the second is the vehicle."""
_CHANNELS = {"audio": 3, "seismic": 2}
_FOLDERS = {"audio": "Acoustics", "seismic": "Seismic"}
_ARRAY = "Output_data"
_STEM = re.compile(r"Gv(?P<vehicle>\d)(?P<site>[a-z])(?P<station>\d)(?P<run>\d+)", re.I)
_FULL_SCALE = 32768.0


def open_acids(path: Path, options: Options) -> Source:
    """Reads ``Acoustics/Gv1a1002.mat``, ``Seismic/Gv1sa1002.mat`` and so on.

    Their array ``Output_data`` holds three microphones or two geophones, in counts of 16 bits.

    The class is the type of the vehicle, or ``background``, second by second: by the energy of
    the first microphone, relative to that of the loudest second of the file whose loudest second
    is the softest (Liu et al., "FOCAL", NeurIPS 2023). Seconds between the two ``LIMITS`` have no
    label. Where a table without a header lies beside the folders (file, type, speed, terrain,
    distance), it names the type, and paths are like ``desert/25m/15/Gv1a1002``. One drive past two
    stations is one subject.

    Recordings that lack a modality, and files that cannot be read, are in ``Source.missing``.

    Raises:
      InputError: for a folder without this layout.
    """
    drives, missing = _drives(find(path, _FOLDERS["audio"], kind="acids")[0].parent, options)
    softest = min((drive.energy.max() for drive in drives.values()), default=1.0)
    entries = [
        (Row(name, subject=_subject(drive.files["audio"].stem), start=a, end=b), label)
        for name, drive in drives.items()
        for a, b, label in _stretches(drive.energy / softest, drive.vehicle)
    ]
    listed = labelled(entries, options, order=(BACKGROUND,), missing=missing)
    load = functools.lru_cache(maxsize=8)(_load)

    def read(row: Row) -> dict[str, Signal]:
        recorded = {}
        for modality, file in drives[row.path].files.items():
            whole = load(file)
            scale = np.float32(_FULL_SCALE if modality == "audio" else 1)
            recorded[modality] = whole._replace(x=whole.x[row.start : row.end] / scale)
        return sensors_of(recorded, {name: (RATE, n) for name, n in _CHANNELS.items()}, options)

    return Source(
        name=path.name,
        kind="acids",
        **listed._asdict(),
        read=read,
        seconds=lambda row: ((row.end or 0) - row.start) / RATE,
        audio=False,
        mix="keep",
    )


class _Drive(NamedTuple):
    """A drive past one station: files by modality, type of vehicle, energy ``[seconds]``."""

    files: dict[str, Path]
    vehicle: str
    energy: np.ndarray


def _drives(root: Path, options: Options) -> tuple[dict[str, _Drive], list[str]]:
    """The drives by the paths of their rows, and lines about those that are left out."""
    about = _table(root)
    drives: dict[str, _Drive] = {}
    missing = []
    for file in find(root / _FOLDERS["audio"], "*.mat", kind="acids"):
        files = {"audio": file, **_seismic(root, file.stem)}
        try:
            if reason := lacking(tuple(files), tuple(_CHANNELS), options):
                raise InputError(reason)
            vehicle, prefix = about.get(file.name) or (_vehicle(file.stem), "")
            drives[prefix + file.stem] = _Drive(files, vehicle, _energy(_load(file)))
        except UNREADABLE as error:
            missing.append(f"{file.relative_to(root).as_posix()}: {error}")
    return drives, missing


def _load(file: Path) -> Signal:
    """Samples ``[t c]`` float32 in counts; the file has channels first."""
    x = load_mat(file, _ARRAY.__eq__).get(_ARRAY)
    if x is None or x.ndim != 2:
        raise InputError(f"has no array {_ARRAY} [channels, samples]")
    x = x.T if x.shape[0] < x.shape[1] else x
    return Signal(x.astype(np.float32), RATE)


def _table(root: Path) -> dict[str, tuple[str, str]]:
    """Class and prefix of paths by file name, from a table beside the folders."""
    out = {}
    for file in sorted(f for f in root.glob("*.csv") if not hidden(f.name)):
        for _, cells in records(file):
            if len(cells) >= 5 and cells[0].lower().endswith(".mat"):
                name, vehicle, speed, terrain, distance = cells[:5]
                words = vehicle.lower().replace(" ", "_"), terrain.lower(), f"{distance}m", speed
                out[name] = words[0], "".join(f"{word}/" for word in words[1:])
    return out


def _seismic(root: Path, stem: str) -> dict[str, Path]:
    """The file of the geophones, called as that of the microphones or with an s: ``Gv1sa1002``."""
    folder = root / _FOLDERS["seismic"]
    files = (folder / f"{name}.mat" for name in (f"{stem[:3]}s{stem[3:]}", stem))
    file = next((file for file in files if file.is_file()), None)
    return {"seismic": file} if file else {}


def _vehicle(stem: str) -> str:
    """The type of vehicle by the name of a file."""
    name = _STEM.fullmatch(stem)
    if name is None:
        raise InputError("neither a table nor its name (such as Gv1a1002) states the vehicle")
    return f"type_{name['vehicle']}"


def _subject(stem: str) -> str:
    """``v1a002`` for ``Gv1a1002`` and ``Gv1a2002``: one drive, recorded at two stations."""
    name = _STEM.fullmatch(stem)
    return f"v{name['vehicle']}{name['site']}{name['run']}".lower() if name else stem


def _energy(sound: Signal) -> np.ndarray:
    """Energy ``[n]`` of every whole second of the first microphone."""
    size = round(RATE)
    count = len(sound.x) // size
    energy = np.square(sound.x[: count * size, 0].astype(np.float64)).reshape(count, size).sum(1)
    if not energy.any():
        raise InputError("is silent, or shorter than a second")
    return energy


def _stretches(energy: np.ndarray, vehicle: str) -> Iterator[tuple[int, int, str]]:
    """Start and end in samples and class of every run of seconds of one class, "" for none."""
    low, high = (10 ** (limit / 10) for limit in LIMITS)
    names = [BACKGROUND if e < low else vehicle if e > high else "" for e in energy]
    size, at = round(RATE), 0
    for name, run in itertools.groupby(names):
        begin, at = at, at + sum(1 for _ in run)
        yield begin * size, at * size, name
