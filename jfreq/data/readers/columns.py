"""The role of a column of a sensor table by its name: time, label, subject, index, or none.

Names are compared without regard to case, quotes, underscores and blanks. A unit may be in
brackets, or the first or last word. A column without a role is a channel.
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
"""Names of times without their unit; the empty one is for a unit alone, ``seconds`` or ``ms``."""
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
"""Units of time in seconds."""
LABEL = tuple(
    "label, labels, activity, activity label, activity name, class, class label, target, gt, "
    "ground truth, annotation, y, label id, activity id, class id".split(", ")
)
"""The first name that a table has is its label; ``y`` only where there are no axes x or z."""
SUBJECT = tuple(
    "subject, subject id, user, user id, participant, participant id, person, person id, "
    "volunteer, volunteer id".split(", ")
)
INDEX = frozenset(
    "index, idx, unnamed: 0, unnamed, sample, sample number, sample index, row, row number, line, "
    "counter, n".split(", ")
)
"""Names of columns that count lines, which are left out. pandas writes them without a name."""
SENSORS = {
    "acc": "a, acc, accel, accelerometer, acceleration, linear acceleration, total acc, "
    "user acceleration, accelerometer acceleration, g f, gf, g force, gforce".split(", "),
    "gyro": "g, w, gyr, gyro, gyroscope, rotation, rotation rate, omega, angular velocity, "
    "gyroscope rotation, rot".split(", "),
    "mag": "m, mag, magn, magnetometer, magnetic field, b".split(", "),
}
"""Stems of axes, as of ``acc_x`` or ``ax``, by modality."""

_BRACKETS = re.compile(r"\s*[(\[{]([^()\[\]{}]*)[)\]}]\s*")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_AXIS_LAST = re.compile(r"(?P<stem>.*?)(?P<gap>[\s._-]*)(?P<axis>[xyzXYZ])(?:[\s._-]*axis)?$", re.I)
_AXIS_FIRST = re.compile(r"(?P<axis>[xyz])[\s._-]+(?P<stem>.+)$", re.I)


class Name(NamedTuple):
    """The words of a column's name in lower case, and its unit of time in seconds."""

    words: str
    unit: float | None


class Axis(NamedTuple):
    """An axis of a sensor, ``Acceleration x (m/s^2)``: stem ``acceleration``, axis ``x``."""

    stem: str
    axis: str


def parsed(column: str) -> Name:
    """The words of a column's name and the unit of time that it names."""
    text = column.strip().strip("\"'").strip()
    # Micro may be written as one of two characters.
    brackets = [name.strip().casefold() for name in _BRACKETS.findall(text)]
    bracketed = [name.replace("µ", "u").replace("μ", "u") for name in brackets]
    words = _words(_BRACKETS.sub(" ", text))
    unit = next((UNITS[name] for name in bracketed if name in UNITS), None)
    parts = words.split()
    if unit is None and parts and parts[-1] in UNITS and (parts[-1] != "s" or parts[1:]):
        unit, parts = UNITS[parts[-1]], parts[:-1]
        parts = parts[:-1] if parts and parts[-1] == "in" else parts
    elif unit is None and parts and parts[0] in UNITS and parts[1:]:
        unit, parts = UNITS[parts[0]], parts[1:]  # seconds_elapsed
    return Name(" ".join(parts), unit)


def role_of(column: str) -> Role | None:
    """The role of a column by its name alone; None for a channel. Its values may contradict it."""
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
    """Stem and axis of a column; None where its name is not that of an axis."""
    text = _BRACKETS.sub(" ", column.strip().strip("\"'")).strip()
    match = _AXIS_FIRST.match(text) or _AXIS_LAST.match(text)
    return None if match is None else Axis(_words(match["stem"]), match["axis"].lower())


def sensor_of(words: str) -> str | None:
    """The modality of a name, ``acc`` for ``Accelerometer``; None where it is not a sensor's."""
    name = parsed(words).words
    return next((m for m, stems in SENSORS.items() if len(name) > 1 and name in stems), None)


def by_axes(columns: Sequence[str]) -> list[str]:
    """The columns with the axes of every stem in the order x, y, z; other columns stay in place."""
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
    """Positions of the channels x, y, z of each sensor.

    None where the columns are anything but the three axes of two or more known sensors, or where
    one sensor has two stems.
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
    """Words in lower case with single blanks between them; ``userId`` is two words."""
    apart = _CAMEL.sub(" ", text)
    return " ".join(re.split(r"[\s_.\-]+", apart.casefold().strip(" _.-\"'")))
