"""Metrics of updates that were sent off: summed on the devices, fetched where they are logged."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jfreq import distributed, sharding
from jfreq.files import write_json
from jfreq.method import Method, Metrics
from jfreq.monitoring.metrics_writer import MetricsWriter
from jfreq.monitoring.progress import Progress
from jfreq.monitoring.throughput import Meter, summary
from jfreq.train.checkpoint import Checkpoints
from jfreq.train.plan import RunPlan
from jfreq.train.step import is_logged
from jfreq.types import Array


class NotFinite(RuntimeError):
    """The loss or the gradient is NaN or infinite; the message names the file with the details."""


class _Sent(NamedTuple):
    """An update that was sent off and is not known to be finite yet."""

    step: int
    at: float
    """When it was sent off, in seconds of ``time.perf_counter``."""
    metrics: Metrics
    sums: Array
    """Metrics since the last logged update, ``[metrics 2]``: sums and counts."""
    flag: Future[tuple[bool, float]]
    """Whether its loss and gradient are finite, and when that was known."""


class Pending:
    """The metrics of a run.

    They are added up on the devices and fetched at updates that are logged. Of every update one
    flag is fetched, while the next one runs: whether its loss and its gradient are finite. A thread
    waits for the flags, so that the time at which an update was done is known.
    """

    def __init__(
        self,
        setup: RunPlan,
        workdir: Path,
        saves: Checkpoints,
        meter: Meter,
        writer: MetricsWriter | None,
        progress: Progress,
    ):
        self.meter, self.saves = meter, saves
        self._setup, self._workdir = setup, workdir
        self._writer, self._progress = writer, progress
        self._sent: _Sent | None = None
        self._warned: set[str] = set()
        self._sums: Array | None = None
        self._waiting = ThreadPoolExecutor(1, thread_name_prefix="jfreq-metrics")
        whole = sharding.replicated(setup.mesh)
        self._add = jax.jit(add, out_shardings=whole)
        self._zeros = jax.jit(jnp.zeros, static_argnums=0, out_shardings=whole)

    def replace(self, step: int, metrics: Metrics, at: float) -> None:
        """Takes the metrics of ``step``, which was sent off ``at`` this time, and waits for the
        update before it."""
        if self._sums is None:
            self._sums = self._zeros((len(metrics), 2))
        sums, finite = self._add(self._sums, metrics)
        flag = self._waiting.submit(_fetched, finite)
        self.flush()
        self._sent = _Sent(step, at, metrics, sums, flag)
        self._sums = None if is_logged(self._setup.experiment, step) else sums

    def flush(self) -> None:
        """Waits for the update that was sent off last; checks it, and where it is logged writes
        and shows the metrics since the last that was."""
        if self._sent is None:
            return
        sent, self._sent = self._sent, None
        finite, ready = sent.flag.result()
        if not finite:
            self._stop(sent)
        self.meter.computed(sent.at, ready)
        if is_logged(self._setup.experiment, sent.step):
            pairs = jax.device_get(sent.sums)
            self._log(sent.step, dict(zip(sorted(sent.metrics), pairs)))

    def close(self) -> None:
        self._waiting.shutdown(wait=False, cancel_futures=True)

    def _log(self, step: int, values: Metrics) -> None:
        row, method = self.meter.row(step, values), self._setup.method
        if self._writer is None:
            return
        self._writer.write(row)
        self._progress.update(step, summary(row, method.headline))
        for warning in below_threshold(method, row, self._warned):
            self._progress.say(f"step {step}: {warning}")

    def _stop(self, sent: _Sent) -> None:
        """Writes a dump of the update and raises ``NotFinite``."""
        values = {
            name: [float(s), float(c)] for name, (s, c) in jax.device_get(sent.metrics).items()
        }
        self.saves.wait()
        steps = self.saves.steps()
        dump = {
            "step": sent.step,
            "metrics": values,
            "batch_ids": self._setup.pipeline.global_ids(sent.step - 1).tolist(),
            "last_good_checkpoint": steps[-1] if steps else None,
        }
        path = self._workdir / f"not_finite_{sent.step}.json"
        if distributed.is_chief():
            write_json(path, dump)
        total, count = values["loss"]
        raise NotFinite(
            f"loss {total / max(count, 1.0)} or gradient norm {values['grad_norm'][0]} at step "
            f"{sent.step} is not finite; batch and metrics are in {path}, last good checkpoint: "
            f"{dump['last_good_checkpoint']}"
        )


def add(sums: Array, metrics: Metrics) -> tuple[Array, Array]:
    """``sums`` ``[metrics 2]`` with one more update, in the order of the names, and whether the
    loss and the gradient of this update are finite."""
    pairs = [jnp.stack([jnp.asarray(x, jnp.float32) for x in metrics[n]]) for n in sorted(metrics)]
    total, count = metrics["loss"]
    loss, norm = total / jnp.maximum(count, 1.0), metrics["grad_norm"][0]
    return sums + jnp.stack(pairs), jnp.isfinite(loss) & jnp.isfinite(norm)


def _fetched(flag: Array) -> tuple[bool, float]:
    return bool(jax.device_get(flag)), time.perf_counter()


def below_threshold(method: Method, row: dict[str, Any], warned: set[str]) -> Iterator[str]:
    """A warning for every metric of ``row`` that has fallen below its threshold.

    ``warned`` holds the metrics that were below before; they are warned of again only after they
    were above in between.
    """
    for name, threshold in method.collapse_thresholds.items():
        if row[name] >= threshold:
            warned.discard(name)
        elif name not in warned:
            warned.add(name)
            yield (
                f"warning: {name} is {row[name]:.3g}, below {threshold:g}: the targets collapse; "
                "try a lower learning rate or a slower teacher"
            )
