"""The results of an ablation: scores of cells, paired differences, and which are significant."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jfreq.ablate.grid import Ablation
from jfreq.metrics import interval_of
from jfreq.monitoring.provenance import sentence

MIN_TRAININGS = 3
"""With fewer trainings no difference is called significant."""
Row = Mapping[str, Any]
"""A training: ``name``, ``levels``, ``seed``, ``fold``, ``status``, ``values`` and more."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """The results of an ablation.

    All intervals are 95 %, Student t over replicates, and not corrected for multiple comparisons.
    """

    name: str
    question: str
    decides: str
    data: str
    metric: str
    probe: str
    machine: Mapping[str, Any]
    cells: Sequence[Row]
    """All trainings."""
    table: Sequence[Mapping[str, Any]]
    """For each cell the mean over its replicates."""
    differences: Sequence[Mapping[str, Any]]
    """Level a minus level b of a factor, paired by replicate, and averaged over the levels of the
    other factors with which both were trained."""
    against: Sequence[Mapping[str, Any]]
    """Each cell minus the first one, paired by replicate."""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def to_markdown(self) -> str:
        """The question, the tables, and the trainings that failed."""
        failed = [row for row in self.cells if row["status"] == "failed"]
        commits = sorted({row["commit"] for row in self.cells if row.get("commit")})
        where = "; ".join([sentence(dict(self.machine)), *(f"commit {c}" for c in commits)])
        minutes = sum(row["minutes"] for row in self.cells)
        parts = [
            f"# {self.name} on {self.data}",
            self.question,
            f"{self.metric} of a {self.probe} probe of the frozen encoder on a fold that neither "
            "pre-training nor the probe was trained on; n counts trainings, each with its own seed "
            "and fold. Intervals: 95 %, Student t over trainings; differences are paired by fold. "
            f"No correction for {len(self.differences)} comparisons between levels. "
            f"{len(self.cells) - len(failed)} trainings, {minutes:.0f} minutes; {where}.",
            "## Levels, averaged over the other factors",
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
    """The tables of the trainings ``rows``, in which ``data`` names the set."""
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
    """Whether a difference is significant and which level is better; else how large it may be.

    Two trainings are too few: scores are fractions of a few clips, so that two differences may be
    equal by chance, and their interval then has no width.
    """
    low, high = difference["low"], difference["high"]
    if low is None or difference["n"] < MIN_TRAININGS:
        return "too few trainings"
    if low > 0 or high < 0:
        return f"yes: {difference['a'] if low > 0 else difference['b']} is better"
    return f"no: less than {max(-low, high):.3f} either way"


def _scores(rows: Iterable[Row], metric: str) -> dict[str, dict[tuple[int, int], float]]:
    """The scores of finished trainings, by cell and by (seed, fold)."""
    scores: dict[str, dict[tuple[int, int], float]] = defaultdict(dict)
    for row in rows:
        if row["status"] == "done":
            scores[row["name"]][row["seed"], row["fold"]] = row["values"][metric]
    return dict(scores)


def _levels(
    metric: str, scores, levels, factors: Mapping[str, Iterable[str]]
) -> list[dict[str, Any]]:
    """Paired differences between the levels of every factor."""
    out = []
    for factor, names in factors.items():
        for a, b in itertools.combinations(names, 2):
            pairs = [
                (x, y)
                for x, y in itertools.permutations(scores, 2)
                if levels[x] == {**levels[y], factor: a} and levels[y][factor] == b
            ]
            gains = defaultdict(list)
            for x, y in pairs:
                for run in scores[x].keys() & scores[y].keys():
                    gains[run].append(scores[x][run] - scores[y][run])
            # Only replicates with all pairs, or their means would not be comparable.
            complete = [float(np.mean(g)) for g in gains.values() if len(g) == len(pairs)]
            if complete:
                row = {"factor": factor, "a": a, "b": b, "contexts": len(pairs)}
                out.append(row | _estimate(metric, complete, -1.0))
    return out


def _against(metric: str, scores) -> list[dict[str, Any]]:
    """Paired differences between every cell and the first."""
    if not scores:
        return []
    first, *others = scores
    out = []
    for name in others:
        runs = scores[name].keys() & scores[first].keys()
        if runs:
            gains = [scores[name][run] - scores[first][run] for run in sorted(runs)]
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
