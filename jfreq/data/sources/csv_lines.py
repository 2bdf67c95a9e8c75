"""Lines of CSV files: indexes that people write, and the lists of published sets."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jfreq.config import check, close_match
from jfreq.ranges import brief
from jfreq.types import InputError

_EMPTY = ("", "nan", "na", "n/a", "none", "null")
_LARGEST = 2**62


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """One line: the text of its cells by column, without surrounding blanks."""

    file: Path
    number: int
    cells: Mapping[str, str]

    @property
    def where(self) -> str:
        return f"{self.file}:{self.number}"

    def text(self, column: str) -> str:
        """The text of a cell; empty where the line has no such column."""
        return self.cells.get(column, "")

    def real(self, column: str) -> float | None:
        """A number, also with a decimal comma; None for an empty cell.

        Raises:
          InputError: for text that is not a finite number.
        """
        text = self.text(column)
        if text.lower() in _EMPTY:
            return None
        comma = text.count(",") == 1 and "." not in text
        try:
            value = float(text.replace(",", ".") if comma else text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise InputError(f"{self.where} {column}: expected a number, got {text!r}")
        return value

    def whole(self, column: str, *, least: int = 0, most: int = _LARGEST) -> int | None:
        """A whole number, also written as 1.0; None for an empty cell.

        Raises:
          InputError: for other text, and for a number outside of ``least`` to ``most``.
        """
        value = self.real(column)
        if value is None:
            return None
        where, text = f"{self.where} {column}", self.text(column)
        check(value.is_integer(), where, f"expected a whole number, got {text!r}")
        check(value >= least, where, f"must be {least} or more, got {text}")
        check(value <= most, where, f"{text} is too large, the largest is {most}")
        return int(text) if text.lstrip("+-").isdecimal() else int(value)

    def number_of(self, column: str) -> int:
        """A whole number, 0 or more; ``InputError`` for anything else and for an empty cell."""
        value = self.whole(column, most=2**31 - 1)
        if value is None:
            raise InputError(f"{self.where} {column}: expected a whole number, the cell is empty")
        return value


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without its byte order mark.

    Raises:
      InputError: for a file that is missing, cannot be opened, or is not UTF-8.
    """
    check(path.is_file(), "source", f"{path} does not exist")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text; save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def records(
    path: Path, *, delimiter: str = ",", strict: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """The number of every line that is not blank, and its cells without surrounding blanks.

    Raises:
      InputError: for what the ``csv`` module refuses; with ``strict`` that includes a quote that
        is not closed.
    """
    file = io.StringIO(read_text(path), newline="")
    reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=strict)
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if any(cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: {error}; is a quote not closed?") from error


def lines_of(file: Path, columns: Sequence[str], *, header: bool = True) -> Iterator[Line]:
    """The lines of a CSV that has these columns.

    Args:
      header: the first line names the columns; without it they stand in the order of ``columns``.

    Raises:
      InputError: for a column that is missing, and for a line of too few fields.
    """
    rows = records(file)
    head = next(rows, (1, []))[1] if header else list(columns)
    for name in columns:
        if name not in head:
            raise InputError(
                f"{file}: has no column {name!r}{close_match(name, head)}; it has: "
                f"{brief(', '.join(head))}"
            )
    for number, cells in rows:
        if len(cells) < len(head):
            raise InputError(f"{file}:{number}: has {len(cells)} of {len(head)} fields")
        yield Line(file, number, dict(zip(head, cells)))
