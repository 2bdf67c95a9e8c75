"""A forest plot of an ablation: the mean of every cell, and paired differences of levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jfreq.ablate.table import Grid
from jfreq.evaluate.plot import save


def plot(grid: Grid, path: str | Path) -> Path:
    """Writes two panels of means with 95 % intervals as SVG or PNG, by the ending of ``path``."""
    cells = sorted(grid.table, key=lambda t: t["mean"])
    heights = [max(1, len(cells)), max(1, len(grid.differences))]

    def plot_panels(figure: Any) -> None:
        top, bottom = figure.subplots(2, 1, gridspec_kw={"height_ratios": heights})
        _forest(top, cells, [t["name"] for t in cells], f"{grid.metric}, mean and 95 % interval")
        names = [f"{d['factor']}: {d['a']} - {d['b']}" for d in grid.differences]
        _forest(bottom, grid.differences, names, f"difference in {grid.metric}, paired by fold")
        bottom.axvline(0, color="0.6", linewidth=0.8, zorder=0)
        figure.suptitle(f"{grid.name} on {grid.data}", fontsize=10)

    return save(path, grid.name, (8, 1.6 + 0.2 * sum(heights)), plot_panels)


def _forest(axes: Any, rows: Sequence[Mapping[str, Any]], names: Sequence[str], title: str) -> None:
    for y, row in enumerate(rows):
        if row["low"] is not None:
            axes.plot([row["low"], row["high"]], [y, y], color="0.45", linewidth=1.2)
        axes.plot(row["mean"], y, "o", color="C0", markersize=4)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel(title)
    axes.margins(y=0.5 / max(1, len(rows)))
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
