"""Fine-tuning: an encoder and a classifier trained together, one run for each fold."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import jfreq
from jfreq import distributed
from jfreq.config import Experiment, Source, check, replace
from jfreq.config_json import flat, to_dict
from jfreq.data.fold_assignment import open_data
from jfreq.data.loading.held_out import divide_rows
from jfreq.evaluate.folds import FINE_TUNING, Fold, check_classes, divide, labelled_rows, remarks
from jfreq.evaluate.predictions import (
    FILE,
    Predictions,
    Snapshots,
    predict,
    read_predictions,
    write_predictions,
)
from jfreq.evaluate.probe_protocol import single_split
from jfreq.evaluate.results import Report, Result, joined, over_seeds
from jfreq.files import read_json, write_json
from jfreq.metrics import interval_of, metrics_for
from jfreq.ranges import Fraction, Repeats, checked_call
from jfreq.staging import staged
from jfreq.train.average import check_snapshots, snapshot_steps
from jfreq.train.optimizer import follows_plateau
from jfreq.train.run_folder import CONFIG, read_config
from jfreq.train.watch import check_watched
from jfreq.types import InputError

TEST = "test.json"
MAY_DIFFER = (
    "log",
    "evals",
    "mesh",
    "checkpoint.every",
    "checkpoint.minutes",
    "checkpoint.keep",
    "checkpoint.keep_every",
    "data.threads",
    "data.backend",
    "data.memory_mb",
    "data.path",
    "data.cache",
)
"""Fields that may differ between a finished fold and the call that would use it again."""


@staged("workdir")
def finetune(
    experiment: Experiment,
    workdir: Path,
    *,
    folds: tuple[str, ...] = (),
    train_split: str | None = None,
    test_split: str | None = None,
) -> Report:
    """Tests on each held-out fold after training on the others; finished folds are not repeated.

    Writes ``results.json`` and, for each fold, a run folder with ``predictions.npz``. With
    ``average.of`` set to predictions these are the mean over the snapshots of the run.

    Args:
      experiment: from :func:`jfreq.evaluate.finetune_experiment.experiment_for`. With
        ``data.label_fraction`` only that fraction of the training rows is read; without
        ``checkpoint.init_from`` training is from scratch.
      workdir: the folder to write to.
      folds: names of the held-out folds (``1`` or ``fold 1``; ``test`` for the test split); all
        where it is empty.
      train_split: split to train on, in place of folds and of ``train``.
      test_split: split to test on, in place of folds and of ``test``.

    Raises:
      InputError: for data without labels or folds, a subject (else a recording) among both
        training and test rows, a class of the test rows that is not trained, a fraction that
        leaves a class without a row, validation on test rows, and a ``workdir`` that holds other
        fine-tuning.
    """
    shards, rows, jobs, counts = _jobs(experiment, workdir, folds, train_split, test_split)
    predictions, tested = [], []
    for fold, cfg in jobs:
        folder = workdir / _folder_name(fold)
        read = _tested_before(folder, cfg, shards)
        if read is None:
            fresh, read = _tested(cfg, folder, shards, rows[fold.test])
            if distributed.is_chief():
                _store(folder, fresh, read, cfg, shards)
            predictions.append(fresh)
        else:
            predictions.append(read_predictions(folder))
        tested.append(read)
    held_out = tuple(fold for fold, _ in jobs)
    report = _report(experiment, shards, held_out, tested, predictions, float(np.mean(counts)))
    if distributed.is_chief():
        report.save(workdir / "results.json")
    return report


def _tested(
    cfg: Experiment, folder: Path, shards: Any, rows: np.ndarray
) -> tuple[Predictions, str]:
    """Trains for a fold, and predicts its test rows ``rows`` ``[n]``; with them what a report says
    of the checkpoint that was tested."""
    from jfreq.train.loop import train

    if cfg.average.of == "weights":
        trained = train(cfg, folder)
        return predict(trained, shards, rows), trained.checkpoint
    snapshots = Snapshots(folder, shards, rows)
    method = train(cfg, folder, on_snapshot=snapshots).experiment.method
    return snapshots.averaged(snapshot_steps(cfg.average, cfg.steps), method.scores), ""


@staged("workdir")
@checked_call
def by_fraction(
    experiment: Experiment,
    workdir: Path,
    fractions: Sequence[Fraction],
    *,
    repeats: Repeats = 3,
    folds: tuple[str, ...] = (),
    train_split: str | None = None,
    test_split: str | None = None,
) -> Report:
    """Fine-tunes with several fractions of the labels; other arguments as :func:`finetune`.

    Args:
      fractions: of the training rows.
      repeats: trainings with each fraction. Each has its own seed and its own sample of labels, and
        its folder ``workdir/FRACTION/REPEAT``; finished ones are not repeated.

    Returns:
      For each fraction the mean and the interval over trainings.

    Raises:
      InputError: as :func:`finetune`, for all fractions before the first training.
    """
    wanted = sorted(set(fractions))
    check(len(wanted) == len(fractions) > 0, "fractions", f"name each once, got {list(fractions)}")
    plan = [
        [(_repeat(experiment, x, i), workdir / f"{x:g}" / str(i)) for i in range(repeats)]
        for x in wanted
    ]
    for cfg, folder in itertools.chain(*plan):
        _jobs(cfg, folder, folds, train_split, test_split)
    reports = []
    for trainings in plan:
        repeated = [
            finetune(cfg, folder, folds=folds, train_split=train_split, test_split=test_split)
            for cfg, folder in trainings
        ]
        reports.append(over_seeds(repeated) if repeats > 1 else repeated[0])
    return joined(reports)


def _repeat(experiment: Experiment, fraction: float, index: int) -> Experiment:
    """The experiment with its own seed and its own sample of the labels."""
    data = experiment.data
    return replace(
        experiment,
        seed=experiment.seed + index,
        data=replace(data, label_fraction=fraction, label_seed=data.label_seed + index),
    )


def _jobs(
    experiment: Experiment,
    workdir: Path,
    folds: tuple[str, ...],
    train_split: str | None,
    test_split: str | None,
) -> tuple[Any, np.ndarray, list[tuple[Fold, Experiment]], list[int]]:
    """Shards, labelled rows, folds with their experiments, and how many rows each trains on."""
    check(
        not (workdir / CONFIG).exists(),
        "workdir",
        f"{workdir} holds a single run; choose another folder for the fine-tuning",
    )
    shards = open_data(experiment.data)
    rows = labelled_rows(shards)
    plan = divide(
        shards,
        rows,
        only=folds,
        train_split=train_split,
        test_split=test_split,
        purpose=FINE_TUNING,
    )
    check_classes(shards.info, shards.column("label")[rows], plan)
    jobs = [(fold, _for_fold(experiment, fold)) for fold in plan]
    counts = []
    for fold, cfg in jobs:
        _check_folder(workdir / _folder_name(fold), cfg)
        check_snapshots(cfg, tested=True)
        check_watched(cfg, plateau=follows_plateau(cfg.optim))
        _check_figures(cfg)
        counts.append(_training_rows(shards, cfg, fold, rows))
    return shards, rows, jobs, counts


def _check_figures(cfg: Experiment) -> None:
    """Raises ``InputError`` where training would be steered by figures of a labelled set, whose
    rows may be test rows."""
    steering = {"checkpoint.best": cfg.checkpoint.best}
    if follows_plateau(cfg.optim):
        steering["optim.plateau_figure"] = cfg.optim.plateau_figure
    for field, figure in steering.items():
        check(
            figure is None or figure.startswith("val/"),
            field,
            f"{figure} may be of test rows; fine-tuning follows figures of rows that it holds out, "
            "for instance val/accuracy",
        )


def _folder_name(fold: Fold) -> str:
    """``fold1``, or the name of a split in letters that file systems allow."""
    return re.sub(r"[^\w.-]+", "_", fold.name.replace(" ", ""))


def _for_fold(experiment: Experiment, fold: Fold) -> Experiment:
    """The experiment that never reads the fold's test rows."""
    return replace(experiment, data=replace(experiment.data, **fold.reads))


