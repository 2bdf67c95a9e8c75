"""Fine-tuning: an encoder and a classifier trained together, one run for each fold."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import jfreq
from jfreq import distributed, recipes
from jfreq.config import Checkpoint, Data, Experiment, Log, Optim, Source, check, replace
from jfreq.config_json import flat, to_dict
from jfreq.data.fold_assignment import open_data
from jfreq.data.loading.label_subsets import sampled_rows
from jfreq.evaluate.folds import FINE_TUNING, Fold, check_classes, divide, labelled_rows, remarks
from jfreq.evaluate.metrics import interval_of, metrics_for
from jfreq.evaluate.probe_protocol import single_split
from jfreq.evaluate.results import Report, Result, joined, over_seeds
from jfreq.export.bundle import load_trained, trained_folder
from jfreq.files import local_path, read_json, write_atomically, write_json
from jfreq.method import Method
from jfreq.methods.supervised import Classify, Head
from jfreq.ranges import Fraction, Repeats, checked_call
from jfreq.train.run_folder import CONFIG, read_config
from jfreq.train.state import Trained
from jfreq.types import Array, Batch, InputError

TEST, PREDICTIONS = "test.json", "predictions.npz"
MAY_DIFFER = (
    "log",
    "mesh",
    "checkpoint.every",
    "checkpoint.keep",
    "data.threads",
    "data.backend",
    "data.memory_mb",
    "data.path",
)
"""Fields that may differ between a finished fold and the call that would use it again."""


class Predictions(NamedTuple):
    """What the classifier returns for the test rows of one fold."""

    id: np.ndarray
    """``[n]`` row numbers."""
    label: np.ndarray
    """``[n]``, or ``[n k]`` where a row may have several labels."""
    score: np.ndarray
    """``[n k]`` float32 logits."""


def experiment_for(source: str | Path) -> Experiment:
    """The fine-tuning experiment of an encoder, not yet bound to data.

    Transformers over spectrograms use the recipe of SSAST (section 3.3): all layers are trained,
    more slowly towards the input, with SpecAugment; patches overlap when
    ``--method.backbone.stride`` is set, and positions are then resized. Encoders of sensors are
    trained at one rate. A supervised experiment keeps its own recipe.

    Args:
      source: a run or a bundle, or the name of an experiment, which is then trained from scratch.

    Raises:
      InputError: for anything else.
    """
    if local_path(source, "run").exists():
        folder = trained_folder(source)
        pretrained, init_from = load_trained(folder).experiment, (Source(str(folder)),)
    else:
        try:
            pretrained, init_from = recipes.load(str(source)), ()
        except InputError as error:
            raise InputError(f"{source}: no such run or bundle, and {error}") from None
    if not init_from and pretrained.method.supervised:
        return replace(pretrained, data=replace(pretrained.data, split=None, exclude_folds=()))
    backbone = pretrained.method.unbind().without_head
    plain = Experiment(
        name=f"{pretrained.name}_finetune",
        method=Classify(backbone=backbone, head=Head()),
        optim=Optim(warmup=50, weight_decay=0.01, clip=1.0),
        checkpoint=Checkpoint(every=200, init_from=init_from),
        log=Log(every=20),
    )
    return replace(plain, **backbone.finetune_defaults(pretrained))


def finetune(
    experiment: Experiment,
    workdir: Path,
    *,
    folds: tuple[str, ...] = (),
    train_split: str | None = None,
    test_split: str | None = None,
) -> Report:
    """Tests on each held-out fold after training on the others; finished folds are not repeated.

    Writes ``results.json`` and, for each fold, a run folder with ``predictions.npz``.

    Args:
      experiment: from :func:`experiment_for`. With ``data.label_fraction`` only that fraction of
        the training rows is read; without ``checkpoint.init_from`` training is from scratch.
      workdir: the folder to write to.
      folds: names of the held-out folds (``1`` or ``fold 1``; ``test`` for the test split); all
        where it is empty.
      train_split: split to train on, in place of folds and of ``train``.
      test_split: split to test on, in place of folds and of ``test``.

    Raises:
      InputError: for data without labels or folds, a subject (else a recording) among both
        training and test rows, a class of the test rows that is not trained, a fraction that
        leaves a class without a row, and a ``workdir`` that holds other fine-tuning.
    """
    from jfreq.train.loop import train

    workdir = local_path(workdir, "workdir")
    shards, rows, jobs, counts = _jobs(experiment, workdir, folds, train_split, test_split)
    predictions = []
    for fold, cfg in jobs:
        folder = workdir / _folder_name(fold)
        if not _is_done(folder, cfg, shards):
            fresh = predict(train(cfg, folder), shards, rows[fold.test])
            if distributed.is_chief():
                _store(folder, fresh, cfg, shards)
            predictions.append(fresh)
        else:
            predictions.append(read_predictions(folder))
    held_out = tuple(fold for fold, _ in jobs)
    report = _report(experiment, shards, held_out, predictions, float(np.mean(counts)))
    if distributed.is_chief():
        report.save(workdir / "results.json")
    return report


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
    workdir = local_path(workdir, "workdir")
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
        counts.append(_training_rows(shards, cfg.data))
    return shards, rows, jobs, counts


def read_predictions(folder: str | Path) -> Predictions:
    """The predictions that :func:`finetune` wrote for a fold.

    Args:
      folder: the folder of the fold.

    Raises:
      InputError: where there are none.
    """
    path = local_path(folder, "folder") / PREDICTIONS
    check(path.is_file(), str(path), "no such file; `jfreq finetune` writes one for each fold")
    with np.load(path, allow_pickle=False) as file:
        return Predictions(**{name: file[name] for name in Predictions._fields})


def _folder_name(fold: Fold) -> str:
    """``fold1``, or the name of a split in letters that file systems allow."""
    return re.sub(r"[^\w.-]+", "_", fold.name.replace(" ", ""))


def _for_fold(experiment: Experiment, fold: Fold) -> Experiment:
    """The experiment that never reads the fold's test rows."""
    return replace(experiment, data=replace(experiment.data, **fold.reads))


