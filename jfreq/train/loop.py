"""The training loop. One order of operations, for every method, on every mesh."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jfreq import distributed, sharding
from jfreq.config import Experiment, check
from jfreq.config_json import to_dict
from jfreq.data.fold_assignment import advice_without_folds
from jfreq.files import local_path, write_json
from jfreq.method import Method
from jfreq.monitoring.metrics_writer import MetricsWriter
from jfreq.monitoring.progress import Progress
from jfreq.monitoring.throughput import Meter, describe, summary
from jfreq.train import average, checkpoint, run_folder
from jfreq.train.average import check_same_snapshots, check_snapshots
from jfreq.train.initial_state import Sources, check_sources, check_start, first_state, run_key
from jfreq.train.milestones import Hooks, Milestones, OnSnapshot
from jfreq.train.optimizer import follows_plateau
from jfreq.train.plan import RunPlan, plan_run
from jfreq.train.state import State, Trained
from jfreq.train.step import compile_step
from jfreq.train.validation import check_metric
from jfreq.train.watch import Watch, check_watched
from jfreq.types import Batch, PyTree


class NotFinite(RuntimeError):
    """The loss or the gradient is NaN or infinite; the message names the file with the details."""


class Stopped(RuntimeError):
    """SIGTERM or SIGINT; the state is saved and the same command continues."""

    def __init__(self, step: int, number: int):
        super().__init__(f"stopped at step {step}; the same command continues from there")
        self.signal = number


def train(
    experiment: Experiment,
    workdir: str | Path,
    *,
    quiet: bool = False,
    on_snapshot: OnSnapshot | None = None,
) -> Trained:
    """Trains ``experiment`` in ``workdir``, from its last checkpoint if there is one.

    Args:
        experiment: The run; its method need not be bound to the data yet.
        workdir: The folder of the run, which is made or continued.
        quiet: Shows no progress.
        on_snapshot: What is done with snapshots of which ``average`` averages predictions.

    Returns:
        The bound experiment, and on the host the parameters that the run ends in: those after the
        last step, the best by ``validation``, or the mean of snapshots by ``average``.

    Raises:
        InputError: Settings, data or the folder are bad; known before any long work.
        NotFinite: The loss or the gradient is NaN or infinite.
        Stopped: SIGTERM or SIGINT arrived; the state is saved.
    """
    workdir = local_path(workdir, "workdir")
    check_snapshots(experiment, tested=on_snapshot is not None)
    check_watched(experiment, plateau=follows_plateau(experiment.optim))
    if not checkpoint.exists(workdir):
        check_sources(experiment)
    setup = plan_run(experiment)
    with jax.set_mesh(setup.mesh), contextlib.closing(setup.pipeline):
        return _run(setup, workdir, quiet, on_snapshot)


def _run(
    setup: RunPlan, workdir: Path, quiet: bool, on_snapshot: OnSnapshot | None = None
) -> Trained:
    experiment = setup.experiment
    if experiment.validation.every is not None:
        check_metric(setup)
    sources = None  # a run that goes on needs them no more, and they may be gone
    if not checkpoint.exists(workdir):
        sources = load_sources(experiment)
        check_start(setup, sources)
    with run_folder.lock_run_folder(workdir, experiment):
        saves = checkpoint.Checkpoints(workdir, keep=experiment.checkpoint.keep)
        return _loop(setup, workdir, saves, sources, quiet, on_snapshot)


def load_sources(experiment: Experiment) -> Sources:
    """What the sources of ``checkpoint.init_from`` hold, on the host."""
    if not experiment.checkpoint.init_from:
        return ()
    from jfreq.export.bundle import load_trained

    return [(s, load_trained(s.path, s.what)) for s in experiment.checkpoint.init_from]


def _start(
    setup: RunPlan, workdir: Path, saves: checkpoint.Checkpoints, sources: Sources | None
) -> tuple[State, int, Watch, list[str]]:
    """The state that a run starts from, its step, what it remembers of its validation, and lines
    to print.

    The state comes from the last checkpoint, else from ``sources`` (None: still to be read), else
    from the initialisers.
    """
    experiment, notes = setup.experiment, []
    restored = saves.restore_last(setup.abstract)
    if restored is None:
        sources = load_sources(experiment) if sources is None else sources
        return first_state(setup, sources, notes.append), 0, Watch(), notes
    state, meta = restored
    run_folder.check_same(workdir, meta["config"], experiment)
    check_same_snapshots(workdir, experiment, int(meta["config"]["steps"]))
    check(
        meta["manifest"] == setup.pipeline.manifest_hash,
        "data",
        f"{workdir} was trained on other shards than {', '.join(experiment.data.path)} hold "
        "now; give the same data, or another --workdir",
    )
    return state, int(meta["step"]), Watch(**meta.get("watch", {})), notes


def _loop(
    setup: RunPlan,
    workdir: Path,
    saves: checkpoint.Checkpoints,
    sources: Sources | None,
    quiet: bool,
    on_snapshot: OnSnapshot | None,
) -> Trained:
    """Restores or makes the state, compiles the step, and updates until the last one."""
    experiment, pipeline = setup.experiment, setup.pipeline
    chief = distributed.is_chief()
    state, start, watch, notes = _start(setup, workdir, saves, sources)
    progress = Progress(
        experiment.steps, start=start, title=experiment.name, quiet=quiet or not chief
    )
    for note in [
        *notes,
        *pipeline.notes,
        advice_without_folds(pipeline.shards.info, pipeline.shards.column("subject")),
    ]:
        if note:
            progress.say(note)
    if start >= experiment.steps:
        progress.say(f"{workdir}: already at step {start} of {experiment.steps}")
        progress.close()
        saves.close()
        return _trained(experiment, state, workdir)

    if chief:  # only a run that goes on takes new settings
        write_json(workdir / run_folder.CONFIG, to_dict(experiment))
    progress.say(f"compiling {experiment.name} ...")
    step_fn, compile_s = compile_step(setup)
    key, meter = run_key(setup), Meter(setup, start)
    progress.say(describe(setup, step_fn, compile_s, start, meter))
    if note := sharding.dropped(setup.abstract.params, setup.mesh.shape, experiment.mesh.rules):
        progress.say(note)
    tensorboard = experiment.log.tensorboard
    writer = MetricsWriter(workdir, start_step=start, tensorboard=tensorboard) if chief else None
    pending = Pending(setup, workdir, saves, meter, writer, progress)

    try:
        hooks = Hooks(
            flush=pending.flush,
            write=lambda row: None if writer is None else writer.write(row),
            say=progress.say,
            paused=meter.paused,
            on_snapshot=on_snapshot,
        )
        between = Milestones(setup, saves, hooks, watch)
        state = _update(setup, lambda s, b: step_fn(s, b, key), state, start, between, pending)
        saves.wait()
        return _trained(experiment, state, workdir)
    finally:
        progress.close()
        if writer is not None:
            writer.close()
        saves.close()


def _trained(experiment: Experiment, state: State, workdir: Path) -> Trained:
    """What the run ends in, on the host."""
    if experiment.validation.keep_best:
        return checkpoint.load_run(workdir)._replace(experiment=experiment)
    params = distributed.to_host(average.result(state.average, state.params))
    return Trained(experiment, params, int(state.step))


def _update(
    setup: RunPlan,
    update: Callable[[State, Batch], tuple[State, PyTree]],
    state: State,
    start: int,
    between: Milestones,
    pending: Pending,
) -> State:
    """The state after all steps from ``start`` on, which is saved on the way and at the end.

    The order matters: the state is saved before the next batch is read, and step t is sent off
    before the metrics of step t - 1 are read.
    """
    steps, feed = setup.experiment.steps, Feed(setup, start)
    with stop_signals() as received, jax.transfer_guard("disallow"):
        for step in range(start, steps):
            stop = distributed.asked_to_stop(step, received)
            if step > start:
                state = between(state, step, ends=bool(stop))
            if stop:
                pending.saves.wait()
                raise Stopped(step, stop)
            batch = next(feed)
            pending.meter.waited(feed.last_wait)
            state, metrics = update(state, batch)
            pending.replace(step + 1, metrics)
        return between(state, steps, ends=True)


@dataclasses.dataclass
class Pending:
    """Metrics of the step that was sent off last, read while the next one runs."""

    setup: RunPlan
    workdir: Path
    saves: checkpoint.Checkpoints
    meter: Meter
    writer: MetricsWriter | None
    """None in all processes but the chief."""
    progress: Progress
    step: int | None = None
    metrics: PyTree = None
    warned: set[str] = dataclasses.field(default_factory=set)

    def replace(self, step: int, metrics: PyTree) -> None:
        """Reads the metrics that were pending; those of ``step`` take their place."""
        self.flush()
        self.step, self.metrics = step, metrics

    def flush(self) -> None:
        """Waits for the pending metrics; checks, counts, writes and shows them."""
        if self.step is None:
            return
        step, values = self.step, jax.device_get(self.metrics)
        self.step = self.metrics = None
        _check_finite(self.setup, self.workdir, step, values, self.saves)
        row = self.meter.add(step, values)
        if row is not None and self.writer is not None:
            method = self.setup.method
            self.writer.write(row)
            self.progress.update(step, summary(row, method.headline))
            for warning in below_threshold(method, row, self.warned):
                self.progress.say(f"step {step}: {warning}")


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


def _check_finite(setup: RunPlan, workdir: Path, step: int, values, saves) -> None:
    """Writes a dump and raises ``NotFinite`` where the loss or the gradient is not finite."""
    total, count = values["loss"]
    loss, grad_norm = total / max(count, 1.0), values["grad_norm"][0]
    if math.isfinite(loss) and math.isfinite(grad_norm):
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
        f"loss {loss} or gradient norm {grad_norm} at step {step} is not finite; "
        f"batch and metrics are in {path}, last good checkpoint: {dump['last_good_checkpoint']}"
    )
