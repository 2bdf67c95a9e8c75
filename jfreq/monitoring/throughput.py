"""A run described before its first step, and a row of metrics for each window of steps."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jfreq import param_paths
from jfreq.method import Streams
from jfreq.monitoring import flops
from jfreq.monitoring.goodput import Ledger
from jfreq.train.plan import RunPlan, StepPlan
from jfreq.train.step import memory_of


def step_flops(setup: StepPlan) -> int:
    """FLOPs of an update, see :func:`jfreq.monitoring.flops.training`."""
    params, target = setup.abstract.params, setup.abstract.target
    loss, rngs = setup.method.loss, Streams(setup.key_spec)
    with jax.set_mesh(setup.mesh):  # losses may say how they lie on it
        return flops.training(loss, params, target, setup.batch_spec, rngs, 0)


class Meter:
    """Times and waits between two logged rows, and where the time since the first start went."""

    def __init__(self, setup: RunPlan, ledger: Ledger):
        experiment = setup.experiment
        self._batch, self.ledger = experiment.batch, ledger
        self.step_flops = step_flops(setup)
        peak = experiment.log.peak_tflops or flops.peak_tflops(jax.devices()[0].device_kind)
        self._peak = peak * 1e12 * jax.device_count() if peak else None
        self._ready = -math.inf
        self.begin()

    def begin(self) -> None:
        """Starts the clock of the next row."""
        self._began, self._steps = time.perf_counter(), 0
        self._wait = self._dispatch = self._compute = 0.0

    def waited(self, seconds: float) -> None:
        """Adds the seconds that an update waited for its batch."""
        self._wait += seconds

    def dispatched(self, seconds: float) -> None:
        """Adds the seconds that it took to send an update off."""
        self._dispatch += seconds

    def computed(self, sent: float, ready: float) -> None:
        """Counts an update that was sent off and ready at these times. The devices computed it
        since then, or since they were done with the one before."""
        self._compute += max(0.0, ready - max(sent, self._ready))
        self._ready = ready
        self._steps += 1

    def paused(self, seconds: float, doing: str) -> None:
        """Leaves out seconds that no update took, and notes what was done in them."""
        self._began += seconds
        self.ledger.spent(doing, seconds)

    def row(self, step: int, values: Mapping[str, Any]) -> dict[str, Any]:
        """The row of the updates since the last one; ``values`` are their metrics as pairs of sum
        and count."""
        row: dict[str, Any] = {"step": step}
        row |= {name: float(s / max(c, 1.0)) for name, (s, c) in values.items()}
        seconds = time.perf_counter() - self._began
        self.ledger.advanced(seconds)
        row["step_time"] = seconds / self._steps
        row["data_wait"] = self._wait / seconds
        row["dispatch"] = self._dispatch / seconds
        row["compute"] = min(1.0, self._compute / seconds)
        row["examples_per_s"] = self._batch * self._steps / seconds
        row["tflops"] = self.step_flops * self._steps / seconds / 1e12
        row["mfu"] = row["tflops"] * 1e12 / self._peak if self._peak else None
        row["goodput"] = self.ledger.goodput()
        stats = jax.local_devices()[0].memory_stats() or {}
        row["memory_mb"] = stats.get("peak_bytes_in_use", 0) / 2**20 or None
        self.begin()
        return row


def summary(row: dict[str, Any], headline: Sequence[str] = ()) -> str:
    """A row as one short line: the loss, the metrics of ``headline`` that there are, the speed."""
    parts = [f"loss {row['loss']:.4f}"]
    parts += [f"{k} {row[k]:.3f}" for k in headline if k in row]
    parts += [f"{row['step_time'] * 1e3:.0f} ms/step", f"{row['examples_per_s']:.1f} ex/s"]
    parts += [f"wait {row['data_wait']:.0%}"]
    return "  ".join(parts + ([f"MFU {row['mfu']:.1%}"] if row["mfu"] else []))


def describe(setup: RunPlan, compiled, compile_s: float, start: int, meter: Meter) -> str:
    """Model, mesh, memory and arithmetic of a run, before its first step."""
    memory = compiled.memory_analysis()
    used = "" if memory is None else f", {sum(memory_of(memory)) / 2**20:.0f} MiB a device"
    axes = " x ".join(f"{axis} {size}" for axis, size in setup.mesh.shape.items())
    return (
        f"{setup.experiment.name}: {param_paths.count(setup.abstract.params):,} parameters, "
        f"{setup.pipeline.size} clips, mesh {axes} on {jax.devices()[0].device_kind}, "
        f"{meter.step_flops / 1e9:.1f} GFLOP a step{used}, compiled in {compile_s:.1f} s, "
        f"from step {start}"
    )
