"""Run folders: ``config.json``, orbax checkpoints under ``checkpoints/``, and how runs start.

A fresh start takes, in this order: the folder's own last good checkpoint, the encoder of
``checkpoint.init_from``, the initialisers.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jfreq import distributed, methods, trees
from jfreq.config import Experiment, changes, to_dict
from jfreq.files import disk_errors, local_path, read_json, write_json
from jfreq.ops.posemb import resize_positions
from jfreq.state import State, Trained
from jfreq.types import InputError, PyTree

CONFIG, CHECKPOINTS = "config.json", "checkpoints"
FREE_FIELDS = ("steps", "log", "checkpoint", "mesh", "data.threads", "data.door", "data.memory_mb")
"""What may change between two starts of one run."""

log = logging.getLogger("jfreq")
logging.getLogger("absl").setLevel(logging.ERROR)  # orbax narrates every save and restore


class Checkpoints:
    """The checkpoints of one run folder, saved in the background."""

    def __init__(self, workdir: Path, *, keep: int = 2):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        self._folder = workdir / CHECKPOINTS
        with disk_errors(self._folder):
            self._manager = ocp.CheckpointManager(self._folder.absolute(), options=options)

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
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state._asdict()), meta=ocp.args.JsonSave(meta)
                ),
            )

    def restore_last(self, abstract: State) -> tuple[State, dict[str, Any]] | None:
        """The last readable checkpoint, placed like ``abstract``; None where there is none.

        A damaged checkpoint is named in a warning and the one before it is used.
        """
        steps = self.steps()
        for step in reversed(steps):
            args = ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract._asdict()), meta=ocp.args.JsonRestore()
            )
            try:
                found = self._manager.restore(step, args=args)
            except Exception as error:
                log.warning("checkpoint %s is damaged (%s), trying an older one",
                            self._folder / str(step), _first_line(error))  # fmt: skip
                # A damaged step would block saving the same step again.
                self._manager.delete(step)
                continue
            return State(**found["state"]), found["meta"]
        if steps:
            raise InputError(
                f"{self._folder}: none of the checkpoints {steps} can be read; they were "
                "removed, start again to train from scratch"
            )
        return None

    def wait(self) -> None:
        """Until everything saved so far is on disk."""
        with disk_errors(self._folder):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def close(self) -> None:
        with disk_errors(self._folder):
            self._manager.close()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def claim(workdir: Path, experiment: Experiment) -> None:
    """Makes ``workdir`` this experiment's; ``InputError`` if it is another's."""
    path = workdir / CONFIG
    if path.exists():
        before, now = to_dict(read_config(workdir)), to_dict(experiment)
        changed = [name for name in changes(before, now) if not _free(name)]
        if changed == ["method.signals"]:
            raise InputError(
                f"{workdir} was trained on other shards than {', '.join(experiment.data.path)} "
                "hold now: their signals differ; give the same data, or another --workdir"
            )
        if changed:
            raise InputError(
                f"{workdir}: holds another experiment, which differs in {', '.join(changed[:5])}; "
                "choose another --workdir, or give the same settings to continue it"
            )
    elif workdir.exists() and not workdir.is_dir():
        raise InputError(f"{workdir}: is a file; --workdir wants a folder")
    if distributed.is_chief():
        write_json(path, to_dict(experiment))


def _free(name: str) -> bool:
    return any(name == field or name.startswith(field + ".") for field in FREE_FIELDS)


def read_config(workdir: Path) -> Experiment:
    """The experiment of a run folder."""
    path = workdir / CONFIG
    if not path.exists():
        raise InputError(f"{workdir}: not a run folder, it has no {CONFIG}")
    value = read_json(path, "the config of a run", advice="the run cannot be read")
    return methods.experiment_from_dict(value, str(path))


def load_run(path: str | Path, *, step: int | None = None) -> Trained:
    """Experiment and parameters of a run folder's checkpoint, on the host: the last good one, or
    the one of ``step``."""
    workdir = local_path(path, "run")
    experiment = read_config(workdir)
    if not (workdir / CHECKPOINTS).is_dir():
        raise InputError(f"{workdir}: has no checkpoint yet; let `jfreq train` run longer")
    folder = (workdir / CHECKPOINTS).absolute()
    tried: set[int] = set()
    if step is not None:
        found = sorted(_finished(folder))
        if step not in found:
            raise InputError(f"{workdir}: has no checkpoint of step {step}, only of {found}")
        return Trained(experiment, _restore_params(folder / str(step) / "state"))
    # Listed anew after each miss: a running training may have replaced what was there.
    while left := _finished(folder) - tried:
        tried.add(step := max(left))
        item = folder / str(step) / "state"
        try:
            return Trained(experiment, _restore_params(item))
        except Exception as error:
            log.warning("checkpoint %s is damaged (%s)", item, _first_line(error))
    raise InputError(f"{workdir}: has no readable checkpoint; let `jfreq train` run longer")


def _finished(folder: Path) -> set[int]:
    """Steps of a folder's checkpoints; those being written still have another name."""
    return {int(entry.name) for entry in folder.iterdir() if entry.name.isdigit()}


def _restore_params(item: Path) -> PyTree:
    """Only the parameters of a saved state, as numpy arrays, wherever they were sharded."""
    with ocp.PyTreeCheckpointer() as reader:
        tree = reader.metadata(item).item_metadata.tree["params"]
        kind = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        args = ocp.args.PyTreeRestore(
            item={"params": tree}, restore_args={"params": kind}, partial_restore=True
        )
        return reader.restore(item, args=args)["params"]


def fit_params(source: PyTree, template: PyTree) -> tuple[PyTree, dict[str, list[str]]]:
    """``template`` with every parameter that ``source`` has, matched by path.

    A prefix may differ (``trunk/...`` fits ``backbone/trunk/...``). Position grids ``[f t d]`` of
    another shape are cropped or resized (AST, section 2.2). Returns the parameters and the paths
    ``{"taken", "resized", "fresh"}``; raises ``InputError`` if nothing fits.
    """
    leaves = trees.flatten(source)
    report: dict[str, list[str]] = {"taken": [], "resized": [], "fresh": []}

    def pick(path: str, leaf):
        found = next((leaves[p] for p in _tails(path) if p in leaves), None)
        if found is not None and found.shape == leaf.shape:
            report["taken"].append(path)
            return np.asarray(found, leaf.dtype)
        if (
            found is not None
            and path.endswith("positions/grid")
            and found.shape[2:] == leaf.shape[2:]
        ):
            report["resized"].append(path)
            return np.asarray(resize_positions(np.asarray(found), leaf.shape[:2]), leaf.dtype)
        report["fresh"].append(path)
        return leaf

    fitted = trees.map_paths(pick, template)
    if not report["taken"]:
        raise InputError("checkpoint.init_from: no parameter there fits this method's")
    return fitted, report


def _tails(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[i:]) for i in range(max(1, len(parts) - 1))]
