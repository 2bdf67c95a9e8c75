"""Progress of a long loop: a live bar with ETA on a terminal, one plain line elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any


class Progress:
    """``update`` at every logged step; ``close`` at the end. ``quiet`` shows nothing."""

    def __init__(self, total: int, *, start: int = 0, title: str = "train", quiet: bool = False):
        self._total, self._start, self._title, self._quiet = total, start, title, quiet
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

    def say(self, text: str) -> None:
        """A line of its own, above the bar."""
        if self._quiet:
            return
        if self._live is not None:
            self._live.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def update(self, step: int, text: str) -> None:
        if self._quiet:
            return
        if self._live is not None:
            self._live.update(self._task, completed=step, text=text)
            return
        done = step - self._start
        left = (time.monotonic() - self._began) / max(1, done) * (self._total - step)
        eta = time.strftime("%H:%M:%S", time.gmtime(left))
        print(f"{self._title} {step}/{self._total}  {text}  ETA {eta}", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
