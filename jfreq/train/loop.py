"""The training loop. One order of operations, for every method, on every mesh."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jfreq import distributed, sharding, staging
from jfreq.config import Experiment, check
from jfreq.config_json import to_dict
from jfreq.data.fold_assignment import advice_without_folds
from jfreq.files import write_json
from jfreq.monitoring.goodput import Ledger, productive_seconds
from jfreq.monitoring.metrics_writer import MetricsWriter, read_metrics
from jfreq.monitoring.profiler import Profiler
from jfreq.monitoring.progress import Progress
from jfreq.monitoring.throughput import Meter, describe
from jfreq.monitoring.writers import RunInfo, Writers, find_writers
from jfreq.train import average, checkpoint, resume_from, run_folder
from jfreq.train.average import check_same_snapshots, check_snapshots
from jfreq.train.evals import EvalPlan, plan_evals
from jfreq.train.figures import check_figures, figures_of
from jfreq.train.initial_state import Sources, check_sources, check_start, first_state, run_key
from jfreq.train.milestones import Hooks, Milestones, OnSnapshot
from jfreq.train.optimizer import follows_plateau
from jfreq.train.pending import Pending
from jfreq.train.plan import RunPlan, plan_run
from jfreq.train.state import State, Trained
from jfreq.train.step import compile_step
from jfreq.train.watch import Watch, check_watched
from jfreq.types import Batch, PyTree


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
        workdir: The folder of the run, which is made or continued; also a URL, s3:// or gs://.
        quiet: Shows no progress.
        on_snapshot: What is done with snapshots of which ``average`` averages predictions.

    Returns:
        The bound experiment, and on the host the parameters that the run ends in: those after the
        last step, the best by ``checkpoint.best``, or the mean of snapshots by ``average``.

    Raises:
        InputError: Settings, data or the folder are bad; known before any long work.
        NotFinite: The loss or the gradient is NaN or infinite.
        Stopped: SIGTERM or SIGINT arrived; the state is saved.
    """
    check_snapshots(experiment, tested=on_snapshot is not None)
    check_watched(experiment, plateau=follows_plateau(experiment.optim))
    distributed.from_chief(lambda: list(find_writers(experiment.log.writers)))
    with staging.opened(workdir, "workdir", write=distributed.is_chief()) as folder:
        if not checkpoint.exists(folder) and experiment.checkpoint.resume_from is None:
            check_sources(experiment)
        setup = plan_run(experiment)
        with jax.set_mesh(setup.mesh), contextlib.closing(setup.pipeline):
            return _run(setup, folder, quiet, on_snapshot)


def _run(
    setup: RunPlan, workdir: Path, quiet: bool, on_snapshot: OnSnapshot | None = None
) -> Trained:
    experiment, evals = setup.experiment, plan_evals(setup)
    check_figures(setup, evals)
    sources = origin = None  # a run that goes on needs them no more, and they may be gone
    with contextlib.ExitStack() as held:
        if not checkpoint.exists(workdir):
            origin = held.enter_context(resume_from.opened(setup))
            sources = load_sources(experiment)
            if origin is None:
                check_start(setup, sources)
        held.enter_context(run_folder.lock_run_folder(workdir, experiment))
        for plan in evals:
            held.callback(plan.shards.close)
        saves = checkpoint.Checkpoints(workdir, experiment.checkpoint)
        return _loop(setup, workdir, saves, sources, origin, evals, quiet, on_snapshot)


def load_sources(experiment: Experiment) -> Sources:
    """What the sources of ``checkpoint.init_from`` hold, on the host."""
    if not experiment.checkpoint.init_from:
        return ()
    from jfreq.export.bundle import load_trained

    return [(s, load_trained(s.path, s.what, s.step)) for s in experiment.checkpoint.init_from]


def _start(
    setup: RunPlan,
    workdir: Path,
    saves: checkpoint.Checkpoints,
    sources: Sources | None,
    origin: resume_from.Origin | None,
) -> tuple[State, int, Watch, list[str]]:
    """The state that a run starts from, its step, what it remembers of its validation, and lines
    to print.

    The state comes from the last checkpoint, else from ``origin``, else from ``sources`` (None:
    still to be read), else from the initialisers.
    """
    experiment, notes = setup.experiment, []
    restored = saves.restore_last(setup.abstract)
    if restored is None and origin is not None:
        origin.note(workdir)
        return origin.restore(setup), origin.step, origin.watch(), origin.notes
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
    fields = ("resume_from", "init_from")
    if unread := [f"checkpoint.{f}" for f in fields if getattr(experiment.checkpoint, f)]:
        notes.append(
            f"goes on from its own checkpoint of update {meta['step']}; {' and '.join(unread)} was "
            "for its first start"
        )
    return state, int(meta["step"]), Watch(**meta.get("watch", {})), notes


