"""Prepared sets, trainings that are kept, tables and results of the studies on sensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jfreq.config import Experiment, replace
from jfreq.files import write_json, write_text

if TYPE_CHECKING:
    from jfreq.evaluate.results import Report, Result
    from jfreq.train.state import Trained

RESULTS = Path(__file__).parents[2] / "results"
SETS: dict[str, dict[str, Any]] = {
    "all": {"name": "hapt", "seconds": 2.56, "hop_seconds": 1.28, "unlabelled": True},
    "6": {"seconds": 2.56, "hop_seconds": 1.28, "drop_labels": ("*_to_*",)},
    "12": {"seconds": 2.56, "hop_seconds": 1.28},
    "8s": {"seconds": 8.0, "hop_seconds": 4.0, "unlabelled": True},
    "8s_6": {"seconds": 8.0, "hop_seconds": 4.0, "drop_labels": ("*_to_*",)},
    "seismic": {
        "name": "seismic",
        "seconds": 1.28,
        "modalities": ("seismic:0-2",),
        "unlabelled": True,
    },
    "machines": {"name": "machines", "n": 2000, "seconds": 1.0},
    "machines_rare": {
        "name": "machines_rare",
        "n": 2000,
        "seconds": 1.0,
        "thin": {"inner_race": 0.06},
    },
}
"""HAPT with every unlabelled stretch, with the 6 activities, with all 12 labels; seismic records;
synthetic machines whose folds are bands of load, and with one class at 2 %."""
SYNTHETIC = {"machines": "synthetic:machines_load", "machines_rare": "synthetic:machines_load"}


def shards_of(name: str, source: str, runs: Path) -> Path:
    """The prepared set; made once."""
    from jfreq.data.prepare.run import prepare

    out = runs / "shards" / name
    changes: dict[str, Any] = {"name": f"hapt{name}", **SETS[name]}
    prepare(SYNTHETIC.get(name, source), out, **changes)
    return out


def trained_once(experiment: Experiment, shards: Path, folder: Path, **changes: Any) -> Trained:
    """Training on the training subjects; goes on where it stopped."""
    from jfreq.train.loop import train

    changes = {"data__split": "train", **changes}
    return train(replace(experiment, data__path=(str(shards),), **changes), folder)


def over_trainings(reports: Sequence[Report]) -> Report:
    """The rows of the trained encoders of several pre-trainings as one report."""
    from jfreq.evaluate.results import TRAINED, over_seeds

    trained = [only(report, TRAINED) for report in reports]
    return over_seeds(trained) if len(trained) > 1 else trained[0]


def only(report: Report, *features: str) -> Report:
    """The report without the other features."""
    kept = tuple(r for r in report.results if r.features in features)
    return dataclasses.replace(report, results=kept)


def cell(result: Result) -> str:
    """Mean and 95 % interval of a result."""
    return f"{result.mean:.3f} ({result.low:.3f} to {result.high:.3f})"


def spread(values: Sequence[float]) -> str:
    """Mean and 95 % Student-t interval; of one value itself."""
    from jfreq.metrics import interval

    mean, low, high = interval(values)
    return f"{mean:.3f} ({low:.3f} to {high:.3f})" if len(values) > 1 else f"{mean:.3f}"


def markdown(head: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a table and an empty one."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def save(name: str, text: list[str], body: Mapping[str, Any], out: Path = RESULTS) -> None:
    """Writes ``NAME.md`` and ``.json`` into ``out`` and shows the page."""
    write_text(out / f"{name}.md", "\n".join(text))
    write_json(out / f"{name}.json", body)
    print("\n".join(text))