def _training_rows(shards: Any, cfg: Experiment, fold: Fold, rows: np.ndarray) -> int:
    """How many rows training reads; raises ``InputError`` where they cannot be sampled, or where
    training is to be measured on test rows, ``rows[fold.test]``."""
    division = divide_rows(shards, cfg.data, cfg.validation, labelled=True)
    both = np.intersect1d(division.held_out, rows[fold.test])
    check(
        both.size == 0,
        "validation",
        f"{both.size} of the rows to hold out are test rows of {fold.name}; hold out others",
    )
    return len(division.read)


def _identity(experiment: Experiment, shards: Any) -> dict[str, Any]:
    """What the predictions of a fold depend on: the fields, and the contents of the shards."""
    fields = {k: v for k, v in flat(to_dict(experiment)).items() if not k.startswith(MAY_DIFFER)}
    return {**fields, "manifest": shards.manifest_hash}


def _check_folder(folder: Path, experiment: Experiment) -> None:
    """Raises ``InputError`` where the run in ``folder`` started from another encoder.

    Training that continues a run does not check this.
    """
    if (folder / CONFIG).is_file():
        before, now = read_config(folder).checkpoint.init_from, experiment.checkpoint.init_from
        check(
            before == now,
            str(folder),
            f"was trained from {_names(before) or 'scratch'}, not "
            f"from {_names(now) or 'scratch'}; choose another --workdir",
        )


