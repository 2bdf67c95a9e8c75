"""The trainings of a grid that several processes share: who does which, and their results.

Each training has a file of its result below ``results/`` and, while a process is at it, a lock
below ``claims/``. Locks end with their processes, so a training whose process was killed is free
again, and goes on from its checkpoint wherever it is claimed next.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from jfreq import staging
from jfreq.files import Held, Lock, read_json, write_json
from jfreq.lease import Lease
from jfreq.parts import Part
from jfreq.types import InputError

RESULTS, CLAIMS, LOCK = "results", "claims", ".lock"
PATIENCE_S = 120.0
Row = dict[str, Any]
T = TypeVar("T")


class Trainings:
    """Results and claims below the folder ``workdir`` of a grid."""

    def __init__(self, workdir: Path):
        self._workdir = workdir
        self._before = {key: row for key, row in self.results().items() if not _done(row)}
        """What had failed before: it is tried again."""

    def results(self) -> dict[str, Row]:
        """The rows of all trainings that ended, in any process, by key."""
        staging.refresh(self._workdir / RESULTS)
        return {path.stem: _read(path) for path in sorted((self._workdir / RESULTS).glob("*.json"))}

    def ended(self, key: str) -> Row | None:
        """The row of a training that need not be done: it is, or failed since this call began."""
        path = self._workdir / RESULTS / f"{key}.json"
        if not path.exists():
            staging.refresh(path.parent)
        if not path.exists():
            return None
        row = _read(path)
        return None if row == self._before.get(key) else row

    def store(self, key: str, row: Row) -> None:
        """Writes the row of a training."""
        write_json(self._workdir / RESULTS / f"{key}.json", json.loads(json.dumps(row)))
        staging.push(self._workdir)

    def claim(self, key: str) -> contextlib.closing[Lock | Lease] | None:
        """The right to do a training, until it is closed; None where another process has it."""
        try:
            return contextlib.closing(staging.lock(self._workdir / CLAIMS / key / LOCK, "trains"))
        except Held:
            return None

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """While this process merges what all have written; waits for the others that do."""
        end = time.monotonic() + PATIENCE_S
        while (lock := self.claim("merging")) is None:
            if time.monotonic() > end:
                raise InputError(
                    f"{self._workdir / CLAIMS / 'merging'}: another process has held it for "
                    f"{PATIENCE_S:g} s; look what became of that process"
                )
            time.sleep(random.uniform(0.05, 0.2))
        with lock:
            yield
            staging.push(self._workdir)


def ordered(trainings: Sequence[T], part: Part | None) -> list[T]:
    """In the order in which a process tries to claim them: those of its part, then the others.

    A part takes every ``count``-th, so that all parts together go through the grid in its order.
    """
    if part is None:
        return list(trainings)
    mine = list(trainings[part.number - 1 :: part.count])
    return mine + [t for i, t in enumerate(trainings) if i % part.count != part.number - 1]


def _read(path: Path) -> Row:
    return read_json(path, "the result of a training", advice="delete it to train again")


def _done(row: Row) -> bool:
    return row.get("status") == "done"
