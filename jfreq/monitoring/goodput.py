"""Goodput: the part of the time since the first start of a run that its updates took.

Every update counts once, however often a killed run repeated it, with the step time that
``metrics.jsonl`` gives for it. All else is lost: starting, restoring, compiling, measuring, waiting
for checkpoints, updates that were repeated, and the time in which nothing ran.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def productive_seconds(
    rows: Sequence[Mapping[str, Any]], step: int | None = None, first: int = 0
) -> float:
    """The time of all updates after ``first`` up to ``step``, None for the last that was logged.

    ``rows`` are those of metrics.jsonl, ascending; updates after the last row take its step time.
    """
    total, before, each = 0.0, first, 0.0
    for row in rows:
        if row.get("step_time") is None or (step is not None and row["step"] > step):
            continue  # a validation alone, or an update that is to be repeated
        each = row["step_time"]
        total += (row["step"] - before) * each
        before = row["step"]
    return total if step is None else total + max(0, step - before) * each


class Ledger:
    """Where the time since the first start of a run went.

    Args:
        first: When that was, in seconds since 1970.
        productive: Seconds of the updates before this start.
        now: The clock.
    """

    def __init__(self, first: float, productive: float = 0.0, now: Callable[[], float] = time.time):
        self._first, self._productive, self._now = first, productive, now
        self._lost: dict[str, float] = {}

    def advanced(self, seconds: float) -> None:
        """Adds the seconds of updates."""
        self._productive += seconds

    def spent(self, doing: str, seconds: float) -> None:
        """Adds seconds of this start that no update took."""
        self._lost[doing] = self._lost.get(doing, 0.0) + seconds

    def goodput(self) -> float:
        """0 to 1."""
        return self._productive / max(self._now() - self._first, self._productive, 1e-9)

    def __str__(self) -> str:
        whole = max(self._now() - self._first, self._productive)
        lost = ", ".join(f"{_span(s)} {doing}" for doing, s in self._lost.items() if s >= 0.05)
        return (
            f"goodput {self.goodput():.1%}: updates took {_span(self._productive)} of the "
            f"{_span(whole)} since the first start" + (f"; this start spent {lost}" if lost else "")
        )


def _span(seconds: float) -> str:
    """``4.2 s``, ``3.1 min`` or ``5.0 h``."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
