"""Figures of results as SVG or PNG: scores over the fraction of labels, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jfreq.config import check
from jfreq.evaluate.results import Report, Result
from jfreq.files import local_path, write_atomically

STYLES = (
    ("#000000", "-", "o"), ("#d55e00", "--", "s"), ("#0072b2", "-.", "^"), ("#999999", ":", "D"),
    ("#009e73", (0, (5, 1)), "v"), ("#cc79a7", (0, (1, 1)), "P"), ("#56b4e9", (0, (7, 2)), "X"),
)  # fmt: skip
"""Colour (the palette of Okabe and Ito), dashes and marker; each alone identifies a line."""


def save(
    path: str | Path, name: str, size: tuple[float, float], plot: Callable[[Any], None]
) -> Path:
    """Writes a figure; the same figure is always the same bytes.

    Args:
      path: ends in ``.svg`` or ``.png``.
      name: makes the ids in the SVG.
      size: width and height in inches.
      plot: plots into a matplotlib ``Figure``.

    Raises:
      InputError: for another ending.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    path = local_path(path, "path")
    kind = path.suffix.lstrip(".")
    check(kind in ("svg", "png"), str(path), "the name of a figure ends in .svg or .png")
    with mpl.rc_context({"font.size": 8, "svg.fonttype": "none", "svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        plot(figure)
        metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {}
        return write_atomically(
            path, lambda file: figure.savefig(file, format=kind, metadata=metadata, dpi=150)
        )


class Line(NamedTuple):
    """One curve: its name and its results in ascending order of the fraction of labels."""

    name: str
    points: list[Result]


def curves(reports: Mapping[str, Report], path: str | Path, *, metric: str | None = None) -> Path:
    """Plots scores over the fraction of labels.

    There is a panel for each probe and a line for each report and kind of features, with its
    interval. Differences of features are left out.

    Args:
      reports: by the name that the legend shows.
      path: ends in ``.svg`` or ``.png``.
      metric: by default the first metric of the first report.

    Raises:
      InputError: for reports without fractions or without the metric.
    """
    check(bool(reports), "reports", "give at least one")
    metric = metric or next(iter(reports.values())).results[0].metric
    panels: dict[str, list[Line]] = {}
    for name, report in reports.items():
        points = [
            r
            for r in report.results
            if r.metric == metric and r.fraction is not None and " - " not in r.features
        ]
        check(
            bool(points), name, f"has no {metric} by fraction of labels; probe it with --fractions"
        )
        several = len({r.features for r in points}) > 1
        for kind, features in dict.fromkeys((r.kind, r.features) for r in points):
            label = name if not several else f"{name}, {features}" if len(reports) > 1 else features
            line = [r for r in points if (r.kind, r.features) == (kind, features)]
            line.sort(key=lambda r: r.fraction or 0)
            panels.setdefault(kind, []).append(Line(label, line))
    title = ", ".join(dict.fromkeys(report.data for report in reports.values()))
    names = list(dict.fromkeys(line.name for lines in panels.values() for line in lines))
    styles = {name: STYLES[i % len(STYLES)] for i, name in enumerate(names)}

    def plot(figure: Any) -> None:
        handles: dict[str, Any] = {}
        panel_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (kind, lines) in zip(panel_axes, panels.items()):
            for line in lines:
                handles[line.name] = _line(axes, line, styles[line.name])
            _style_axes(axes, lines)
            axes.set_title(kind, fontsize=8)
        panel_axes[0].set_ylabel(metric.replace("_", " "))
        figure.suptitle(title, fontsize=10)
        figure.legend(
            handles.values(),
            handles,
            loc="outside lower center",
            frameon=False,
            ncols=len(panels),
            handlelength=4,
        )

    height = 2.9 + 0.17 * -(-len(names) // len(panels))
    return save(path, title, (1.2 + 2.6 * len(panels), height), plot)


def _line(axes: Any, line: Line, style: tuple[str, Any, str]) -> Any:
    """Plots the means and the interval of a line; returns the handle for the legend."""
    colour, dashes, marker = style
    x = [r.fraction for r in line.points]
    axes.fill_between(
        x,
        [r.low for r in line.points],
        [r.high for r in line.points],
        color=colour,
        alpha=0.15,
        linewidth=0,
    )
    (handle,) = axes.plot(
        x,
        [r.mean for r in line.points],
        color=colour,
        linestyle=dashes,
        marker=marker,
        markersize=3.5,
        linewidth=1.2,
    )
    return handle


def _style_axes(axes: Any, lines: list[Line]) -> None:
    """Sets a logarithmic axis with the fractions in percent."""
    fractions = sorted({r.fraction for line in lines for r in line.points if r.fraction})
    axes.set_xscale("log")
    axes.set_xticks(fractions, [f"{100 * x:g}" for x in fractions])
    axes.minorticks_off()
    axes.set_xlabel("labels (% of the training rows)")
    axes.grid(axis="y", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
