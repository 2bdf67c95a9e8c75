"""The training loop. One order of operations, for every method, on every mesh."""

from __future__ import annotations

import contextlib
import math
import platform
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jfreq
from jfreq import distributed, sharding
from jfreq.config import Experiment, check
from jfreq.config_json import to_dict
from jfreq.data.fold_assignment import advice_without_folds
from jfreq.files import local_path, write_json
from jfreq.method import Method
from jfreq.monitoring.metrics_writer import MetricsWriter
from jfreq.monitoring.progress import Progress
from jfreq.monitoring.throughput import Meter, describe, summary
from jfreq.train import checkpoint, run_folder
from jfreq.train.initial_state import Sources, check_sources, check_start, first_state, run_key
from jfreq.train.plan import RunPlan, plan_run
from jfreq.train.state import State, Trained
from jfreq.train.step import compile_step
from jfreq.types import Batch, PyTree


class NotFinite(RuntimeError):
    """The loss or the gradient is NaN or infinite; the message says where the dump lies."""


class Stopped(RuntimeError):
    """SIGTERM or SIGINT; the state is saved and the same command continues."""

    def __init__(self, step: int, number: int):
        super().__init__(f"stopped at step {step}; the same command continues from there")
        self.signal = number


def train(experiment: Experiment, workdir: str | Path, *, quiet: bool = False) -> Trained:
    """Trains ``experiment`` in ``workdir``, from its last checkpoint if there is one.

    ``quiet`` shows no progress.

    Raises ``InputError`` for bad settings before any long work, ``NotFinite`` when the loss or
    the gradient stops being a number, ``Stopped`` after SIGTERM or SIGINT.
    """
    workdir = local_path(workdir, "workdir")
    if not checkpoint.exists(workdir):
        check_sources(experiment)
    setup = plan_run(experiment)
    with jax.set_mesh(setup.mesh), contextlib.closing(setup.pipeline):
        return _run(setup, workdir, quiet)


def _run(setup: RunPlan, workdir: Path, quiet: bool) -> Trained:
    experiment = setup.experiment
    sources = None  # a run that goes on needs them no more, and they may be gone
    if not checkpoint.exists(workdir):
        sources = load_sources(experiment)
        check_start(setup, sources)
    with run_folder.lock_run_folder(workdir, experiment):
        saves = checkpoint.Checkpoints(workdir, keep=experiment.checkpoint.keep)
        return _loop(setup, workdir, saves, sources, quiet)


def load_sources(experiment: Experiment) -> Sources:
    """What the sources of ``checkpoint.init_from`` hold, on the host."""
    if not experiment.checkpoint.init_from:
        return ()
    from jfreq.export.bundle import load_trained

    return [(s, load_trained(s.path, s.what)) for s in experiment.checkpoint.init_from]


def _start(
    setup: RunPlan, workdir: Path, saves: checkpoint.Checkpoints, sources: Sources | None
) -> tuple[State, int, list[str]]:
    """The state that a run goes on or starts from, its step, and notes for people: from its last
    checkpoint, else from ``sources`` (None: still to be read), else from the initialisers."""
    experiment, notes = setup.experiment, []
    restored = saves.restore_last(setup.abstract)
    if restored is None:
        sources = load_sources(experiment) if sources is None else sources
        return first_state(setup, sources, notes.append), 0, notes
    state, meta = restored
    run_folder.check_same(workdir, meta["config"], experiment)
    check(
        meta["manifest"] == setup.pipeline.manifest_hash,
        "data",
        f"{workdir} was trained on other shards than {', '.join(experiment.data.path)} hold "
        "now; give the same data, or another --workdir",
    )
    return state, int(meta["step"]), notes


def _meta(setup: RunPlan, step: int) -> dict[str, Any]:
    """What is saved beside the state of ``step``."""
    versions = {
        "jfreq": jfreq.__version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
    }
    return {
        "step": step,
        "manifest": setup.pipeline.manifest_hash,
        "config": to_dict(setup.experiment),
        "versions": versions,
    }


