"""What a classifier returns for test rows: computed, stored, and averaged over snapshots."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jfreq import distributed, sharding
from jfreq.config import check
from jfreq.files import local_path, write_atomically
from jfreq.method import Method
from jfreq.train.state import Trained
from jfreq.train.validation import over_batches
from jfreq.types import Array, Batch

FILE, SNAPSHOTS = "predictions.npz", "snapshots"
BATCH = 32
"""Rows that are predicted at a time, or more where they do not divide over the devices."""


class Predictions(NamedTuple):
    """What the classifier returns for the test rows of one fold."""

    id: np.ndarray
    """``[n]`` row numbers."""
    label: np.ndarray
    """``[n]``, or ``[n k]`` where a row may have several labels."""
    score: np.ndarray
    """``[n k]`` float32 logits; of a mean probability where several classifiers are averaged."""


def predict(trained: Trained, shards: Any, rows: np.ndarray) -> Predictions:
    """Predictions for ``rows`` ``[n]`` of labelled shards, the same in every process.

    Rows and parameters are split over the mesh of the experiment, as in training.
    """
    from jfreq.data.loading.pipeline import eval_batches

    cfg, params = trained.experiment, trained.params
    mesh = sharding.make_mesh(cfg.mesh.sizes)
    size = math.lcm(BATCH, sharding.batch_ways(mesh))
    batches = eval_batches(shards, rows, batch=size, part=sharding.process_shard(mesh))
    with jax.set_mesh(mesh):
        params = jax.device_put(params, sharding.shardings(params, mesh, cfg.mesh.rules))

        def compute(batch: Batch, number: np.int32) -> Any:
            del number
            return _logits(cfg.method, sharding.replicated(mesh), params, batch)

        scores = np.concatenate(list(over_batches(compute, batches, mesh)))[: len(rows)]
    return Predictions(rows, shards.labels(rows), scores.astype(np.float32))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _logits(method: Method, place: Any, params: Any, batch: Batch) -> Array:
    """``[b classes]`` at ``place``; the folds, whose methods are equal, share one program."""
    return jax.lax.with_sharding_constraint(method.encode(params, batch).logits, place)


def write_predictions(folder: Path, predictions: Predictions, name: str = FILE) -> None:
    """Stores the predictions for a fold in its folder, for :func:`read_predictions`."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: np.savez_compressed(file, **predictions._asdict()))


def read_predictions(folder: str | Path, name: str = FILE) -> Predictions:
    """The predictions that :func:`jfreq.evaluate.finetune.finetune` wrote for a fold.

    Args:
      folder: the folder of the fold.
      name: of the file in it.

    Raises:
      InputError: where there are none.
    """
    path = local_path(folder, "folder") / name
    check(path.is_file(), str(path), "no such file; `jfreq finetune` writes one for each fold")
    with np.load(path, allow_pickle=False) as file:
        return Predictions(**{field: file[field] for field in Predictions._fields})


class Snapshots:
    """The predictions that the snapshots of one training give for the test rows of its fold.

    It is called with each of them while training goes on, and keeps one file a snapshot, so that a
    training that was stopped goes on with those it has.
    """

    def __init__(self, folder: Path, shards: Any, rows: np.ndarray):
        self._folder, self._shards, self._rows = folder, shards, rows

    def __call__(self, trained: Trained) -> None:
        found = predict(trained, self._shards, self._rows)
        if distributed.is_chief():
            write_predictions(self._folder, found, _file(trained.step))

    def averaged(self, steps: Sequence[int], kind: Literal["softmax", "sigmoid"]) -> Predictions:
        """The mean over the snapshots after these steps.

        Raises ``InputError`` where one is missing, as when a training that had ended goes on.
        """
        missing = [step for step in steps if not (self._folder / _file(step)).is_file()]
        check(
            not missing,
            str(self._folder),
            f"has no predictions of the snapshots after steps {', '.join(map(str, missing))}, "
            "which its training went past; choose another --workdir, so that they are taken again",
        )
        every = [read_predictions(self._folder, _file(step)) for step in steps]
        return every[0]._replace(score=mean_probability([p.score for p in every], kind))


def _file(step: int | None) -> str:
    return f"{SNAPSHOTS}/{step}.npz"


def mean_probability(
    scores: Sequence[np.ndarray], kind: Literal["softmax", "sigmoid"]
) -> np.ndarray:
    """The logits ``[n k]`` float32 of the mean probability of several classifiers.

    Args:
      scores: logits ``[n k]`` of each.
      kind: what turns them into probabilities: over all classes, or of each class by itself.

    Reference:
      As AST is released (``validate_ensemble``): probabilities are averaged, not logits.
    """
    from scipy.special import log_expit, log_softmax, logsumexp

    logits = np.stack(scores).astype(np.float64)
    if kind == "softmax":
        mean = np.asarray(logsumexp(log_softmax(logits, axis=-1), axis=0)) - np.log(len(logits))
    else:  # log p - log(1 - p), neither of which is rounded to 0 or 1
        yes, no = (np.asarray(logsumexp(log_expit(x), axis=0)) for x in (logits, -logits))
        mean = yes - no
    return mean.astype(np.float32)
