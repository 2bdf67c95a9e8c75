"""The finished shards of an unfinished set: for each its records, its columns and its facts.

A shard is finished as soon as its file of facts exists. All files are written whole under a name
of their own and then renamed, so that it does not matter how often, or by how many processes at
once, a shard is written: its bytes are the same.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jfreq.data.prepare.windowing import Window
from jfreq.files import draft_of, sha256_of, write_atomically, write_text
from jfreq.types import InputError

WRITE_OPTIONS = "group_size:1,uncompressed"
"""One record in a chunk, so that random access reads one; PCM hardly compresses."""
RECORDS, COLUMNS, FACTS = "array_record", "npz", "json"
"""Suffixes of the three files of a shard."""
DAMAGED = ".damaged"
"""End of the name of a file of facts that did not hold; its shard is written again."""


class Written(NamedTuple):
    """The facts of a finished shard of ``rows`` windows."""

    index: int
    rows: int
    sha256: str
    """Over the records in order."""
    skipped: tuple[str, ...]
    """Rows of the source that could not be used, as ``name: reason``."""
    command: str
    """Fingerprint of the command that wrote it."""
    files: Mapping[str, Any]
    """Size and sha256 of the records and of the columns, by suffix."""


def file_of(folder: Path, index: int, suffix: str) -> Path:
    return folder / f"{index:06d}.{suffix}"


def write(
    folder: Path, index: int, windows: Iterable[Window], skipped: list[str], *, command: str
) -> Written:
    """Writes a shard.

    Args:
      folder: of the finished shards.
      windows: of the shard; the iterator may append to ``skipped`` as it is consumed.
      skipped: rows that could not be used, as ``name: reason``.
      command: fingerprint of the command.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    sha, rows = hashlib.sha256(), []
    shard = file_of(folder, index, RECORDS)
    draft = draft_of(shard)
    try:
        writer = ArrayRecordWriter(str(draft), WRITE_OPTIONS)
        try:
            for window in windows:
                writer.write(window.record)
                sha.update(window.record)
                rows.append(window.columns)
        finally:
            writer.close()
        with open(draft, "rb") as file:
            os.fsync(file.fileno())
        os.replace(draft, shard)
    finally:
        draft.unlink(missing_ok=True)
    columns = {name: _column([row[name] for row in rows]) for name in (rows[0] if rows else ())}
    table = file_of(folder, index, COLUMNS)
    write_atomically(table, lambda file: np.savez(file, **columns))  # type: ignore[arg-type]
    files = {
        suffix: {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for suffix, path in ((RECORDS, shard), (COLUMNS, table))
    }
    written = Written(index, len(rows), sha.hexdigest(), tuple(skipped), command, files)
    write_text(file_of(folder, index, FACTS), json.dumps(written._asdict(), indent=1) + "\n")
    return written


def load(folder: Path, index: int) -> Written | None:
    """The facts of a shard; None where it is not finished, or its files have other sizes."""
    try:
        facts = json.loads(file_of(folder, index, FACTS).read_text("utf-8"))
        written = Written(**facts)._replace(skipped=tuple(facts["skipped"]))
        sizes = [
            file_of(folder, index, suffix).stat().st_size == stated["bytes"]
            for suffix, stated in written.files.items()
        ]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return written if all(sizes) and written.index == index else None


def intact(folder: Path, written: Written) -> bool:
    """Whether the files of a shard hold what was written, by their sha256."""
    return all(
        sha256_of(file_of(folder, written.index, suffix)) == stated["sha256"]
        for suffix, stated in written.files.items()
    )


def set_aside(folder: Path, index: int) -> None:
    """Marks a damaged shard as not finished; its facts are kept under another name."""
    facts = file_of(folder, index, FACTS)
    if facts.exists():
        os.replace(facts, facts.with_name(facts.name + DAMAGED))


def column(folder: Path, index: int, name: str) -> np.ndarray:
    """One column of a finished shard, ``[rows]`` or ``[rows c]``."""
    path = file_of(folder, index, COLUMNS)
    try:
        with np.load(path, allow_pickle=False) as file:
            return file[name]
    except Exception as error:
        raise InputError(f"{path}: cannot be read ({error}); prepare the set again") from error


def names(folder: Path, index: int) -> list[str]:
    """The names of the columns of a finished shard."""
    with np.load(file_of(folder, index, COLUMNS), allow_pickle=False) as file:
        return list(file.files)


def _column(values: list) -> np.ndarray:
    """The values of a column stacked; text as UTF-8, a quarter of the size of numpy's strings."""
    if isinstance(values[0], str):
        return np.array([value.encode() for value in values])
    return np.stack(values)