def _training_rows(shards: Any, data: Data) -> int:
    """How many rows training reads; raises ``InputError`` where they cannot be sampled."""
    rows = shards.rows(data.split, exclude_folds=data.exclude_folds)
    return len(sampled_rows(shards, rows, data, labelled=True))


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


def _is_done(folder: Path, experiment: Experiment, shards: Any) -> bool:
    """Whether the folder holds the predictions of this experiment."""
    try:
        before = read_json(folder / TEST, "the note of a finished fold")["experiment"]
    except (InputError, KeyError):
        return False
    return before == _identity(experiment, shards) and (folder / PREDICTIONS).is_file()


def _store(folder: Path, predictions: Predictions, experiment: Experiment, shards: Any) -> None:
    """Writes the predictions, then the file that says that they are complete."""
    write_atomically(
        folder / PREDICTIONS, lambda file: np.savez_compressed(file, **predictions._asdict())
    )
    _, label, score = predictions
    scores = {name: float(measure(label, score)) for name, measure in metrics_for(label).items()}
    write_json(folder / TEST, {"scores": scores, "experiment": _identity(experiment, shards)})


@functools.partial(jax.jit, static_argnums=0)
def _logits(method: Method, params: Any, batch: Batch) -> Array | None:
    """``[b classes]``; the folds, whose methods are equal, share one program."""
    return method.encode(params, batch).logits


def predict(trained: Trained, shards: Any, rows: np.ndarray) -> Predictions:
    """Predictions for ``rows`` ``[n]`` of labelled shards."""
    from jfreq.data.loading.pipeline import eval_batches

    method = trained.experiment.method
    params = jax.device_put(trained.params)
    labels, scores = [], []
    for batch in eval_batches(shards, rows, batch=32):
        mask = batch.pop("_mask") > 0
        labels.append(batch.pop("label")[mask])
        scores.append(np.asarray(_logits(method, params, batch), np.float32)[mask])
    return Predictions(rows, np.concatenate(labels), np.concatenate(scores))


def _report(
    experiment: Experiment,
    shards: Any,
    folds: tuple[Fold, ...],
    predictions: Sequence[Predictions],
    rows: float,
) -> Report:
    data, several = experiment.data, len(folds) > 1
    notes = remarks(shards, shards.column("label")[labelled_rows(shards)], folds)
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
            **({"notes": list(notes)} if notes else {}),
        },
    )
