"""An ``.npz`` whose arrays grow row by row on disk, as their lengths are not known beforehand."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jfreq.files import disk_errors
from jfreq.types import InputError

CHUNK = 1 << 20
"""Bytes that are copied at once."""


class Column:
    """Rows ``[n width]`` float32 in a temporary file in the folder of ``out``."""

    def __init__(self, out: Path, width: int):
        self.width, self.rows = width, 0
        self._folder = out.parent
        with disk_errors(self._folder):
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115

    def append(self, x: np.ndarray) -> None:
        """Adds rows ``[n width]`` or one row ``[width]``."""
        x = np.ascontiguousarray(x, np.float32).reshape(-1, self.width)
        with disk_errors(self._folder):
            self._file.write(x.tobytes())
        self.rows += len(x)

    def cut(self, rows: int) -> None:
        """Drops all but the first ``rows``."""
        self._file.seek(rows * self.width * 4)
        self._file.truncate()
        self.rows = rows

    def copy(self, file: Any, lengths: Sequence[int], longest: int) -> None:
        """Writes groups of ``lengths`` rows, each padded with zeros to ``longest``."""
        self._file.seek(0)
        for length in lengths:
            _copy(self._file, file, length * self.width * 4)
            _zeros(file, (longest - length) * self.width * 4)

    def close(self) -> None:
        self._file.close()


class ColumnArray:
    """A :class:`Column` as an array ``[n width]``, or with the ``lengths`` of ``n`` groups as
    ``[n longest width]``."""

    def __init__(self, column: Column, lengths: Sequence[int] | None = None):
        self._column = column
        self._lengths = [1] * column.rows if lengths is None else list(lengths)
        self._longest = max(1, max(self._lengths, default=1))
        steps = () if lengths is None else (self._longest,)
        self.shape = (len(self._lengths), *steps, column.width)

    def write(self, file: Any) -> None:
        layout = {"descr": "<f4", "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(file, layout)
        self._column.copy(file, self._lengths, self._longest)


def write_npz(file: BinaryIO, arrays: Mapping[str, np.ndarray | ColumnArray]) -> None:
    """As ``np.savez``, also for arrays that do not fit into memory."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                if isinstance(array, ColumnArray):
                    array.write(member)
                else:
                    np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def check_disk_space(out: Path, size: float, advice: str) -> None:
    """Raises ``InputError`` where the disk of ``out`` has fewer than ``size`` bytes free."""
    folder = next(folder for folder in out.absolute().parents if folder.exists())
    free = shutil.disk_usage(folder).free
    if size > free:
        raise InputError(
            f"{out}: needs about {size / 2**30:.1f} GiB, but {free / 2**30:.1f} GiB are free; "
            f"{advice}"
        )


def _copy(source: Any, file: Any, size: int) -> None:
    while size > 0:
        blob = source.read(min(size, CHUNK))
        file.write(blob)
        size -= len(blob)


def _zeros(file: Any, size: int) -> None:
    for start in range(0, size, CHUNK):
        file.write(bytes(min(size - start, CHUNK)))
