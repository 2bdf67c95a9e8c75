"""The page of one run, from its folder and, where the shards are at hand, from its encoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jfreq.config import Experiment
from jfreq.config_json import flat, to_dict
from jfreq.report import figures, html
from jfreq.report.collect import Run, read_run, state
from jfreq.report.examples import Example, ExampleSet, frame_seconds
from jfreq.report.html import Section
from jfreq.report.probes import Progress, blocks, few_labels, probe
from jfreq.report.training import training
from jfreq.train import checkpoint
from jfreq.train.state import Trained
from jfreq.types import InputError


def run_page(
    folder: Path,
    *,
    data: Sequence[str | Path] = (),
    rows: int = 1000,
    progress: Progress | None = None,
) -> str:
    """HTML of a run. ``data``: shards to look at; by default those of the run, if still there.

    ``rows``: at most this many for the probe of the blocks, 0 for none.
    Raises ``InputError`` for a folder that is no run, and for given shards that do not fit it.
    """
    run = read_run(folder)
    notices, sections = state(run), [training(run)]
    shards = _shards(run.experiment, data, notices)
    trained = None if shards is None or not run.saved else _trained(folder, notices)
    if trained is not None:
        unseen = _unseen(run, shards)
        looked = collect_examples(trained, shards, unseen=unseen)
        sections += [
            _examples(looked, bool(unseen)),
            _masks(looked, frame_seconds(trained.experiment.method)),
        ]
        sections += [probe(run), few_labels(run)]
        if rows:
            sections += blocks(trained, shards, rows, unseen, progress)
    else:
        sections += [probe(run), few_labels(run)]
    sections.append(_settings(run.experiment))
    return html.page(
        run.experiment.name,
        kind=f"jfreq run · {type(run.experiment.method).__name__}",
        lead=_lead(run),
        notices=notices,
        sections=[s for s in sections if s is not None],
        footer=run.written,
    )


def _shards(experiment: Experiment, given: Sequence[str | Path], notices: list[str]) -> Any:
    """Opened shards, or None and a notice why there are none."""
    from jfreq.data.fold_assignment import open_data
    from jfreq.data.shards.reader import open_shards
    from jfreq.evaluate.probe_protocol import check_signals

    try:
        shards = open_shards(given) if given else open_data(experiment.data)
        check_signals(experiment.method.signals, shards)
    except InputError as error:
        if given:
            raise
        notices.append(
            f"Examples, masks and the probe of the blocks are left out: {error}. Give the shards "
            "with --data."
        )
        return None
    return shards


def _trained(folder: Path, notices: list[str]) -> Trained | None:
    """The newest readable checkpoint, or None and a notice."""
    try:
        return checkpoint.load_run(folder)
    except InputError as error:
        notices.append(f"Nothing that needs the encoder is shown: {error}.")
        return None


def _unseen(run: Run, shards: Any) -> tuple[int, ...]:
    """Folds of these shards that training left out; none where it was trained on others."""
    folds = run.experiment.data.exclude_folds
    known = shards.info.folds if run.manifest == shards.manifest_hash else ()
    return tuple(fold for fold in folds if fold in known)


def _lead(run: Run) -> str:
    experiment = run.experiment
    names = ", ".join(Path(path).name for path in experiment.data.path) or "no data"
    folds = ", ".join(map(str, experiment.data.exclude_folds))
    return (
        f"Step {run.step:,} of {experiment.steps:,}, batches of {experiment.batch} from {names}"
        + (f" without fold {folds}" if folds else "")
        + f", seed {experiment.seed}."
    )


# ------------------------------------------------------------------ examples and masks


def _examples(looked: ExampleSet, unseen: bool) -> Section:
    masked = any(e.masked is not None for e in looked.examples)
    reconstructed = any(e.reconstruction is not None for e in looked.examples)
    text = "Time runs to the right."
    if any(e.spectrogram is not None for e in looked.examples):
        text += " Frequency runs upwards; all spectrograms of a clip share one scale."
        text += _stacked(looked)
    if any(e.series for e in looked.examples):
        text += " Slower signals are plotted, a line for each channel."
    if any(e.spectrogram is not None and np.ptp(e.spectrogram[-1]) == 0 for e in looked.examples):
        text += " A plain strip at the end is padding."
    if unseen:
        text += " The clips are of folds that training left out."
    if masked and not reconstructed:
        text += " The method does not reconstruct what is masked."
    cards = [_card(e) for e in looked.examples]
    return Section("Examples", html.paragraph(text) + "".join(cards))


def _stacked(looked: ExampleSet) -> str:
    """Which bins are whose, where the planes of several sensors are one picture."""
    if not looked.sensors:
        return ""
    edges = np.cumsum([0, *(bins for _, bins in looked.sensors)])
    named = ", ".join(
        f"{name} bins {low} to {high - 1}"
        for (name, _), low, high in zip(looked.sensors, edges, edges[1:])
    )
    return (
        " The sensors lie one above the other, the first channel of each; from the bottom: "
        f"{named}. Frequency starts anew in each."
    )


def _card(example: Example) -> str:
    parts = []
    if example.wav is not None:
        label = f"{example.title}, first {example.seconds:.3g} s, evened in loudness"
        parts.append(html.audio(example.wav, label))
    parts.append(html.grid(_pictures(example)))
    masked, explained = example.masked, example.explained
    if masked is not None:
        said = f"{masked.mean():.0%} of the cells are masked"
        if explained is not None and explained > 0:
            said += f"; the reconstruction explains {explained:.0%} of their variance"
        elif explained is not None:
            said += "; the reconstruction is further off than their mean would be"
        parts.append(html.paragraph(f"{said}."))
    return html.card(example.title, *parts)


def _pictures(example: Example) -> Iterator[str]:
    """Figures of what there is: series, the spectrogram, its visible part, the reconstruction."""
    for name, (values, rate) in example.series.items():
        yield html.figure(_series(f"{name} of {example.title}", values, rate), name)
    spec, masked = example.spectrogram, example.masked
    if spec is None:
        return
    limits = (float(np.percentile(spec, 1)), float(np.percentile(spec, 99.7)))

    def picture(name: str, alt: str, values: np.ndarray, hide: np.ndarray | None = None) -> str:
        png = figures.spectrogram_png(values, limits, hide)
        return html.figure(html.image(png, f"{alt} ({example.title})"), name)

    yield picture("Spectrogram", "Spectrogram of the whole clip", spec)
    if masked is not None:
        alt = f"Spectrogram with {masked.mean():.0%} of its cells masked"
        yield picture("Masked input", alt, spec, masked)
    if example.reconstruction is not None:
        alt = "Spectrogram with the masked cells as the model reconstructs them"
        yield picture("Reconstruction", alt, example.reconstruction)


def _series(alt: str, values: np.ndarray, rate: float) -> str:
    """Channels ``[t c]`` over seconds."""
    seconds = (np.arange(len(values)) / rate).tolist()
    lines = [
        figures.Series(
            f"channel {c}", seconds, x.tolist(), figures.COLOURS[c % len(figures.COLOURS)]
        )
        for c, x in enumerate(np.asarray(values, np.float64).T)
    ]
    said = f"{alt}, {len(lines)} channels, {len(values) / rate:.3g} s"
    return figures.curves(said, said, lines, xlabel="seconds")


def _masks(looked: ExampleSet, hop: float | None) -> Section | None:
    fraction = looked.fraction
    if fraction is None:
        return None
    columns, lines = fraction.mean(1), fraction.mean(0)
    said = (
        f"{fraction.mean():.1%} masked on average; columns {columns.min():.1%} to "
        f"{columns.max():.1%}, rows {lines.min():.1%} to {lines.max():.1%}"
    )
    seconds = None if hop is None else hop * len(fraction)
    alt = f"Fraction of masks in which each cell is masked: {said}"
    borders = np.cumsum([bins for _, bins in looked.sensors])[:-1].tolist()
    body = figures.marginals(
        "masks", alt, fraction, masks=looked.masks, seconds=seconds, borders=borders
    )
    text = (
        f"How often a cell is masked, over {looked.masks} masks; above and beside it the means "
        "of columns and rows. A mask without preference is flat up to chance."
    ) + _stacked(looked)
    return Section("Masks", html.paragraph(text) + html.figure(body, "Marginals", said, wide=True))


# ------------------------------------------------------------------ settings


def _settings(experiment: Experiment) -> Section:
    values = flat(to_dict(experiment))
    rows = [(name, _plain(value)) for name, value in values.items() if not name.endswith("type")]
    table = html.table(("field", "value"), rows, caption="config.json of the run")
    return Section("Settings", html.folded(f"All {len(rows)} settings", table))


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items() if k != "type")
    return "none" if value is None else str(value)
