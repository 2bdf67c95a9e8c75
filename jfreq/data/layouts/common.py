"""What the layouts share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jfreq.config import check
from jfreq.data.source import Options, Row, label_numbers
from jfreq.types import InputError

IMU = {"acc": (0, 1, 2), "gyro": (3, 4, 5)}


def find(folder: Path, pattern: str, *, kind: str) -> list[Path]:
    """Files or folders anywhere in ``folder``, sorted; ``InputError`` where there are none."""
    check(folder.is_dir(), "source", f"{folder} is not a folder; name the unpacked archive")
    found = sorted(folder.rglob(pattern))
    check(bool(found), "source", f"{folder} has no {pattern} in it, as {kind} has; docs/data.md "
          "shows what the layout looks like")  # fmt: skip
    return found


def labelled(
    entries: Sequence[tuple[Row, str]], options: Options, *, order: Sequence[str] = ()
) -> tuple[list[Row], list[Row], tuple[str, ...]]:
    """Rows with the number of their class, rows of no class if they were asked for, the names."""
    labels, known = label_numbers([(row.path, name) for row, name in entries], options, order=order)
    rows = [r._replace(label=(known[name],)) for r, name in entries if name in known]
    rest = [r for r, name in entries if not name] if options.unlabelled else []
    return rows, rest, labels


def table(source: Any, names: Sequence[str], *, where: str, delimiter: str = ",") -> np.ndarray:
    """Columns ``names`` ``[n c]`` float64 of a text file with a header; ``source`` is its lines."""
    header = [name.strip().strip('"') for name in next(iter(source), "").split(delimiter)]
    for name in names:
        check(name in header, where, f"has no column {name!r}; it has: {', '.join(header)}")
    columns = [header.index(name) for name in names]
    return numbers(source, where=where, delimiter=delimiter, usecols=columns)


def numbers(source: Any, *, where: str, **options: Any) -> np.ndarray:
    """``[n c]`` float64, or of ``dtype``, of lines of text; NaN is a number, an empty field not."""
    options = {"ndmin": 1 if "dtype" in options else 2, **options}
    try:
        return np.loadtxt(source, **options)
    except ValueError as error:
        raise InputError(f"{where}: {str(error).splitlines()[0]}") from error
