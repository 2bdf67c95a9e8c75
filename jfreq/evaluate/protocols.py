"""The probe protocol: one table of trained encoder, untrained encoder and hand-made features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np

import jfreq
from jfreq import config
from jfreq.config import check, close_match
from jfreq.evaluate import metrics
from jfreq.evaluate.features import (
    Extracted,
    Pool,
    cached,
    extract,
    feature_key,
    spectrogram_statistics,
)
from jfreq.evaluate.knn import knn_scores
from jfreq.evaluate.metrics import Interval, bootstrap, interval, metrics_for, wilson
from jfreq.evaluate.probe import Scaler, fit_logistic, fit_logistic_multi, fit_ridge, probe_scores
from jfreq.evaluate.table import HAND_MADE, TRAINED, UNTRAINED, Report, Result, gains
from jfreq.evaluate.windows import any_length
from jfreq.export.bundle import window_spec
from jfreq.methods.base import Method
from jfreq.state import Trained
from jfreq.types import InputError, SignalSpec

Kind = Literal["logistic", "ridge", "knn"]


class Task(NamedTuple):
    """Labels of one set: ``label`` ``[n]`` or ``[n k]``, and its divisions.

    ``groups``: what belongs together when validation rows are held out, ``[n]`` each, the most
    wanted first (subjects, then folds).
    """

    label: np.ndarray
    classes: int
    groups: tuple[np.ndarray, ...]
    folds: tuple[Fold, ...]


class Fold(NamedTuple):
    """Positions of one train/test division."""

    name: str
    train: np.ndarray
    test: np.ndarray


def probe(
    trained: Trained,
    shards: Any,
    *,
    kinds: Sequence[Kind] = ("logistic", "ridge", "knn"),
    pool: Pool = "clip",
    layer: int | None = None,
    seeds: Sequence[int] = (0,),
    with_baselines: bool = True,
    leave_one_subject_out: bool = False,
    only: Sequence[str] = (),
    batch: int = 32,
    cache: str | Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Report:
    """Linear and nearest-neighbour probes of a frozen encoder on labelled shards.

    Folds come from the shards: k-fold where they have folds, else the ``train`` and ``test``
    splits, else (``leave_one_subject_out``) one fold for each subject. Features are standardised
    by the training rows; C and l2 are chosen inside them. In the same table, if
    ``with_baselines``: the encoder as initialised from each of ``seeds``, and mean and standard
    deviation of the spectrogram. ``only`` names the folds to test on (those that pre-training left
    out); rows longer or shorter than the encoder's window are cut or padded. ``seeds`` also draw
    the inner validation splits. ``cache`` is a folder that keeps features.
    ``progress(features, done, total)`` in rows.

    Raises ``InputError`` for shards without labels, folds or the encoder's signals, and for a
    training fold with a single class.
    """
    from jfreq.methods import build

    for kind in kinds:
        check(kind in get_args(Kind), "kinds", f"{kind!r}{close_match(kind, get_args(Kind))}")
    check(bool(kinds) and bool(seeds), "kinds, seeds", "name at least one of each")
    cfg = trained.experiment.method
    check_signals(cfg.signals, shards)
    rows = labelled_rows(shards)
    folds = divide(shards, rows, leave_one_subject_out=leave_one_subject_out)
    folds = chosen(folds, only)
    method = any_length(build(cfg), cfg.signals)

    def encoded(name: str, params: Any) -> Extracted:
        key = feature_key(config.to_dict(cfg), params, shards, rows, pool=pool, layer=layer)
        return _kept(cache, key, lambda: extract(
            method, params, shards, rows, batch=batch, pool=pool, layer=layer,
            progress=_named(progress, name),
        ))  # fmt: skip

    sources: list[tuple[str, Callable[[int], Extracted], bool]] = []
    sources.append((TRAINED, lambda seed: encoded(TRAINED, trained.params), False))
    if with_baselines:
        fresh = _initialiser(method, cfg.signals)
        sources.append((UNTRAINED, lambda seed: encoded(UNTRAINED, fresh(seed)), True))
        whole = build(cfg.unbind().bind(shards.spec))
        sources.append((HAND_MADE, lambda seed: spectrogram_statistics(
            whole, shards, rows, batch=batch, progress=_named(progress, HAND_MADE)
        ), False))  # fmt: skip
    results = []
    task = None
    for name, make, varies in sources:
        tables = [make(seed) for seed in (seeds if varies else seeds[:1])]
        task = task or make_task(shards, rows, tables[0].label, folds)
        features = [table.x for table in tables] if varies else [tables[0].x] * len(seeds)
        for kind in kinds:
            results += evaluate(name, kind, task, features, seeds=seeds)
    assert task is not None
    if with_baselines and len(folds) > 1:
        results += gains(results)
    return Report(
        data=shards.info.name,
        folds=tuple(fold.name for fold in folds),
        results=tuple(results),
        settings=_settings(trained, shards, task, pool, layer, seeds),
    )


def evaluate(
    name: str, kind: Kind, task: Task, features: Sequence[np.ndarray], *, seeds: Sequence[int]
) -> list[Result]:
    """All metrics of one probe on one kind of features; ``features`` has ``[n d]`` per seed."""
    scores = [
        [_scores(kind, task, x, fold, seed=seed) for fold in task.folds]
        for x, seed in zip(features, seeds)
    ]
    truth = [task.label[fold.test] for fold in task.folds]
    results = []
    for metric, measure in metrics_for(task.label).items():
        table = np.array([[measure(y, x) for y, x in zip(truth, row)] for row in scores])
        per_fold = table.mean(0)
        if len(truth) > 1:
            found = interval(per_fold)
        else:
            found = _single_split(metric, measure, truth[0], [row[0] for row in scores])
        n = sum(map(len, truth))
        results.append(Result(name, kind, metric, *found, tuple(map(float, per_fold)), n))
    return results


def _scores(kind: Kind, task: Task, x: np.ndarray, fold: Fold, *, seed: int) -> np.ndarray:
    """Class scores ``[test rows, classes]``; nothing of the test rows but ``x`` is looked at."""
    train, label, query = x[fold.train], task.label[fold.train], x[fold.test]
    if kind == "knn":
        scale = Scaler.of(train)
        return knn_scores(scale(train), label, scale(query), classes=task.classes)
    logistic = fit_logistic_multi if label.ndim == 2 else fit_logistic
    groups = [group[fold.train] for group in task.groups]
    return probe_scores(
        train,
        label,
        query,
        classes=task.classes,
        fit=fit_ridge if kind == "ridge" else logistic,
        group=next((g for g in groups if len(np.unique(g)) > 1), None),
        seed=seed,
    )[0]


def _single_split(
    name: str, measure: metrics.Metric, label: np.ndarray, scores: Sequence[np.ndarray]
) -> Interval:
    """Mean over seeds; the interval is over test rows (Wilson for accuracy, else bootstrap)."""
    values = []
    for score in scores:
        if name == "accuracy":
            values.append(wilson(int((score.argmax(1) == label).sum()), len(label)))
        else:
            values.append(bootstrap(measure, label, score))
    return Interval(*(float(np.mean(column)) for column in zip(*values)))


def labelled_rows(shards: Any) -> np.ndarray:
    """Rows that carry a label; ``InputError`` where there are none."""
    info, every = shards.info, np.arange(len(shards))
    check(bool(info.labels), info.name, "has no labels to probe; prepare it with labels, "
          "for instance `--labels` or a folder for each class")  # fmt: skip
    rows = every if info.multi_label else np.flatnonzero(shards.column("label") >= 0)
    check(len(rows) > 0, info.name, "no row carries a label")
    return rows


def divide(
    shards: Any, rows: np.ndarray, *, leave_one_subject_out: bool = False
) -> tuple[Fold, ...]:
    """Train/test positions within ``rows``: by subject, by fold, or by split, as the shards say."""
    info = shards.info
    if leave_one_subject_out:
        subject = shards.column("subject")[rows]
        names = sorted(set(subject) - {""})
        check(len(names) >= 2, info.name, "leave-one-subject-out needs two subjects or more")
        return tuple(_fold(str(s), subject == s, subject != "") for s in names)
    fold = shards.column("fold")[rows]
    known = [int(f) for f in np.unique(fold) if f in info.folds]
    if len(known) >= 2:
        inside = np.isin(fold, known)
        return tuple(_fold(f"fold {f}", fold == f, inside) for f in known)
    split = shards.column("split")[rows]
    if (split == "train").any() and (split == "test").any():
        return (_fold("test", split == "test", (split == "train") | (split == "test")),)
    raise InputError(
        f"{info.name}: a probe needs two folds or a train and a test split; it has folds "
        f"{known or 'none'} and splits {', '.join(info.splits) or 'none'}; prepare it with folds"
    )


def chosen(folds: Sequence[Fold], names: Sequence[str]) -> tuple[Fold, ...]:
    """The folds called so (``1`` or ``fold 1``), all for no names; ``InputError`` for others."""
    wanted = {f"fold {name}" if name.isdigit() else name for name in names}
    known = [fold.name for fold in folds]
    check(wanted <= set(known), "folds", f"no {', '.join(sorted(wanted - set(known)))}; the data "
          f"have {', '.join(known)}")  # fmt: skip
    return tuple(fold for fold in folds if not wanted or fold.name in wanted)


def _fold(name: str, test: np.ndarray, inside: np.ndarray) -> Fold:
    return Fold(name, np.flatnonzero(inside & ~test), np.flatnonzero(test))


def make_task(shards: Any, rows: np.ndarray, label: np.ndarray, folds: tuple[Fold, ...]) -> Task:
    """Labels and groups of the rows, checked fold by fold."""
    for fold in folds:
        part = label[fold.train]
        several = len(np.unique(part)) > 1 if label.ndim == 1 else part.any()
        check(bool(several), f"{shards.info.name}, {fold.name}", "its training rows hold a single "
              "class; give the classes to several folds")  # fmt: skip
    groups = tuple(shards.column(name)[rows] for name in ("subject", "fold"))
    return Task(label, len(shards.info.labels), groups, folds)


def check_signals(signals: Sequence[SignalSpec], shards: Any) -> None:
    """``InputError`` unless the shards hold every signal that the encoder reads, at its rate."""
    for wanted in signals:
        found = shards.spec.signal(wanted.name)
        for field in ("rate", "channels"):
            a, b = getattr(found, field), getattr(wanted, field)
            check(a == b, f"{shards.info.name}, {wanted.name}", f"{field} is {a:g}, the encoder "
                  f"reads {b:g}; prepare the set again to match (--rate, --seconds)")  # fmt: skip


def _initialiser(method: Method, signals: Sequence[SignalSpec]) -> Callable[[int], Any]:
    """``seed -> params`` as ``init`` draws them, compiled once."""
    spec = window_spec(signals)
    init = jax.jit(lambda key: method.init(key, spec))
    return lambda seed: init(jax.random.key(seed))


def _kept(cache: str | Path | None, key: Any, compute: Callable[[], Extracted]) -> Extracted:
    return compute() if cache is None else cached(cache, key, compute)


def _named(progress, name: str):
    return None if progress is None else lambda done, total: progress(name, done, total)


def _settings(trained, shards, task, pool, layer, seeds) -> dict[str, Any]:
    """What the table was made with, and what guessing would reach."""
    single = len(task.folds) == 1
    settings = {
        "experiment": trained.experiment.name,
        "method": type(trained.experiment.method).__name__,
        "manifest": shards.manifest_hash,
        "jfreq": jfreq.__version__,
        "pool": pool,
        "layer": layer,
        "seeds": list(seeds),
        "classes": task.classes,
        "rows": len(task.label),
        "interval": "one split, 95 % over test rows (Wilson, bootstrap)"
        if single
        else f"{len(task.folds)} folds, 95 % Student-t over folds",
    }
    if task.label.ndim == 1:
        settings["majority_class"] = float(np.bincount(task.label).max() / len(task.label))
    return settings
