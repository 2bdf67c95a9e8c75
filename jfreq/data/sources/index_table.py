"""The table of an index: its separator, and its columns under any of their usual names."""

from __future__ import annotations

import csv
import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path

from jfreq.config import check, close_match
from jfreq.data.sources.csv_lines import Line, read_text, records
from jfreq.types import InputError

SYNONYMS: dict[str, tuple[str, ...]] = {
    column: tuple(names.split())
    for column, names in {
        "path": "file filename file_name filepath file_path relative_path fname audio audio_file "
        "audio_path audio_filename wav wav_path wav_file sound clip",
        "label": "class category class_name classname label_name category_name",
        "labels": "classes categories tags class_names label_names",
        "label_id": "class_id classid class_index label_index category_id target y",
        "fold": "folds cv_fold",
        "split": "subset partition set",
        "subject": "subject_id speaker speaker_id participant participant_id person patient "
        "patient_id user user_id",
        "sr": "rate sample_rate sampling_rate samplerate fs",
        "start": "start_sample begin_sample",
        "end": "end_sample stop_sample",
        "start_seconds": "start_s start_sec start_time onset begin_seconds",
        "end_seconds": "end_s end_sec end_time offset stop_seconds",
        "row": "",
    }.items()
}
"""Columns of an index, and other names for them."""
_NUMBER_OR_NAME = ("target", "y")
"""Names of a column of numbers (``label_id``) or, where it holds text, of names (``label``)."""
_KNOWN = {name: column for column, names in SYNONYMS.items() for name in (column, *names)}
_SEPARATORS = ",;\t|"
_CLOSE = 0.8


@dataclasses.dataclass(frozen=True)
class Table:
    """The lines of an index, its columns by the names of ``SYNONYMS``, and notes about them."""

    lines: tuple[Line, ...]
    columns: frozenset[str]
    notes: tuple[str, ...]


def read_table(path: Path) -> Table:
    """Reads an index.

    Raises:
      InputError: with file and line, for columns that are missing, unclear or unknown, and for
        lines of too many cells.
    """
    separator = _separator(read_text(path).partition("\n")[0])
    rows = list(records(path, delimiter=separator, strict=True))
    check(bool(rows), str(path), "is empty")
    (_, header), *body = rows
    positions, notes = _columns(header, str(path))
    for number, cells in body:
        if len(cells) > len(header) and any(cells[len(header) :]):
            raise InputError(
                f"{path}:{number}: has {len(cells)} cells, the first line names {len(header)} "
                f"columns; put cells that hold {separator!r} into quotes"
            )
    _name_targets(positions, header, [cells for _, cells in body])
    notes += [
        f"{path.name}: column {header[i]!r} is read as {column!r}"
        for column, i in positions.items()
        if _plain(header[i]) != column
    ]
    lines = tuple(
        Line(path, number, {c: cells[i] for c, i in positions.items() if i < len(cells)})
        for number, cells in body
    )
    check(bool(lines), str(path), "names no recordings: it has no line below the first")
    return Table(lines, frozenset(positions), tuple(notes))


def names_paths(path: Path) -> bool:
    """Whether the first line of a text file names a column of paths."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        first = file.readline(10_000)
    cells = next(csv.reader([first], delimiter=_separator(first)), [])
    return any(_KNOWN.get(_plain(cell)) == "path" for cell in cells)


def several_labels(lines: Sequence[Line]) -> tuple[list[tuple[str, ...]], str]:
    """The names in every cell of ``labels``, and the separator between them in this index."""
    cells = [line.text("labels") for line in lines]
    separator = next((s for s in ";|" if any(s in cell for cell in cells)), ",")
    names = [tuple(n.strip() for n in cell.split(separator) if n.strip()) for cell in cells]
    return names, separator


def _separator(first: str) -> str:
    """The separator by which the first line names most known columns."""

    def known(separator: str) -> tuple[int, int]:
        cells = next(csv.reader([first], delimiter=separator), [])
        return sum(_plain(cell) in _KNOWN for cell in cells), len(cells)

    return max(_SEPARATORS, key=known)


def _plain(name: str) -> str:
    return "_".join(name.strip().lower().replace("-", " ").split())


def _columns(header: Sequence[str], where: str) -> tuple[dict[str, int], list[str]]:
    """The position of each known column, and notes about the others."""
    plain = [_plain(name) for name in header]
    positions = _exact(plain, where)
    for i, name in enumerate(plain):
        column = _synonym(name, plain)
        if column is None or (column in positions and plain[positions[column]] == column):
            continue
        if column in positions:
            raise InputError(
                f"{where}: columns {header[positions[column]]!r} and {header[i]!r} may both be the "
                f"{column}; name one of them {column!r}"
            )
        positions[column] = i
    if "label" in positions and plain[positions.get("labels", 0)] != "labels":
        positions.pop("labels", None)
    if "path" not in positions:
        raise InputError(
            f"{where}: has no column 'path'{close_match('path', plain)}; its first line names the "
            "columns, for instance path,label"
        )
    unread = [i for i in range(len(header)) if i not in positions.values() and header[i]]
    for i in unread:
        near = [c for c in SYNONYMS if c not in positions and abs(len(c) - len(plain[i])) < 2]
        close = difflib.get_close_matches(plain[i], near, 1, _CLOSE)
        check(
            not close,
            where,
            f"column {header[i]!r} is not known (did you mean {''.join(close)!r}?); rename it",
        )
    names = ", ".join(repr(header[i]) for i in unread)
    what = "column" if len(unread) == 1 else "columns"
    note = f"{Path(where).name}: {what} {names} not read"
    return positions, [note] if unread else []


def _exact(plain: Sequence[str], where: str) -> dict[str, int]:
    """Positions of the columns that have a name of ``SYNONYMS`` itself."""
    positions: dict[str, int] = {}
    for i, name in enumerate(plain):
        if name in SYNONYMS:
            check(name not in positions, where, f"has two columns {name!r}")
            positions[name] = i
    return positions


def _synonym(name: str, plain: Sequence[str]) -> str | None:
    """The column that another name stands for; ``offset`` is an end only beside ``onset``."""
    column = _KNOWN.get(name)
    return None if name == column or (name == "offset" and "onset" not in plain) else column


def _name_targets(
    positions: dict[str, int], header: Sequence[str], records: Sequence[Sequence[str]]
) -> None:
    """Reads a column ``target`` that holds text as ``label`` instead of ``label_id``."""
    i = positions.get("label_id")
    if i is None or "label" in positions or _plain(header[i]) not in _NUMBER_OR_NAME:
        return
    cells = [cells[i] for cells in records if i < len(cells)]
    if not all(cell.removesuffix(".0").isdecimal() for cell in cells if cell):
        positions["label"] = positions.pop("label_id")
