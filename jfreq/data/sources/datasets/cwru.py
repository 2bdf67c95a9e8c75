"""Case Western Reserve University (CWRU): ball bearings with seeded faults."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jfreq.data.options import Options
from jfreq.data.sources.base import UNREADABLE, Row, Signal, Source
from jfreq.data.sources.datasets.common import find, labelled
from jfreq.data.sources.datasets.mat import load_mat, variables
from jfreq.data.sources.sensor_files import array_source
from jfreq.types import InputError

POSITIONS = {"DE": "drive_end", "FE": "fan_end", "BA": "base"}
_KINDS = {"IR": "inner", "OR": "outer", "B": "ball"}
_TIME = re.compile(r"X(\d+)_(DE|FE|BA)_time")
_NAME = re.compile(
    r"(?P<kind>IR|OR|B)(?P<mils>\d{3})"
    r"(?:(?<=OR\d{3})[@_](?:3|6|12)(?=_[0-3](?:_|$)))?"
    r"_(?P<load>[0-3])(?:_|$)",
    re.I,
)
"""``OR007@6_1``: fault, width in mils, position of an outer fault on the clock, load."""
_NORMAL = re.compile(r"normal_(?P<load>[0-3])", re.I)
_K = re.compile(r"(12|48)k", re.I)


class About(NamedTuple):
    """Class, load in horsepower and rate in Hz of a file; None for an unknown rate."""

    label: str
    load: int
    rate: float | None


def _numbered() -> dict[int, About]:
    """The files of the authors by their numbers.

    In the tables, numbers are in order of load, and 0 is for a file that does not exist.
    """
    tables = {
        12_000.0: {
            "inner_007": "105-108 278-281", "inner_014": "169-172 274-277",
            "inner_021": "209-212 270-273", "inner_028": "3001-3004",
            "ball_007": "118-121 282-285", "ball_014": "185-188 286-289",
            "ball_021": "222-225 290-293", "ball_028": "3005-3008",
            "outer_007": "130-133 144-147 156,158-160 294-297 298-301 302,305-307",
            "outer_014": "197-200 310,309,311,312 313,0,0,0",
            "outer_021": "234-237 246-249 258-261 315,0,0,0 0,316-318",
        },
        48_000.0: {
            "normal": "97-100",
            "inner_007": "109-112", "inner_014": "174-177", "inner_021": "213-215,217",
            "ball_007": "122-125", "ball_014": "189-192", "ball_021": "226-229",
            "outer_007": "135-138 148-151 161-164", "outer_014": "201-204",
            "outer_021": "238-241 250-253 262-265",
        },
    }  # fmt: skip
    out = {}
    for rate, rows in tables.items():
        for label, sets in rows.items():
            for numbers in sets.split():
                ends = [[int(n) for n in part.split("-")] for part in numbers.split(",")]
                files = [n for first, *last in ends for n in range(first, (last or [first])[0] + 1)]
                out |= {n: About(label, load, rate) for load, n in enumerate(files)}
    out.pop(0)
    return out


NUMBERED = _numbered()


def open_cwru(path: Path, options: Options) -> Source:
    """Files by number, ``97.mat``, or by name, ``IR007_0.mat`` and ``Normal_1.mat``.

    The classes are ``normal`` and the faults with their width in mils, such as ``inner_007``. The
    fold is the load (0 to 3 horsepower), so folds test other loads, at which the same bearings
    run. Every accelerometer that all files have is a modality, in g.

    The rate is the one that the name of a folder or file states (12k, 48k), else that of the
    authors' table by the number of the file or of its variables (``X105_DE_time``). Where folder
    and variables contradict each other, the file is in ``Source.missing``. Sets of both rates are
    resampled to the lower one. The normal files are at 48 kHz and last 10 s, as the others do.

    Raises:
      InputError: for a folder without ``.mat`` files.
    """
    entries, missing, positions = [], [], set(POSITIONS)
    for file in find(path, "*.mat", kind="cwru"):
        name = file.relative_to(path).as_posix()
        try:
            about, recorded = _with_rate(_about(file, name), file), _positions(file)
        except UNREADABLE as error:
            missing.append(f"{name}: {error}")
            continue
        positions &= recorded
        entries.append((Row(name, fold=about.load, rate=about.rate), about.label))
    columns = [position for position in POSITIONS if position in positions]
    listed = labelled(entries, options, order=("normal",), missing=missing)
    rates = [row.rate for row in listed.rows if row.rate]
    groups = {POSITIONS[position]: (i,) for i, position in enumerate(columns)}
    rate = min(rates) if rates and len(rates) == len(listed.rows) else None

    def load(file: Path) -> Signal:
        channels = _channels(file)
        x = np.stack([channels[position] for position in columns], 1)
        return Signal(x.astype(np.float32), None)

    return array_source(
        path.name, "cwru", listed, path, options, load=load, groups=groups, rate=rate
    )


def _about(file: Path, name: str) -> About:
    """Class, load and rate of a file by its path, and by the authors' table."""
    kilohertz = _K.search(name)
    rate = 1000.0 * float(kilohertz[1]) if kilohertz else None
    number = re.search(r"(\d+)$", file.stem)
    listed = NUMBERED.get(int(number[1])) if number else None
    fault, normal = _NAME.search(file.stem), _NORMAL.search(file.stem)
    if fault:
        label = f"{_KINDS[fault['kind'].upper()]}_{fault['mils']}"
        return About(label, int(fault["load"]), rate or (listed.rate if listed else None))
    if normal:
        return About("normal", int(normal["load"]), 48_000.0)
    if listed is None:
        raise InputError("neither its number nor its name is that of a file of CWRU")
    return listed._replace(rate=listed.rate if listed.label == "normal" else rate or listed.rate)


def _with_rate(about: About, file: Path) -> About:
    """``about`` with the rate of the file whose number is in the names of the variables.

    Raises:
      InputError: where folder or name state another rate.
    """
    numbers = {int(match[1]) for name, _ in variables(file) if (match := _TIME.fullmatch(name))}
    rates = {n: NUMBERED[n].rate for n in sorted(numbers) if n in NUMBERED}
    if about.label == "normal" or not rates or about.rate in rates.values():
        return about
    number, rate = next(iter(rates.items()))
    if about.rate is not None or len(set(rates.values())) > 1:
        stated = f"{about.rate:g} Hz by its folder or name" if about.rate else "of no stated rate"
        raise InputError(
            f"is {stated}, but its variables are those of file {number}, which is at {rate:g} Hz; "
            "correct the folder's name or remove the file"
        )
    return about._replace(rate=rate)


def _positions(file: Path) -> set[str]:
    return {match[2] for name, _ in variables(file) if (match := _TIME.fullmatch(name))}


def _channels(file: Path) -> dict[str, np.ndarray]:
    """Samples ``[t]`` by position; ``99.mat`` also holds file 98, and the file's number decides."""
    arrays = load_mat(file, lambda name: _TIME.fullmatch(name) is not None)
    match = re.search(r"(\d+)$", file.stem)
    number = int(match[1]) if match else -1
    out: dict[str, np.ndarray] = {}
    for name in sorted(arrays, key=lambda n: int(n[1 : n.index("_")]) == number):
        out[name.split("_")[1]] = arrays[name].ravel()
    size = min(len(x) for x in out.values())
    return {position: x[:size] for position, x in out.items()}
