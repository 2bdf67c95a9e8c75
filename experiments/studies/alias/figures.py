"""What gradients kernels of several windows give, and what kernels a trained encoder has: figures.

    python -m experiments.studies.alias.figures --run runs/aape --clip a.wav
    python -m experiments.studies.alias.figures --run runs/aape --shards shards/esc10 --row 3

Windows (the paper's figure 2, Yamamoto and Okusa 2025): which offset of a kernel from a tone still moves
it there depends on how windows of different shapes are made comparable, so both ways are shown. Writes
`alias_windows.svg`, `.md` and `.json`. Rates (figure 4): decay and frequency of every patch over a
spectrogram. Writes `alias_rates.svg`, if a run is given.
"""

from __future__ import annotations

import argparse
import functools
import math
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from experiments.studies.sensors.common import RESULTS, markdown, save
from jfreq.config import check
from jfreq.frontends.fbank import Fbank
from jfreq.methods.common.features import valid_tokens
from jfreq.methods.common.patches import PatchMethod
from jfreq.ops import sblu
from jfreq.types import Array, Batch, SignalSpec, TokenGrid

TAPS, RATE = 49, 100.0
"""Taps of a kernel, and frames per second of the figure on windows."""
TONE = 2 * math.pi * math.sqrt(1 / 32 * 1 / 2)
"""Radians per frame of the tone, 12.5 Hz: the geometric middle of what patches of 16 frames fold.
Matters for `even` only, whose response is no function of the offset alone."""
HALF_POWER = 0.2
OFFSETS = (1.0, 1.5, 2.0, 2.5, 3.0)
WINDOWS = ("one-sided", "two-sided (hermitian)", "Gaussian", "even")
WAYS = {
    "peak": "amplitude 1, peak gradient 1",
    "width": f"response 1, half the power {HALF_POWER:g} rad away",
}


# ------------------------------------------------------------------ windows


class Curve(NamedTuple):
    """``size`` of a kernel's response to the tone and ``slope``, what that changes by with the
    kernel's frequency in rad per frame, both ``[o]`` by offset."""

    size: np.ndarray
    slope: np.ndarray


def response(window: str, shape: float, offset: np.ndarray) -> Curve:
    """Of kernels ``offset`` ``[o]`` rad per frame above the tone, amplitude 1 at the centre (`even`:
    its own factor, .6 to 1). ``shape``: alpha per frame, of the Gaussian its standard deviation in frames.
    NaN where `even` would lie above half the frame rate."""
    out, moved = respond(window, shape, TONE + offset)
    size = np.abs(out)
    slope = np.abs(np.real(np.conj(out) * moved)) / size
    beyond = (window == "even") & (TONE + offset > math.pi)
    return Curve(*(np.where(beyond, np.nan, x) for x in (size, slope)))


