"""A lease on a folder in object storage, which has no locks: one process at a time holds it.

Leases are numbered objects. Who takes one creates the next number, which a store lets one process
do, and rewrites its object every few seconds. A lease whose object has stood still for
``EXPIRES_S`` of the clock of the process that waits has ended; clocks of several machines are never
compared. On one machine the end of the holder is seen at once.

A process that was suspended for longer may find that another has taken the next number.
:meth:`Lease.check` tells it so, and it writes nothing from then on.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
import uuid
from typing import Any

from jfreq.buckets import Bucket
from jfreq.files import Held
from jfreq.ranges import InputError

FOLDER = ".lease"
BEAT_S = 10.0
EXPIRES_S = 60.0


class Lease:
    """Held from its making to :meth:`close`, or to the end of the process.

    Raises :class:`jfreq.files.Held` with the process that holds it; ``doing`` says what that
    process does.
    """

    def __init__(self, bucket: Bucket, doing: str):
        self._bucket = bucket
        self._me = {"id": uuid.uuid4().hex, "machine": _machine(), "pid": os.getpid(),
                    "since": _since(os.getpid()), "host": platform.node()}  # fmt: skip
        last = _newest(bucket)
        if last and not _ended(bucket, last):
            raise _refusal(bucket, last, doing)
        self._number = last + 1
        if not bucket.create(_name(self._number), self._state(0)):
            raise _refusal(bucket, self._number, doing)
        bucket.delete(name for name in bucket.sizes(FOLDER) if name < _name(self._number))
        self._closed = threading.Event()
        self._beats = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._beats.start()

    def check(self) -> None:
        """Raises ``InputError`` where another process has taken the next lease."""
        newest = _newest(self._bucket)
        if newest != self._number:
            raise InputError(
                f"{self._bucket.url}: {_owner(self._bucket, newest)} has taken over, because this "
                "process did not answer for a while; nothing more is written here"
            )

    def close(self) -> None:
        """Ends the lease."""
        self._closed.set()
        self._beats.join()
        self._bucket.write(_name(self._number), self._state(-1))

    def _state(self, beat: int) -> bytes:
        """The contents of the object; beat -1 for a lease that has ended."""
        return json.dumps({**self._me, "beat": beat}).encode()

    def _beat(self) -> None:
        beat = 1
        while not self._closed.wait(BEAT_S):
            try:
                self._bucket.write(_name(self._number), self._state(beat))
                beat += 1
            except InputError:
                pass  # The store does not answer: whoever saves next learns of it.


def _name(number: int) -> str:
    return f"{FOLDER}/{number:012d}.json"


def _newest(bucket: Bucket) -> int:
    """The number of the newest lease, 0 where there was none."""
    names = bucket.sizes(FOLDER)
    numbers = [name.removeprefix(f"{FOLDER}/").removesuffix(".json") for name in names]
    return max((int(number) for number in numbers if number.isdecimal()), default=0)


def _read(bucket: Bucket, number: int) -> dict[str, Any]:
    try:
        value = json.loads(bucket.read(_name(number)) or b"{}")
    except ValueError:
        value = {}
    return value if isinstance(value, dict) else {}


def _ended(bucket: Bucket, number: int) -> bool:
    """Whether nobody holds this lease; waits until its object changes or has stood still."""
    state = _read(bucket, number)
    if state.get("beat", -1) == -1:
        return True
    here = state.get("machine") == _machine() != ""
    if here and isinstance(state.get("pid"), int) and _since(state["pid"]) != state.get("since"):
        return True
    end = time.monotonic() + EXPIRES_S
    while time.monotonic() < end:
        time.sleep(min(BEAT_S / 4, EXPIRES_S / 4))
        if _read(bucket, number) != state:
            return False
    return True


def _machine() -> str:
    """This machine since it was started, and its processes as they are numbered here; empty where
    the system does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _since(pid: int) -> str:
    """When a process of this machine was started, in ticks since the machine was, which tells it
    from a later one of the same number; empty where there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[19].decode()
    except (OSError, IndexError):
        return ""


def _owner(bucket: Bucket, number: int) -> str:
    state = _read(bucket, number)
    return f"process {state.get('pid', '?')} on {state.get('host', '?')}"


def _refusal(bucket: Bucket, number: int, doing: str) -> Held:
    return Held(
        f"{bucket.url}: {_owner(bucket, number)} {doing} it now; wait for that process or stop it"
    )
