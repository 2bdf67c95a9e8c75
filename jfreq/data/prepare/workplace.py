"""The folder of an unfinished set: whose it is, and who may write there now.

One process may write alone, or several may write parts side by side, each part by one process.
Its outline says what they write; another command is refused.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from jfreq.data.prepare.finish import put_back
from jfreq.data.prepare.outline import Outline
from jfreq.files import Lock
from jfreq.types import InputError

LOCK = ".lock"
_PART = re.compile(r"part-(\d+)-of-(\d+)\.lock")


def alone(outline: Outline) -> Lock:
    """The folder for one process, as long as the lock is open.

    Shards of another command are deleted, unless they were prepared by parts.
    """
    lock = Lock(outline.folder / LOCK, "writes")
    try:
        if why := _other_command(outline):
            if parts_of(outline.folder):
                raise _foreign(outline, why)
            for path in outline.folder.iterdir():
                if path.name != LOCK:
                    path.unlink()
        put_back(outline)
        outline.write()
    except BaseException:
        lock.close()
        raise
    return lock


def clear(outline: Outline) -> None:
    """Deletes what a finished set has left of its folder, unless another process is there."""
    if outline.folder.is_dir():
        with contextlib.suppress(InputError):
            lock = Lock(outline.folder / LOCK, "writes")
            shutil.rmtree(outline.folder, ignore_errors=True)
            lock.close()


def to_finish(outline: Outline, asked: Mapping[str, str]) -> Lock:
    """The folder for the process that joins its parts, as long as the lock is open.

    ``asked`` are the words of its command.
    """
    lock = Lock(outline.folder / LOCK, "writes")
    try:
        if why := outline.asked_otherwise(asked):
            raise _foreign(outline, why)
        put_back(outline)
    except BaseException:
        lock.close()
        raise
    return lock


def for_part(outline: Outline, number: int, count: int) -> tuple[Lock, Lock]:
    """The folder for one part of several, as long as both locks are open."""
    shared = Lock(outline.folder / LOCK, "writes", shared=True)
    try:
        if why := _other_command(outline):
            raise _foreign(outline, why)
        own = Lock(
            outline.folder / f"part-{number:05d}-of-{count:05d}.lock", "prepares this part of"
        )
    except BaseException:
        shared.close()
        raise
    outline.write()
    if why := _other_command(outline):  # two commands began in the same moment
        own.close()
        shared.close()
        raise _foreign(outline, why)
    return shared, own


def parts_of(folder: Path) -> int:
    """The number of parts that the set was last prepared in; 0 where it was by one process."""
    found = [(path.stat().st_mtime_ns, int(m[2])) for path, m in _parts(folder)]
    return max(found)[1] if found else 0


def _parts(folder: Path):
    return [(p, m) for p in folder.glob("part-*.lock") if (m := _PART.fullmatch(p.name))]


def _other_command(outline: Outline) -> str:
    """What the command that began here differs in; empty where it is the same, or nobody began."""
    before = Outline.read(outline.out)
    return "" if before is None else before.differs(outline.command)


def _foreign(outline: Outline, why: str) -> InputError:
    return InputError(
        f"out: {outline.out} holds parts of another command ({why}); give every part the same "
        f"command, or choose another folder, or delete {outline.folder}"
    )