def respond(window: str, shape: float, omega: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What kernels at ``omega`` ``[o]`` make of the tone, and its derivative, ``[o]`` complex128."""
    one_sided = window == "one-sided"  # as many taps, all of them on one side
    taps = 2 * TAPS - 1 if one_sided else TAPS
    m = np.arange(taps) - taps // 2
    wave = np.exp(-1j * TONE * m) * ((m >= 0) | (not one_sided))
    if window == "Gaussian":
        from scipy.signal.windows import gaussian

        k = gaussian(taps, shape) * np.exp(1j * omega[:, None] * m)
        return k @ wave, (1j * m * k) @ wave
    phase = "even" if window == "even" else "hermitian"
    parts = _kernels(jnp.float32(shape), jnp.asarray(omega, jnp.float32), phase, taps)
    k, change = (np.asarray(re, np.float64) + 1j * np.asarray(im) for re, im in parts)
    centre = 1.0 if window == "even" else k[:, taps // 2].real
    return k @ wave / centre, change @ wave / centre


@functools.partial(jax.jit, static_argnums=(2, 3))
def _kernels(alpha: Array, omega: Array, phase: sblu.Phase, taps: int):
    def at(omega: Array):
        beta = omega / (2 * math.pi)
        return sblu.kernel(jnp.full_like(beta, alpha), beta, taps=taps, phase=phase)

    return jax.jvp(at, (omega,), (jnp.ones_like(omega),))


def fitted(window: str, way: str) -> float:
    """The shape at which a window meets the normalisation."""
    from scipy.optimize import brentq

    near = np.arange(0, math.pi, 0.005)

    def peak(shape: float) -> float:
        return float(np.nanmax(response(window, shape, near).slope)) - 1

    def width(shape: float) -> float:
        size = response(window, shape, np.array([0, HALF_POWER])).size
        return float((size[1] / size[0]) ** 2) - 0.5

    low, high = (0.3, 20.0) if window == "Gaussian" else (0.05, 4.0)
    return cast(float, brentq(peak if way == "peak" else width, low, high, xtol=1e-6))


def scaled(window: str, shape: float, way: str, offset: np.ndarray) -> Curve:
    """The response as a normalisation shows it."""
    found = response(window, shape, offset)
    gain = float(response(window, shape, np.zeros(1)).size[0]) if way == "width" else 1.0
    return Curve(found.size / gain, found.slope / gain)


def windows_page(out: Path) -> Path:
    """Figure, table and numbers."""
    every = np.arange(0, math.pi, 0.005)
    text = [
        "# Gradients of kernels by their distance from a tone",
        "",
        f"`|d|H|/d omega|` by offset between kernel and tone in rad per frame, kernels of {TAPS} taps.",
        f"The tone lies at {TONE * RATE / (2 * math.pi):.3g} Hz (100 frames per second), which matters to "
        "`even` only;",
        "that one is shown with its own factor and is not defined above half the frame rate.",
        "The one-sided window has all its taps on one side. What is left of a narrow Gaussian far away",
        "comes from its ends, which are cut off; so do the ripples of the others.",
        "",
    ]
    body: dict[str, Any] = {"taps": TAPS, "tone_rad": TONE, "offsets_rad": OFFSETS}
    curves: dict[str, dict[str, Curve]] = {}
    for way, title in WAYS.items():
        rows, body[way], curves[way] = [], {}, {}
        for window in WINDOWS:
            shape = fitted(window, way)
            curves[way][window] = scaled(window, shape, way, every)
            peak = float(np.nanmax(curves[way][window].slope))
            at = scaled(window, shape, way, np.array(OFFSETS)).slope
            name = "sigma" if window == "Gaussian" else "alpha"
            rows.append([window, f"{name} {shape:.3f}", f"{peak:.2f}", *map(_cell, at)])
            values = [None if math.isnan(x) else float(x) for x in at]
            body[way][window] = {name: shape, "peak": peak, "gradient": values}
        head = ["window", "per frame, frames", "largest", *(f"at {x:g}" for x in OFFSETS)]
        text += [f"## {title[0].upper()}{title[1:]}", "", *markdown(head, rows)]
    text += ["`python -m experiments.studies.alias.figures` repeats it.", ""]
    save("alias_windows", text, body, out)
    return windows_figure(every, curves, out / "alias_windows.svg")


def _cell(x: float) -> str:
    return "-" if math.isnan(x) else f"{x:.2f}" if x >= 0.095 else f"{x:.2g}"


def windows_figure(offset: np.ndarray, curves: dict[str, dict[str, Curve]], path: Path) -> Path:
    from jfreq.evaluate.plot import STYLES
    from jfreq.evaluate.plot import save as save_figure

    def draw(figure: Any) -> None:
        every = figure.subplots(len(curves), 2, sharex=True)
        handles: dict[str, Any] = {}
        for line, (way, found) in zip(every, curves.items()):
            for (window, curve), (colour, dashes, _) in zip(found.items(), STYLES):
                for axes, values in zip(line, curve):
                    (handles[window],) = axes.semilogy(offset, values, color=colour,
                                                       linestyle=dashes, linewidth=1.2)  # fmt: skip
            for axes, name in zip(line, ("response $|H|$", "gradient $|d|H|/d\\omega|$")):
                axes.set_ylim(1e-4, 8)
                axes.set_xlim(0, math.pi)
                axes.grid(color="0.9", linewidth=0.6)
                axes.set_ylabel(name)
                axes.set_title(WAYS[way], fontsize=8)
        for axes in every[-1]:
            axes.set_xlabel("kernel above tone, rad per frame (1 = 15.9 Hz)")
        figure.legend(handles.values(), handles, loc="outside lower center", frameon=False,
                      ncols=len(handles), handlelength=4)  # fmt: skip

    return save_figure(path, path.stem, (7.2, 5.0), draw)


# ------------------------------------------------------------------ rates


class Rates(NamedTuple):
    """One clip: ``level`` ``[t f]`` of its spectrogram, NaN beyond its end, ``alpha`` per frame and
    ``beta`` in cycles per frame, ``[p g s]``, and which patches hold signal, ``valid`` ``[p g]``."""

    level: np.ndarray
    alpha: np.ndarray
    beta: np.ndarray
    valid: np.ndarray


def read(path: Path, signal: SignalSpec) -> Batch:
    """The start of a sound file, as long as the encoder's window."""
    import soundfile

    check(path.is_file(), "--clip", f"{path} is not on disk")
    x, rate = soundfile.read(path, dtype="float32", always_2d=True, frames=signal.samples)
    check(rate == signal.rate, "--clip", f"{path} has {rate} Hz, the encoder reads "
          f"{signal.rate:g} Hz; resample it first")  # fmt: skip
    return _window(x[None, :, :1], signal)


def row(path: Path, index: int, signal: SignalSpec) -> Batch:
    """The start of a row of shards."""
    from jfreq.data.shards.reader import open_shards

    shards = open_shards(path)
    found = shards.spec.signal(signal.name)
    check(found.rate == signal.rate, "--shards", f"{path} holds {found.rate:g} Hz, the encoder "
          f"reads {signal.rate:g} Hz")  # fmt: skip
    check(0 <= index < len(shards), "--row", f"{path} has rows 0 to {len(shards) - 1}")
    batch = shards.read([index])
    return _window(batch[signal.name][:, : int(batch["length"][0])], signal)


def _window(x: np.ndarray, signal: SignalSpec) -> Batch:
    x = x[:, : signal.samples]
    length = np.array([x.shape[1]], np.int32)
    x = np.pad(x, ((0, 0), (0, signal.samples - x.shape[1]), (0, 0)))
    return {signal.name: jnp.asarray(x), "length": jnp.asarray(length)}


def rates(cfg: PatchMethod, params: Any, batch: Batch) -> Rates:
    batch = cfg.with_spectrogram(batch)
    spec, valid = batch["spectrogram"], valid_tokens(cfg.grid, batch, 1)

    def forward(module):
        return module.alias.rates(spec, cfg.attended_tokens(batch))

    found = cfg.trunk.apply({"params": params["trunk"]}, method=forward)
    alpha, beta = cast(tuple[Array, Array], found)
    plane = np.asarray(valid).reshape(cfg.grid.shape)
    plane = plane.T if cfg.grid.order == "freq_major" else plane
    level, alpha, beta = (np.asarray(x[0]) for x in (spec[..., 0], alpha, beta))
    frontend = cfg.geometry.frontend
    size, hop = frontend.win_length, frontend.hop_length
    real = np.arange(len(level)) * hop + size <= int(batch["length"][0])
    return Rates(np.where(real[:, None], level, np.nan), alpha, beta, plane)


def rates_figure(cfg: PatchMethod, found: Rates, path: Path) -> Path:
    """Below the spectrogram a line for the lowest, the middle and the highest cell of the band."""
    from jfreq.evaluate.plot import save as save_figure

    signal, frontend, patch = cfg.geometry.signal, cfg.geometry.frontend, cfg.geometry.patch
    frame_rate = signal.rate / frontend.hop_length
    count = cfg.aape.kernels
    centre, _ = sblu.cells(count, *cfg.aape.range(patch[0]))
    shown = sorted({0, count // 2, count - 1})
    offset, width = (
        frame_rate * np.where(found.valid[..., None], x, np.nan)[..., shown]
        for x in (found.beta - centre, found.alpha / math.pi)
    )

    def draw(figure: Any) -> None:
        from matplotlib.colors import Normalize

        grid = figure.add_gridspec(1 + len(shown), 2, height_ratios=[2, *[1] * len(shown)])
        top = figure.add_subplot(grid[0, :])
        extent = _extent(cfg, found.level.shape)
        image = top.imshow(found.level.T, origin="lower", aspect="auto", cmap="magma",
                           extent=extent, rasterized=True)  # fmt: skip
        top.set_facecolor("0.8")
        top.set_ylabel("mel bin" if isinstance(frontend, Fbank) else "bin")
        figure.colorbar(image, ax=top, label="level, normalised")
        limits = Normalize(float(np.nanmin(width)), float(np.nanmax(width)))
        for i, s in enumerate(shown):
            most = max(float(np.nanmax(np.abs(offset[..., i]))), 1e-6)
            looks = (
                (offset[..., i], "RdBu_r", Normalize(-most, most)),
                (width[..., i], "viridis", limits),
            )
            for column, (values, colours, norm) in enumerate(looks):
                axes = figure.add_subplot(grid[1 + i, column])
                axes.set_facecolor("0.8")
                image = axes.imshow(
                    values.T, origin="lower", aspect="auto", interpolation="nearest",
                    cmap=colours, norm=norm, extent=_patches(cfg.grid, signal.rate),
                    rasterized=True,
                )  # fmt: skip
                figure.colorbar(image, ax=axes, label="Hz", format="%.3g")
                axes.set_xlim(extent[:2])
                name = "$\\beta$ above its centre," if not column else "bandwidth $\\alpha/\\pi$,"
                axes.set_title(f"{name} kernel at {centre[s] * frame_rate:.3g} Hz", fontsize=8)
                axes.set_ylabel("sub-band")
                if s == shown[-1]:
                    axes.set_xlabel("s")

    return save_figure(path, path.stem, (7.6, 2.6 + 1.3 * len(shown)), draw)


def _extent(cfg: PatchMethod, shape: tuple[int, ...]) -> tuple[float, ...]:
    """Seconds and bins of the borders of a spectrogram ``[t f]``."""
    frontend, rate = cfg.geometry.frontend, cfg.geometry.signal.rate
    hop = frontend.hop_length
    start = (frontend.win_length - hop) / 2 / rate
    return start, start + shape[0] * hop / rate, -0.5, shape[1] - 0.5


def _patches(grid: TokenGrid, rate: float) -> tuple[float, ...]:
    """Seconds and sub-bands of the borders of a picture of patches."""
    start = (grid.first - grid.hop / 2) / rate
    return start, start + grid.time * grid.hop / rate, -0.5, grid.freq - 0.5


def rates_of_run(args: argparse.Namespace) -> Path:
    from jfreq.train.checkpoint import load_run

    trained = load_run(args.run)
    cfg = trained.experiment.method
    check(isinstance(cfg, PatchMethod) and cfg.embed == "aape", "--run",
          f"{args.run} has no alias branch; give a run with --method.embed aape")  # fmt: skip
    assert isinstance(cfg, PatchMethod)
    check((args.clip is None) != (args.shards is None), "--run", "wants one of --clip and --shards")
    signal = cfg.geometry.signal
    batch = row(args.shards, args.row, signal) if args.shards else read(args.clip, signal)
    return rates_figure(cfg, rates(cfg, trained.params, batch), args.out / "alias_rates.svg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--run", type=Path, help="folder of a run with an alias branch")
    parser.add_argument("--clip", type=Path, help="a sound file")
    parser.add_argument("--shards", type=Path)
    parser.add_argument("--row", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.run is not None:
        print(rates_of_run(args))
    print(windows_page(args.out))


if __name__ == "__main__":
    main()
