"""The results of an ablation: scores by cell, paired differences, and which are significant."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jfreq.ablate.grid import Ablation
from jfreq.evaluate.metrics import interval_of
from jfreq.monitoring.provenance import sentence

FEWEST = 3
"""Trainings below which no difference is called significant."""
Row = Mapping[str, Any]
"""One training: ``name levels seed fold status values`` and more."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """Results of an ablation, ready for JSON, a page or a table.

    ``table``: mean over replicates for each cell. ``differences``: level a minus level b of a
    factor, averaged over the contexts (other factors' levels) in which both were run, paired by
    replicate; ``n`` replicates. ``against``: each cell minus the first one, paired by replicate.
    All intervals are 95 %, Student t over replicates, not corrected for how many there are.
    """

    name: str
    question: str
    decides: str
    data: str
    metric: str
    probe: str
    machine: Mapping[str, Any]
    cells: Sequence[Row]
    table: Sequence[Mapping[str, Any]]
    differences: Sequence[Mapping[str, Any]]
    against: Sequence[Mapping[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def to_markdown(self) -> str:
        """Question, tables, failures, and what can be said."""
        failed = [row for row in self.cells if row["status"] == "failed"]
        commits = sorted({row["commit"] for row in self.cells if row.get("commit")})
        where = "; ".join([sentence(dict(self.machine)), *(f"commit {c}" for c in commits)])
        minutes = sum(row["minutes"] for row in self.cells)
        parts = [
            f"# {self.name} on {self.data}",
            self.question,
            f"{self.metric} of a {self.probe} probe of the frozen encoder on a fold that neither "
            "pre-training nor the probe saw; n counts trainings, each with its own seed and fold. "
            "Intervals: 95 %, Student t over trainings; differences are paired by fold. No "
            f"correction for {len(self.differences)} comparisons between levels. "
            f"{len(self.cells) - len(failed)} trainings, {minutes:.0f} minutes; {where}.",
            "## Levels, averaged over all else",
            _table(
                ("factor", "a - b", "contexts", "n", "difference", "95 % CI", "significant"),
                map(_difference_row, self.differences),
            ),
            "## Cells",
            _table(
                ("cell", "n", "mean", "95 % CI", "minus the first"),
                (
                    (t["name"], t["n"], f"{t['mean']:.3f}", _bounds(t), self._gain(t["name"]))
                    for t in self.table
                ),
            ),
        ]
        if failed:
            lines = (f"- {row['name']}, fold {row['fold']}: {row['error']}" for row in failed)
            parts += ["## Failed", "\n".join(lines)]
        if self.decides:
            parts += ["## What this can decide", self.decides]
        return "\n\n".join(parts) + "\n"

    def _gain(self, cell: str) -> str:
        gain = next((d for d in self.against if d["a"] == cell), None)
        return "-" if gain is None else f"{gain['mean']:+.3f} ({_bounds(gain, '+')})"


def summarise(
    ablation: Ablation, data: str, rows: Sequence[Row], machine: Mapping[str, Any]
) -> Grid:
    """Tables of what has been run so far."""
    metric = ablation.metric
    scores = _scores(rows, metric)
    levels = {row["name"]: row["levels"] for row in rows}
    return Grid(
        name=ablation.name,
        question=ablation.question,
        decides=ablation.decides,
        data=data,
        metric=metric,
        probe=ablation.probe,
        machine=machine,
        cells=list(rows),
        table=[
            {"name": name, **_estimate(metric, list(by_run.values()))}
            for name, by_run in scores.items()
        ],
        differences=_levels(metric, scores, levels, ablation.factors),
        against=_against(metric, scores),
    )


def significance(difference: Mapping[str, Any]) -> str:
    """Whether a difference is significant, and of which level; else what its interval leaves open.

    Two trainings are too few: scores are fractions of a few clips, so two differences may be equal
    by accident, and their interval has no width.
    """
    low, high = difference["low"], difference["high"]
    if low is None or difference["n"] < FEWEST:
        return "too few trainings"
    if low > 0 or high < 0:
        return f"yes: {difference['a'] if low > 0 else difference['b']} is better"
    return f"no: less than {max(-low, high):.3f} either way"


def _scores(rows: Iterable[Row], metric: str) -> dict[str, dict[tuple[int, int], float]]:
    """Cell -> (seed, fold) -> score, of what is done."""
    scores: dict[str, dict[tuple[int, int], float]] = defaultdict(dict)
    for row in rows:
        if row["status"] == "done":
            scores[row["name"]][row["seed"], row["fold"]] = row["values"][metric]
    return dict(scores)


def _levels(
    metric: str, scores, levels, factors: Mapping[str, Iterable[str]]
) -> list[dict[str, Any]]:
    out = []
    for factor, names in factors.items():
        for a, b in itertools.combinations(names, 2):
            pairs = [
                (one, other)
                for one, other in itertools.permutations(scores, 2)
                if levels[one] == {**levels[other], factor: a} and levels[other][factor] == b
            ]
            gains = defaultdict(list)
            for one, other in pairs:
                for unit in scores[one].keys() & scores[other].keys():
                    gains[unit].append(scores[one][unit] - scores[other][unit])
            # A replicate counts only with all its contexts, else means would be of unlike things.
            whole = [float(np.mean(g)) for g in gains.values() if len(g) == len(pairs)]
            if whole:
                row = {"factor": factor, "a": a, "b": b, "contexts": len(pairs)}
                out.append(row | _estimate(metric, whole, -1.0))
    return out


def _against(metric: str, scores) -> list[dict[str, Any]]:
    if not scores:
        return []
    first, *others = scores
    out = []
    for name in others:
        units = scores[name].keys() & scores[first].keys()
        if units:
            gains = [scores[name][u] - scores[first][u] for u in sorted(units)]
            out.append({"a": name, "b": first, **_estimate(metric, gains, -1.0)})
    return out


def _estimate(metric: str, values: Sequence[float], lowest: float = 0.0) -> dict[str, Any]:
    mean, low, high = interval_of(metric, values, lowest)
    bounds = {"low": low, "high": high} if math.isfinite(low) else {"low": None, "high": None}
    return {"n": len(values), "mean": mean, **bounds}


def _difference_row(d: Mapping[str, Any]) -> tuple[Any, ...]:
    names = d["factor"], f"{d['a']} - {d['b']}", d["contexts"], d["n"]
    return (*names, f"{d['mean']:+.3f}", _bounds(d, "+"), significance(d))


def _bounds(d: Mapping[str, Any], sign: str = "") -> str:
    if d["low"] is None:
        return "-" if d["n"] == 1 else "n too small"
    return f"{d['low']:{sign}.3f} to {d['high']:{sign}.3f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
