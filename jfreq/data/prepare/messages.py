"""What ``prepare`` shows while it works."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from jfreq.data.sources.folders import shown


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
