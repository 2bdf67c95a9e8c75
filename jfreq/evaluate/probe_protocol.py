"""The probe protocol: one table of trained encoder, untrained encoder and hand-crafted features."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import numpy as np

import jfreq
from jfreq import config_json, ranges
from jfreq.config import check, close_match, replace
from jfreq.evaluate import metrics
from jfreq.evaluate.any_length import fitted, with_own_length
from jfreq.evaluate.features import (
    Extracted,
    Pool,
    cached,
    extract,
    feature_key,
    spectrogram_statistics,
)
from jfreq.evaluate.folds import (
    Fold,
    Task,
    check_signals,
    divide,
    labelled_rows,
    make_task,
    remarks,
)
from jfreq.evaluate.knn import knn_scores
from jfreq.evaluate.label_subsets import LabelSubset, label_subsets
from jfreq.evaluate.metrics import Interval, bootstrap, interval_of, metrics_for, wilson
from jfreq.evaluate.probe import (
    fit_logistic,
    fit_logistic_multi,
    fit_ridge,
    probe_scores,
    standardised,
)
from jfreq.evaluate.results import HAND_MADE, TRAINED, UNTRAINED, Report, Result, gains
from jfreq.method import Method, window_spec
from jfreq.ranges import Count, Integer, Repeats, Seed, checked_call
from jfreq.train.state import Trained

Kind = Literal["logistic", "ridge", "knn"]


@checked_call
def probe(
    trained: Trained,
    shards: Any,
    *,
    kinds: Sequence[Kind] = ("logistic", "ridge", "knn"),
    pool: Pool = "clip",
    layer: Integer | None = None,
    seeds: Sequence[Seed] = (0,),
    with_baselines: bool = True,
    leave_one_subject_out: bool = False,
    only: Sequence[str] = (),
    train_split: str | None = None,
    test_split: str | None = None,
    fractions: Sequence[ranges.Fraction] = (),
    draws: Repeats = 5,
    at_least_one: bool = False,
    batch: Count = 32,
    cache: str | Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Report:
    """Linear and nearest-neighbour probes of a frozen encoder on labelled shards.

    Folds come from the shards: k-fold where they have folds, else the ``train`` and ``test``
    splits, or those named by ``train_split`` and ``test_split``, or (``leave_one_subject_out``) one
    fold for each subject; :func:`jfreq.data.fold_assignment.refolded` makes others. Features are
    standardised by the training rows; C and l2 are chosen inside them. In the same table, if
    ``with_baselines``: the encoder as initialised from each of ``seeds``, and mean and standard
    deviation of the spectrogram. ``only`` names the folds to test on (those that pre-training left
    out; ``test`` for the set's own split); rows longer or shorter than the encoder's window are cut
    or padded. ``seeds`` also draw the inner validation splits.

    ``fractions``: probe with these fractions of the training rows, each drawn ``draws`` times in
    proportion to the classes (:func:`jfreq.data.loading.label_subsets.sample`, which
    ``at_least_one`` is for); the test rows stay, and features are computed once. Only the drawn
    rows standardise and validate. With several folds the interval is over folds, of means over
    draws; on a single split it is over draws.

    ``cache`` is a folder that keeps features. ``progress(what, done, total)`` in rows, then in
    probes.

    Raises ``InputError`` for shards without labels, folds or the encoder's signals, for a subject
    (else a recording) on both sides, for a training fold with a single class or without a class
    of the test rows, and for a fraction of the labels that leaves a class empty.
    """
    for kind in kinds:
        check(kind in get_args(Kind), "kinds", f"{kind!r}{close_match(kind, get_args(Kind))}")
    check(bool(kinds) and bool(seeds), "kinds, seeds", "name at least one of each")
    cfg = trained.experiment.method
    check_signals(cfg.signals, shards)
    rows = labelled_rows(shards)
    folds = divide(
        shards,
        rows,
        leave_one_subject_out=leave_one_subject_out,
        only=only,
        train_split=train_split,
        test_split=test_split,
    )
    task = make_task(shards, rows, folds)
    subsets = label_subsets(
        task,
        fractions,
        draws=draws,
        at_least_one=at_least_one,
        names=shards.info.labels,
        where=shards.info.name,
    )
    results = []
    for name, features in _features(
        trained,
        shards,
        rows,
        pool=pool,
        layer=layer,
        seeds=seeds,
        with_baselines=with_baselines,
        batch=batch,
        cache=cache,
        progress=progress,
    ):
        jobs = list(itertools.product(kinds, subsets or (None,)))
        for done, (kind, subset) in enumerate(jobs):
            results += evaluate(name, kind, task, features, seeds=seeds, subset=subset)
            if progress is not None and fractions:
                progress(f"probes, {name}", done + 1, len(jobs))
    if with_baselines:
        results += gains(results)
    return Report(
        data=shards.info.name,
        folds=tuple(fold.name for fold in folds),
        results=tuple(results),
        settings=_settings(trained, shards, task, pool, layer, seeds, subsets),
    )


def _features(
    trained: Trained,
    shards: Any,
    rows: np.ndarray,
    *,
    pool: Pool,
    layer: int | None,
    seeds: Sequence[int],
    with_baselines: bool,
    batch: int,
    cache: str | Path | None,
    progress: Callable[[str, int, int], None] | None,
) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Each kind of features by name: ``[n d]`` for each of ``seeds``."""
    cfg = trained.experiment.method
    method = fitted(cfg, shards.spec)

    def encoded(name: str, params: Any) -> np.ndarray:
        key = feature_key(config_json.to_dict(cfg), params, shards, rows, pool=pool, layer=layer)
        return _kept(
            cache,
            key,
            lambda: extract(
                method,
                params,
                shards,
                rows,
                batch=batch,
                pool=pool,
                layer=layer,
                progress=_named(progress, name),
            ),
        ).x

    yield TRAINED, [encoded(TRAINED, trained.params)] * len(seeds)
    if with_baselines:
        fresh = _initialiser(method)
        yield UNTRAINED, [encoded(UNTRAINED, fresh(seed)) for seed in seeds]
        # The front end of whole rows; without one the raw signals are described, bound or not.
        example = jax.eval_shape(cfg.with_spectrogram, window_spec(cfg.signals))
        whole = cfg.unbind().bind(shards.spec) if "spectrogram" in example else cfg
        whole = with_own_length(whole, shards.spec)
        statistics = spectrogram_statistics(
            whole, shards, rows, batch=batch, progress=_named(progress, HAND_MADE)
        )
        yield HAND_MADE, [statistics.x] * len(seeds)


def evaluate(
    name: str,
    kind: Kind,
    task: Task,
    features: Sequence[np.ndarray],
    *,
    seeds: Sequence[int],
    subset: LabelSubset | None = None,
) -> list[Result]:
    """All metrics of one probe on one kind of features, trained on the rows of ``subset`` or on
    all; ``features`` has ``[n d]`` per seed."""
    draws = (task.folds,) if subset is None else subset.draws
    scores = [
        [
            [_scores(kind, task, x, fold, seed=seed) for fold in folds]
            for x, seed in zip(features, seeds)
        ]
        for folds in draws
    ]
    truth = [task.label[fold.test] for fold in task.folds]
    results = []
    for metric, measure in metrics_for(task.label).items():
        table = np.array(
            [[[measure(y, x) for y, x in zip(truth, row)] for row in part] for part in scores]
        ).mean(1)
        per_fold = table.mean(0)
        if len(truth) > 1:
            over, estimate = "folds", interval_of(metric, per_fold)
        elif len(draws) > 1:
            over, estimate = "draws", interval_of(metric, table[:, 0])
        else:
            over = "test rows"
            estimate = single_split(metric, measure, truth[0], [row[0] for row in scores[0]])
        values, n = tuple(map(float, per_fold)), sum(map(len, truth))
        result = Result(name, kind, metric, *estimate, values, n, over=over)
        if subset is not None:
            runs = tuple(tuple(map(float, column)) for column in table.T)
            result = replace(result, fraction=subset.fraction, rows=subset.rows, runs=runs)
        results.append(result)
    return results


def _scores(kind: Kind, task: Task, x: np.ndarray, fold: Fold, *, seed: int) -> np.ndarray:
    """Class scores ``[test rows, classes]``; nothing of the test rows but ``x`` is looked at."""
    train, label, query = x[fold.train], task.label[fold.train], x[fold.test]
    if kind == "knn":
        rows, queries = standardised(train, query)
        return knn_scores(rows, label, queries, classes=task.classes)
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


def single_split(
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


def _initialiser(method: Method) -> Callable[[int], Any]:
    """``seed -> params`` as ``init`` draws them, compiled once."""
    init = jax.jit(method.init)
    return lambda seed: init(jax.random.key(seed))


def _kept(cache: str | Path | None, key: Any, compute: Callable[[], Extracted]) -> Extracted:
    return compute() if cache is None else cached(cache, key, compute)


def _named(progress, name: str):
    return None if progress is None else lambda done, total: progress(name, done, total)


def _settings(trained, shards, task, pool, layer, seeds, subsets) -> dict[str, Any]:
    """What the table was made with, and what guessing would reach."""
    draws = max((len(subset.draws) for subset in subsets), default=1)
    settings = {
        "experiment": trained.experiment.name,
        "method": type(trained.experiment.method).__name__,
        "seed": trained.experiment.seed,
        "manifest": shards.manifest_hash,
        "fold_by": shards.info.fold_by,
        "jfreq": jfreq.__version__,
        "pool": pool,
        "layer": layer,
        "seeds": list(seeds),
        "classes": task.classes,
        "rows": len(task.label),
        "interval": _interval_over(len(task.folds), draws),
    }
    if notes := remarks(shards, task.label, task.folds):
        settings["notes"] = list(notes)
    if task.label.ndim == 1:
        settings["majority_class"] = float(np.bincount(task.label).max() / len(task.label))
    return settings


def _interval_over(folds: int, draws: int) -> str:
    """What the intervals of a table are over, in words."""
    if folds > 1:
        of = f", of means over {draws} draws of the labels" if draws > 1 else ""
        return f"{folds} folds, 95 % Student-t over folds{of}"
    rows = "95 % over test rows (Wilson, bootstrap)"
    if draws > 1:
        return f"one split, 95 % Student-t over {draws} draws of the labels; a single draw: {rows}"
    return f"one split, {rows}"