def _loop(
    setup: RunPlan,
    workdir: Path,
    saves: checkpoint.Checkpoints,
    sources: Sources | None,
    origin: resume_from.Origin | None,
    evals: Sequence[EvalPlan],
    quiet: bool,
    on_snapshot: OnSnapshot | None,
) -> Trained:
    """Restores or makes the state, compiles the step, and updates until the last one."""
    experiment, chief, began = setup.experiment, distributed.is_chief(), time.perf_counter()
    first = run_folder.first_start(workdir)
    state, start, watch, notes = _start(setup, workdir, saves, sources, origin)
    restored_s = time.perf_counter() - began
    progress = Progress(
        experiment.steps, start=start, title=experiment.name, quiet=quiet or not chief
    )
    for note in [*notes, *_notes(setup, evals)]:
        progress.say(note)
    if start >= experiment.steps:
        shown = staging.shown(workdir)
        progress.say(f"{shown}: already at step {start} of {experiment.steps}")
        progress.close()
        saves.close()
        return _trained(experiment, state, workdir)

    if chief:  # only a run that goes on takes new settings
        write_json(workdir / run_folder.CONFIG, to_dict(experiment))
    ledger = Ledger(first["time"], _productive_seconds(workdir, start))
    ledger.spent("starting", restored_s)
    step_fn, meter = _compiled(setup, ledger, start, progress)
    writer = _writer(experiment, workdir, first["id"], start) if chief else None
    pending = Pending(setup, workdir, saves, meter, writer, progress)
    profiler = Profiler(_profiled(experiment, start, progress), workdir, progress.say, meter.paused)

    try:
        hooks = Hooks(
            flush=pending.flush,
            write=lambda row: None if writer is None else writer.write(row),
            say=progress.say,
            paused=meter.paused,
            on_snapshot=on_snapshot,
        )
        began, higher = time.perf_counter(), figures_of(setup, evals)
        between = Milestones(setup, saves, hooks, watch, evals=evals, higher=higher, start=start)
        ledger.spent("compiling", time.perf_counter() - began)
        if start and start not in saves.steps():  # the state of another run, which may be removed
            between.save(state, start)
        meter.begin()
        key = run_key(setup)
        update = Update(lambda s, b: step_fn(s, b, key), between, pending, profiler)
        state = _updated(setup, update, state, start)
        saves.wait()
        progress.say(str(ledger))
        return _trained(experiment, state, workdir)
    finally:
        profiler.close()
        pending.close()
        progress.close()
        if writer is not None:
            writer.close()
        saves.close()


def _notes(setup: RunPlan, evals: Sequence[EvalPlan]) -> Iterator[str]:
    """What to tell of the data and of the sets that are measured."""
    shards = setup.pipeline.shards
    lines = [*setup.pipeline.notes, *(plan.note for plan in evals)]
    yield from filter(None, [*lines, advice_without_folds(shards.info, shards.column("subject"))])


def _compiled(
    setup: RunPlan, ledger: Ledger, start: int, progress: Progress
) -> tuple[jax.stages.Compiled, Meter]:
    """The compiled step and what measures its updates; says what was compiled."""
    experiment = setup.experiment
    progress.say(f"compiling {experiment.name} ...")
    step_fn, compile_s = compile_step(setup)
    ledger.spent("compiling", compile_s)
    meter = Meter(setup, ledger)
    progress.say(describe(setup, step_fn, compile_s, start, meter))
    if note := sharding.dropped(setup.abstract.params, setup.mesh.shape, experiment.mesh.rules):
        progress.say(note)
    return step_fn, meter


def _productive_seconds(workdir: Path, start: int) -> float:
    """What the updates of this run up to ``start`` took."""
    return productive_seconds(read_metrics(workdir), start, resume_from.first_step(workdir))


def _trained(experiment: Experiment, state: State, workdir: Path) -> Trained:
    """What the run ends in, on the host."""
    if experiment.checkpoint.best is not None:
        return checkpoint.load_run(workdir)._replace(experiment=experiment)
    params = distributed.to_host(average.result(state.average, state.params))
    return Trained(experiment, params, int(state.step))


def _writer(experiment: Experiment, workdir: Path, run_id: str, start: int) -> MetricsWriter:
    """What metrics of a run that goes on from step ``start`` are written with."""
    found = find_writers(experiment.log.writers)
    info = RunInfo(workdir, experiment.name, run_id, start, to_dict(experiment))
    return MetricsWriter(workdir, start_step=start, copies=Writers(found, info))


def _profiled(experiment: Experiment, start: int, progress: Progress) -> range:
    """The updates after ``start`` that process 0 profiles."""
    wanted = experiment.log.profiled
    if wanted and wanted[-1] <= start:
        progress.say(
            f"log.profile_steps: updates {experiment.log.profile_steps} were done before this "
            "start, so nothing is profiled"
        )
    return wanted if distributed.is_chief() else range(0)


class Update(NamedTuple):
    """What happens in an update and around it."""

    step: Callable[[State, Batch], tuple[State, PyTree]]
    between: Milestones
    pending: Pending
    profiler: Profiler


def _updated(setup: RunPlan, update: Update, state: State, start: int) -> State:
    """The state after all steps from ``start`` on, which is saved on the way and at the end.

    The order matters: the state is saved before the next batch is read, and step t is sent off
    before it is waited for step t - 1.
    """
    steps, feed = setup.experiment.steps, Feed(setup, start)
    _, between, pending, profiler = update
    with stop_signals() as received, jax.transfer_guard("disallow"):
        for step in range(start, steps):
            stop = distributed.asked_to_stop(step, received)
            if step > start:
                state = between(state, step, ends=bool(stop))
            if stop:
                pending.saves.wait()
                raise Stopped(step, stop)
            profiler.at(step + 1, pending.flush)
            with profiler.update(step + 1):
                with profiler.span("wait for the batch"):
                    batch = next(feed)
                pending.meter.waited(feed.last_wait)
                sent = time.perf_counter()
                with profiler.span("dispatch"):
                    state, metrics = update.step(state, batch)
                pending.meter.dispatched(time.perf_counter() - sent)
                with profiler.span("wait for the update before"):
                    pending.replace(step + 1, metrics, sent)
        profiler.at(steps + 1, pending.flush)
        return between(state, steps, ends=True)


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
