"""Progress of a long job: on a terminal a live bar with the time left, elsewhere plain lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Self


class Progress:
    """One bar, to be closed at the end.

    Args:
        total: Steps, rows or files of the whole job.
        start: How many of them were done before.
        title: What is being done.
        lines: Off a terminal, the most lines that the job prints; None: one for every update.
        quiet: Shows nothing.
    """

    def __init__(
        self,
        total: int,
        *,
        start: int = 0,
        title: str = "train",
        lines: int | None = None,
        quiet: bool = False,
    ):
        self._total, self._start, self._done, self._title = total, start, start, title
        self._lines, self._quiet, self._printed = lines, quiet, 0
        self._began = time.monotonic()
        self._live: Any = None
        if sys.stderr.isatty() and not quiet:
            from rich import progress
            from rich.console import Console

            self._live = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TextColumn("{task.fields[text]}"),
                progress.TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._live.add_task(title, total=total, completed=start, text="")
            self._live.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def say(self, text: str) -> None:
        """Prints a line of its own, above the bar."""
        if self._quiet:
            return
        if self._live is not None:
            self._live.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def advance(self, count: int) -> None:
        """Counts ``count`` more as done."""
        self.update(self._done + count)

    def update(self, done: int, text: str = "") -> None:
        """Shows that ``done`` of the total are done, with ``text`` beside it."""
        self._done = done
        if self._quiet:
            return
        if self._live is not None:
            self._live.update(self._task, completed=done, text=text)
            return
        if self._lines is not None:
            line = self._lines * done // max(1, self._total)
            if line <= self._printed:
                return
            self._printed = line
        left = (time.monotonic() - self._began) / max(1, done - self._start) * (self._total - done)
        eta = time.strftime("%H:%M:%S", time.gmtime(left))
        text = f"{text}  " if text else ""
        self.say(f"{self._title} {done}/{self._total}  {text}ETA {eta}")

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()


def part_progress(*, quiet: bool = False) -> Callable[[str, int, int], None]:
    """``show(part, done, total)`` for a job of several parts: a :class:`Progress` for each part,
    of at most ten lines off a terminal."""
    bars: dict[str, Progress] = {}

    def show(part: str, done: int, total: int) -> None:
        bar = bars.pop(part, None) or Progress(total, title=part, lines=10, quiet=quiet)
        bar.update(done)
        if done < total:
            bars[part] = bar
        else:
            bar.close()

    return show
