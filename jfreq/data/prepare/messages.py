"""What ``prepare`` tells the user while it works."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from jfreq.data.prepare.windowing import CLIPPED, Cutter, starts
from jfreq.data.readers.sound import Survey
from jfreq.data.sources.base import Source
from jfreq.data.sources.folders import SPLITS, shown

_MUCH_PADDING = 0.2
"""Fraction of padding in the windows above which a line says so."""
_CLASSES = 5
"""Class names in the line about the source."""
_REASONS = 20
"""Skipped rows that are named on the terminal."""


Say = Callable[[Iterable[str]], None]
"""Shows lines to the user."""


def say(lines: Iterable[str]) -> None:
    """Prints lines for the user on standard error."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    for line in lines:
        console.print(shown(line))


def read_as(source: Source) -> str:
    """One line with the layout and the number of rows, classes, splits, folds and subjects."""
    kinds = {(row.fold, row.subject, row.split) for row in source.rows}
    folds = len({fold for fold, _, _ in kinds} - {-1})
    subjects = len({subject for _, subject, _ in kinds} - {""})
    order = {name: i for i, name in enumerate(SPLITS)}
    names = {split for _, _, split in kinds} - {""}
    splits = sorted(names, key=lambda name: (order.get(name, len(order)), name))
    more = ", ..." * (len(source.labels) > _CLASSES)
    classes = ", ".join(map(shown, source.labels[:_CLASSES])) + more
    parts = [
        _counted(len(source.rows), "row", "rows"),
        f"{_counted(len(source.labels), 'class', 'classes')} ({classes})" * bool(source.labels),
        "no labels" * (not source.labels),
        f"splits {', '.join(splits)}" * bool(splits),
        _counted(folds, "fold", "folds") * bool(folds),
        _counted(subjects, "subject", "subjects") * bool(subjects),
    ]
    return f"read as {source.kind}: {', '.join(filter(None, parts))}"


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def about_sound(source: Source, cutter: Cutter, survey: Survey | None) -> Iterator[str]:
    """A line for each decision about the sound files of a source that the user may want to change.

    ``survey`` is what their headers say; without one there are no lines.
    """
    if survey is None or not survey.files:
        return
    if several := sum(n for channels, n in survey.channels.items() if channels > 1):
        most = max(survey.channels)
        kinds = "stereo" if most == 2 else f"of up to {most} channels"
        done = {
            "first": "the first channel is used",
            "mean": "their channels are averaged",
            "keep": "all channels are kept",
        }[cutter.mix]
        yield f"{several} of {survey.files} files are {kinds}: {done} (--mix)"
    if survey.floating:
        if cutter.dtype == "float32":
            done = "values are kept as they are, in float32 shards"
        else:
            done = "samples beyond full scale (1.0) are clipped (--dtype int16)"
        yield f"{survey.floating} of {survey.files} files are stored as floating point: {done}"
    if (padding := _padding(source, cutter)) > _MUCH_PADDING:
        yield (
            f"windows are {cutter.seconds:g} s long and {padding:.0%} of their samples are "
            "padding; --seconds makes them shorter"
        )


def clipped(columns: Mapping[str, np.ndarray]) -> Iterator[str]:
    """A line for every signal with clipped samples, from the columns ``[rows]`` of the set."""
    for name, counts in columns.items():
        signal, _, what = name.rpartition(".")
        if what == CLIPPED and (rows := int(np.count_nonzero(counts))):
            yield (
                f"{signal}: {int(counts.sum())} samples in {rows} of {len(counts)} rows went "
                "beyond full scale and were clipped; --dtype float32 keeps them"
            )


def skipped(count: int, path: Path) -> Iterator[str]:
    """The first of ``count`` rows that were skipped, and the file that names all of them."""
    if count:
        rows = "1 row, named" if count == 1 else f"{count} rows, all named"
        yield f"skipped {rows} in {path}:"
        with path.open(encoding="utf-8") as file:
            yield from (f"  {line.rstrip()}" for line in itertools.islice(file, _REASONS))


def _padding(source: Source, cutter: Cutter) -> float:
    """Fraction of padding in the windows of the rows whose length is known."""
    rate = 1000
    window, hop = round(cutter.seconds * rate), max(1, round(cutter.hop_seconds * rate))
    padded = total = 0
    for row in source.rows:
        samples = round((source.seconds(row) or 0.0) * rate)
        for start in starts(samples, window, hop) if samples else ():
            padded += window - min(window, samples - start)
            total += window
    return padded / total if total else 0.0
