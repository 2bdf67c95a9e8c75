"""A run described before its first step, and a row of metrics for each window of steps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jfreq import param_paths
from jfreq.method import Streams
from jfreq.monitoring import flops
from jfreq.train.plan import RunPlan
from jfreq.train.step import memory_of


class Meter:
    """Sums of metrics, times and waits between two logged rows."""

    def __init__(self, setup: RunPlan, start: int):
        experiment = setup.experiment
        self._every, self._last, self._steps = experiment.log.every, experiment.steps, 0
        self._batch = experiment.batch
        spec = setup.pipeline.batch_spec
        params, target = setup.abstract.params, setup.abstract.target
        loss, rngs = setup.method.loss, Streams(jax.random.key(0))
        self.step_flops = flops.training(loss, params, target, spec, rngs, 0)
        peak = experiment.log.peak_tflops or flops.peak_tflops(jax.devices()[0].device_kind)
        self._peak = peak * 1e12 * jax.device_count() if peak else None
        self._began, self._wait = time.perf_counter(), 0.0
        self._sums: dict[str, np.ndarray] = {}

    def waited(self, seconds: float) -> None:
        """Adds the seconds that a step waited for its batch."""
        self._wait += seconds

    def paused(self, seconds: float) -> None:
        """Leaves out seconds that no step took."""
        self._began += seconds

    def add(self, step: int, values: dict[str, Any]) -> dict[str, Any] | None:
        """Adds the metrics of a step; returns the row of the window if it ends here, else None."""
        for name, pair in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + np.asarray(pair, np.float64)
        self._steps += 1
        if step % self._every and step != self._last:
            return None
        row: dict[str, Any] = {"step": step}
        row |= {name: float(s / max(c, 1.0)) for name, (s, c) in self._sums.items()}
        seconds = time.perf_counter() - self._began
        row["step_time"] = seconds / self._steps
        row["data_wait"] = self._wait / seconds
        row["examples_per_s"] = self._batch * self._steps / seconds
        row["tflops"] = self.step_flops * self._steps / seconds / 1e12
        row["mfu"] = row["tflops"] * 1e12 / self._peak if self._peak else None
        stats = jax.local_devices()[0].memory_stats() or {}
        row["memory_mb"] = stats.get("peak_bytes_in_use", 0) / 2**20 or None
        self._began, self._wait, self._steps, self._sums = time.perf_counter(), 0.0, 0, {}
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
