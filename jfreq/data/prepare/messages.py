"""What ``prepare`` shows while it works."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from jfreq.data.sources.folders import shown


@contextlib.contextmanager
def progress(total: int, *, enabled: bool) -> Iterator[Callable[[int], None]]:
    """A function that is told how many rows were finished: a bar on a terminal, else lines."""
    if not enabled:
        yield lambda count: None
        return
    from rich import progress as rich
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield _lines(total, console.print)
        return
    count, left = rich.MofNCompleteColumn(), rich.TimeRemainingColumn()
    columns = (rich.TextColumn("preparing"), rich.BarColumn(), count, left)
    with rich.Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)


def _lines(total: int, say: Callable[[str], None]) -> Callable[[int], None]:
    """One plain line for every tenth of the work."""
    rows, told, begin = 0, 0, time.monotonic()

    def advance(count: int) -> None:
        nonlocal rows, told
        rows += count
        if 10 * rows // total > told:
            told = 10 * rows // total
            left = (time.monotonic() - begin) * (total / rows - 1)
            say(f"prepared {rows} of {total} rows, about {left:.0f} s left")

    return advance


def say(lines: Iterable[str]) -> None:
    """Lines for the user on standard error."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    for line in lines:
        console.print(shown(line))


def say_skipped(skipped: list[str], path: Path, *, most: int = 20) -> None:
    """The first few rows that were skipped, and where all of them are named."""
    rows = "1 row, named" if len(skipped) == 1 else f"{len(skipped)} rows, all named"
    say([f"skipped {rows} in {path}:"])
    say(f"  {message}" for message in skipped[:most])