def _loop(
    setup: RunPlan,
    workdir: Path,
    saves: checkpoint.Checkpoints,
    sources: Sources | None,
    quiet: bool,
) -> Trained:
    experiment, pipeline = setup.experiment, setup.pipeline
    chief = distributed.is_chief()
    state, start, notes = _start(setup, workdir, saves, sources)
    progress = Progress(
        experiment.steps, start=start, title=experiment.name, quiet=quiet or not chief
    )
    for note in notes:
        progress.say(note)
    if note := advice_without_folds(pipeline.shards.info, pipeline.shards.column("subject")):
        progress.say(note)
    if start >= experiment.steps:
        progress.say(f"{workdir}: already at step {start} of {experiment.steps}")
        progress.close()
        saves.close()
        return Trained(experiment, distributed.to_host(state.params))

    if chief:  # only a run that goes on takes new settings
        write_json(workdir / run_folder.CONFIG, to_dict(experiment))

    # ---- compile once, ahead of the first step
    progress.say(f"compiling {experiment.name} ...")
    step_fn, compile_s = compile_step(setup)
    key = run_key(setup)
    meter = Meter(setup, start)
    progress.say(describe(setup, step_fn, compile_s, start, meter))
    params, mesh = setup.abstract.params, setup.mesh.shape
    if note := sharding.dropped(params, mesh, experiment.mesh.rules):
        progress.say(note)
    tensorboard = experiment.log.tensorboard
    writer = MetricsWriter(workdir, start_step=start, tensorboard=tensorboard) if chief else None
    warned: set[str] = set()

    def flush_metrics(pending: tuple[int, PyTree] | None) -> None:
        """Reads the metrics of a step that was sent off earlier; checks, counts, writes them."""
        if pending is None:
            return
        step, metrics = pending
        values = jax.device_get(metrics)
        _check_finite(setup, workdir, step, values, saves)
        row = meter.add(step, values)
        if row is not None and writer is not None:
            writer.write(row)
            progress.update(step, summary(row, setup.method.headline))
            for warning in below_threshold(setup.method, row, warned):
                progress.say(f"step {step}: {warning}")

    # ---- the loop. Do not change the order: save the state before the next batch is read,
    # send off step t before the metrics of step t - 1 are read.
    feed = Feed(setup, start)
    pending = None
    try:
        with stop_signals() as received, jax.transfer_guard("disallow"):
            for step in range(start, experiment.steps):
                stop = distributed.asked_to_stop(step, received)
                if step > start and (step % experiment.checkpoint.every == 0 or stop):
                    flush_metrics(pending)
                    pending = None
                    saves.save(state, step, _meta(setup, step))
                if stop:
                    saves.wait()
                    raise Stopped(step, stop)
                batch = next(feed)
                meter.waited(feed.last_wait)
                state, metrics = step_fn(state, batch, key)
                flush_metrics(pending)
                pending = (step + 1, metrics)
            flush_metrics(pending)
            saves.save(state, experiment.steps, _meta(setup, experiment.steps))
        saves.wait()
        return Trained(experiment, distributed.to_host(state.params))
    finally:
        progress.close()
        if writer is not None:
            writer.close()
        saves.close()


class Feed:
    """Batches on the devices, one ahead of the step that uses them."""

    def __init__(self, setup: RunPlan, start: int):
        self._mesh = setup.mesh
        self._source: Iterator[dict[str, np.ndarray]] = setup.pipeline.iterate(start)
        self._ahead = self._place()
        self.last_wait = 0.0

    def _place(self) -> Batch:
        with jax.transfer_guard("allow"):
            return sharding.to_global(next(self._source), self._mesh)

    def __next__(self) -> Batch:
        batch = self._ahead
        began = time.perf_counter()
        self._ahead = self._place()
        self.last_wait = time.perf_counter() - began
        return batch


@contextlib.contextmanager
def stop_signals():
    """A list that becomes non-empty when SIGTERM or SIGINT arrives; a second one ends at once.

    Among several processes signals are left to their coordinator, which tells all of them.
    """
    received: list[int] = []
    if jax.process_count() > 1:
        yield received
        return
    old = {}

    def note(number, frame):
        received.append(number)
        signal.signal(number, old[number])

    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            old[number] = signal.signal(number, note)
    except ValueError:  # not in the main thread: leave signals alone
        old = {}
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def below_threshold(method: Method, row: dict[str, Any], warned: set[str]) -> Iterator[str]:
    """A warning for every metric of ``row`` that is below its threshold; the next one only after it
    was above in between, which ``warned`` remembers."""
    for name, threshold in method.collapse_thresholds.items():
        if row[name] >= threshold:
            warned.discard(name)
        elif name not in warned:
            warned.add(name)
            yield (
                f"warning: {name} is {row[name]:.3g}, below {threshold:g}: the targets collapse; "
                "try a lower learning rate or a slower teacher"
            )


def _check_finite(setup: RunPlan, workdir: Path, step: int, values, saves) -> None:
    total, count = values["loss"]
    if math.isfinite(total / max(count, 1.0)) and math.isfinite(values["grad_norm"][0]):
        return
    saves.wait()
    steps = saves.steps()
    dump = {
        "step": step,
        "metrics": {name: [float(s), float(c)] for name, (s, c) in values.items()},
        "batch_ids": setup.pipeline.global_ids(step - 1).tolist(),
        "last_good_checkpoint": steps[-1] if steps else None,
    }
    path = workdir / f"not_finite_{step}.json"
    if distributed.is_chief():
        write_json(path, dump)
    raise NotFinite(
        f"loss {total / max(count, 1.0)} or gradient norm {values['grad_norm'][0]} at step {step}; "
        f"batch and metrics are in {path}, last good checkpoint: {dump['last_good_checkpoint']}"
    )
