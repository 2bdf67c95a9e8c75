"""A quick look inside a frozen encoder: a ridge probe of every block, and what gets mixed up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jfreq.evaluate.any_length import fitted
from jfreq.evaluate.features import extract_layers
from jfreq.evaluate.folds import Task, check_signals, divide, labelled_rows, make_task, unseen_rows
from jfreq.evaluate.metrics import confusion
from jfreq.evaluate.probe import fit_ridge, probe_scores
from jfreq.evaluate.probe_protocol import evaluate
from jfreq.evaluate.results import Result
from jfreq.train.state import Trained

CLIP = "clip vector"


class Layers(NamedTuple):
    """``results``: the main metric on the clip vector, then after each block.

    ``confusion`` ``[k k]``: test rows of all folds by true (row) and predicted class, from the
    clip vector; None for several labels per clip. ``folds`` names the folds tested on, ``rows``
    of the ``labelled`` rows took part.
    """

    results: tuple[Result, ...]
    confusion: np.ndarray | None
    labels: tuple[str, ...]
    folds: tuple[str, ...]
    rows: int
    labelled: int


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
    """Ridge probes over the folds of the data, all blocks from one pass over at most ``limit``
    labelled rows (drawn by ``seed``). ``only`` names the folds to test on.

    Raises ``InputError`` as :func:`jfreq.evaluate.probe_protocol.probe` does.
    """
    cfg = trained.experiment.method
    check_signals(cfg.signals, shards)
    every = labelled_rows(shards)
    rows = every
    if len(every) > limit:
        rows = np.sort(np.random.default_rng(seed).choice(every, limit, replace=False))
    folds = divide(shards, rows, only=only)
    if not shards.info.multi_label:
        # A class of a few rows may be drawn for the test alone.
        label = shards.column("label")[rows]
        folds = tuple(f._replace(test=f.test[~unseen_rows(label, f)]) for f in folds)
    task = make_task(shards, rows, folds)
    method = fitted(cfg, shards.spec)
    layers = extract_layers(method, trained.params, shards, rows, batch=batch, progress=progress)
    names = [CLIP, *(f"block {i + 1}" for i in range(len(layers) - 1))]
    results = [
        evaluate(name, "ridge", task, [layer.x], seeds=(seed,))[0]
        for name, layer in zip(names, layers)
    ]
    single = task.label.ndim == 1
    return Layers(
        results=tuple(results),
        confusion=_confusion(task, layers[0].x, seed) if single else None,
        labels=tuple(shards.info.labels),
        folds=tuple(fold.name for fold in folds),
        rows=len(rows),
        labelled=len(every),
    )


def _confusion(task: Task, x: np.ndarray, seed: int) -> np.ndarray:
    total = np.zeros((task.classes, task.classes), np.int64)
    for fold in task.folds:
        groups = (group[fold.train] for group in task.groups)
        score, _ = probe_scores(
            x[fold.train],
            task.label[fold.train],
            x[fold.test],
            classes=task.classes,
            fit=fit_ridge,
            group=next((g for g in groups if len(np.unique(g)) > 1), None),
            seed=seed,
        )
        total += confusion(task.label[fold.test], score)
    return total
