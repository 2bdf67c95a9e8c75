"""What a classifier returns for test rows: computed, stored, and averaged over snapshots."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jfreq import distributed
from jfreq.config import check
from jfreq.files import local_path, write_atomically
from jfreq.method import Method
from jfreq.train.state import Trained
from jfreq.types import Array, Batch

FILE, SNAPSHOTS = "predictions.npz", "snapshots"


class Predictions(NamedTuple):
    """What the classifier returns for the test rows of one fold."""

    id: np.ndarray
    """``[n]`` row numbers."""
    label: np.ndarray
    """``[n]``, or ``[n k]`` where a row may have several labels."""
    score: np.ndarray
    """``[n k]`` float32 logits; of a mean probability where several classifiers are averaged."""


def predict(trained: Trained, shards: Any, rows: np.ndarray) -> Predictions:
    """Predictions for ``rows`` ``[n]`` of labelled shards, the same in every process."""
    from jfreq.data.loading.pipeline import eval_batches

    method = trained.experiment.method
    params = jax.device_put(trained.params)
    labels, scores = [], []
    for batch in eval_batches(shards, rows, batch=32):
        mask = batch.pop("_mask") > 0
        labels.append(batch.pop("label")[mask])
        scores.append(_on_host(_logits(method, params, batch))[mask])
    return Predictions(rows, np.concatenate(labels), np.concatenate(scores))


@functools.partial(jax.jit, static_argnums=0)
def _logits(method: Method, params: Any, batch: Batch) -> Array | None:
    """``[b classes]``; the folds, whose methods are equal, share one program."""
    return method.encode(params, batch).logits


def _on_host(logits: Any) -> np.ndarray:
    """The whole array, also of a mesh of several processes."""
    whole = logits if logits.is_fully_addressable else distributed.to_host(logits)
    return np.asarray(whole, np.float32)


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

    def __call__(self, trained: Trained, step: int) -> None:
        found = predict(trained, self._shards, self._rows)
        if distributed.is_chief():
            write_predictions(self._folder, found, _file(step))

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


def _file(step: int) -> str:
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
