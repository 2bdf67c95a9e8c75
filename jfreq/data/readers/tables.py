"""Sensor tables, ``.csv`` and ``.tsv``: columns are recognised by name and parsed by pyarrow.

:mod:`jfreq.data.readers.table_layout` looks at the first part of a file; then pyarrow reads the
columns that are needed, channels as float32. Python parses single lines only where pyarrow has
refused a file, to say which line is wrong.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from jfreq.data.readers.clock import seconds_of
from jfreq.data.readers.columns import parsed
from jfreq.data.readers.table_layout import (
    COMMENTS,
    NULLS,
    SAMPLE_LINES,
    Layout,
    date_type,
    detect_layout,
    fields,
    is_number,
    moments,
)
from jfreq.ranges import first_line
from jfreq.types import InputError

TABLES = (".csv", ".tsv")
_ARROW_NULLS = [blank + word for word in NULLS for blank in ("", " ")]


class Categorical(NamedTuple):
    """A word ``names[codes[t]]`` for every sample, an empty one for none."""

    codes: np.ndarray
    names: tuple[str, ...]

    def word_at(self, i: int) -> str:
        """The word of sample ``i``; a single word is that of all samples."""
        return self.names[self.codes[min(i, len(self.codes) - 1)]]


class Table(NamedTuple):
    """What a file holds, with a line for every sample."""

    layout: Layout
    x: np.ndarray | None
    """``[t c]`` float32, NaN where a cell is empty; None where only the other columns were read."""
    seconds: np.ndarray | None
    """``[t]`` float64 since the first sample; None where no column states times."""
    label: Categorical | None
    subject: Categorical | None


def read_table(path: Path, *, values: bool = True) -> Table:
    """Reads a table of sensor samples.

    Args:
      values: read the samples too, not only times, labels and subjects.

    Raises:
      InputError: for a file that is not a table of numbers, where possible with line and column.
    """
    layout = detect_layout(path)
    wanted = [i for use in ("time", "label", "subject") if (i := layout.column_of(use)) is not None]
    if not values and not wanted:
        return Table(layout, None, None, None, None)
    layout, columns = _parsed(path, layout, [*wanted, *(layout.channels if values else ())])
    if columns.num_rows == 0:
        raise InputError("has a header and no samples" if layout.header else "holds no samples")
    x = _matrix(path, layout, columns) if values else None
    seconds, layout = _times(layout, columns)
    label, subject = (_categorical(layout, use, columns) for use in ("label", "subject"))
    return Table(layout, x, seconds, label, subject)


# ------------------------------------------------------------------ reading


def _parsed(path: Path, layout: Layout, wanted: Sequence[int]) -> tuple[Layout, Any]:
    """The wanted columns as an Arrow table, named by their numbers, and how they were read."""
    import pyarrow as pa

    broken: list[Any] = []
    try:
        try:
            columns = _arrow(path, layout, wanted, broken, [""])
        except pa.ArrowInvalid:  # words for missing samples make reading a fifth slower
            broken.clear()
            columns = _arrow(path, layout, wanted, broken, _ARROW_NULLS)
    except (pa.ArrowException, UnicodeError) as error:
        if "UTF8" in str(error) and layout.encoding == "utf-8":
            note = "is not UTF-8, read as Western European (cp1252)"
            again = layout._replace(encoding="latin-1", notes=(*layout.notes, note))
            return _parsed(path, again, wanted)
        _explain(path, layout)
        raise InputError(f"cannot be read as a table ({first_line(error)})") from None
    if broken:
        _explain(path, layout)
        raise InputError(
            f"a line has {broken[0].actual_columns} fields instead of "
            f"{broken[0].expected_columns}: {broken[0].text[:80]!r}"
        )
    return layout, columns


def _arrow(
    path: Path, layout: Layout, wanted: Sequence[int], broken: list[Any], nulls: list[str]
) -> Any:
    """The wanted columns as an Arrow table.

    Args:
      broken: lines with another number of fields are appended to it.
      nulls: what stands for a missing sample.
    """
    import pyarrow as pa
    from pyarrow import csv as arrow

    def bad_row(row: Any) -> str:
        if not row.text.lstrip().startswith(COMMENTS):
            broken.append(row)
        return "skip"

    names = [str(i) for i in range(len(layout.columns))]
    types = {names[i]: _type(path, layout, i) for i in wanted}
    empty = [i for i, use in enumerate(layout.uses) if use == "empty"]
    types |= {names[i]: pa.null() for i in empty}
    encoding = "utf-8" if layout.encoding == "utf-8-sig" else layout.encoding
    return arrow.read_csv(
        path,
        arrow.ReadOptions(
            column_names=names, skip_rows=layout.skip, encoding=encoding, block_size=4 << 20
        ),
        arrow.ParseOptions(
            delimiter=layout.separator,
            ignore_empty_lines=len(names) > 1,
            invalid_row_handler=bad_row,
        ),
        arrow.ConvertOptions(
            column_types=types,
            include_columns=[names[i] for i in [*wanted, *empty]],
            null_values=nulls,
            strings_can_be_null=True,
            decimal_point=layout.decimal,
        ),
    )


def _type(path: Path, layout: Layout, column: int) -> Any:
    """Arrow's type of a column."""
    import pyarrow as pa

    use = layout.uses[column]
    if use == "channel":
        return pa.float32()
    if use in ("label", "subject"):
        return pa.dictionary(pa.int32(), pa.string())
    if layout.times != "date":
        return pa.int64() if layout.times == "whole" else pa.float64()
    lines = itertools.islice(_lines(path, layout), SAMPLE_LINES)
    return date_type([row[column].strip() for _, row in lines if len(row) > column])


