"""The layout of a sensor table, by its first part: how it is written, and what its columns are.

Encoding, separator, decimal sign and header are recognised by what the lines have in common, the
use of a column by its name and its values.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from jfreq.data.readers.columns import LABEL, SUBJECT, Role, axis_of, by_axes, parsed, role_of
from jfreq.types import InputError

NULLS = ("", "NA", "N/A", "#N/A", "NaN", "nan", "NAN", "null", "NULL", "Null", "None", "none")
"""Words for a missing sample, also with a blank before them."""
COMMENTS = ("#", "%", "//")
_HEAD = 1 << 20
"""Bytes by which the layout is recognised; no line may be longer."""
SAMPLE_LINES = 1000
"""Lines by which the use of a column is recognised."""
_MOST_LABELS = 100
"""Different values in a column ``y`` that is a label."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|infinity)", re.I | re.ASCII)

Use = Role | Literal["channel", "empty", "text", "spare"]
"""``spare`` is a column of a role that another column has already."""


class Layout(NamedTuple):
    """How a table is written and what its columns are."""

    encoding: str
    separator: str
    decimal: str
    skip: int
    """Lines before the first sample."""
    header: bool
    columns: tuple[str, ...]
    """Names as they are written; numbers from 1 where there is no header."""
    uses: tuple[Use, ...]
    channels: tuple[int, ...]
    """Columns of the signal; the axes of a sensor are in the order x, y, z."""
    times: Literal["", "whole", "number", "date"]
    """How times are written; empty without times."""
    notes: tuple[str, ...] = ()

    def column_of(self, use: Use) -> int | None:
        """The first column of a use; None where there is none."""
        return self.uses.index(use) if use in self.uses else None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the channels; empty without a header."""
        return tuple(self.columns[i] for i in self.channels) if self.header else ()


# ------------------------------------------------------------------ how a file is written


def detect_layout(path: Path) -> Layout:
    """The layout of a table, by its first part.

    Raises:
      InputError: for a file that is not a table of samples.
    """
    lines, encoding, notes = _first_lines(path)
    skip = _preamble(lines)
    separator = _declared_separator(lines[:skip]) or _separator(lines[skip : skip + 50])
    rows = fields([line for line in lines[skip:] if line.strip()][:SAMPLE_LINES], separator)
    if not rows:
        raise InputError("is empty" if not skip else "holds nothing but blank lines and comments")
    decimal = _decimal(rows, separator)
    header = _has_header(rows, decimal)
    names, body = (rows[0], rows[1:]) if header else ([], rows)
    width = _width(names or body[0], body)
    if header:
        skip += 1
        names = [name.strip().strip("\ufeff") for name in names]
        columns = names + [""] * (width - len(names))
    else:
        columns = [str(i + 1) for i in range(width)]
    cells = [[row[i].strip() if i < len(row) else "" for row in body] for i in range(width)]
    uses, more_notes = _uses(columns, cells, decimal, header)
    channels = [i for i, use in enumerate(uses) if use == "channel"]
    _check_channels(columns, uses, channels, header, bool(body))
    channels, order = _in_order(columns, channels) if header else (channels, [])
    times = _time_format(cells[uses.index("time")], decimal) if "time" in uses else ""
    return Layout(
        encoding,
        separator,
        decimal,
        skip,
        header,
        tuple(columns),
        tuple(uses),
        tuple(channels),
        times,
        (*notes, *more_notes, *order),
    )


def _first_lines(path: Path) -> tuple[list[str], str, list[str]]:
    """The whole lines in the first part of a file, its encoding, and a note about a guess."""
    with path.open("rb") as file:
        raw = file.read(_HEAD)
        more = bool(file.read(1))
    encoding, notes = _encoding(raw)
    text = codecs.getincrementaldecoder(encoding)("replace").decode(raw)
    if "\0" in text:
        raise InputError("is not text: it holds NUL bytes")
    lines = re.split(r"\r\n|\n|\r", text)
    if more:
        lines.pop()
        if not lines:
            raise InputError(
                f"line 1 is longer than {_HEAD >> 20} MB, so this is not a table of samples"
            )
    return lines, encoding, notes


def _encoding(raw: bytes) -> tuple[str, list[str]]:
    """The encoding, and a note where it is guessed.

    A byte order mark or the NULs of UTF-16 decide; else it is UTF-8 where that is valid, else
    cp1252.
    """
    if not raw:
        raise InputError("is empty")
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16", []
    if raw.startswith(codecs.BOM_UTF8):
        return "utf-8-sig", []
    for encoding, odd in (("utf-16-le", 1), ("utf-16-be", 0)):
        if len(raw) > 3 and not any(raw[odd:200:2]) and all(raw[1 - odd : 200 : 2]):
            return encoding, []
    try:
        codecs.getincrementaldecoder("utf-8")().decode(raw)
    except UnicodeDecodeError:
        return _western(raw), ["is not UTF-8, read as Western European (cp1252)"]
    return "utf-8", []


def _western(raw: bytes) -> str:
    """cp1252, or latin-1 where there are bytes that cp1252 does not define."""
    try:
        raw.decode("cp1252")
    except UnicodeDecodeError:
        return "latin-1"
    return "cp1252"


def _preamble(lines: Sequence[str]) -> int:
    """Number of blank lines, comments and lines such as ``sep=;`` at the start."""
    for i, line in enumerate(lines):
        text = line.strip().strip("\ufeff")
        if text and not text.startswith(COMMENTS) and not text.lower().startswith("sep="):
            return i
    return len(lines)


def _declared_separator(lines: Sequence[str]) -> str | None:
    """The separator that spreadsheets declare in a line ``sep=;``; None without such a line."""
    texts = [line.strip().strip("\ufeff")[4:] for line in lines if line.lower().startswith("sep=")]
    return (texts[-1] or "\t")[0] if texts else None


def _separator(lines: Sequence[str]) -> str:
    """Tab or semicolon where every line has the same number of them, else the comma."""
    lines = [line for line in lines if line.strip()]
    for separator in "\t;":
        counts = [len(row) for row in fields(lines, separator)]
        if counts and min(counts) > 1 and len(set(counts[1:])) <= 1:
            return separator
    widest = max((max(map(len, fields(lines, s)), default=0), s == ",", s) for s in "\t;,")
    return widest[2]


def fields(lines: Sequence[str], separator: str) -> list[list[str]]:
    """The fields of every line; a quote that is not closed ends with its line."""
    try:
        return [row for line in lines for row in csv.reader([line], delimiter=separator)]
    except csv.Error as error:
        raise InputError(f"is not a table ({error})") from None


def _decimal(rows: Sequence[Sequence[str]], separator: str) -> str:
    """The decimal sign: a comma where numbers have one and none has a point, else a point."""
    cells = [cell.strip() for row in rows for cell in row]
    commas = sum(bool(re.fullmatch(r"[+-]?\d*,\d+([eE][+-]?\d+)?", c, re.ASCII)) for c in cells)
    points = sum(bool(re.fullmatch(r"[+-]?\d*\.\d+([eE][+-]?\d+)?", c, re.ASCII)) for c in cells)
    return "," if commas and not points else "."


def is_number(cell: str, decimal: str) -> bool:
    """Whether a cell is a number with this decimal sign."""
    return _NUMBER.fullmatch(cell.replace(",", ".") if decimal == "," else cell) is not None


def _has_header(rows: Sequence[Sequence[str]], decimal: str) -> bool:
    """Whether the first line names columns: it holds words where the lines below hold numbers."""
    first = [cell.strip() for cell in rows[0]]
    words = [i for i, c in enumerate(first) if c not in NULLS and not is_number(c, decimal)]
    counted = [c for c in first if c]
    if len(counted) > 1 and counted == [str(i) for i in range(len(counted))] and len(rows) > 1:
        # 0,1,2: what pandas calls columns that have no names.
        return any(not re.fullmatch(r"[+-]?\d+", c.strip()) for c in rows[1])
    if not words:
        return False
    if len(words) == len(counted) or len(rows) == 1:
        return True
    return any(i < len(rows[1]) and is_number(rows[1][i].strip(), decimal) for i in words)


def _width(first: Sequence[str], body: Sequence[Sequence[str]]) -> int:
    """Number of fields in a line; one more than names where every line ends with a separator."""
    trailing = bool(body) and all(len(r) == len(first) + 1 and not r[-1].strip() for r in body)
    return len(first) + trailing


# ------------------------------------------------------------------ what its columns are


def _uses(
    columns: Sequence[str], cells: Sequence[Sequence[str]], decimal: str, header: bool
) -> tuple[list[Use], list[str]]:
    """The use of every column by its name and its values, and notes about those left out."""
    kinds = [_kind(column, decimal) for column in cells]
    uses: list[Use] = []
    for i, (name, kind) in enumerate(zip(columns, kinds)):
        role = role_of(name) if header else None
        uses.append(_use(i, name, role, kind, cells[i], columns))
    notes = []
    for role, names in (("time", ()), ("label", LABEL), ("subject", SUBJECT)):
        same_role = [i for i, use in enumerate(uses) if use == role]
        best = min(same_role, key=lambda i: _rank(columns[i], kinds[i], names), default=None)
        for i in same_role:
            if i != best:
                uses[i] = "spare"
    for i, use in enumerate(uses):
        if use == "text" and header and role_of(columns[i]) == "time":
            notes.append(f"the times in {columns[i]!r} are in no known format ({cells[i][0]!r})")
    for use, why in (("index", "counts lines"), ("text", "text"), ("spare", "not needed")):
        named = [_column_name(columns, i) for i, u in enumerate(uses) if u == use]
        if named:
            notes.append(f"left out: {', '.join(named)} ({why})")
    if not header and "text" in uses:
        at = uses.index("text")
        raise InputError(
            f"has no header, and column {at + 1} holds words ({cells[at][0]!r}); add a first line "
            "that names the columns"
        )
    return uses, notes


def _time_format(cells: Sequence[str], decimal: str) -> Literal["whole", "number", "date"]:
    """How a column of times is written."""
    if _kind(cells, decimal) != "number":
        return "date"
    known = (cell for cell in cells if cell not in NULLS)
    return "whole" if all(re.fullmatch(r"[+-]?\d{1,18}", v, re.ASCII) for v in known) else "number"


def _column_name(columns: Sequence[str], i: int) -> str:
    return repr(columns[i]) if columns[i] else f"column {i + 1}, which has no name"


def _kind(cells: Sequence[str], decimal: str) -> str:
    """``empty`` without values, ``text`` where no value is a number, else ``number``."""
    known = [cell for cell in cells if cell not in NULLS]
    if not known:
        return "empty"
    return "number" if any(is_number(cell, decimal) for cell in known) else "text"


def _use(
    i: int, name: str, role: Role | None, kind: str, cells: Sequence[str], columns: Sequence[str]
) -> Use:
    """The use of one column."""
    if role == "label" and parsed(name).words == "y" and not _is_target(cells, columns):
        role = None
    if role == "index" and kind != "empty":
        if _counts_up(cells):
            return "index"
        if not name:
            raise InputError(
                f"column {i + 1} has no name and does not count lines; name it in the first line, "
                "for instance time or label"
            )
        role = None
    if role == "time" and kind == "number" and parsed(name).words in ("t", "ts", "n"):
        role = "time" if _rises(cells) else None
    if role is None and i == 0 and parsed(name).unit is not None and _rises(cells):
        return "time"  # a word for time in another language, with its unit
    if role == "time" and kind == "text" and date_type(cells) is None:
        return "text"
    if role is not None and kind != "empty":
        return role
    if kind == "empty" and (not name or role is not None):
        return "empty"
    return "text" if kind == "text" else "channel"


def _is_target(cells: Sequence[str], columns: Sequence[str]) -> bool:
    """Whether a column ``y`` is a label: without axes x or z, and with few whole values."""
    axes = [axis for c in columns if (axis := axis_of(c)) is not None and not axis.stem]
    whole = all(re.fullmatch(r"[+-]?\d+(\.0*)?|", c) or not is_number(c, ".") for c in cells)
    return whole and len(set(cells)) <= _MOST_LABELS and {a.axis for a in axes} == {"y"}


def _counts_up(cells: Sequence[str]) -> bool:
    """Whether a column holds whole numbers that never decrease."""
    known = [cell for cell in cells if cell]
    if not all(re.fullmatch(r"\d{1,15}(\.0*)?", cell, re.ASCII) for cell in known):
        return False
    steps = np.diff([float(cell) for cell in known])
    return bool((steps >= 0).all())


def _rises(cells: Sequence[str]) -> bool:
    """Whether nine of ten numbers of a column are not below the one before."""
    values = [float(c.replace(",", ".")) for c in cells if is_number(c, ",")]
    return len(values) > 1 and bool((np.diff(values) >= 0).mean() > 0.9)


def _rank(column: str, kind: str, names: Sequence[str]) -> tuple[int, int]:
    """Order of columns of one role: by ``names``, else numbers first and units before none."""
    if names:
        words = parsed(column).words
        return (names.index(words) if words in names else len(names), 0)
    return (kind == "text", parsed(column).unit is None)


def _check_channels(
    columns: Sequence[str], uses: Sequence[Use], channels: Sequence[int], header: bool, body: bool
) -> None:
    """``InputError`` for a table without samples, and for channels of the same name."""
    if header and not body:
        raise InputError("has a header and no samples")
    if not channels:
        others = [f"{use} {columns[i]!r}" for i, use in enumerate(uses) if use != "empty"]
        raise InputError(f"has no column of samples; it has {', '.join(others)}")
    counts = Counter(columns[i].casefold() for i in channels)
    twice = next((columns[i] for i in channels if counts[columns[i].casefold()] > 1), None)
    if header and twice is not None:
        raise InputError(f"two columns are called {twice!r}; give them different names")


def _in_order(columns: Sequence[str], channels: list[int]) -> tuple[list[int], list[str]]:
    """Channels with the axes of every sensor in the order x, y, z, and a note about a change."""
    names = [columns[i] for i in channels]
    wanted = by_axes(names)
    if wanted == names:
        return channels, []
    axes = [name for name in wanted if axis_of(name) is not None]
    return [channels[names.index(n)] for n in wanted], [f"axes put in order: {', '.join(axes)}"]


def date_type(cells: Sequence[str]) -> Any:
    """Type of pyarrow for dates, or strings for times of a day; None for unknown formats."""
    import pyarrow as pa

    words = pa.array([cell for cell in cells if cell not in NULLS], pa.string())
    for kind in (pa.timestamp("ns"), pa.timestamp("ns", "UTC"), pa.string()):
        try:
            moments(words.cast(kind))
        except pa.ArrowInvalid:
            continue
        return kind
    return None


def moments(column: Any) -> Any:
    """Dates as timestamps; times of a day, such as ``12:00:01.250``, are put on one day."""
    import pyarrow as pa
    from pyarrow import compute

    if column.type != pa.string():
        return column
    day = pa.scalar("2000-01-01", pa.string())
    joined = compute.call_function("binary_join_element_wise", [day, column, " "])
    return joined.cast(pa.timestamp("ns"))
