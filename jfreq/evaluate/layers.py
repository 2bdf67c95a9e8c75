"""Ridge probes of every block of a frozen encoder, and a confusion matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jfreq.evaluate.any_length import for_any_length
from jfreq.evaluate.features import extract_layers
from jfreq.evaluate.folds import Task, check_signals, divide, labelled_rows, make_task, unseen_rows
from jfreq.evaluate.probe_protocol import evaluate, fold_scores
from jfreq.evaluate.results import Result
from jfreq.metrics import confusion
from jfreq.train.state import Trained

CLIP = "clip vector"
"""``Result.features`` of the vector that the encoder gives for a whole row."""


class Layers(NamedTuple):
    """The results of :func:`probe_layers`."""

    results: tuple[Result, ...]
    """The main metric with the clip vector, then with the mean of the tokens after each block."""
    confusion: np.ndarray | None
    """``[classes classes]``: test rows of all folds, counted by true class (row) and by the class
    that the clip vector predicts (column). None where a row may have several labels."""
    labels: tuple[str, ...]
    """Names of the classes, in the order of ``confusion``."""
    folds: tuple[str, ...]
    """Names of the folds that were tested on."""
    rows: int
    """How many labelled rows were probed."""
    labelled: int
    """How many labelled rows there are."""


def probe_layers(
    trained: Trained,
    shards: Any,
    *,
    limit: int = 1000,
    only: Sequence[str] = (),
    batch: int = 32,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Layers:
    """Ridge probes of the clip vector and of every block, over the folds of the data.

    The encoder reads every row once. An encoder that keeps no states of its blocks is probed by
    its clip vector alone.

    Args:
      trained: the encoder; its parameters stay as they are.
      shards: rows with labels, of any length, with folds or a train and a test split.
      limit: the most rows to probe; where more have labels, this many are sampled.
      only: names of the folds to test on; all where it is empty.
      batch: rows that the encoder reads at a time.
      seed: of the sample of rows, and of the rows held out to choose the ridge penalty.
      progress: called with the number of rows that are done and that there are.

    Raises:
      InputError: as :func:`jfreq.evaluate.probe_protocol.probe` does.
    """
    cfg = trained.experiment.method
    check_signals(cfg.signals, shards)
    labelled = labelled_rows(shards)
    rows = labelled
    if len(labelled) > limit:
        rows = np.sort(np.random.default_rng(seed).choice(labelled, limit, replace=False))
    folds = divide(shards, rows, only=only)
    if not shards.info.multi_label:
        # All sampled rows of a rare class may be test rows; no probe could predict it then.
        label = shards.column("label")[rows]
        folds = tuple(fold._replace(test=fold.test[~unseen_rows(label, fold)]) for fold in folds)
    task = make_task(shards, rows, folds)
    method = for_any_length(cfg, shards.spec)
    layers = extract_layers(method, trained.params, shards, rows, batch=batch, progress=progress)
    names = [CLIP, *(f"block {i + 1}" for i in range(len(layers) - 1))]
    results = [
        evaluate(name, "ridge", task, [layer.x], seeds=(seed,))[0]
        for name, layer in zip(names, layers)
    ]
    one_label = task.label.ndim == 1
    return Layers(
        results=tuple(results),
        confusion=_confusion(task, layers[0].x, seed) if one_label else None,
        labels=tuple(shards.info.labels),
        folds=tuple(fold.name for fold in folds),
        rows=len(rows),
        labelled=len(labelled),
    )


def _confusion(task: Task, x: np.ndarray, seed: int) -> np.ndarray:
    """``[classes classes]`` int64, summed over folds, of ridge probes on ``x`` ``[rows d]``."""
    total = np.zeros((task.classes, task.classes), np.int64)
    for fold in task.folds:
        total += confusion(task.label[fold.test], fold_scores("ridge", task, x, fold, seed=seed))
    return total
