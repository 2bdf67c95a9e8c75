"""The page of a run, from its folder and, where the shards are at hand, from its encoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jfreq.config import Experiment
from jfreq.config_json import flat, to_dict
from jfreq.report import figures, html
from jfreq.report.collect import Run, notices_of, read_run
from jfreq.report.examples import Example, ExampleSet, collect_examples, frame_seconds
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
    step: int | None = None,
    progress: Progress | None = None,
) -> str:
    """The HTML about a run.

    Args:
      folder: of the run.
      data: shards for examples and the probe of the blocks; by default those of the run, if they
        are still there.
      rows: the most rows for the probe of the blocks; 0 for no probe.
      step: the checkpoint to show; None: what the run ends in.
      progress: called with what is done, how much of it, and how much there is.

    Raises:
      InputError: for a folder that is not a run, for ``data`` that do not fit it, and for a
        ``step`` that cannot be read.
    """
    run = read_run(folder)
    notices, sections = notices_of(run), [training(run)]
    shards = _shards(run.experiment, data, notices)
    trained = None
    if step is not None or (shards is not None and run.saved):
        trained = _trained(folder, step, notices)
    trained = None if shards is None else trained
    if trained is not None:
        unseen = _unseen(run, shards)
        examples = collect_examples(trained, shards, unseen=unseen)
        sections += [
            _examples(examples, bool(unseen)),
            _masks(examples, frame_seconds(trained.experiment.method)),
        ]
    sections += [probe(run), few_labels(run)]
    if trained is not None and rows:
        sections += blocks(trained, shards, rows, unseen, progress)
    sections.append(_settings(run.experiment))
    return html.page(
        run.experiment.name,
        kind=f"jfreq run · {type(run.experiment.method).__name__}",
        lead=_lead(run),
        notices=notices,
        sections=[s for s in sections if s is not None],
        footer=run.written,
    )


def _shards(experiment: Experiment, data: Sequence[str | Path], notices: list[str]) -> Any:
    """The shards; None, with a notice that says why, where there are none."""
    from jfreq.data.fold_assignment import open_data
    from jfreq.data.shards.reader import open_shards
    from jfreq.evaluate.probe_protocol import check_signals

    try:
        shards = open_shards(data) if data else open_data(experiment.data)
        check_signals(experiment.method.signals, shards)
    except InputError as error:
        if data:
            raise
        notices.append(
            f"Examples, masks and the probe of the blocks are left out: {error}. Give the shards "
            "with --data."
        )
        return None
    return shards


def _trained(folder: Path, step: int | None, notices: list[str]) -> Trained | None:
    """The checkpoint of ``step``, else the newest readable one; None, with a notice, where there
    is none."""
    try:
        found = checkpoint.load_run(folder, step=step)
        if found.checkpoint:
            notices.append(f"What needs the encoder is shown for {found.checkpoint}.")
        return found
    except InputError as error:
        if step is not None:
            raise
        notices.append(f"Nothing that needs the encoder is shown: {error}.")
        return None


def _unseen(run: Run, shards: Any) -> tuple[int, ...]:
    """The folds of these shards that training left out; none where it was trained on others."""
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


def _examples(examples: ExampleSet, unseen: bool) -> Section:
    masked = any(e.masked is not None for e in examples.examples)
    reconstructed = any(e.reconstruction is not None for e in examples.examples)
    text = "Time runs to the right."
    if any(e.spectrogram is not None for e in examples.examples):
        text += " Frequency runs upwards; all spectrograms of a clip share one scale."
        text += _stacked(examples)
    if any(e.series for e in examples.examples):
        text += " Slower signals are plotted, a line for each channel."
    if any(e.spectrogram is not None and np.ptp(e.spectrogram[-1]) == 0 for e in examples.examples):
        text += " A plain strip at the end is padding."
    if unseen:
        text += " The clips are of folds that training left out."
    if masked and not reconstructed:
        text += " The method does not reconstruct what is masked."
    cards = [_card(e) for e in examples.examples]
    return Section("Examples", html.paragraph(text) + "".join(cards))


def _stacked(examples: ExampleSet) -> str:
    """Says which bins belong to which sensor, where several are stacked in one picture."""
    if not examples.sensors:
        return ""
    edges = np.cumsum([0, *(bins for _, bins in examples.sensors)])
    named = ", ".join(
        f"{name} bins {low} to {high - 1}"
        for (name, _), low, high in zip(examples.sensors, edges, edges[1:])
    )
    return (
        " The first channels of the sensors are stacked; from the bottom: "
        f"{named}. In each, frequency starts anew."
    )


def _card(example: Example) -> str:
    parts = []
    if example.wav is not None:
        label = f"{example.title}, first {example.seconds:.3g} s, normalised in loudness"
        parts.append(html.audio(example.wav, label))
    parts.append(html.grid(_pictures(example)))
    masked, explained = example.masked, example.explained
    if masked is not None:
        text = f"{masked.mean():.0%} of the cells are masked"
        if explained is not None and explained > 0:
            text += f"; the reconstruction explains {explained:.0%} of their variance"
        elif explained is not None:
            text += "; the reconstruction has a larger error than their mean would have"
        parts.append(html.paragraph(f"{text}."))
    return html.card(example.title, *parts)


def _pictures(example: Example) -> Iterator[str]:
    """Figures of the series, the spectrogram, the masked spectrogram and the reconstruction."""
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
    """A figure of the channels ``values`` ``[t c]`` over seconds."""
    seconds = (np.arange(len(values)) / rate).tolist()
    lines = [
        figures.Series(
            f"channel {c}", seconds, x.tolist(), figures.COLOURS[c % len(figures.COLOURS)]
        )
        for c, x in enumerate(np.asarray(values, np.float64).T)
    ]
    alt = f"{alt}, {len(lines)} channels, {len(values) / rate:.3g} s"
    return figures.curves(alt, alt, lines, xlabel="seconds")


def _masks(examples: ExampleSet, hop: float | None) -> Section | None:
    fraction = examples.fraction
    if fraction is None:
        return None
    columns, lines = fraction.mean(1), fraction.mean(0)
    summary = (
        f"{fraction.mean():.1%} masked on average; columns {columns.min():.1%} to "
        f"{columns.max():.1%}, rows {lines.min():.1%} to {lines.max():.1%}"
    )
    seconds = None if hop is None else hop * len(fraction)
    alt = f"Fraction of masks in which each cell is masked: {summary}"
    borders = np.cumsum([bins for _, bins in examples.sensors])[:-1].tolist()
    body = figures.marginals(
        "masks", alt, fraction, masks=examples.masks, seconds=seconds, borders=borders
    )
    text = (
        f"How often a cell is masked in {examples.masks} masks; above and beside it the means of "
        "columns and rows, which are flat up to chance where masks have no preference."
    ) + _stacked(examples)
    return Section(
        "Masks", html.paragraph(text) + html.figure(body, "Marginals", summary, wide=True)
    )


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
