"""Which rows a step reads: all in a shuffled order, or drawn so that rare classes come up more."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from jfreq.config import Data, check
from jfreq.data.loading import index_order
from jfreq.data.shards.reader import Shards


@dataclasses.dataclass(frozen=True, eq=False)
class Order:
    """The positions in a list of ``rows`` rows that every step reads; a function of the step."""

    rows: int
    batch: int
    """Global batch size."""
    seed: int
    shuffle: bool = True
    runs: np.ndarray | None = None
    """Positions ``[k q]``; every q rows of a batch are one of these runs."""
    epoch_rows: int | None = None
    """An epoch is this many different rows; None: all of them, or with weights single draws."""
    weights: np.ndarray | None = None
    """``[rows]``, above 0: rows are drawn with probabilities in proportion to these."""

    @property
    def size(self) -> int:
        """Rows of an epoch: each row once, or all ``runs`` once, which may share rows."""
        if self.epoch_rows is not None:
            return self.epoch_rows
        return self.rows if self.runs is None else self.runs.size

    def __call__(self, step: int) -> np.ndarray:
        """Positions ``[batch]`` int64 of the global batch of ``step``."""
        return self._read(step)

    @functools.cached_property
    def _read(self) -> Callable[[int], np.ndarray]:
        if self.weights is None:
            return self._shuffled
        seed, count = self.seed, self.epoch_rows
        if count is None:
            total = np.cumsum(self.weights)
            return lambda step: index_order.drawn(step, batch=self.batch, seed=seed, total=total)
        sample = functools.partial(index_order.weighted_sample, self.weights, count, seed=seed)
        # The threads of tf.data read from two epochs at most at the same time.
        return functools.partial(self._sampled, functools.lru_cache(2)(sample), count)

    def _shuffled(self, step: int) -> np.ndarray:
        runs = self.runs
        ids = index_order.global_ids(
            step,
            batch=self.batch if runs is None else self.batch // runs.shape[1],
            rows=self.rows if runs is None else len(runs),
            seed=self.seed,
            shuffle=self.shuffle,
            epoch_rows=self.epoch_rows,
        )
        return ids if runs is None else runs[ids].ravel()

    def _sampled(self, sample: Callable[..., np.ndarray], count: int, step: int) -> np.ndarray:
        """The rows of the samples of ``count`` that are this step's, each sample shuffled."""
        epoch, index = index_order.epochs(step, batch=self.batch, rows=count)
        place = index_order.permute(index, size=count, seed=self.seed, epoch=epoch)
        drawn = {number: sample(epoch=number) for number in np.unique(epoch).tolist()}
        return np.array([drawn[n][i] for n, i in zip(epoch.tolist(), place)], np.int64)


def check_sampling(cfg: Data, rows: int) -> None:
    """Raises ``InputError`` where ``rows`` rows or other options rule out this way of sampling."""
    drawn = cfg.sampling == "balanced"
    check(not drawn or cfg.shuffle, "data.shuffle", "balanced sampling has no order to keep")
    if drawn or cfg.epoch_rows is not None:
        field = "data.sampling" if drawn else "data.epoch_rows"
        check(
            cfg.sequence == 1,
            field,
            f"draws single rows, but data.sequence asks for runs of {cfg.sequence}; leave one out",
        )
    if cfg.epoch_rows is not None:
        check(
            cfg.shuffle,
            "data.epoch_rows",
            "is a sample in a shuffled order; leave data.shuffle on, or this out",
        )
        check(
            cfg.epoch_rows <= rows,
            "data.epoch_rows",
            f"is {cfg.epoch_rows}, but there are {rows} rows to sample from; take as many or fewer",
        )


def balanced_weights(label: np.ndarray) -> np.ndarray:
    """How often a row is drawn where classes are to be seen about equally often.

    The weight of a row is the sum over its classes c of 1000 / (n_c + 0.01), n_c rows having
    class c; a row without a class has weight 0.

    Args:
      label: classes ``[n]`` int, -1 for none; or multi-hot ``[n classes]``.

    Returns:
      ``[n]`` float64.

    Reference:
      As released with AST (``gen_weight_file.py``), and from there SSAST, Audio-MAE and EAT.
    """
    if label.ndim == 1:
        row = np.flatnonzero(label >= 0)
        its_class = label[row]
    else:
        row, its_class = np.nonzero(label > 0)
    weight = 1000.0 / (np.bincount(its_class, minlength=1) + 0.01)
    return np.bincount(row, weight[its_class], minlength=len(label))


def balanced(shards: Shards, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    """The rows among ``rows`` ``[n]`` that balanced sampling can draw.

    Returns:
      Row numbers ``[m]``, weights ``[m]``, and a sentence about rows that are left out; an empty
      one where there are none.

    Raises:
      InputError: where no row has a class.
    """
    weights = balanced_weights(shards.labels(rows))
    some = weights > 0
    why = shards.why_unlabelled or "no row to train on has a label"
    check(bool(some.any()), f"{shards.info.name}, data.sampling", f"balanced needs labels: {why}")
    left_out = int((~some).sum())
    note = f"balanced sampling: {left_out} of {len(rows)} rows have no label and are never drawn"
    return rows[some], weights[some], note if left_out else ""
