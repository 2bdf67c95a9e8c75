"""What PhyMask-style masks see and keep, and where FreqMAE's frequency weights lie: figures.

    python -m experiments.studies.sensors.masks --hapt ../shared/data/hapt --runs runs/masked

Fractions masked and temperatures are those that `experiments.studies.sensors.masked` trains with. Of every class the middle
window of the labelled set is shown. Writes `experiments/results/masks_SET.svg` and
`freqmae_weights.svg`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.studies.sensors.common import RESULTS, shards_of
from experiments.studies.sensors.masked import SETS, recipe
from jfreq import masks
from jfreq.config import replace
from jfreq.masks import energy_coherence
from jfreq.methods.common.sensor_spectra import Spectrogram, SpectrogramSpec
from jfreq.methods.freqmae import FreqMAE, frequency_weights
from jfreq.methods.phymask import PhyMask, scores, unit_masks
from jfreq.types import Batch, DataSpec, SignalSpec

CLASSES = {
    "hapt": ("walking", "sitting", "laying"),
    "machines": ("healthy", "imbalance", "inner_race"),
}
MASKS = 256
DECIBELS = 60
"""Most between the loudest band of a window and black; black is the faintest of a figure."""
ROWS = 64
"""Most rows of a spectrogram's picture; each is the mean power of a few bins."""
MOD = DataSpec((SignalSpec("audio", 8000, 16000), SignalSpec("seismic", 100, 200)))
"""The published set's sensors."""


class Panel(NamedTuple):
    """One line of a figure: ``power_db`` ``[t f]`` of bands of ``bins`` in dB below the loudest;
    ``score`` by name, and by kind of mask the fraction of masks that ``keep`` a patch, both
    ``[t f]`` of patches."""

    title: str
    spec: SpectrogramSpec
    bins: int
    power_db: np.ndarray
    score: dict[str, np.ndarray]
    keep: dict[str, np.ndarray]


# ------------------------------------------------------------------ what is shown


def calibrated(where: str, args: argparse.Namespace) -> PhyMask:
    """The method of the table's PhyMask .90, as a training of it starts."""
    from jfreq.train.plan import plan_run

    shards, _, _, data = SETS[where]
    path = (str(shards_of(shards, args.hapt, args.runs)),)
    changes = {"data__split": "train", **data, "data__path": path}
    setup = plan_run(replace(recipe(where, "PhyMask .90"), **changes))
    setup.pipeline.close()
    assert isinstance(setup.experiment.method, PhyMask)
    return setup.experiment.method


