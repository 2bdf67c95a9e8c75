"""The sha256 of every file of a folder, written beside them and verified before they are read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jfreq.files import parse_json, sha256_of, write_json
from jfreq.ranges import shortlist
from jfreq.types import InputError

FILE = "sha256.json"
THREADS = 4


class Damaged(Exception):
    """A folder does not hold what was written to it; the message says which file."""


def write(folder: Path, *, step: int, leave_out: tuple[str, ...] = ()) -> None:
    """Writes the digests of all files below ``folder``, which holds the checkpoint of ``step``.

    ``leave_out``: names of files right in the folder that change afterwards.
    """
    write_files(folder, step=step, files=digests(folder, leave_out))


def write_files(folder: Path, *, step: int, files: Mapping[str, str | None]) -> None:
    """As :func:`write`, of digests by name that are known, of files that lie elsewhere too."""
    write_json(folder / FILE, {"step": step, "files": dict(sorted(files.items()))})


def digests(folder: Path, leave_out: tuple[str, ...] = ()) -> dict[str, str | None]:
    """sha256 by name of all files below ``folder``, as :func:`write` states them."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return _digests(folder, [name for name in names if name not in (FILE, *leave_out)])


def verify(folder: Path, *, step: int) -> None:
    """Raises :class:`Damaged` unless the folder holds, bit for bit, the checkpoint of ``step``.

    A disk that fails, or a file that may not be read, proves nothing: that ``OSError`` is raised
    as it is.
    """
    stated = _stated(folder, step)
    found = _digests(folder, list(stated))
    for name, digest in stated.items():
        if found[name] != digest:
            raise Damaged(f"{name} {'is not what was written' if found[name] else 'is missing'}")


def check_names(folder: Path, names: Collection[str], *, step: int) -> None:
    """Raises :class:`Damaged` unless the folder, which has files of these names, has all that the
    checkpoint of ``step`` consists of; what they hold is not read."""
    missing = [name for name in _stated(folder, step) if name not in names]
    if missing:
        raise Damaged(f"{shortlist(missing, 2)} {'are' if missing[1:] else 'is'} missing")


def _stated(folder: Path, step: int) -> dict[str, str]:
    """The digests by name."""
    if not folder.is_dir():
        raise Damaged("it is not a folder")
    path = folder / FILE
    if not path.is_file():
        raise Damaged(f"{FILE} is missing")
    try:
        value = parse_json(path.read_text("utf-8", "replace"), path, "digests")
        files = value["files"]
        if not isinstance(value["step"], int) or not files or not all(map(_is_text, files.items())):
            raise KeyError
    except (InputError, KeyError, TypeError, AttributeError):
        raise Damaged(f"{FILE} is not what was written") from None
    if value["step"] != step:
        raise Damaged(f"it is the checkpoint of step {value['step']}, the folder was renamed")
    return files


def _is_text(item: tuple[Any, Any]) -> bool:
    return all(isinstance(word, str) for word in item)


def _digests(folder: Path, names: list[str]) -> dict[str, str | None]:
    """sha256 by name, None for what is not a file."""

    def digest(name: str) -> str | None:
        try:
            return sha256_of(folder / name)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
            return None  # ValueError: a name with a zero byte

    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(names, pool.map(digest, names), strict=True))
