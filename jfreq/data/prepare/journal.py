"""The finished parts of an unfinished set: for each a shard and a file of columns."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jfreq.data.prepare.windowing import Window
from jfreq.files import write_atomically

WRITE_OPTIONS = "group_size:1,uncompressed"
"""One record in a chunk, so that random access reads one; PCM hardly compresses."""


class Part(NamedTuple):
    """A finished part of a set: ``rows`` windows in one shard."""

    index: int
    rows: int
    sha256: str
    """Over the records in order."""
    columns: dict[str, np.ndarray]
    """``[rows]`` or ``[rows c]`` by name, see :class:`jfreq.data.prepare.windowing.Window`."""
    skipped: tuple[str, ...]
    """Rows of the source that could not be used, as ``name: reason``."""


def shard_file(index: int) -> str:
    return f"{index:06d}.array_record"


def write(folder: Path, index: int, windows: Iterable[Window], skipped: list[str]) -> Part:
    """Writes a part, which is finished as soon as its file of columns exists.

    Args:
      folder: of the finished parts.
      windows: of the part; the iterator may append to ``skipped`` as it is consumed.
      skipped: rows that could not be used, as ``name: reason``.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    sha, rows = hashlib.sha256(), []
    shard = folder / shard_file(index)
    temporary = shard.with_suffix(".tmp")
    writer = ArrayRecordWriter(str(temporary), WRITE_OPTIONS)
    try:
        for window in windows:
            writer.write(window.record)
            sha.update(window.record)
            rows.append(window.columns)
    finally:
        writer.close()
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, shard)
    columns = {name: _column([row[name] for row in rows]) for name in (rows[0] if rows else ())}
    part = Part(index, len(rows), sha.hexdigest(), columns, tuple(skipped))
    extra = {"_sha256": np.array(part.sha256), "_skipped": np.array(part.skipped, np.str_)}
    write_columns(_columns_file(folder, index), {**columns, **extra})
    return part


def load(folder: Path, index: int) -> Part | None:
    """The part, or None where it is not finished."""
    path = _columns_file(folder, index)
    if not path.is_file() or not (folder / shard_file(index)).is_file():
        return None
    with np.load(path, allow_pickle=False) as file:
        columns = {name: file[name] for name in file.files}
    sha256, skipped = str(columns.pop("_sha256")), columns.pop("_skipped").tolist()
    rows = len(columns["label"]) if columns else 0
    return Part(index, rows, sha256, columns, tuple(skipped))


def write_columns(path: Path, columns: dict[str, np.ndarray]) -> None:
    """Writes an ``.npz``, whole or not at all."""
    write_atomically(path, lambda file: np.savez_compressed(file, **columns))  # type: ignore[arg-type]


def _columns_file(folder: Path, index: int) -> Path:
    return folder / f"{index:06d}.npz"


def _column(values: list) -> np.ndarray:
    """The values of a column stacked; text as UTF-8, a quarter of the size of numpy's strings."""
    if isinstance(values[0], str):
        return np.array([value.encode() for value in values])
    return np.stack(values)
