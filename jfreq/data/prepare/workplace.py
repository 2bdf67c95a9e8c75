"""The folder of an unfinished set: whose it is, and who may write there now.

One process may write alone, or several may write parts side by side, each part by one process.
``command.json`` says what they write; another command is refused.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from pathlib import Path

from jfreq.data.prepare.finish import put_back
from jfreq.data.prepare.plan import Plan, difference
from jfreq.files import Lock, write_text
from jfreq.types import InputError

LOCK = ".lock"
COMMAND = "command.json"
_PART = re.compile(r"part-(\d+)-of-(\d+)\.lock")


def alone(plan: Plan) -> Lock:
    """The folder for one process, as long as the lock is open.

    Shards of another command are deleted, unless they were prepared by parts.
    """
    lock = Lock(plan.folder / LOCK, "writes")
    try:
        if why := _other_command(plan):
            if parts_of(plan.folder):
                raise _foreign(plan, why)
            for path in plan.folder.iterdir():
                if path.name != LOCK:
                    path.unlink()
        put_back(plan)
        _sign(plan)
    except BaseException:
        lock.close()
        raise
    return lock


def clear(plan: Plan) -> None:
    """Deletes what a finished set has left of its folder, unless another process is there."""
    if plan.folder.is_dir():
        with contextlib.suppress(InputError):
            lock = Lock(plan.folder / LOCK, "writes")
            shutil.rmtree(plan.folder, ignore_errors=True)
            lock.close()


def to_finish(plan: Plan) -> Lock:
    """The folder for the process that joins its parts, as long as the lock is open."""
    lock = Lock(plan.folder / LOCK, "writes")
    try:
        if why := _other_command(plan):
            raise _foreign(plan, why)
        put_back(plan)
    except BaseException:
        lock.close()
        raise
    return lock


def for_part(plan: Plan, number: int, count: int) -> tuple[Lock, Lock]:
    """The folder for one part of several, as long as both locks are open."""
    shared = Lock(plan.folder / LOCK, "writes", shared=True)
    try:
        if why := _other_command(plan):
            raise _foreign(plan, why)
        own = Lock(plan.folder / f"part-{number:05d}-of-{count:05d}.lock", "prepares this part of")
    except BaseException:
        shared.close()
        raise
    _sign(plan)
    return shared, own


def parts_of(folder: Path) -> int:
    """The number of parts that the set was last prepared in; 0 where it was by one process."""
    found = [(path.stat().st_mtime_ns, int(m[2])) for path, m in _parts(folder)]
    return max(found)[1] if found else 0


def _parts(folder: Path):
    return [(p, m) for p in folder.glob("part-*.lock") if (m := _PART.fullmatch(p.name))]


def _sign(plan: Plan) -> None:
    if not (plan.folder / COMMAND).exists():
        write_text(plan.folder / COMMAND, json.dumps(plan.command, indent=1) + "\n")


def _other_command(plan: Plan) -> str:
    """What the command that began here differs in; empty where it is the same, or nobody began."""
    try:
        before = json.loads((plan.folder / COMMAND).read_text("utf-8"))
    except FileNotFoundError:
        return ""
    except (OSError, ValueError):
        before = {}
    return difference(before if isinstance(before, dict) else {}, plan.command)


def _foreign(plan: Plan, why: str) -> InputError:
    return InputError(
        f"out: {plan.out} holds parts of another command ({why}); give every part the same "
        f"command, or choose another folder, or delete {plan.folder}"
    )
