"""What ``prepare`` says about a source once it is decided how it is cut."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np

from jfreq.data.prepare.windowing import CLIPPED, Cutter, starts
from jfreq.data.readers.sound import Survey
from jfreq.data.sources.base import Source
from jfreq.data.sources.folders import SPLITS, shown

Dtype = Literal["auto", "int16", "float32"]
MUCH = 0.2
"""Fraction of padding from which on a line is worth saying."""
SHOWN = 5
"""Class names that the line about the source lists."""


def read_as(source: Source) -> str:
    """The layout and the number of rows, classes, splits, folds and subjects, in a line."""
    count = {
        name: len({getattr(row, name) for row in source.rows} - {"", -1})
        for name in ("fold", "subject")
    }
    order = {name: i for i, name in enumerate(SPLITS)}
    names = {row.split for row in source.rows} - {""}
    splits = sorted(names, key=lambda name: (order.get(name, len(order)), name))
    classes = ", ".join(map(shown, source.labels[:SHOWN])) + (
        ", ..." * (len(source.labels) > SHOWN)
    )
    parts = [
        _counted(len(source.rows), "row", "rows"),
        f"{_counted(len(source.labels), 'class', 'classes')} ({classes})" if source.labels else "",
        "no labels" * (not source.labels),
        f"splits {', '.join(splits)}" * bool(splits),
        _counted(count["fold"], "fold", "folds") * bool(count["fold"]),
        _counted(count["subject"], "subject", "subjects") * bool(count["subject"]),
    ]
    return f"read as {source.kind}: {', '.join(filter(None, parts))}"


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def stored_as(dtype: Dtype, source: Source, survey: Survey | None) -> Literal["int16", "float32"]:
    """What shards hold sound as: float32 where any of it is stored as floating point."""
    if dtype != "auto":
        return dtype
    return "float32" if source.floating or (survey and survey.floating) else "int16"


def lines(source: Source, cutter: Cutter, survey: Survey | None) -> Iterator[str]:
    """What was decided about the sound of a source, a sentence each."""
    if survey is None or not survey.files:
        return
    if many := sum(n for channels, n in survey.channels.items() if channels > 1):
        most = max(survey.channels)
        kinds = "stereo" if most == 2 else f"of up to {most} channels"
        done = {
            "first": "the first channel is used",
            "mean": "their channels are averaged",
            "keep": "all channels are kept",
        }[cutter.mix]
        yield f"{many} of {survey.files} files are {kinds}: {done} (--mix)"
    if survey.floating:
        kept = "values are kept as they are, in float32 shards"
        lost = "what reaches beyond full scale (1.0) is clipped (--dtype int16)"
        said = kept if cutter.dtype == "float32" else lost
        yield f"{survey.floating} of {survey.files} files are stored as floating point: {said}"
    if (padding := _padding(source, cutter)) > MUCH:
        yield (
            f"windows are {cutter.seconds:g} s long and {padding:.0%} of what they hold is "
            "padding; --seconds makes them shorter"
        )


def clipped(columns: Mapping[str, np.ndarray]) -> Iterator[str]:
    """A line for every signal of which samples were clipped."""
    for name, counts in columns.items():
        signal, _, what = name.rpartition(".")
        if what == CLIPPED and (rows := int(np.count_nonzero(counts))):
            yield (
                f"{signal}: {int(counts.sum())} samples in {rows} of {len(counts)} rows went "
                "beyond full scale and were clipped; --dtype float32 keeps them"
            )


def _padding(source: Source, cutter: Cutter) -> float:
    """Fraction of zeros in the windows of the rows whose length is known."""
    rate, window, hop = 1000, round(cutter.seconds * 1000), round(cutter.hop_seconds * 1000)
    padded = total = 0
    for row in source.rows:
        samples = round((source.seconds(row) or 0.0) * rate)
        for start in starts(samples, window, max(1, hop)) if samples else ():
            padded += window - min(window, samples - start)
            total += window
    return padded / total if total else 0.0
