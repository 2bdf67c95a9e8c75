"""Figures as inline SVG that takes the colours of the page, and spectrograms as small PNGs.

matplotlib plots in placeholder colours, which become CSS variables, so that one figure serves the
light and the dark page. All are about 300 units wide, and their text is readable on a phone.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np

COLOURS = tuple(f"c{i}" for i in range(1, 9))
ROLES = ("ink", "muted", "line", "shade", *COLOURS)
POINTS = 400
"""The most points of a curve; longer curves become means of neighbours."""
NUMBERED = 12
"""The most classes of a confusion matrix that has counts in its cells."""
SHADES = 63
"""Shades of a spectrogram; with another one for masked cells a pixel takes 6 bits."""


def placeholder(role: str) -> str:
    """The colour that :func:`svg` replaces by the CSS variable ``--role``."""
    return f"#10fe{ROLES.index(role):02x}"


class Series(NamedTuple):
    """A curve: ``x`` and ``y`` of equal length, with gaps where ``y`` is not finite."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    role: str = "c1"
    width: float = 1.4


class Band(NamedTuple):
    """A curve over ascending fractions of the labels with its interval; None is unknown."""

    label: str
    fractions: Sequence[float]
    mean: Sequence[float | None]
    low: Sequence[float | None]
    high: Sequence[float | None]
    role: str = "c1"


class Estimate(NamedTuple):
    """A mean and its interval; None is unknown."""

    label: str
    mean: float
    low: float | None
    high: float | None
    role: str = "c1"


