"""What ``prepare`` shows while it works."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from jfreq.data.sources.folders import shown


def say(lines: Iterable[str]) -> None:
    """Lines for the user on standard error."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    for line in lines:
        console.print(shown(line))


def skipped(reasons: Sequence[str], path: Path, *, most: int = 20) -> Iterator[str]:
    """The first few rows that were skipped, and where all of them are named."""
    if reasons:
        rows = "1 row, named" if len(reasons) == 1 else f"{len(reasons)} rows, all named"
        yield f"skipped {rows} in {path}:"
        yield from (f"  {reason}" for reason in reasons[:most])
