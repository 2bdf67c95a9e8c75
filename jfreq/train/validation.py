"""A state measured on the rows that are held out: the loss, and metrics of a classifier."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from jfreq import distributed, sharding
from jfreq.kernels import cpu
from jfreq.method import Streams
from jfreq.metrics import metrics_for
from jfreq.train.initial_state import run_key
from jfreq.train.plan import RunPlan
from jfreq.train.state import State
from jfreq.types import Array, Batch, PyTree


class Validator:
    """Measures states of one run; every time on the same batches, with the same keys.

    Args:
        setup: The run.
        wanted: Metrics to measure beside those of the loss: of a classifier, from all scores at
            once.
    """

    def __init__(self, setup: RunPlan, wanted: Collection[str] = ()):
        self._setup = setup
        self._batch = setup.experiment.batch // setup.experiment.accumulate
        self._scored = sorted(set(wanted) - set(_loss_metrics(setup)))
        self._key = run_key(setup, "validation")
        whole = sharding.replicated(setup.mesh)
        self._measure = jax.jit(
            self._batch_metrics, out_shardings=whole, compiler_options=cpu.compiler_options()
        )

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
            values |= self._scores(scores[: len(pipeline.held_out)])
        return distributed.from_chief(lambda: values)

    def _batch_metrics(
        self, params: PyTree, target: PyTree, step: Array, batch: Batch, key: Array, number: Array
    ) -> tuple[Any, Array | None]:
        """The metrics of a batch as pairs of sum and count, and the logits where they are asked
        for."""
        method = self._setup.method
        loss = method.validation_loss(params, target, batch, Streams(key).at(number), step)
        return loss.all_metrics, method.encode(params, batch).logits if self._scored else None

    def _scores(self, scores: np.ndarray) -> dict[str, float]:
        label = self._setup.pipeline.shards.labels(self._setup.pipeline.held_out)
        return {name: metrics_for(label)[name](label, scores) for name in self._scored}


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


def metrics_of(setup: RunPlan) -> dict[str, bool | None]:
    """The metrics that validation can measure, and whether a higher value is better; None where
    the method does not say (``higher_is_better``). Those of a classifier that are computed from all
    scores at once are all scores to raise."""
    if setup.experiment.validation.every is None:
        return {}
    known = {name: setup.method.higher_is_better.get(name) for name in _loss_metrics(setup)}
    if setup.method.supervised:
        label = setup.pipeline.shards.labels(setup.pipeline.held_out[:1])
        known |= {name: True for name in metrics_for(label) if name not in known}
    return known


def _loss_metrics(setup: RunPlan) -> list[str]:
    """Names of the metrics of the method's loss on held-out rows."""
    method, state = setup.method, setup.abstract
    measure = functools.partial(method.validation_loss, rngs=Streams(jax.random.key(0)), step=0)
    loss = jax.eval_shape(measure, state.params, state.target, setup.batch_spec)
    return list(loss.all_metrics)