def svg(name: str, alt: str, plot: Callable[[Any], None], size: tuple[float, float]) -> str:
    """Inline SVG markup.

    Args:
      name: unique on the page; makes the ids.
      alt: the alternative text.
      plot: plots into a matplotlib ``Figure``.
      size: width and height in inches.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    name = re.sub(r"[^A-Za-z0-9]+", "-", name)
    buffer = io.StringIO()
    with mpl.rc_context(_style(name)):
        figure = Figure(figsize=size, layout="constrained")
        plot(figure)
        empty: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=empty)
    return _inline(buffer.getvalue(), name, alt)


def _style(name: str) -> Any:
    ink, muted, line = map(placeholder, ("ink", "muted", "line"))
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.size": 9,
        "font.family": "sans-serif",
        "text.color": ink,
        "axes.labelcolor": muted,
        "xtick.color": muted,
        "ytick.color": muted,
        "axes.edgecolor": line,
        "axes.linewidth": 0.8,
        "grid.color": line,
        "grid.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "xtick.major.size": 2.5,
        "ytick.major.size": 0,
        "axes.formatter.limits": (-3, 5),
    }


def _inline(markup: str, name: str, alt: str) -> str:
    """The ``<svg>`` of a document with unique ids, the colours of the page and alternative text."""
    markup = markup[markup.index("<svg") :]
    markup = re.sub(r"<style[^>]*>.*?</style>|<metadata>.*?</metadata>", "", markup, flags=re.S)
    markup = re.sub(r'\bid="', f'id="{name}-', markup)
    markup = re.sub(r'href="#', f'href="#{name}-', markup)
    markup = markup.replace("url(#", f"url(#{name}-")
    markup = re.sub(
        r"#10fe([0-9a-f]{2})", lambda match: f"var(--{ROLES[int(match[1], 16)]})", markup
    )
    head, rest = markup.split(">", 1)
    head = re.sub(r' (?:width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{escape(alt)}">{rest}'


def curves(
    name: str, alt: str, series: Sequence[Series], *, xlabel: str = "step", legend: bool = False
) -> str:
    """Curves over training steps, or over what ``xlabel`` says."""

    def plot(figure: Any) -> None:
        axes = figure.subplots()
        for s in series:
            x, y = downsample(s.x, s.y)
            dot = {"marker": "o", "markersize": 3} if len(x) == 1 else {}
            axes.plot(x, y, color=placeholder(s.role), linewidth=s.width, label=s.label, **dot)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(xlabel)
        axes.xaxis.get_major_locator().set_params(integer=xlabel == "step")
        if legend:
            named = sum(not s.label.startswith("_") for s in series)
            figure.legend(loc="outside lower left", ncols=2 if named > 2 else 1, fontsize=7)

    return svg(name, alt, plot, (4.4, 2.5 + (0.14 * len(series) if legend else 0)))


def bands(name: str, alt: str, lines: Sequence[Band], *, ylabel: str) -> str:
    """Curves over fractions of the labels, in percent on a logarithmic axis."""

    def plot(figure: Any) -> None:
        axes = figure.subplots()
        for line in lines:
            colour = placeholder(line.role)
            mean, low, high = (np.array(x, np.float64) for x in line[2:5])
            axes.fill_between(line.fractions, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.plot(
                line.fractions,
                mean,
                color=colour,
                linewidth=1.4,
                marker="o",
                markersize=3,
                label=line.label,
            )
        fractions = sorted({fraction for line in lines for fraction in line.fractions})
        axes.set_xscale("log")
        axes.set_xticks(fractions, [f"{100 * fraction:g}" for fraction in fractions])
        axes.minorticks_off()
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("labels (% of the training rows)")
        axes.set_ylabel(ylabel)
        figure.legend(loc="outside lower left", ncols=2 if len(lines) > 2 else 1, fontsize=7)

    return svg(name, alt, plot, (4.4, 2.7 + 0.14 * len(lines)))


def downsample(x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """At most ``POINTS`` points, each the mean of neighbours."""
    both = np.array([x, y], np.float64)
    count = -(-both.shape[1] // POINTS)
    if count <= 1:
        return both[0], both[1]
    parts = [both[:, i : i + count].mean(1) for i in range(0, both.shape[1], count)]
    return tuple(np.array(parts).T)


def forest(
    name: str, alt: str, rows: Sequence[Estimate], *, xlabel: str, zero: bool = False
) -> str:
    """A forest plot: means with intervals, the first on top; with ``zero`` a line at 0."""

    def plot(figure: Any) -> None:
        axes = figure.subplots()
        for y, row in enumerate(rows):
            colour = placeholder(row.role)
            if row.low is not None and row.high is not None:
                axes.plot([row.low, row.high], [y, y], color=colour, linewidth=1.6)
            axes.plot(row.mean, y, "o", color=colour, markersize=4.5)
            axes.annotate(
                row.label,
                (0, y),
                (0, 5),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                fontsize=8.5,
            )
        axes.set_ylim(len(rows) - 0.5, -0.9)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.set_xlabel(xlabel)
        if zero:
            axes.axvline(0, color=placeholder("muted"), linewidth=0.9, linestyle=(0, (3, 2)))

    return svg(name, alt, plot, (4.4, 0.7 + 0.36 * len(rows)))


def confusion(name: str, alt: str, counts: np.ndarray, labels: Sequence[str]) -> str:
    """A confusion matrix: ``counts`` ``[k k]`` shaded by their fraction of the true class."""
    k = len(labels)
    fraction = counts / np.maximum(counts.sum(1, keepdims=True), 1)

    def plot(figure: Any) -> None:
        from matplotlib.patches import Rectangle

        axes = figure.subplots()
        for i, j in np.argwhere(counts > 0):
            box = Rectangle((j - 0.5, i - 0.5), 1, 1, color=placeholder("shade"), linewidth=0)
            box.set_alpha(round(0.12 + 0.88 * float(fraction[i, j]), 2))
            axes.add_patch(box)
            if k <= NUMBERED:
                axes.text(j, i, str(counts[i, j]), ha="center", va="center", fontsize=8)
        size = 8 if k <= 20 else 5
        axes.set_xticks(range(k), labels, rotation=90, fontsize=size)
        axes.set_yticks(range(k), labels, fontsize=size)
        axes.tick_params(length=0)
        axes.set(xlim=(-0.5, k - 0.5), ylim=(k - 0.5, -0.5), aspect="equal")
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        for spine in axes.spines.values():
            spine.set_visible(True)

    return svg(name, alt, plot, (4.6, 4.4))


def marginals(
    name: str,
    alt: str,
    fraction: np.ndarray,
    *,
    masks: int,
    seconds: float | None,
    borders: Sequence[int] = (),
) -> str:
    """How often each cell is masked, with the means of columns and rows.

    The scale reaches at least five standard errors to both sides, so that chance does not look
    like a preference.

    Args:
      name, alt: as :func:`svg`.
      fraction: ``[t f]`` the fraction of masks in which a cell is masked.
      masks: the number of masks.
      seconds: the length of the clip; None where frames have no fixed hop.
      borders: bins at which another sensor starts.
    """
    frames, bins = fraction.shape
    right = frames if seconds is None else seconds

    def plot(figure: Any) -> None:
        grid = figure.subplots(
            2, 2, sharex="col", sharey="row", width_ratios=(4, 1.1), height_ratios=(1.1, 3)
        )
        (top, corner), (middle, side) = grid
        corner.set_axis_off()
        mean = float(fraction.mean())
        chance = 5 * float(np.sqrt(mean * (1 - mean) / masks))
        spread = max(chance, float(np.abs(fraction - mean).max()))
        limits = max(0.0, mean - spread), min(1.0, mean + spread)
        shown = middle.imshow(
            fraction.T,
            origin="lower",
            aspect="auto",
            cmap="viridis",
            extent=(0, right, 0, bins),
            vmin=limits[0],
            vmax=limits[1],
            interpolation="nearest",
        )
        colour = placeholder("c1")
        top.stairs(fraction.mean(1), np.linspace(0, right, frames + 1), color=colour, baseline=None)
        side.stairs(
            fraction.mean(0),
            np.arange(bins + 1),
            color=colour,
            orientation="horizontal",
            baseline=None,
        )
        for axes, line in ((top, top.axhline), (side, side.axvline)):
            line(mean, color=placeholder("muted"), linewidth=0.8, linestyle=(0, (3, 2)))
            axes.grid(axis="y" if axes is top else "x")
        for border in borders:
            for axes in (middle, side):
                axes.axhline(border, color=placeholder("ink"), linewidth=0.8)
        top.set_ylim(*limits)
        side.set_xlim(*limits)
        middle.set_xlabel("frame" if seconds is None else "time (s)")
        middle.set_ylabel("frequency bin")
        bar = figure.colorbar(
            shown, ax=middle, location="bottom", aspect=40, label="fraction masked"
        )
        bar.outline.set_visible(False)

    return svg(name, alt, plot, (4.6, 3.1))


def spectrogram_png(
    values: np.ndarray, limits: tuple[float, float], masked: np.ndarray | None = None
) -> bytes:
    """A PNG of ``values`` ``[t f]``, low frequencies below, transparent where ``masked``."""
    import matplotlib as mpl
    from PIL import Image

    low, high = limits
    shade = (values - low) / max(high - low, 1e-12) * (SHADES - 1)
    shade = np.clip(np.nan_to_num(shade), 0, SHADES - 1).round().astype(np.uint8)
    if masked is not None:
        shade = np.where(masked, SHADES, shade).astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(shade.T[::-1]))
    shades = mpl.colormaps["magma"](np.linspace(0, 1, SHADES))[:, :3]
    picture.putpalette((shades * 255).round().astype(np.uint8).tobytes() + b"\0\0\0")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True, transparency=SHADES)
    return buffer.getvalue()