def _names(sources: Sequence[Source]) -> str:
    """The paths of runs and bundles, separated by commas."""
    return ", ".join(source.path for source in sources)


def _tested_before(folder: Path, experiment: Experiment, shards: Any) -> str | None:
    """Of which checkpoint the folder holds the predictions of this experiment; None where it holds
    none."""
    try:
        before = read_json(folder / TEST, "the note of a finished fold")
        same = before["experiment"] == _identity(experiment, shards)
        return before["checkpoint"] if same and (folder / FILE).is_file() else None
    except (InputError, KeyError):
        return None


def _store(
    folder: Path, predictions: Predictions, checkpoint: str, experiment: Experiment, shards: Any
) -> None:
    """Writes the predictions, then the file that says that they are complete."""
    write_predictions(folder, predictions)
    _, label, score = predictions
    scores = {name: float(measure(label, score)) for name, measure in metrics_for(label).items()}
    identity = _identity(experiment, shards)
    write_json(folder / TEST, {"scores": scores, "checkpoint": checkpoint, "experiment": identity})


def _report(
    experiment: Experiment,
    shards: Any,
    folds: tuple[Fold, ...],
    tested: Sequence[str],
    predictions: Sequence[Predictions],
    rows: float,
) -> Report:
    """The table of ``folds``; ``tested`` says with which checkpoint each was tested."""
    data, several = experiment.data, len(folds) > 1
    notes = list(remarks(shards, shards.column("label")[labelled_rows(shards)], folds))
    if taken := snapshot_steps(experiment.average, experiment.steps):
        notes.append(f"{experiment.average.of} are averaged over {len(taken)} snapshots of a run")
    notes += [f"{fold.name} is tested with {read}" for fold, read in zip(folds, tested) if read]
    start = _names(experiment.checkpoint.init_from)
    results = []
    for metric, measure in metrics_for(predictions[0].label).items():
        values = tuple(float(measure(p.label, p.score)) for p in predictions)
        if several:
            estimate = interval_of(metric, values)
        else:
            only = predictions[0]
            estimate = single_split(metric, measure, only.label, [only.score])
        result = Result(
            "fine-tuned" if start else "from scratch",
            "all layers",
            metric,
            *estimate,
            values,
            sum(len(p.label) for p in predictions),
            fraction=data.label_fraction,
            rows=rows,
            over="folds" if several else "test rows",
        )
        results.append(result)
    interval = "mean over held-out folds, 95 % Student-t over folds"
    if not several:
        interval = f"tested on {folds[0].name}, 95 % over test rows (Wilson, bootstrap)"
    return Report(
        title="Fine-tuning",
        data=shards.info.name,
        folds=tuple(fold.name for fold in folds),
        results=tuple(results),
        settings={
            "interval": interval,
            "experiment": experiment.name,
            "init_from": start or None,
            "seed": experiment.seed,
            "label_seed": data.label_seed,
            "steps": experiment.steps,
            "manifest": shards.manifest_hash,
            "fold_by": shards.info.fold_by,
            "jfreq": jfreq.__version__,
            **({"notes": notes} if notes else {}),
        },
    )
