"""The checkpoints of a run, written by orbax under ``checkpoints/`` of its folder.

A run starts from the last good checkpoint of its folder; without one from what the sources of
``checkpoint.init_from`` give, and without these from the initialisers.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jfreq import checksums, distributed, staging
from jfreq.config import Checkpoint, Experiment, Saved, check
from jfreq.files import disk_errors
from jfreq.train.checkpoint_files import (
    DAMAGED,
    UNFINISHED,
    finished,
    read_meta,
    reading,
)
from jfreq.train.fits import check_fits
from jfreq.train.keeping import reasons
from jfreq.train.run_folder import CHECKPOINTS, check_same, read_config
from jfreq.train.state import State, Trained
from jfreq.train.stored import LATE_FILES, complete, stored, verify
from jfreq.types import InputError, PyTree

DEFAULT = Checkpoint()

log = logging.getLogger("jfreq")
logging.getLogger("absl").setLevel(logging.ERROR)  # orbax logs every save and restore


class _Kept(ocp.checkpoint_managers.PreservationPolicy):
    """Which checkpoints stay on disk."""

    def __init__(self, cfg: Checkpoint):
        self._cfg = cfg
        self.best: int | None = None
        """The step of the best; what was the best before it goes once this one is on disk."""

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        why = reasons(steps, self._cfg, self.best)
        return [bool(why[step]) for step in steps]


class Checkpoints:
    """The checkpoints of one run folder, saved in the background.

    Opening them finds the newest one that is whole. Those before it that are provably damaged are
    named in a warning and kept as ``damaged-STEP``; process 0 decides for all. Raises
    ``InputError``, and touches nothing, where a checkpoint cannot be read for another reason.
    """

    def __init__(self, workdir: Path, cfg: Checkpoint = DEFAULT):
        self._workdir, self._folder = workdir, workdir / CHECKPOINTS
        self._last: int | None = distributed.from_chief(lambda: _open(self._folder))
        self._stored = stored(self._folder)
        self._writing = -1
        self.kept = _Kept(cfg)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self.kept,
            enable_async_checkpointing=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
        )
        handlers = None
        if self._stored is not None:
            handlers = self._stored.start(options, self._last)
        with disk_errors(self._folder):
            self._manager = ocp.CheckpointManager(
                self._folder.absolute(), options=options, handler_registry=handlers
            )

    def steps(self) -> list[int]:
        """Checkpoints on disk or being written, oldest first.

        From the manager's own list: reading the folder would race with its clean-up thread.
        """
        return sorted(self._manager.all_steps())

    def save(self, state: State, step: int, meta: dict[str, Any]) -> None:
        """Starts to write ``state``; device arrays may be donated once this returns."""
        if step in self.steps():
            return
        with disk_errors(self._folder):
            self._settle()
            self._writing = step
            kind = ocp.args.StandardSave if self._stored is None else ocp.args.PyTreeSave
            self._manager.save(
                step,
                args=ocp.args.Composite(state=kind(_parts(state)), meta=ocp.args.JsonSave(meta)),
            )

    def _seal(self) -> None:
        """Writes the digests of the files of a checkpoint, in the thread that has just written
        them and before it gets its name: a checkpoint without digests is not whole."""
        done = self._folder / str(self._writing)
        drafts = self._folder.glob(f"{self._writing}{UNFINISHED}*")
        if self._stored is not None:
            self._stored.upload(done if done.is_dir() else next(drafts), self._writing)
        elif distributed.is_chief():
            folder = done if done.is_dir() else next(drafts)
            checksums.write(folder, step=self._writing, leave_out=LATE_FILES)

    def _settle(self) -> None:
        """Waits until what is being written is whole."""
        self._manager.wait_until_finished()
        if self._stored is not None:
            self._stored.settle(self.steps())

    def restore_last(self, abstract: State) -> tuple[State, dict[str, Any]] | None:
        """The newest checkpoint that is whole, placed like ``abstract``; None where there is none.

        Raises ``InputError``, and touches nothing, where it does not fit or cannot be read.
        """
        if self._last is None:
            return None
        path = self._folder / str(self._last)
        with reading(path):
            check_fits(path.absolute() / "state", abstract, self._workdir)
            parts = _parts(abstract)
            state = ocp.args.StandardRestore(parts)
            if self._stored is not None:
                places = ocp.checkpoint_utils.construct_restore_args(parts)
                state = ocp.args.PyTreeRestore(item=parts, restore_args=places)
            restored = self._manager.restore(
                self._last, args=ocp.args.Composite(state=state, meta=ocp.args.JsonRestore())
            )
        return State(**restored["state"]), restored["meta"]

    def wait(self) -> None:
        """Until everything saved so far is on disk."""
        with disk_errors(self._folder):
            self._settle()
            self._manager.check_for_errors()

    def close(self) -> None:
        with disk_errors(self._folder):
            self._manager.close()


def _parts(state: State) -> dict[str, PyTree]:
    """The parts of a state by name; no average where a run takes none."""
    parts = state._asdict()
    return parts if state.average else {k: v for k, v in parts.items() if k != "average"}


def _open(folder: Path) -> int | None:
    """The newest whole checkpoint. Damaged newer ones are set aside, unfinished ones removed."""
    if found := stored(folder):
        found.remove_unfinished()
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise InputError(f"{folder}: is a file where the folder of checkpoints should be; move it")
    set_aside = []
    with disk_errors(folder, doing="read or renamed"):
        for draft in folder.glob(f"*{UNFINISHED}*"):
            shutil.rmtree(draft, ignore_errors=True)
        for step in sorted(finished(folder), reverse=True):
            try:
                verify(folder / str(step), step=step)
                return step
            except checksums.Damaged as damage:
                set_aside.append(_set_aside(folder / str(step), damage))
    if set_aside:
        raise InputError(
            f"{folder}: every checkpoint is damaged; they are kept as {', '.join(set_aside)}; put "
            "a copy back, or run the same command again to train from the beginning"
        )
    return None


def _set_aside(path: Path, damage: checksums.Damaged) -> str:
    """Renames a damaged checkpoint, which would block saving its step again."""
    name, again = f"{DAMAGED}{path.name}", 0
    while os.path.lexists(path.with_name(name)):
        again += 1
        name = f"{DAMAGED}{path.name}.{again}"
    if found := stored(path.parent):
        found.set_aside(path.name, name)
    if path.exists():
        path.rename(path.with_name(name))
    log.warning(
        "checkpoint %s is damaged (%s); it is kept as %s, and the one before it is used",
        path,
        damage,
        name,
    )
    return name


def load_run(path: str | Path, *, step: int | None = None, what: Saved = "params") -> Trained:
    """The experiment and the parameters of a checkpoint, on the host; nothing on disk is changed.

    Args:
        path: The run folder.
        step: The checkpoint to read; None: the newest whole one, or for the parameters of a run
            that keeps the best one (``checkpoint.best``), that. Damaged ones are named in a
            warning.
        what: "last" for the parameters after the last update, also where the run ends in the best
            or in an average; "target" for the training target in place of parameters.

    Returns:
        Parameters as numpy arrays, whole, however the run sharded them.

    Raises:
        InputError: The folder is no run, or has no checkpoint that is whole.
    """
    with staging.opened(path, "run") as workdir:
        return _load_run(workdir, step, what)


def _load_run(workdir: Path, step: int | None, what: Saved) -> Trained:
    experiment = read_config(workdir)
    folder = (workdir / CHECKPOINTS).absolute()
    if not folder.is_dir():
        raise InputError(f"{workdir}: has no checkpoint yet; let `jfreq train` run longer")
    if step is not None:
        _check_listed(workdir, step)
        try:
            return _described(experiment, _load_step(folder, step, experiment, what), step)
        except checksums.Damaged as damage:
            raise InputError(f"{folder / str(step)}: is damaged ({damage})") from None
    figure = experiment.checkpoint.best if what == "params" else None
    tried: dict[int, str] = {}
    # Listed anew after each miss: a running training may have replaced what was there.
    while left := _finished_now(folder) - set(tried):
        newest = max(left)
        try:
            found = _load_step(folder, newest, experiment, what)
            best = None if figure is None else _best(folder, newest, figure)
            if best in (None, newest):
                return _described(experiment, found, newest, best, tried)
            try:
                params = _load_step(folder, best, experiment, what)
                return _described(experiment, params, best, best, tried)
            except (checksums.Damaged, InputError) as error:
                log.warning(
                    "%s: the best checkpoint, of step %d, cannot be read (%s); step %d is read",
                    folder,
                    best,
                    error,
                    newest,
                )
            return _described(experiment, found, newest, best, tried)
        except checksums.Damaged as damage:
            tried[newest] = str(damage)
            if (folder / str(newest)).exists():
                log.warning("checkpoint %s is damaged (%s)", folder / str(newest), damage)
    if tried:
        first = max(tried)
        raise InputError(
            f"{workdir}: no checkpoint of {sorted(tried)} is whole; the last one: {tried[first]}"
        )
    raise InputError(f"{workdir}: has no readable checkpoint; let `jfreq train` run longer")


def _described(
    experiment: Experiment,
    params: PyTree,
    step: int,
    best: int | None = None,
    damaged: Collection[int] = (),
) -> Trained:
    """These parameters, with what a report says of their checkpoint.

    Args:
        experiment: That of the run.
        params: What was read.
        step: Its updates.
        best: The best step, where that was to be read.
        damaged: Later steps that cannot be read.
    """
    why = [f"that of step {later} is damaged" for later in sorted(damaged)]
    if best == step:
        why.append(f"the best by {experiment.checkpoint.best}")
    elif best is not None:
        why.append(f"the best, of step {best}, cannot be read")
    if not why and step == experiment.steps:
        return Trained(experiment, params, step)
    remark = f" ({'; '.join(why)})" if why else ""
    return Trained(experiment, params, step, f"step {step} of {experiment.steps}{remark}")


def _check_listed(workdir: Path, step: int) -> None:
    steps = sorted(finished(workdir / CHECKPOINTS))
    if step not in steps:
        raise InputError(f"{workdir}: has no checkpoint of step {step}, only of {steps}")


def choose_whole(workdir: Path, step: int | None = None) -> int:
    """The newest whole checkpoint of a run, or ``step`` if that is one; nothing is changed.

    Damaged ones are named in a warning. Raises ``InputError`` where there is none.
    """
    folder = workdir / CHECKPOINTS
    if not exists(workdir):
        raise InputError(f"{workdir}: has no checkpoint yet; let `jfreq train` run longer")
    if step is not None:
        _check_listed(workdir, step)
    damaged = []
    for each in sorted(finished(folder), reverse=True) if step is None else [step]:
        try:
            verify(folder / str(each), step=each)
            return each
        except checksums.Damaged as damage:
            damaged.append(f"{folder / str(each)}: is damaged ({damage})")
            if step is None:
                log.warning("checkpoint %s", damaged[-1])
    if step is None:
        raise InputError(f"{damaged[0]}; no checkpoint of this run is whole")
    raise InputError(f"{damaged[0]}; choose another of steps {sorted(finished(folder))}")


def exists(workdir: Path) -> bool:
    """Whether a run folder holds a checkpoint."""
    folder = workdir / CHECKPOINTS
    return folder.is_dir() and bool(finished(folder))


def _finished_now(folder: Path) -> set[int]:
    """As :func:`finished`, of a local copy too."""
    if found := stored(folder):
        found.refresh()
    return finished(folder)


def _load_step(folder: Path, step: int, experiment: Experiment, what: Saved) -> PyTree:
    """This part of a checkpoint. Raises ``Damaged`` where its files are not what was written."""
    path = folder / str(step)
    with reading(path):
        verify(path, step=step)
        meta = read_meta(path)
        if "config" in meta:
            check_same(path, meta["config"], experiment)
        return _restore(path / "state", what)


def _best(folder: Path, step: int, figure: str) -> int | None:
    """The best step by ``figure`` before ``step`` and at it, as its checkpoint notes it."""
    complete(folder / str(step))
    meta = read_meta(folder / str(step))
    watch = meta.get("watch", {})
    best = watch.get("best_step") if watch.get("figure") == figure else None
    if best is None:
        log.warning("%s: %s has not been measured yet; step %d is read", folder, figure, step)
    return best


def _restore(item: Path, what: Saved) -> PyTree:
    """What is asked for of a saved state, as whole numpy arrays, however it was sharded."""
    with ocp.PyTreeCheckpointer() as reader:
        tree = reader.metadata(item).item_metadata.tree

        def read(part: str) -> PyTree:
            kind = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree[part])
            args = ocp.args.PyTreeRestore(
                item={part: tree[part]}, restore_args={part: kind}, partial_restore=True
            )
            return reader.restore(item, args=args)[part]

        if what == "target":
            check(
                bool(tree.get(what)),
                str(item.parent),
                f"its method has no {what}; take its parameters (what=params)",
            )
            return read(what)
        if what == "params" and tree.get("average"):
            found = read("average")
            if int(found["count"]):
                return found["params"]
            log.warning(
                "%s: holds no snapshot yet (average.start); the parameters of its last update "
                "are read",
                item.parent,
            )
        return read("params")
