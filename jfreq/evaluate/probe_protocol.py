"""The probe protocol: trained encoder, untrained encoder and hand-crafted features in one table."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import numpy as np

import jfreq
from jfreq import config_json, metrics, ranges
from jfreq.config import check, close_match, replace
from jfreq.evaluate.any_length import for_any_length, with_rescaled_length
from jfreq.evaluate.features import (
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
from jfreq.evaluate.probe import (
    fit_logistic,
    fit_logistic_multi,
    fit_ridge,
    probe_scores,
    standardised,
)
from jfreq.evaluate.results import HAND_CRAFTED, TRAINED, UNTRAINED, Report, Result, gains
from jfreq.method import window_spec
from jfreq.metrics import Interval, bootstrap, interval_of, metrics_for, wilson
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
    repeats: Repeats = 5,
    at_least_one: bool = False,
    batch: Count = 32,
    cache: str | Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Report:
    """Linear and nearest-neighbour probes of a frozen encoder on labelled shards.

    Folds are those of the shards, else their ``train`` and ``test`` splits;
    :func:`jfreq.data.fold_assignment.refolded` makes others. Rows longer or shorter than the window
    of the encoder are cut or padded. Features are standardised by the training rows, in which also
    C and l2 are chosen.

    With ``fractions`` every probe is fitted on samples of the training rows; the test rows are not
    sampled, and features are computed once. Over several folds the interval is over folds, of means
    over repeats; on a single split it is over repeats.

    Args:
      trained: the encoder; its parameters stay as they are.
      shards: rows with labels.
      kinds: the probes.
      pool: how the tokens of a row become one vector.
      layer: the block (-1 is the last) whose tokens are probed instead of the output.
      seeds: of the untrained encoder and of the inner validation splits.
      with_baselines: also probe the encoder as initialised from each of ``seeds``, and mean and
        standard deviation of the spectrogram.
      leave_one_subject_out: one fold for each subject.
      only: names of the folds to test on, for instance those that pre-training left out; ``test``
        is the test split.
      train_split: split to train on, in place of folds and of ``train``.
      test_split: split to test on, in place of folds and of ``test``.
      fractions: of the training rows, sampled in proportion to the classes.
      repeats: how often each fraction is sampled.
      at_least_one: a class that a fraction leaves without a row keeps one.
      batch: rows that are encoded at a time.
      cache: a folder that stores features for later calls.
      progress: called with what is done, how much of it, and how much there is: rows that are
        encoded, then probes.

    Raises:
      InputError: for shards without labels, without folds or without the signals of the encoder; a
        subject (else a recording) among both training and test rows; a training fold with a single
        class or without a class of the test rows; a fraction that leaves a class without a row.
    """
    for kind in kinds:
        check(
            kind in get_args(Kind),
            "kinds",
            f"unknown {kind!r}{close_match(kind, get_args(Kind))}; choose from "
            f"{', '.join(get_args(Kind))}",
        )
    check(bool(kinds) and bool(seeds), "kinds, seeds", "give at least one of each")
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
        repeats=repeats,
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
    """Yields the name of each kind of features and, for each seed, the features ``[n d]``."""
    cfg = trained.experiment.method
    method = for_any_length(cfg, shards.spec)

    def encoded(name: str, params: Any) -> np.ndarray:
        compute = functools.partial(
            extract,
            method,
            params,
            shards,
            rows,
            batch=batch,
            pool=pool,
            layer=layer,
            progress=_named(progress, name),
        )
        if cache is None:
            return compute().x
        key = feature_key(config_json.to_dict(cfg), params, shards, rows, pool=pool, layer=layer)
        return cached(cache, key, compute).x

    yield TRAINED, [encoded(TRAINED, trained.params)] * len(seeds)
    if with_baselines:
        init = jax.jit(method.init)
        yield UNTRAINED, [encoded(UNTRAINED, init(jax.random.key(seed))) for seed in seeds]
        # A front end is bound to whole rows; without one the raw signals are described.
        example = jax.eval_shape(cfg.with_spectrogram, window_spec(cfg.signals))
        whole = cfg.unbind().bind(shards.spec) if "spectrogram" in example else cfg
        whole = with_rescaled_length(whole, shards.spec)
        statistics = spectrogram_statistics(
            whole, shards, rows, batch=batch, progress=_named(progress, HAND_CRAFTED)
        )
        yield HAND_CRAFTED, [statistics.x] * len(seeds)


def evaluate(
    name: str,
    kind: Kind,
    task: Task,
    features: Sequence[np.ndarray],
    *,
    seeds: Sequence[int],
    subset: LabelSubset | None = None,
) -> list[Result]:
    """All metrics of one probe on one kind of features.

    Args:
      name: of the features.
      kind: of the probe.
      task: labels and folds.
      features: ``[n d]`` for each seed.
      seeds: of the inner validation splits.
      subset: samples of the training rows; None for all of them.
    """
    repeats = (task.folds,) if subset is None else subset.repeats
    scores = [
        [
            [fold_scores(kind, task, x, fold, seed=seed) for fold in folds]
            for x, seed in zip(features, seeds)
        ]
        for folds in repeats
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
        elif len(repeats) > 1:
            over, estimate = "repeats", interval_of(metric, table[:, 0])
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


def fold_scores(kind: Kind, task: Task, x: np.ndarray, fold: Fold, *, seed: int) -> np.ndarray:
    """Fits a probe on the training rows of a fold and scores its test rows.

    Args:
      kind: of the probe.
      task: labels and groups; the labels of the test rows are not read.
      x: features of all rows, ``[n d]``.
      fold: the training and test rows.
      seed: of the inner validation splits.

    Returns:
      Class scores ``[test rows, classes]``.
    """
    train, label, query = x[fold.train], task.label[fold.train], x[fold.test]
    if kind == "knn":
        rows, queries = standardised(train, query)
        return knn_scores(rows, label, queries, classes=task.classes)
    logistic = fit_logistic_multi if label.ndim == 2 else fit_logistic
    return probe_scores(
        train,
        label,
        query,
        classes=task.classes,
        fit=fit_ridge if kind == "ridge" else logistic,
        group=task.validation_group(fold),
        seed=seed,
    )[0]


def single_split(
    name: str, measure: metrics.Metric, label: np.ndarray, scores: Sequence[np.ndarray]
) -> Interval:
    """The mean over seeds of a metric on one test set, and its interval over test rows.

    Args:
      name: of the metric. The interval is that of Wilson for accuracy, else by bootstrap.
      measure: the metric.
      label: ``[n]`` or ``[n k]``.
      scores: ``[n k]`` for each seed.
    """
    values = []
    for score in scores:
        if name == "accuracy":
            values.append(wilson(int((score.argmax(1) == label).sum()), len(label)))
        else:
            values.append(bootstrap(measure, label, score))
    return Interval(*(float(np.mean(column)) for column in zip(*values)))


def _named(
    progress: Callable[[str, int, int], None] | None, name: str
) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(name, done, total)


def _settings(trained, shards, task, pool, layer, seeds, subsets) -> dict[str, Any]:
    """The settings of the table, its notes, and the score of always guessing the largest class."""
    repeats = max((len(subset.repeats) for subset in subsets), default=1)
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
        "interval": _interval_over(len(task.folds), repeats),
    }
    notes = list(remarks(shards, task.label, task.folds))
    if trained.checkpoint:
        notes.append(f"the encoder is that of {trained.checkpoint}")
    if notes:
        settings["notes"] = notes
    if task.label.ndim == 1:
        settings["majority_class"] = float(np.bincount(task.label).max() / len(task.label))
    return settings


def _interval_over(folds: int, repeats: int) -> str:
    """What the intervals of a table are over."""
    if folds > 1:
        means = f", of means over {repeats} samples of the labels" if repeats > 1 else ""
        return f"{folds} folds, 95 % Student-t over folds{means}"
    rows = "95 % over test rows (Wilson, bootstrap)"
    if repeats > 1:
        return (
            f"one split, 95 % Student-t over {repeats} samples of the labels; for all labels {rows}"
        )
    return f"one split, {rows}"
