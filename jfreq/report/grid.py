"""The page of an ablation: scores of cells, differences, failures, and loss curves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jfreq.ablate.table import significance
from jfreq.files import read_json
from jfreq.monitoring.metrics_writer import read_metrics
from jfreq.monitoring.provenance import sentence
from jfreq.report import figures, html
from jfreq.report.collect import GRID, is_known
from jfreq.report.html import Cell, Section
from jfreq.report.probes import estimate
from jfreq.types import InputError

TEXT, LISTS = ("name", "question", "metric"), ("cells", "table", "differences")


def grid_page(folder: Path) -> str:
    """The HTML about a folder of ``jfreq ablate``.

    Raises:
      InputError: where its ``grid.json`` is damaged.
    """
    grid = _read(folder / GRID)
    cells, table = grid["cells"], grid["table"]
    failed = [cell for cell in cells if cell["status"] == "failed"]
    parts = [_table(grid), _differences(grid), _failed(failed), _curves(folder, cells, table)]
    if grid.get("decides"):
        parts.append(Section("What this can decide", html.paragraph(grid["decides"])))
    parts.append(_trainings(cells, grid["metric"]))
    minutes = sum(cell.get("minutes") or 0.0 for cell in cells)
    lead = f"{len(cells) - len(failed)} trainings of {len(table)} cells, {minutes:.0f} minutes"
    machine = sentence(grid.get("machine") or {})
    name = f"{grid['name']} on {grid['data']}" if grid.get("data") else grid["name"]
    return html.page(
        name,
        kind="jfreq ablation",
        lead=f"{grid['question']} ({lead})",
        notices=_notices(cells, table, failed),
        sections=[part for part in parts if part is not None],
        footer=machine,
    )


def _read(path: Path) -> dict[str, Any]:
    grid = read_json(path, "what `jfreq ablate` writes")
    try:
        good = all(isinstance(grid[k], str) for k in TEXT)
        good &= all(isinstance(grid[k], list) for k in LISTS)
        good &= all(is_known(t["mean"]) and isinstance(t["name"], str) for t in grid["table"])
        good &= all({"name", "status", "values"} <= cell.keys() for cell in grid["cells"])
        good &= all(
            row[k] is None or is_known(row[k])
            for row in (*grid["table"], *grid["differences"])
            for k in ("mean", "low", "high")
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: is not what `jfreq ablate` writes ({error!r}); run the ablation again"
        ) from None
    if not good:
        raise InputError(f"{path}: is not what `jfreq ablate` writes; run the ablation again")
    return grid


def _notices(cells: Sequence[Mapping], table: Sequence[Mapping], failed: Sequence) -> list[str]:
    notices = []
    if not table:
        notices.append("This grid is empty: no training has finished yet.")
    counts = Counter(cell["name"] for cell in cells).values()
    if counts and min(counts) < max(counts):
        notices.append(
            f"This grid is unfinished: cells were trained {min(counts)} to {max(counts)} times. "
            "The command that started it continues it."
        )
    if failed:
        notices.append(f"{len(failed)} of {len(cells)} trainings failed; they are listed below.")
    return notices


def _table(grid: Mapping[str, Any]) -> Section | None:
    table, metric = grid["table"], grid["metric"]
    if not table:
        return None
    ranked = sorted(table, key=lambda t: -t["mean"])
    rows = [
        figures.Estimate(f"{t['name']} (n = {t['n']})", t["mean"], t["low"], t["high"])
        for t in ranked
    ]
    alt = "; ".join(f"{t['name']} {t['mean']:.3f}" for t in ranked)
    picture = figures.forest("cells", f"{metric}: {alt}", rows, xlabel=metric)
    against = {d["a"]: d for d in grid.get("against", [])}
    head = ["cell", "n", metric]
    lines: list[list[str | Cell]] = [[t["name"], str(t["n"]), estimate(t)] for t in ranked]
    if against:
        head.append(f"minus {grid['against'][0]['b']}")
        for line, t in zip(lines, ranked):
            line.append(estimate(against.get(t["name"]), "+"))
    probe = f" of a {grid['probe']} probe" if grid.get("probe") else ""
    text = f"{metric}{probe}; n counts trainings, intervals are 95 %, Student t over trainings."
    body = html.figure(picture, metric, "mean and 95 % interval, best first", wide=True)
    return Section(
        "Cells", html.paragraph(text) + body + html.table(head, lines, caption="Best first")
    )


def _differences(grid: Mapping[str, Any]) -> Section | None:
    differences = grid["differences"]
    if not differences:
        return None
    names = [
        f"{d['factor']}: {d['a']} - {d['b']}" if d.get("factor") else f"{d['a']} - {d['b']}"
        for d in differences
    ]
    rows = [
        figures.Estimate(name, d["mean"], d["low"], d["high"], _role(d))
        for name, d in zip(names, differences)
    ]
    alt = "; ".join(f"{name} {d['mean']:+.3f}" for name, d in zip(names, differences))
    picture = figures.forest("differences", alt, rows, xlabel="difference", zero=True)
    table = html.table(
        ("a - b", "n", "difference", "significant"),
        (
            (name, str(d["n"]), estimate(d, "+"), significance(d))
            for name, d in zip(names, differences)
        ),
        caption="Paired differences with 95 % intervals",
    )
    text = (
        f"Differences in {grid['metric']}, paired by training. No correction for "
        f"{len(differences)} comparisons."
    )
    body = html.figure(picture, "Differences", "grey where not significant", wide=True)
    return Section("Differences", html.paragraph(text) + body + table)


def _role(d: Mapping[str, Any]) -> str:
    return "c1" if significance(d).endswith("is better") else "c8"


def _failed(failed: Sequence[Mapping[str, Any]]) -> Section | None:
    if not failed:
        return None
    rows = [(c["name"], _place(c), str(c.get("error") or "unknown")) for c in failed]
    return Section("Failed", html.table(("cell", "training", "error"), rows, caption="Failed"))


def _place(cell: Mapping[str, Any]) -> str:
    fold = f", fold {cell['fold']}" if "fold" in cell else ""
    return f"seed {cell.get('seed', '-')}{fold}"


def _curves(folder: Path, cells: Sequence[Mapping], table: Sequence[Mapping]) -> Section | None:
    """The loss of every training, in colour for the best cells and grey for the others."""
    ranked = [t["name"] for t in sorted(table, key=lambda t: -t["mean"])]
    few = len(ranked) <= len(figures.COLOURS)
    roles = dict(zip(ranked if few else ranked[:4], figures.COLOURS))
    series, named = [], set()
    for cell in cells:
        rows = read_metrics(folder / cell["run"]) if cell.get("run") else []
        points = [(r["step"], r["loss"]) for r in rows if is_known(r.get("loss"))]
        if points:
            name = cell["name"]
            role = roles.get(name, "line")
            label = f"_{name}" if name in named or role == "line" else name
            named.add(name)
            x, y = zip(*points)
            series.append(figures.Series(label, x, y, role, 1.0))
    if not series:
        return None
    series.sort(key=lambda s: s.role != "line")
    alt = f"Loss over steps of {len(series)} trainings of {', '.join(ranked[:8])}"
    picture = figures.curves("loss", alt, series, legend=True)
    text = (
        "Training loss, a curve for each training. Losses of different objectives do not "
        "compare." + ("" if few else " The four best cells are coloured.")
    )
    body = html.figure(picture, "Loss", f"{len(series)} trainings", wide=True)
    return Section("Loss", html.paragraph(text) + body)


def _trainings(cells: Sequence[Mapping[str, Any]], metric: str) -> Section:
    rows = [
        (
            c["name"],
            _place(c),
            c["status"],
            _score(c["values"].get(metric)),
            f"{c.get('minutes') or 0.0:.1f}",
            _changes(c.get("changes") or {}),
        )
        for c in cells
    ]
    head = ("cell", "training", "status", metric, "minutes", "changes")
    table = html.table(head, rows, caption="Every training")
    return Section("Trainings", html.folded(f"All {len(rows)} trainings", table))


def _score(value: Any) -> str:
    return f"{value:.3f}" if is_known(value) else "-"


def _changes(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"{field} = {value}" for field, value in changes.items()) or "none"
