"""The journal of ``prepare``: finished parts, each one shard and one file of columns."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jfreq.data.prepare.windowing import Window
from jfreq.data.shards.metadata import ShardsInfo
from jfreq.files import write_atomically

WRITE_OPTIONS = "group_size:1,uncompressed"
"""One record per chunk: random access reads nothing else. PCM hardly compresses."""


class Part(NamedTuple):
    """A finished part."""

    index: int
    rows: int
    sha256: str
    columns: dict[str, np.ndarray]
    skipped: tuple[str, ...]


def shard_file(index: int) -> str:
    return f"{index:06d}.array_record"


def write(
    folder: Path, index: int, windows: Iterable[Window], skipped: list[str], info: ShardsInfo
) -> Part:
    """Writes a part; it counts as finished once its columns are there.

    ``skipped`` is filled while ``windows`` is drawn.
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
    _sync(temporary)
    os.replace(temporary, shard)
    columns = {name: _column([row[name] for row in rows]) for name in (rows[0] if rows else ())}
    part = Part(index, len(rows), sha.hexdigest(), columns, tuple(skipped))
    note = {"_sha256": np.array(part.sha256), "_skipped": np.array(part.skipped, np.str_)}
    write_columns(_columns_file(folder, index), {**columns, **note})
    return part


def load(folder: Path, index: int) -> Part | None:
    """The part, if it is finished."""
    path = _columns_file(folder, index)
    if not path.is_file() or not (folder / shard_file(index)).is_file():
        return None
    with np.load(path, allow_pickle=False) as file:
        columns = {name: file[name] for name in file.files}
    sha256, skipped = str(columns.pop("_sha256")), columns.pop("_skipped").tolist()
    rows = len(columns["label"]) if columns else 0
    return Part(index, rows, sha256, columns, tuple(skipped))


def write_columns(path: Path, columns: dict[str, np.ndarray]) -> None:
    """An ``.npz`` that appears whole or not at all."""
    write_atomically(path, lambda file: np.savez_compressed(file, **columns))  # type: ignore[arg-type]


def _columns_file(folder: Path, index: int) -> Path:
    return folder / f"{index:06d}.npz"


def _column(values: list) -> np.ndarray:
    """Text as UTF-8 bytes: a quarter of numpy's own strings."""
    if isinstance(values[0], str):
        return np.array([value.encode() for value in values])
    return np.stack(values)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