def _matrix(path: Path, layout: Layout, table: Any) -> np.ndarray:
    """The channels side by side ``[t c]`` float32."""
    x = np.empty((table.num_rows, len(layout.channels)), np.float32)
    for j, i in enumerate(layout.channels):
        x[:, j] = table.column(str(i)).to_numpy()
    infinite = [i for j, i in enumerate(layout.channels) if np.isinf(x[:, j]).any()]
    if infinite:
        _explain(path, layout, finite=infinite)
    while len(x) and np.isnan(x[-1]).all() and len(layout.columns) == 1:
        x = x[:-1]  # blank lines at the end of a single column
    return x


def _times(layout: Layout, table: Any) -> tuple[np.ndarray | None, Layout]:
    """Seconds ``[t]`` since the first sample, and the layout with a note where there are none."""
    import pyarrow as pa

    at = layout.column_of("time")
    if at is None:
        return None, layout
    column = table.column(str(at))
    try:
        raw = (moments(column) if layout.times == "date" else column).to_numpy()
    except pa.ArrowInvalid as error:
        raise InputError(f"column {layout.columns[at]!r}: {first_line(error)}") from None
    seconds = seconds_of(raw, parsed(layout.columns[at]).unit, layout.columns[at])
    if seconds is None:
        note = f"{layout.columns[at]!r} counts samples and tells no rate"
        layout = layout._replace(notes=(*layout.notes, note))
    return seconds, layout


def _categorical(
    layout: Layout, use: Literal["label", "subject"], table: Any
) -> Categorical | None:
    """The words of a column; whole numbers without ``.0``."""
    at = layout.column_of(use)
    if at is None:
        return None
    column = table.column(str(at)).unify_dictionaries().combine_chunks()
    codes = column.indices.fill_null(-1).to_numpy()
    names = [_word(name) for name in column.dictionary.to_pylist()]
    fraction = next((name for name in names if re.fullmatch(r"-?\d*\.\d+", name)), None)
    if parsed(layout.columns[at]).words == "y" and fraction is not None:
        raise InputError(
            f"column {layout.columns[at]!r} begins with few whole numbers, as labels do, and then "
            f"holds {fraction}; rename it to 'label' or to the name of a channel"
        )
    merged = sorted({*names, ""})
    number = {name: i for i, name in enumerate(merged)}
    new_codes = np.array([*(number[n] for n in names), number[""]], np.int32)
    return Categorical(new_codes[codes], tuple(merged))


def _word(text: str) -> str:
    word = text.strip()
    if word in NULLS:
        return ""
    return word.partition(".")[0] if re.fullmatch(r"[+-]?\d+\.0*", word, re.ASCII) else word


# ------------------------------------------------------------------ what is wrong with it


def _lines(path: Path, layout: Layout) -> Iterator[tuple[int, list[str]]]:
    """Number and fields of every line of samples."""
    with path.open(encoding=layout.encoding, errors="replace", newline=None) as file:
        for number, line in enumerate(file, start=1):
            text = line.rstrip("\n")
            if number > layout.skip and (text.strip() or len(layout.columns) == 1):
                if text.lstrip().startswith(COMMENTS):
                    continue
                yield number, fields([text], layout.separator)[0] if text else [""]


def _explain(path: Path, layout: Layout, *, finite: Sequence[int] = ()) -> None:
    """Raises ``InputError`` for the first line that cannot be read, if there is one.

    Args:
      finite: columns that hold a number which is too large for float32; by default all columns
        are checked.
    """
    width = len(layout.columns)
    for number, row in _lines(path, layout):
        if len(row) != width:
            raise InputError(f"line {number}: expected {width} fields, found {len(row)}")
        for i in finite or range(width):
            cell = row[i].strip()
            where = f"line {number}, column {layout.columns[i]!r}"
            use = layout.uses[i]
            if use == "empty" and cell not in NULLS:
                raise InputError(f"{where}: {cell[:40]!r} is in a column that is empty above")
            numeric = use == "channel" or (use == "time" and layout.times != "date")
            if not numeric or cell in NULLS:
                continue
            plain = cell.replace(",", ".") if layout.decimal == "," else cell
            if not is_number(cell, layout.decimal):
                raise InputError(f"{where}: {cell[:40]!r} is not a number{_comma_hint(cell)}")
            if use == "channel" and "n" not in plain.lower() and abs(float(plain)) > 3.4028235e38:
                raise InputError(f"{where}: {cell[:40]} is larger than float32 can hold")


def _comma_hint(cell: str) -> str:
    comma = re.fullmatch(r"[+-]?[\d.]*,\d+", cell, re.ASCII)
    return " (a decimal comma among decimal points?)" if comma else ""
