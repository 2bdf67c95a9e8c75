"""Files: written whole or not at all, their digests, and paths that a user gives."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import logging
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from jfreq.ranges import InputError, shown

FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_WORDS = ("No space left", "ENOSPC", "RESOURCE_EXHAUSTED", "Disk quota")
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""The start of a URL, also as pathlib leaves it (``gs:/bucket``)."""


def local_path(text: str | Path, field: str) -> Path:
    """``text`` as a path on this machine, ``~`` expanded; ``InputError`` for a URL.

    ``field`` names the option or argument that it was given for.
    """
    if SCHEME.match(str(text)):
        raise InputError(
            f"{field}: {text}: is a URL, and a path on this machine is needed here; s3:// and "
            "gs:// go with runs, bundles, their reports and --workdir"
        )
    if "\0" in str(text):
        raise InputError(f"{field}: {str(text)!r} is not a path, it contains a zero byte")
    return Path(text).expanduser()


def write_atomically(path: str | Path, write: Callable[[BinaryIO], Any]) -> Path:
    """Calls ``write(file)`` on a temporary file beside ``path``, then renames it to ``path``.

    Readers see the old file or the new one, never half, also when the process is killed.
    """
    path = local_path(path, "out")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = draft_of(path)
    try:
        with draft.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def write_text(path: str | Path, text: str) -> Path:
    """:func:`write_atomically` of a text in UTF-8."""
    return write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: str | Path, value: Any) -> Path:
    """Writes ``value`` as JSON, whole or not at all; a disk that refuses is an ``InputError``."""
    with disk_errors(Path(path).parent):
        return write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: str | Path, what: str, *, advice: str = "") -> dict[str, Any]:
    """The object in a JSON file that jfreq wrote: ``what``, for the message.

    Raises ``InputError`` with the file, the reason and ``advice`` for a file that is missing or not
    JSON, is nested too deeply, or holds anything but one object, a key twice, NaN or a number of
    thousands of digits.
    """
    return parse_json(read_text(path, what, advice=advice), path, what, advice=advice)


def read_text(path: str | Path, what: str, *, advice: str = "") -> str:
    """The text of a file in UTF-8, ``what`` for the message."""
    try:
        return Path(path).read_bytes().decode("utf-8")
    except FileNotFoundError:
        reason = "does not exist"
    except OSError as error:
        reason = f"cannot be read ({error.strerror or error})"
    except UnicodeDecodeError as error:
        reason = f"is not {what}: byte {error.start} is not UTF-8"
    raise _unreadable(path, reason, advice)


def parse_json(text: str, path: str | Path, what: str, *, advice: str = "") -> dict[str, Any]:
    """As :func:`read_json`, of the text of the file ``path``."""
    try:
        value = json.loads(text, object_pairs_hook=_each_key_once, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        reason = f"is not {what}: no JSON, {error.msg} in line {error.lineno}"
    except RecursionError:
        reason = f"is not {what}: nested too deeply"
    except ValueError as error:  # ours, or an integer of thousands of digits
        reason = f"is not {what}: {str(error).partition(';')[0]}"
    else:
        if isinstance(value, dict):
            return value
        reason = f"is not {what}: no JSON object, but {shown(value)}"
    raise _unreadable(path, reason, advice) from None


def _unreadable(path: str | Path, reason: str, advice: str) -> InputError:
    return InputError(f"{path}: {reason}" + (f"; {advice}" if advice else ""))


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in keys if names.count(name) > 1)
        raise ValueError(f"holds {shown(twice)} twice")
    return keys


def _no_number(text: str) -> Any:
    raise ValueError(f"holds {text}, which is no number")


def draft_of(path: Path) -> Path:
    """The path at which this process writes ``path`` before it is renamed, in the same folder.

    Drafts that killed processes of this machine left behind are removed.
    """
    for old in path.parent.glob(f".{glob.escape(path.name)}.*.draft"):
        host, _, pid = old.name.removesuffix(".draft")[len(path.name) + 2 :].rpartition("-")
        if host == platform.node() and pid.isdigit() and not is_alive(int(pid)):
            shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
    return path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}.draft")


def is_alive(pid: int) -> bool:
    """Whether a process of this number runs on this machine."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def sha256_of(path: str | Path) -> str:
    """sha256 of a file's bytes, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def disk_errors(
    place: Path, *, doing: str = "written", kept: str = "what was finished is kept"
) -> Iterator[None]:
    """Turns errors of a disk into an ``InputError``.

    Args:
        place: The file or folder that the message names.
        doing: Completes "cannot be ...".
        kept: From what the same command continues; the end of the message.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        trouble = disk_trouble(error, doing)
        if trouble is None:
            raise
        raise InputError(f"{place}: {trouble}; run the same command again, {kept}") from error


def disk_trouble(error: BaseException, doing: str = "read or written") -> str | None:
    """Why a disk refused an operation, and what helps; None for errors of other kinds.

    Libraries in C++ report a full disk in words, without a number.
    """
    number = error.errno if isinstance(error, OSError) else None
    if number in FULL or any(word in str(error) for word in FULL_WORDS):
        return "the disk is full; free some space"
    if isinstance(error, OSError) and number is not None:
        return f"cannot be {doing} ({error.strerror}); solve that or choose another place"
    return None


class Held(InputError):
    """Another process holds a lock."""


class Lock:
    """A file that one process at a time holds, until :meth:`close` or the end of the process.

    With ``shared``, several processes may hold it that all say so.
    Raises ``Held`` with the process that holds it; ``doing`` says what that process does.
    """

    def __init__(self, path: Path, doing: str, *, shared: bool = False):
        with disk_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "a+b")  # noqa: SIM115 - closed by close()
        try:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(self._file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            owner = self._file.read(200).decode(errors="replace").strip() or "another process"
            self._file.close()
            raise Held(
                f"{path.parent}: {owner} {doing} it now; wait for that process or stop it"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
            logging.getLogger("jfreq").warning(
                "%s: this file system has no locks; start nothing else that writes there",
                path.parent,
            )
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {platform.node()}\n".encode())
        self._file.flush()

    def close(self) -> None:
        self._file.close()
