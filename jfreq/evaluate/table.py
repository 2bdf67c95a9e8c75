"""What a probe run found: results, their JSON and their table."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jfreq.evaluate.metrics import interval
from jfreq.export.bundle import write_atomically

TRAINED, UNTRAINED, HAND_MADE = "trained", "untrained", "spectrogram mean+std"
WIDE = 10
"""Folds that a printed table has columns for; JSON has them all."""


@dataclasses.dataclass(frozen=True)
class Result:
    """One metric of one probe on one set of features, mean over folds with a 95 % interval.

    ``folds`` holds the mean over seeds for each fold; ``n`` the test rows in all.
    """

    features: str
    kind: str
    metric: str
    mean: float
    low: float
    high: float
    folds: tuple[float, ...]
    n: int


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything a probe run found, and what it was run with."""

    data: str
    folds: tuple[str, ...]
    results: tuple[Result, ...]
    settings: dict[str, Any]
    title: str = "Probe"

    def to_json(self) -> str:
        """Strict JSON; an unknown bound is null."""
        return json.dumps(_finite(dataclasses.asdict(self)), indent=2, allow_nan=False) + "\n"

    def to_markdown(self) -> str:
        """One table: a row for each features, probe and metric; a column for each fold where
        they fit on a page."""
        folds = self.folds if len(self.folds) <= WIDE else ()
        head = ["features", "probe", "metric", "mean", "95 % interval", *folds]
        lines = [
            f"{self.title} on {self.data}: {self.settings['interval']}.",
            "",
            "| " + " | ".join(head) + " |",
            "|" + "---|" * len(head),
        ]
        for r in self.results:
            cells = [r.features, r.kind, r.metric, _number(r.mean)]
            cells += [
                f"{_number(r.low)} to {_number(r.high)}",
                *map(_number, r.folds[: len(folds)]),
            ]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n"

    def save(self, path: str | Path) -> Path:
        """Writes :meth:`to_json` to ``path`` (``results.json`` of a run), all or nothing."""
        return write_atomically(path, lambda file: file.write(self.to_json().encode()))


def gains(results: Sequence[Result]) -> list[Result]:
    """Trained minus untrained, paired by fold: the interval that says what training brought."""
    plain = {(r.kind, r.metric): r for r in results if r.features == UNTRAINED}
    out = []
    for r in results:
        if r.features == TRAINED:
            folds = np.subtract(r.folds, plain[r.kind, r.metric].folds)
            name = f"{TRAINED} - {UNTRAINED}"
            found = interval(folds)
            out.append(Result(name, r.kind, r.metric, *found, tuple(map(float, folds)), r.n))
    return out


def _finite(value: Any) -> Any:
    """NaN and infinity as None, all the way down."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _number(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "-"
