"""``rows.npz``: a value of every row in each column, written and read a block at a time.

It is an archive of numpy without compression, so that ``numpy.load`` reads it and single columns
can be mapped into memory. The same values give the same bytes.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jfreq.files import write_atomically

_PIECE = 1 << 20
"""Bytes that are hashed at once."""
_LOCAL_HEADER = 30
"""Bytes of the header of a zip's member without its name and extra field (APPNOTE 4.3.7)."""


class Column(NamedTuple):
    """A column that is to be written: ``blocks`` in order are the array ``shape`` of ``dtype``."""

    dtype: np.dtype
    shape: tuple[int, ...]
    blocks: Iterable[np.ndarray]


def write(path: Path, columns: Mapping[str, Column]) -> dict[str, str]:
    """Writes the columns, whole or not at all; the sha256 of each, see :func:`digest`."""
    digests: dict[str, str] = {}

    def fill(file) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for name, column in columns.items():
                # A ZipInfo of its own has a fixed date, so that the bytes do not depend on it.
                member = zipfile.ZipInfo(f"{name}.npy")
                with archive.open(member, "w", force_zip64=True) as out:
                    digests[name] = _write(out, name, column)

    write_atomically(path, fill)
    return digests


def _write(out, name: str, column: Column) -> str:
    header = {
        "descr": np.lib.format.dtype_to_descr(column.dtype),
        "fortran_order": False,
        "shape": column.shape,
    }
    np.lib.format.write_array_header_1_0(out, header)
    sha = _begin(name, column.dtype, column.shape)
    for block in column.blocks:
        data = np.ascontiguousarray(block, column.dtype).tobytes()
        sha.update(data)
        out.write(data)
    return sha.hexdigest()


def mapped(path: Path) -> dict[str, np.ndarray]:
    """The columns as arrays that are read from disk where they are used; they cannot be changed.

    Raises ``ValueError``, ``OSError`` or ``zipfile.BadZipFile`` for any other file.
    """
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        return {
            info.filename.removesuffix(".npy"): _mapped(path, file, info)
            for info in archive.infolist()
        }


def _mapped(path: Path, file, info: zipfile.ZipInfo) -> np.ndarray:
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{info.filename} is compressed")
    file.seek(info.header_offset)
    header = file.read(_LOCAL_HEADER)
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    file.seek(info.header_offset + _LOCAL_HEADER + lengths)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError(f"{info.filename} is of another version of numpy's format")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject:
        raise ValueError(f"{info.filename} holds Python objects")
    if 0 in shape:
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype, "r", offset=file.tell(), shape=shape)


def digest(name: str, values: np.ndarray) -> str:
    """sha256 over the name, type, shape and values of a column.

    Values of :func:`mapped` are read from the file, so that they do not stay in memory.
    """
    sha = _begin(name, values.dtype, values.shape)
    if not isinstance(values, np.memmap):
        sha.update(np.ascontiguousarray(values).tobytes())
        return sha.hexdigest()
    with open(str(values.filename), "rb") as file:
        file.seek(values.offset)
        left = values.nbytes
        while left and (piece := file.read(min(_PIECE, left))):
            sha.update(piece)
            left -= len(piece)
    return sha.hexdigest()


def _begin(name: str, dtype: np.dtype, shape: tuple[int, ...]):
    return hashlib.sha256(f"{name} {dtype.str} {shape}\n".encode())
