"""Arrays in ``.npz`` and ``.npy``; nothing is unpickled, and sizes are checked before reading."""

from __future__ import annotations

import contextlib
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from jfreq.ranges import brief, first_line
from jfreq.types import InputError

_MAGIC = b"\x93NUMPY"
_LONGEST_HEADER = 10_000
_UNREADABLE = (
    ValueError,
    SyntaxError,
    TypeError,
    EOFError,
    MemoryError,
    RuntimeError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What numpy and zipfile raise for damaged headers."""


class Member(NamedTuple):
    """An array as its header declares it."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    stored: int
    """Bytes after the header; a whole file has as many as the header declares."""

    @property
    def bytes(self) -> int:
        """Bytes that the header declares."""
        return math.prod((self.dtype.itemsize, *self.shape))


class Archive(Mapping[str, Member]):
    """The arrays of a file by name; headers are read at once, samples by :meth:`read`.

    Raises:
      InputError: for a file that is not an archive of arrays.
    """

    def __init__(self, path: Path):
        self.path = path
        with path.open("rb") as file:
            begin = file.read(len(_MAGIC))
        if not begin:
            raise InputError("is empty")
        self._zip = not begin.startswith(_MAGIC)
        self._members = self._zipped() if self._zip else self._single()

    def __getitem__(self, name: str) -> Member:
        return self._members[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def read(self, name: str) -> np.ndarray:
        """The array of that name.

        Raises:
          InputError: for an array of objects, a damaged one, one whose header declares another size
            than is stored, and one that does not fit into memory.
        """
        member = self[name]
        if member.dtype.hasobject:
            raise InputError(
                f"{name}: holds Python objects, which are never unpickled; save it as text or "
                f"numbers, for instance {name}.astype(str)"
            )
        if member.bytes != member.stored:
            raise InputError(
                f"{name}: its header declares {member.bytes} bytes (shape {member.shape}, "
                f"{member.dtype}), the file holds {member.stored}"
            )
        _check_memory(member)
        with self._open(name) as file:
            try:
                x = np.lib.format.read_array(
                    file, allow_pickle=False, max_header_size=_LONGEST_HEADER
                )
            except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
                raise InputError(f"{name}: is damaged ({error})") from None
            if self._zip and file.read(1):
                raise InputError(f"{name}: is followed by bytes that its header does not declare")
        return x

    @contextlib.contextmanager
    def _open(self, name: str) -> Iterator[IO[bytes]]:
        if not self._zip:
            with self.path.open("rb") as file:
                yield file
            return
        with zipfile.ZipFile(self.path) as archive, archive.open(f"{name}.npy") as file:
            yield file

    def _single(self) -> dict[str, Member]:
        with self.path.open("rb") as file:
            return {"x": _declared("x", file, self.path.stat().st_size)}

    def _zipped(self) -> dict[str, Member]:
        try:
            archive = zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise InputError(f"is not a whole .npz archive ({error})") from None
        out: dict[str, Member] = {}
        with archive:
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                if name == info.filename:
                    continue
                if name in out:
                    raise InputError(f"{name}: is in the archive twice")
                if info.flag_bits & 1:
                    raise InputError(f"{name}: is encrypted")
                with archive.open(info) as file:
                    out[name] = _declared(name, file, info.file_size)
        if not out:
            raise InputError("is an archive that holds no arrays (.npy)")
        return out


def _declared(name: str, file: IO[bytes], size: int) -> Member:
    """Shape and dtype of a header; ``size`` is that of header and array together."""
    try:
        version = np.lib.format.read_magic(file)
        read: Any = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise InputError(f"{name}: version {version} of the .npy format is not known")
        shape, _, dtype = read(file, max_header_size=_LONGEST_HEADER)
    except InputError:
        raise
    except _UNREADABLE as error:
        raise InputError(
            f"{name}: has no readable .npy header ({brief(first_line(error))})"
        ) from None
    return Member(name, shape, dtype, size - file.tell())


def _check_memory(member: Member) -> None:
    """``InputError`` where an array and its float32 copy need more than the machine's memory."""
    import psutil

    total = psutil.virtual_memory().total
    if member.bytes > total // 2:
        raise InputError(
            f"{member.name}: {member.bytes / 2**30:.1f} GB do not fit into this machine's memory "
            f"of {total / 2**30:.1f} GB; store it in parts"
        )
