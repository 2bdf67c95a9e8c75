"""Results of probes on the page: tables, few labels, blocks, and the confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jfreq.data.fold_assignment import advice_without_folds, refolded, suggested_folds
from jfreq.evaluate.layers import Layers, probe_layers
from jfreq.evaluate.results import HAND_CRAFTED, TRAINED, UNTRAINED
from jfreq.report import figures, html
from jfreq.report.collect import Run, is_known
from jfreq.report.html import Cell, Section
from jfreq.train.state import Trained
from jfreq.types import InputError

MANY_CLASSES = 50
"""The most classes of a confusion matrix that fits a page."""
Progress = Callable[[str, int, int], None]
FEATURES = {TRAINED: "c1", UNTRAINED: "c2", HAND_CRAFTED: "c8"}


def probe(run: Run) -> Section | None:
    """The table that ``jfreq probe`` or ``finetune`` left in the folder."""
    report = run.results
    if report is None:
        return None
    results = report["results"]
    metrics = list(dict.fromkeys(r["metric"] for r in results))
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for r in results:
        lines.setdefault((r["features"], r["kind"]), {})[r["metric"]] = r
    main = [r for r in results if r["metric"] == metrics[0] and r["features"] in FEATURES]
    main.sort(key=lambda r: r["kind"])
    rows = [
        figures.Estimate(
            f"{r['kind']}, {r['features']}", r["mean"], r["low"], r["high"], FEATURES[r["features"]]
        )
        for r in main
        if r["mean"] is not None
    ]
    settings = report.get("settings") or {}
    text = f"On {report['data']}: {settings.get('interval', '95 % intervals')}."
    if is_known(guess := settings.get("majority_class")):
        text += f" Always guessing the largest class reaches an accuracy of {guess:.3f}."
    text += "".join(f" Note: {note}." for note in settings.get("notes", ()))
    parts = [html.paragraph(text)]
    if rows:
        alt = "; ".join(f"{row.label} {row.mean:.3f}" for row in rows)
        picture = figures.forest("probe", f"{metrics[0]}: {alt}", rows, xlabel=metrics[0])
        parts.append(html.figure(picture, metrics[0], "mean and 95 % interval", wide=True))
    table = html.table(
        ["features", "probe", *metrics],
        (
            [features, kind, *(estimate(line.get(m)) for m in metrics)]
            for (features, kind), line in lines.items()
        ),
        caption="Means with 95 % intervals",
    )
    return Section(str(report.get("title", "Probe")), "".join([*parts, table]))


def few_labels(run: Run) -> Section | None:
    """The curves that ``jfreq probe`` or ``finetune`` left with ``--fractions``."""
    report = run.fractions
    if report is None:
        return None
    metric = report["results"][0]["metric"]
    lines: dict[tuple[str, str], dict[float, dict[str, Any]]] = {}
    for r in report["results"]:
        if r["metric"] == metric and is_known(r.get("fraction")) and " - " not in r["features"]:
            lines.setdefault((r["kind"], r["features"]), {})[r["fraction"]] = r
    fractions = sorted({fraction for line in lines.values() for fraction in line})
    if not fractions:
        return None
    interval = (report.get("settings") or {}).get("interval", "95 % intervals")
    parts = [html.paragraph(f"On {report['data']}: {interval}.")]
    for kind in dict.fromkeys(kind for kind, _ in lines):
        of_kind = {features: line for (k, features), line in lines.items() if k == kind}
        bands = [_band(features, line) for features, line in of_kind.items()]
        alt = "; ".join(
            f"{b.label} {b.mean[0]:.3f} to {b.mean[-1]:.3f}"
            for b in bands
            if is_known(b.mean[0]) and is_known(b.mean[-1])
        )
        picture = figures.bands(
            f"labels-{kind}", f"{metric} by labels, {kind}: {alt}", bands, ylabel=metric
        )
        parts.append(html.figure(picture, f"{metric}, {kind}", "95 % intervals", wide=True))
    table = html.table(
        ["features", "probe", *(f"{100 * fraction:g} %" for fraction in fractions)],
        (
            [features, kind, *(estimate(line.get(fraction)) for fraction in fractions)]
            for (kind, features), line in lines.items()
        ),
        caption=f"{metric} by fraction of the labels",
    )
    return Section("Few labels", "".join([*parts, table]))


def _band(features: str, line: Mapping[float, Mapping[str, Any]]) -> figures.Band:
    fractions = sorted(line)
    mean, low, high = ([line[f][k] for f in fractions] for k in ("mean", "low", "high"))
    return figures.Band(features, fractions, mean, low, high, FEATURES.get(features, "c1"))


def estimate(row: Mapping[str, Any] | None, sign: str = "") -> Cell:
    """A mean and its interval as a cell."""
    if row is None or row["mean"] is None:
        return Cell("-")
    known = row["low"] is not None and row["high"] is not None
    small = f"{row['low']:{sign}.3f} to {row['high']:{sign}.3f}" if known else ""
    return Cell(f"{row['mean']:{sign}.3f}", small)


def blocks(
    trained: Trained, shards: Any, limit: int, unseen: Sequence[int], progress: Progress | None
) -> list[Section | None]:
    """The ridge probe of each block and the confusion matrix.

    Args:
      trained: the encoder.
      shards: labelled rows.
      limit: the most rows to probe.
      unseen: folds that training left out; only these are tested on if there are any.
      progress: called with what is done, how much of it, and how much there is.

    Returns:
      The sections; a single one with the reason where the data cannot be probed.
    """
    only = tuple(map(str, unseen))
    shards, note = _with_folds(shards)
    show = None if progress is None else lambda done, total: progress("probe", done, total)
    try:
        layers = probe_layers(trained, shards, limit=limit, only=only, progress=show)
    except InputError as error:
        return [Section("Blocks", html.paragraph(f"There is no probe of the blocks: {error}."))]
    metric = layers.results[0].metric
    rows = [
        figures.Estimate(r.features, r.mean, *_bounds(r.low, r.high), "c1" if i else "c2")
        for i, r in enumerate(layers.results)
    ]
    alt = "; ".join(f"{row.label} {row.mean:.3f}" for row in rows)
    text = (
        f"A quick ridge probe of the frozen encoder on {layers.rows:,} of {layers.labelled:,} "
        f"labelled rows, tested on {', '.join(layers.folds)}"
        + (", which training left out" if only else "")
        + note
        + ". The features of a block are the mean over its tokens."
    )
    if trained.experiment.method.supervised and not only:
        text += " The encoder may have been trained on the labels of the test rows."
    picture = figures.forest("blocks", f"{metric}: {alt}", rows, xlabel=metric)
    parts = [html.paragraph(text), html.figure(picture, metric, "95 % interval", wide=True)]
    return [Section("Blocks", "".join(parts)), _confusion(layers)]


def _with_folds(shards: Any) -> tuple[Any, str]:
    """The shards, with folds made for this probe where they have none, and a note about these."""
    subject = shards.column("subject")
    if not advice_without_folds(shards.info, subject):
        return shards, ""
    try:
        divided, _ = refolded(shards, suggested_folds(len(set(subject) - {""})))
    except InputError:
        return shards, ""
    return divided, f", folds of whole {divided.info.fold_by}s that were made for this probe"


def _bounds(low: float, high: float) -> tuple[float | None, float | None]:
    return (low, high) if math.isfinite(low) and math.isfinite(high) else (None, None)


def _confusion(layers: Layers) -> Section | None:
    counts = layers.confusion
    if counts is None:
        return None
    right, total = int(np.trace(counts)), int(counts.sum())
    text = (
        f"A ridge probe of the clip vector predicts {right:,} of {total:,} test rows correctly. "
        "Rows of the matrix are the true classes; the shade is the fraction of the row."
    )
    parts = [html.paragraph(text)]
    if len(counts) <= MANY_CLASSES:
        alt = f"Confusion matrix of {len(counts)} classes, {right} of {total} correct"
        body = figures.confusion("confusion", alt, counts, layers.labels)
        parts.append(html.figure(body, "Confusion", "true by row, predicted by column", wide=True))
    wrong = counts - np.diag(np.diag(counts))
    order = [divmod(int(i), len(counts)) for i in np.argsort(-wrong, axis=None, kind="stable")[:10]]
    worst = [
        (layers.labels[i], layers.labels[j], str(wrong[i, j])) for i, j in order if wrong[i, j]
    ]
    if worst:
        table = html.table(("true", "predicted", "rows"), worst, caption="Most frequent confusions")
        parts.append(table)
    return Section("Confusion", "".join(parts))