def windows(where: str, args: argparse.Namespace) -> Batch:
    """The middle window of every class of :data:`CLASSES`."""
    from jfreq.data.shards.reader import open_shards

    shards = open_shards(shards_of(SETS[where][1], args.hapt, args.runs))
    label, names = shards.column("label"), shards.spec.labels
    rows = [np.flatnonzero(label == names.index(name)) for name in CLASSES[where]]
    found = shards.read([r[len(r) // 2] for r in rows])
    return {name: jnp.asarray(x) for name, x in found.items()}


def kept_often(cfg: PhyMask, found: dict[str, Spectrogram], step: int) -> dict[str, np.ndarray]:
    """Fraction of :data:`MASKS` masks that keep a patch, ``[b n]`` by sensor."""

    def visible(key, found):
        return {name: ~m.is_masked for name, m in unit_masks(cfg, key, found, step).items()}

    return _visible_fraction(visible, found)


def kept_at_random(cfg: PhyMask, found: dict[str, Spectrogram]) -> dict[str, np.ndarray]:
    """The same under uniform masks that keep as many patches of each sensor."""

    def visible(key, found):
        out = {}
        for (name, spec), count in zip(cfg.trunk.specs.items(), cfg.visible_counts):
            rows = found[name].real.shape[0]
            mask = masks.random(key, rows, spec.grid, spec.grid.size - count)
            out[name] = ~mask.is_masked
        return out

    return _visible_fraction(visible, found)


def _visible_fraction(visible, found: dict[str, Spectrogram]) -> dict[str, np.ndarray]:
    keys = jax.random.split(jax.random.key(0), MASKS)
    sampled = jax.jit(jax.vmap(visible, in_axes=(0, None)))(keys, found)
    return {
        name: np.asarray(jnp.mean(x.astype(jnp.float32), axis=0)) for name, x in sampled.items()
    }


def panels(cfg: PhyMask, names: tuple[str, ...], batch: Batch) -> list[Panel]:
    """A line for every sensor of every window of ``batch``, whose classes are ``names``."""
    found = cfg.trunk.spectra(batch)
    first, last = cfg.temperature
    keep = {
        "masked\nat random": kept_at_random(cfg, found),
        f"first update\n$\\tau$ = {first:g}": kept_often(cfg, found, 0),
        f"last\n$\\tau$ = {last:g}": kept_often(cfg, found, cfg.anneal_steps),
        "last,\nopposite sign": kept_often(
            replace(cfg, high_scores="masked"), found, cfg.anneal_steps
        ),
    }
    important, out = scores(cfg, found), []
    for row, label in enumerate(names):
        for (name, spec), kept in zip(cfg.trunk.specs.items(), cfg.visible_counts):
            real, imag = found[name].real[row : row + 1], found[name].imag[row : row + 1]
            score = {
                "energy": energy_coherence.energy(real, imag, spec.patch)[0],
                "coherence": energy_coherence.coherence(real, imag, spec.patch)[0],
                "importance": important[name][row].reshape(spec.grid.shape),
            }
            fractions = {kind: x[name][row].reshape(spec.grid.shape) for kind, x in keep.items()}
            score = {kind: np.asarray(x) for kind, x in score.items()}
            title = f"{label.replace('_', ' ')}\n{name}: {kept} of {score['energy'].size}"
            bins = -(-spec.bins // ROWS)
            power = np.asarray(energy_coherence.patch_energy(real, imag, (1, bins))[0])
            out.append(
                Panel(title, spec, bins, _power_db(power, spec.bins, bins), score, fractions)
            )
    return out


def _power_db(energy: np.ndarray, bins: int, band: int) -> np.ndarray:
    """Mean power of bands of ``band`` bins in dB; the last band may be narrower."""
    power = energy / np.minimum(band, bins - np.arange(0, bins, band))
    return 10 * np.log10(np.maximum(power / power.max(), 10 ** (-DECIBELS / 10)))


# ------------------------------------------------------------------ the figures


def extent(cfg: PhyMask, spec: SpectrogramSpec, cells: tuple[int, int]) -> tuple[float, ...]:
    """Seconds and Hz of the borders of a picture whose pixels are ``cells`` = (frames, bins)."""
    size, hop = cfg.trunk.frontend.sizes(spec.signal)
    rate = spec.signal.rate
    frames, bins = (-(-n // c) * c for n, c in zip((spec.frames, spec.bins), cells))
    start = (size - hop) / 2  # of what lies nearer to a frame's middle than to its neighbours'
    width = rate / size
    return start / rate, (start + frames * hop) / rate, -width / 2, (bins - 0.5) * width


def masks_figure(cfg: PhyMask, rows: list[Panel], path: Path) -> Path:
    from jfreq.evaluate.plot import save

    def draw(figure: Any) -> None:
        every = figure.subplots(len(rows), 1 + len(rows[0].score) + len(rows[0].keep))
        faintest = 10 * np.floor(min(panel.power_db.min() for panel in rows) / 10)
        shown: dict[str, Any] = {}
        for line, panel in zip(every, rows):
            patch, scored = panel.spec.patch, 1 + len(panel.score)
            levels = Colours("gray", low=faintest, high=0)
            shown["power"] = _picture(line[0], cfg, panel, panel.power_db, (1, panel.bins), levels)
            for axes, image in zip(line[1:scored], panel.score.values()):
                shown["score"] = _picture(axes, cfg, panel, image, patch, SCORE)
            for axes, image in zip(line[scored:], panel.keep.values()):
                shown["visible"] = _picture(axes, cfg, panel, image, patch, VISIBLE)
            line[0].set_ylabel(f"{panel.title}\nHz", fontsize=7)
            for axes in line[1:]:
                axes.set_yticklabels([])
        for axes, name in zip(every[0], ("spectrogram", *rows[0].score, *rows[0].keep)):
            axes.set_title(name, fontsize=8)
        for axes in every[:-1].flat:
            axes.set_xticklabels([])
        for axes in every[-1]:
            axes.set_xlabel("s")
        _bars(figure, every, shown, len(rows[0].score))

    return save(path, path.stem, (10.5, 1.4 + 1.1 * len(rows)), draw)


class Colours(NamedTuple):
    """A colour map from ``low`` to ``high``; ``power`` below 1 spreads low values."""

    name: str
    low: float = 0.0
    high: float = 1.0
    power: float = 1.0


SCORE = Colours("viridis")
VISIBLE = Colours("magma", power=0.5)


def _picture(
    axes: Any, cfg: PhyMask, panel: Panel, image: np.ndarray, cells: tuple[int, int], look: Colours
) -> Any:
    """``image`` ``[t f]``, time to the right, frequency upwards."""
    from matplotlib.colors import PowerNorm

    shown = axes.imshow(
        image.T, origin="lower", aspect="auto", interpolation="nearest", cmap=look.name,
        norm=PowerNorm(look.power, look.low, look.high), extent=extent(cfg, panel.spec, cells),
        rasterized=True,
    )  # fmt: skip
    axes.set_ylim(*extent(cfg, panel.spec, (1, 1))[2:])
    return shown


def _bars(figure: Any, every: Any, shown: dict[str, Any], scores: int) -> None:
    under = {
        "power": (every[:, :1], "dB", None),
        "score": (every[:, 1 : 1 + scores], "score", [0, 0.25, 0.5, 0.75, 1]),
        "visible": (every[:, 1 + scores :], f"fraction of {MASKS} masks that keep the patch",
                  [0, 0.05, 0.1, 0.25, 0.5, 0.75, 1]),
    }  # fmt: skip
    for kind, (axes, title, ticks) in under.items():
        figure.colorbar(shown[kind], ax=axes, location="bottom", label=title, ticks=ticks,
                        format="%g", aspect=12 * axes.shape[1], fraction=0.02)  # fmt: skip


def weights_figure(path: Path) -> Path:
    """Frequency weights of MOD's audio: a frame as released, padding included, and as meant."""
    from jfreq import recipes
    from jfreq.evaluate.plot import STYLES, save

    method = recipes.load("freqmae_mod_released").method.bind(MOD)
    assert isinstance(method, FreqMAE)
    spec = method.specs["audio"]
    bins, padded = spec.bins, spec.grid.freq * spec.patch[1]
    curves = {
        "as released": frequency_weights(padded, two_sided=True),
        "as meant, two-sided": frequency_weights(bins, two_sided=True),
        "default, one-sided": frequency_weights(bins // 2, two_sided=False),
    }
    released = curves["as released"]
    lost = released[bins:].sum() / released.sum()

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for (name, curve), (colour, dashes, _) in zip(curves.items(), STYLES):
            knots = np.unique(np.linspace(0, len(curve) - 1, 33).astype(int))
            axes.plot(knots, curve[knots], color=colour, linestyle=dashes, label=name)
        axes.axvspan(bins, padded, color="0.92", zorder=0)
        axes.fill_between([bins, padded - 1], released[[bins, padded - 1]], color="0.75", zorder=1)
        axes.text(0.45 * bins + 0.55 * padded, 0.15, f"padding:\n{100 * lost:.0f} % of the weight",
                  ha="center")  # fmt: skip
        hertz = method.signals[0].rate / bins
        ticks = [0, bins // 4, bins // 2, 3 * bins // 4]
        signed = [f"{(b if b <= bins // 2 else b - bins) * hertz:g} Hz" for b in ticks]
        names = [f"{b}\n{hz}" for b, hz in zip(ticks, signed)]
        axes.set_xticks([*ticks, bins, padded], [*names, f"{bins}\nend", f"{padded}\npadded end"])
        axes.set_xlim(0, padded)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("bin of the two-sided spectrum")
        axes.set_ylabel("weight")
        figure.legend(frameon=False, loc="outside upper center", ncols=len(curves))

    return save(path, path.stem, (6.0, 2.9), draw)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--hapt", default="../shared/data/hapt")
    parser.add_argument("--runs", type=Path, default=Path("runs/masked"))
    parser.add_argument("--set", choices=list(CLASSES), action="append", dest="sets")
    args = parser.parse_args()
    print(weights_figure(RESULTS / "freqmae_weights.svg"))
    for where in args.sets or CLASSES:
        cfg = calibrated(where, args)
        rows = panels(cfg, CLASSES[where], windows(where, args))
        print(masks_figure(cfg, rows, RESULTS / f"masks_{where}.svg"))


if __name__ == "__main__":
    main()
