"""Figures of results: scores over the fraction of labels, with bands; SVG or PNG."""

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
"""Colour (Okabe and Ito's palette), dashes and marker: each alone tells the lines apart."""


def save(
    path: str | Path, name: str, size: tuple[float, float], draw: Callable[[Any], None]
) -> Path:
    """Writes ``draw(figure)`` as SVG or PNG by the ending of ``path``; the same bytes each time.

    ``size`` in inches. ``InputError`` for another ending.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    path = local_path(path, "path")
    kind = path.suffix.lstrip(".")
    check(kind in ("svg", "png"), str(path), "a figure ends in .svg or .png")
    with mpl.rc_context({"font.size": 8, "svg.fonttype": "none", "svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {}
        return write_atomically(
            path, lambda file: figure.savefig(file, format=kind, metadata=metadata, dpi=150)
        )


class Line(NamedTuple):
    """One curve: its name and the results along it, by ascending fraction of labels."""

    name: str
    points: list[Result]


def curves(reports: Mapping[str, Report], path: str | Path, *, metric: str | None = None) -> Path:
    """Scores over the fraction of labels, a panel for each probe, a line for each report (its name)
    and kind of features, a band for each interval.

    ``metric``: by default the first of the reports. Differences of features are left out. Raises
    ``InputError`` for reports without fractions or the metric.
    """
    check(bool(reports), "reports", "name at least one")
    metric = metric or next(iter(reports.values())).results[0].metric
    panels: dict[str, list[Line]] = {}
    for name, report in reports.items():
        points = [
            r
            for r in report.results
            if r.metric == metric and r.fraction is not None and " - " not in r.features
        ]
        check(bool(points), name, f"has no {metric} by fraction of labels; probe with --fractions")
        several = len({r.features for r in points}) > 1
        for kind, features in dict.fromkeys((r.kind, r.features) for r in points):
            label = name if not several else f"{name}, {features}" if len(reports) > 1 else features
            line = [r for r in points if (r.kind, r.features) == (kind, features)]
            line.sort(key=lambda r: r.fraction or 0)
            panels.setdefault(kind, []).append(Line(label, line))
    title = ", ".join(dict.fromkeys(report.data for report in reports.values()))

    names = list(dict.fromkeys(line.name for lines in panels.values() for line in lines))
    styles = {name: STYLES[i % len(STYLES)] for i, name in enumerate(names)}

    def draw(figure: Any) -> None:
        handles: dict[str, Any] = {}
        every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (kind, lines) in zip(every, panels.items()):
            for line in lines:
                handles[line.name] = _line(axes, line, styles[line.name])
            _dress(axes, lines)
            axes.set_title(kind, fontsize=8)
        every[0].set_ylabel(metric.replace("_", " "))
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
    return save(path, title, (1.2 + 2.6 * len(panels), height), draw)


def _line(axes: Any, line: Line, style: tuple[str, Any, str]) -> Any:
    """Draws means and band; returns what a legend shows."""
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


def _dress(axes: Any, lines: list[Line]) -> None:
    """A logarithmic axis of the fractions that were used, in percent."""
    fractions = sorted({r.fraction for line in lines for r in line.points if r.fraction})
    axes.set_xscale("log")
    axes.set_xticks(fractions, [f"{100 * x:g}" for x in fractions])
    axes.minorticks_off()
    axes.set_xlabel("labels (% of the training rows)")
    axes.grid(axis="y", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
