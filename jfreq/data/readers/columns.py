"""What a column of a sensor table is, by its name: time, label, subject, index, or a channel.

Names are compared without regard to case, quotes, underscores and blanks; a unit may stand in
brackets or as the last word. The tables below are all that is known.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

Role = Literal["time", "label", "subject", "index"]

TIME = frozenset(
    ", time, times, timestamp, timestamps, t, ts, datetime, date time, date, epoch, epoc, "
    "unix time, unix timestamp, elapsed, elapsed time, time elapsed, time since start, "
    "time since boot, relative time, recording time, logging time, sample time, sensor time, "
    "sensor timestamp, system time, creation time, arrival time, event time, utc time, "
    "local time, utc timestamp, local timestamp, zeit, temps, tiempo, tempo".split(", ")
)
"""Without the unit; with an empty name, the unit alone: ``seconds``, ``ms``."""
UNITS = {
    name: seconds
    for seconds, names in (
        (60.0, "min minutes"),
        (1.0, "s sec secs second seconds"),
        (1e-3, "ms msec millis millisecond milliseconds"),
        (1e-6, "us usec micros microsecond microseconds"),
        (1e-9, "ns nsec nanos nanosecond nanoseconds"),
    )
    for name in names.split()
}
"""Seconds of each unit of time."""
LABEL = tuple(
    "label, labels, activity, activity label, activity name, class, class label, target, gt, "
    "ground truth, annotation, y, label id, activity id, class id".split(", ")
)
"""The first that a table has is its label; ``y`` only where no axis x or z is beside it."""
SUBJECT = tuple(
    "subject, subject id, user, user id, participant, participant id, person, person id, "
    "volunteer, volunteer id".split(", ")
)
INDEX = frozenset(
    "index, idx, unnamed: 0, unnamed, sample, sample number, sample index, row, row number, line, "
    "counter, n".split(", ")
)
"""Left out where they count up; a first column without a name, as pandas writes, as well."""
SENSORS = {
    "acc": "a, acc, accel, accelerometer, acceleration, linear acceleration, total acc, "
    "user acceleration, accelerometer acceleration, g f, gf, g force, gforce".split(", "),
    "gyro": "g, w, gyr, gyro, gyroscope, rotation, rotation rate, omega, angular velocity, "
    "gyroscope rotation, rot".split(", "),
    "mag": "m, mag, magn, magnetometer, magnetic field, b".split(", "),
}
"""Stems of axes, ``acc_x`` or ``ax``: the modality that they are."""

_BRACKETS = re.compile(r"\s*[(\[{]([^()\[\]{}]*)[)\]}]\s*")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_AXIS_LAST = re.compile(r"(?P<stem>.*?)(?P<gap>[\s._-]*)(?P<axis>[xyzXYZ])(?:[\s._-]*axis)?$", re.I)
_AXIS_FIRST = re.compile(r"(?P<axis>[xyz])[\s._-]+(?P<stem>.+)$", re.I)


class Name(NamedTuple):
    """A column's name taken apart: ``words`` in lower case, and a unit of time in seconds."""

    words: str
    unit: float | None


class Axis(NamedTuple):
    """An axis of a sensor, ``Acceleration x (m/s^2)``: stem ``acceleration``, axis ``x``."""

    stem: str
    axis: str


def parsed(column: str) -> Name:
    """The words of a column's name and the unit of time that it names."""
    text = column.strip().strip("\"'").strip()
    bracketed = [unit.strip().casefold() for unit in _BRACKETS.findall(text)]
    words = _words(_BRACKETS.sub(" ", text))
    unit = next(
        (
            UNITS[u.replace("µ", "u").replace("μ", "u")]
            for u in bracketed
            if u.replace("µ", "u").replace("μ", "u") in UNITS
        ),
        None,
    )
    parts = words.split()
    if unit is None and parts and parts[-1] in UNITS and (parts[-1] not in ("s",) or parts[1:]):
        unit, parts = UNITS[parts[-1]], parts[:-1]
        parts = parts[:-1] if parts and parts[-1] == "in" else parts
    elif unit is None and parts and parts[0] in UNITS and parts[1:]:
        unit, parts = UNITS[parts[0]], parts[1:]  # seconds_elapsed
    return Name(" ".join(parts), unit)


def role_of(column: str) -> Role | None:
    """What the name alone says; None for a channel. Whether it holds is for the values to say."""
    name = parsed(column)
    whole = _words(_BRACKETS.sub(" ", column.strip().strip("\"'")))
    if whole in LABEL:
        return "label"
    if whole in SUBJECT:
        return "subject"
    if whole in INDEX or not whole:
        return "index"
    known = name.words in TIME or "timestamp" in name.words.split()
    if known and (name.words or name.unit):
        return "time"
    return None


def axis_of(column: str) -> Axis | None:
    """Stem and axis of a column, None where it is no axis."""
    text = _BRACKETS.sub(" ", column.strip().strip("\"'")).strip()
    found = _AXIS_FIRST.match(text) or _AXIS_LAST.match(text)
    if found is None:
        return None
    stem = _words(found["stem"])
    return Axis(stem, found["axis"].lower())


def sensor_of(words: str) -> str | None:
    """The modality that a file's name says, ``Accelerometer``: ``acc``; None where it says none."""
    name = parsed(words).words
    return next((m for m, stems in SENSORS.items() if len(name) > 1 and name in stems), None)


def by_axes(columns: Sequence[str]) -> list[str]:
    """The columns with the axes of every stem in the order x, y, z, in the places they have."""
    groups: dict[str, list[int]] = {}
    for i, column in enumerate(columns):
        if (axis := axis_of(column)) is not None:
            groups.setdefault(axis.stem, []).append(i)
    out = list(columns)
    for places in groups.values():
        axes = [axis_of(columns[i]) for i in places]
        letters = [a.axis for a in axes if a is not None]
        if len(set(letters)) == len(letters) > 1:
            for i, (_, column) in zip(places, sorted(zip(letters, [columns[i] for i in places]))):
                out[i] = column
    return out


def modalities_of(columns: Sequence[str]) -> dict[str, list[int]] | None:
    """Places of the channels of each sensor, where all of them are x, y, z of known sensors.

    None where that is not beyond doubt: fewer than two sensors, another channel beside them, or
    two stems of one sensor.
    """
    known = {stem: sensor for sensor, stems in SENSORS.items() for stem in stems}
    places: dict[str, dict[str, int]] = {}
    stems: dict[str, str] = {}
    for i, column in enumerate(columns):
        axis = axis_of(column)
        if axis is None or axis.stem not in known:
            return None
        sensor = known[axis.stem]
        if stems.setdefault(sensor, axis.stem) != axis.stem:
            return None
        places.setdefault(sensor, {})[axis.axis] = i
    whole = all(sorted(axes) == ["x", "y", "z"] for axes in places.values())
    if len(places) < 2 or not whole or len(columns) != 3 * len(places):
        return None
    return {s: [places[s][axis] for axis in "xyz"] for s in SENSORS if s in places}


def _words(text: str) -> str:
    """Lower case, words apart by single blanks; ``userId`` is two words."""
    apart = _CAMEL.sub(" ", text)
    return " ".join(re.split(r"[\s_.\-]+", apart.casefold().strip(" _.-\"'")))
