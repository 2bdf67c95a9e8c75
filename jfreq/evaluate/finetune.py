"""Fine-tuning: a pre-trained encoder under a classifier, trained through, one run a fold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jfreq import distributed, methods
from jfreq.checkpoint import write_json
from jfreq.config import Checkpoint, Data, Experiment, Log, Optim, check, replace
from jfreq.evaluate.metrics import interval, metrics_for
from jfreq.evaluate.protocols import Fold, chosen, divide, labelled_rows
from jfreq.evaluate.table import Report, Result
from jfreq.export.bundle import load_trained
from jfreq.methods.classify import Classify, Head
from jfreq.state import Trained


def experiment_for(trained: str | Path) -> Experiment:
    """The fine-tuning experiment of a run or bundle, its encoder open to new data.

    SSAST's recipe (section 3.3): all layers trained, SpecAugment, noise; patches overlap when
    ``--method.backbone.stride`` is set, positions are then resized.
    """
    source = load_trained(trained).experiment
    backbone = source.method.unbind()
    backbone = backbone.backbone if isinstance(backbone, Classify) else backbone
    return Experiment(
        name=f"{source.name}_finetune",
        method=Classify(backbone=backbone, head=Head(spec_augment=(24, 96))),
        data=Data(),
        optim=Optim(lr=5e-4, warmup=50, weight_decay=0.01, clip=1.0, layer_decay=0.75),
        steps=400,
        batch=16,
        checkpoint=Checkpoint(every=200, init_from=str(trained)),
        log=Log(every=20),
    )


def finetune(experiment: Experiment, workdir: Path, *, folds: tuple[str, ...] = ()) -> Report:
    """Trains on the other folds and tests on each held-out one; finished folds are kept.

    ``folds``: names of the held-out folds (``1`` or ``fold 1``, ``test``); all by default. Writes
    ``workdir/results.json``. Raises ``InputError`` for data without labels or folds.
    """
    from jfreq.data.records import open_shards
    from jfreq.train import train

    check(len(experiment.data.path) == 1, "data", "fine-tuning reads one folder of labelled shards")
    shards = open_shards(experiment.data.path)
    rows = labelled_rows(shards)
    plan = chosen(divide(shards, rows), folds)

    scores = []
    for fold in plan:
        folder = workdir / fold.name.replace(" ", "")
        done = folder / "test.json"
        if not done.exists():
            held = shards.column("fold")[rows[fold.test][0]]
            data = {"data__exclude_folds": (int(held),)} if fold.name.startswith("fold") else (
                {"data__split": "train"}
            )  # fmt: skip
            trained = train(replace(experiment, **data), folder)
            score = _test(trained, shards, rows[fold.test])
            if distributed.is_chief():
                write_json(done, score)
        else:
            score = json.loads(done.read_text())
        scores.append(score)
    report = _report(experiment, shards, plan, scores)
    if distributed.is_chief():
        report.save(workdir / "results.json")
    return report


def _test(trained: Trained, shards: Any, rows: np.ndarray) -> dict[str, float]:
    """Metrics of the classifier on held-out rows."""
    logits, labels = zip(*_predictions(trained, shards, rows))
    score, label = np.concatenate(logits), np.concatenate(labels)
    return {name: float(metric(label, score)) for name, metric in metrics_for(label).items()}


def _predictions(trained: Trained, shards, rows) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    from jfreq.data.pipeline import eval_batches

    method = methods.build(trained.experiment.method)
    encode = jax.jit(lambda params, batch: method.encode(params, batch).logits)
    params = jax.device_put(trained.params)
    for batch in eval_batches(shards, rows, batch=32):
        mask = batch.pop("_mask") > 0
        label = batch.pop("label")
        yield np.asarray(encode(params, batch))[mask], label[mask]


def _report(experiment: Experiment, shards, plan: tuple[Fold, ...], scores: list[dict]) -> Report:
    n = sum(len(fold.test) for fold in plan)
    results = []
    for metric in scores[0]:
        values = tuple(score[metric] for score in scores)
        results.append(Result("fine-tuned", "all layers", metric, *interval(values), values, n))
    return Report(
        title="Fine-tuning",
        data=shards.info.name,
        folds=tuple(fold.name for fold in plan),
        results=tuple(results),
        settings={
            "interval": "mean over held-out folds, Student t",
            "experiment": experiment.name, "seed": experiment.seed, "steps": experiment.steps,
        },
    )  # fmt: skip
