"""The folder of a run: one writer at a time, and the experiment that it holds."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from pathlib import Path
from typing import Any

from jfreq import __version__, distributed, methods, staging
from jfreq.config import Experiment, check
from jfreq.config_json import changes, to_dict
from jfreq.files import Lock, read_json, write_json
from jfreq.lease import Lease
from jfreq.types import InputError

CONFIG, CHECKPOINTS, LOCK, STARTED = "config.json", "checkpoints", ".lock", "started.json"

FREE_FIELDS = ("steps", "log", "checkpoint", "mesh", "evals")
FREE_DATA_FIELDS = ("data.path", "data.cache", "data.threads", "data.backend", "data.memory_mb")
"""Fields that may change between two starts of a run. The contents of the shards may not, which
the checkpoint knows by their hash; their path may."""
OTHER_VERSION = (
    f"; unless it was changed by hand, another version of jfreq than this one ({__version__}) "
    "wrote it: read the run with the version that trained it, which "
    f"{CHECKPOINTS}/*/meta/metadata names, or train it again in another folder"
)
"""End of messages about settings of a run that are not those of this version."""


def lock_run_folder(workdir: Path, experiment: Experiment) -> contextlib.ExitStack:
    """Makes this process the only writer of ``workdir`` until the result is closed, and writes the
    config of ``experiment`` there if there is none.

    Raises ``InputError`` where the folder is another experiment's, or another process writes it.
    """
    held = contextlib.ExitStack()

    def take() -> None:
        _check_run_folder(workdir, experiment)
        held.enter_context(lock(workdir))
        _check_run_folder(workdir, experiment)
        if not os.path.lexists(workdir / CONFIG):
            write_json(workdir / CONFIG, to_dict(experiment))

    distributed.from_chief(take)
    return held


def lock(workdir: Path) -> contextlib.closing[Lock | Lease]:
    """Makes this process the only one that writes checkpoints into a run folder, until the result
    is left. Raises ``InputError`` where another one does."""
    return contextlib.closing(staging.lock(workdir / LOCK, "trains in"))


def _check_run_folder(workdir: Path, experiment: Experiment) -> None:
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"{workdir}: is a file; --workdir must be a folder")
    if os.path.lexists(workdir / CONFIG):
        check_same(workdir, to_dict(read_config(workdir)), experiment)
    elif os.path.lexists(workdir / CHECKPOINTS):
        raise InputError(
            f"{workdir}: has {CHECKPOINTS}/ but no {CONFIG}, so what was trained there is not "
            f"known; put its {CONFIG} back, or choose another --workdir"
        )


def check_same(path: Path, before: Any, experiment: Experiment) -> None:
    """Raises ``InputError`` if ``before``, a config read from ``path``, is another experiment."""
    before = to_dict(methods.experiment_from_dict(before, str(path), OTHER_VERSION))
    changed = differing(before, experiment)
    if experiment.optim.plateau_figure.startswith("eval/"):  # which decides the learning rate
        changed += [name for name in changes(before, to_dict(experiment)) if name == "evals"]
    if changed == ["method.signals"]:
        raise InputError(
            f"{path} was trained on other shards than {', '.join(experiment.data.path)} "
            "hold now: their signals differ; give the same data, or another --workdir"
        )
    if changed:
        raise InputError(
            f"{path}: holds another experiment, which differs in {', '.join(changed[:5])}; "
            "choose another --workdir, or give the same settings to continue it"
        )


def first_start(workdir: Path) -> dict[str, Any]:
    """When the run of this folder was started first, ``time`` in seconds since 1970, and its
    ``id``, the same each time that it is started; written once, into ``started.json``."""

    def read() -> dict[str, Any]:
        path = workdir / STARTED
        if not path.exists():
            write_json(path, {"time": time.time(), "id": uuid.uuid4().hex[:12]})
        found = read_json(path, "the note of the first start", advice="remove it to begin anew")
        wanted = isinstance(found.get("time"), int | float) and isinstance(found.get("id"), str)
        check(wanted, str(path), "lacks time or id; remove it to begin anew")
        return found

    return distributed.from_chief(read)


def differing(before: Any, experiment: Experiment, free: tuple[str, ...] = ()) -> list[str]:
    """The fields in which ``experiment`` differs from the config ``before``, but those that may
    change between two starts of a run, and those that ``free`` names."""
    free = (*FREE_FIELDS, *FREE_DATA_FIELDS, *free)
    return [
        name
        for name in changes(before, to_dict(experiment))
        if not any(name == field or name.startswith(field + ".") for field in free)
    ]


def read_config(workdir: Path) -> Experiment:
    """The experiment of a run folder."""
    path = workdir / CONFIG
    if not os.path.lexists(path):
        raise InputError(f"{workdir}: not a run folder, it has no {CONFIG}")
    value = read_json(path, "the config of a run", advice="the run cannot be read")
    if "experiment" in value:
        raise InputError(f"{workdir}: is a bundle, not a run; give the folder that it comes from")
    try:
        return methods.experiment_from_dict(value, str(path), OTHER_VERSION)
    except RecursionError:
        raise InputError(f"{path}: is nested too deeply; the run cannot be read") from None
