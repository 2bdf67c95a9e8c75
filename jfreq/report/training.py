"""The metrics of a training over its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jfreq import param_paths
from jfreq.monitoring.goodput import productive_seconds
from jfreq.report import figures, html
from jfreq.report.collect import Run, is_known
from jfreq.report.html import Section

SPEED = {
    "examples_per_s": "Clips per second",
    "step_time": "Seconds per step",
    "data_wait": "Fraction of time waiting for data",
    "dispatch": "Fraction of time sending updates off",
    "compute": "Fraction of time in which the devices compute",
    "goodput": "Goodput since the first start",
    "mfu": "Model FLOP utilisation",
    "memory_mb": "Peak device memory (MiB)",
}
OPTIMISER = {
    "lr": "Learning rate",
    "grad_norm": "Gradient norm",
    "update_norm": "Update norm",
    "param_norm": "Parameter norm",
}
NOT_CURVES = ("step", "tflops")
MEASURED = ("val/", "eval/")
"""How the names of figures begin that are measured between updates."""


def training(run: Run) -> Section | None:
    """The curves of all metrics; None before the first."""
    rows = run.rows
    if not rows:
        return None
    others = {*SPEED, *OPTIMISER, *NOT_CURVES}
    known = dict.fromkeys(key for row in rows for key in row if key not in others)
    known = [name for name in known if not name.endswith("/seconds")]
    measured = [name for name in known if name.startswith(MEASURED)]
    names = [name for name in known if name not in measured]
    names.sort(key=lambda name: name != "loss")
    parts = [html.facts(_facts(run)), html.grid(_curve(rows, n, n, "c1") for n in names)]
    if measured:
        text = html.paragraph(_sets(run))
        curves = html.grid(_curve(rows, n, n, "c2") for n in measured)
        parts.append(f"<h3>Measured while it trains</h3>{text}{curves}")
    speed = [n for n in SPEED if any(row.get(n) is not None for row in rows)]
    parts.append("<h3>Speed</h3>" + html.grid(_curve(rows, n, SPEED[n], "c3") for n in speed))
    optimiser = [n for n in OPTIMISER if any(n in row for row in rows)]
    if optimiser:
        body = html.grid(_curve(rows, n, OPTIMISER[n], "c4") for n in optimiser)
        parts.append(html.folded("Learning rate and norms", body))
    return Section("Training", "".join(parts))


def _facts(run: Run) -> list[tuple[str, str]]:
    shapes = jax.eval_shape(run.experiment.method.init, jax.random.key(0))
    losses = [row["loss"] for row in run.rows if is_known(row.get("loss"))]
    speeds = [row["examples_per_s"] for row in run.rows if is_known(row.get("examples_per_s"))]
    goodput = [row["goodput"] for row in run.rows if is_known(row.get("goodput"))]
    first = run.origin["step"] if run.origin else 0
    hours = productive_seconds(run.rows, first=first) / 3600
    return [
        ("parameters", f"{param_paths.count(shapes):,}"),
        ("last loss", f"{losses[-1]:.4g}" if losses else "-"),
        ("clips per second, median", f"{np.median(speeds):.1f}" if speeds else "-"),
        ("time in steps", f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"),
        ("goodput since the first start", f"{goodput[-1]:.1%}" if goodput else "-"),
        ("checkpoints at step", ", ".join(f"{s:,}" for s in run.saved) or "none"),
        *([("goes on from", f"step {first:,} of {run.origin['run']}")] if run.origin else []),
    ]


def _sets(run: Run) -> str:
    """What the figures are of, in sentences."""
    parts = []
    if run.experiment.validation.every is not None:
        parts.append("val/...: the loss of rows that training never reads, with the same masks.")
    for each in run.experiment.evals:
        parts.append(
            f"eval/{each.name}/...: clip vectors of at most {each.rows} rows of "
            f"{Path(each.data).name}; knn and ridge are scores on held-out folds, effective_rank "
            "and std say whether the vectors collapse."
        )
    if run.experiment.checkpoint.best is not None:
        parts.append(f"The checkpoint with the best {run.experiment.checkpoint.best} is kept.")
    return " ".join(parts)


def _curve(rows: Sequence[Mapping[str, Any]], key: str, title: str, role: str) -> str:
    points = [(row["step"], row[key]) for row in rows if is_known(row.get(key))]
    if not points:
        return html.figure("", title, "never finite")
    x, y = zip(*points)
    summary = f"last {y[-1]:.4g}, lowest {min(y):.4g}, highest {max(y):.4g}"
    alt = f"{title} over steps {x[0]:,} to {x[-1]:,}: {summary}"
    return html.figure(
        figures.curves(f"curve-{key}", alt, [figures.Series(title, x, y, role)]), title, summary
    )
