"""A state measured on the rows that are held out: the loss, and metrics of a classifier."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from jfreq import distributed, sharding
from jfreq.config import check
from jfreq.method import Method, Streams
from jfreq.metrics import metrics_for
from jfreq.ranges import close_match
from jfreq.train.initial_state import run_key
from jfreq.train.plan import RunPlan
from jfreq.train.state import State
from jfreq.types import Array, Batch, PyTree


class Validator:
    """Measures states of one run; every time on the same batches, with the same keys."""

    def __init__(self, setup: RunPlan):
        self._setup = setup
        self._batch = setup.experiment.batch // setup.experiment.accumulate
        self._metric = setup.experiment.validation.metric
        self._scored = check_metric(setup)
        self._key = run_key(setup, "validation")
        whole = sharding.replicated(setup.mesh)
        self._measure = jax.jit(self._batch_metrics, out_shardings=whole)

    def __call__(self, state: State) -> dict[str, float]:
        """The means over the rows that are held out, by name; the same in every process."""
        pipeline, parts = self._setup.pipeline, (state.params, state.target, state.step)

        def measure(batch: Batch, number: np.int32) -> Any:
            return self._measure(*parts, batch, self._key, number)

        batches = pipeline.validation(self._batch)
        found = list(over_batches(measure, batches, self._setup.mesh))
        sums: dict[str, np.ndarray] = {}
        for metrics, _ in found:
            for name, pair in metrics.items():
                sums[name] = sums.get(name, 0.0) + np.asarray(pair, np.float64)
        values = {name: float(s / max(c, 1.0)) for name, (s, c) in sums.items()}
        if self._scored:
            scores = np.concatenate([scores for _, scores in found])
            values[self._metric] = self._score(scores[: len(pipeline.held_out)])
        return distributed.from_chief(lambda: values)

    def _batch_metrics(
        self, params: PyTree, target: PyTree, step: Array, batch: Batch, key: Array, number: Array
    ) -> tuple[Any, Array | None]:
        """The metrics of a batch as pairs of sum and count, and the logits where they are asked
        for."""
        method = self._setup.method
        loss = method.validation_loss(params, target, batch, Streams(key).at(number), step)
        return loss.metrics, method.encode(params, batch).logits if self._scored else None

    def _score(self, scores: np.ndarray) -> float:
        label = self._setup.pipeline.shards.labels(self._setup.pipeline.held_out)
        return metrics_for(label)[self._metric](label, scores)


def over_batches(
    compute: Callable[[Batch, np.int32], Any],
    batches: Iterable[dict[str, np.ndarray]],
    mesh: jax.sharding.Mesh,
) -> Iterator[Any]:
    """What ``compute`` returns for each batch and its number, on the host.

    Args:
      compute: returns arrays that are whole on every device.
      batches: the part of this process of each.
      mesh: over which a batch is split.

    Yields:
      An output once the next batch is being computed.
    """
    ahead = None
    for i, rows in enumerate(batches):
        before, ahead = ahead, compute(sharding.to_global(rows, mesh), np.int32(i))
        if before is not None:
            yield jax.device_get(before)
    if ahead is not None:
        yield jax.device_get(ahead)


def check_metric(setup: RunPlan) -> bool:
    """Whether the figure that the experiment watches is one of a classifier, which is computed
    from all scores at once; else it is a metric of the loss.

    Raises ``InputError`` where it is neither, and for a metric of the loss that the method does not
    say which way is better of.
    """
    method, wanted = setup.method, setup.experiment.validation.metric
    measure = functools.partial(method.validation_loss, rngs=Streams(jax.random.key(0)), step=0)
    state = setup.abstract
    loss = jax.eval_shape(measure, state.params, state.target, setup.batch_spec)
    known = [*loss.metrics]
    if method.supervised:
        known += metrics_for(setup.pipeline.shards.labels(setup.pipeline.held_out[:1]))
    check(
        wanted in known,
        "validation.metric",
        f"{wanted!r} is not measured{close_match(wanted, known)}; there are "
        f"{', '.join(dict.fromkeys(known))}",
    )
    if wanted in loss.metrics:
        ways = method.higher_is_better
        check(
            wanted in ways,
            "validation.metric",
            f"{type(method).__name__} does not say whether a higher or a lower {wanted!r} is "
            "better (higher_is_better); watch one of "
            f"{', '.join(name for name in loss.metrics if name in ways)}",
        )
    return wanted not in loss.metrics


def higher_is_better(method: Method, metric: str) -> bool:
    """Whether a higher figure of ``metric`` is the better one, as the method declares for those of
    its loss; those of a classifier, which are computed from all scores, are all scores to raise."""
    return method.higher_is_better.get(metric, True)
