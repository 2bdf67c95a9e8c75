"""A fresh run that goes on from a checkpoint of another run: ``checkpoint.resume_from``."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from jfreq import checksums, distributed, methods, staging
from jfreq.config import Experiment, ResumeFrom, check
from jfreq.config_json import changes, to_dict
from jfreq.files import read_json, sha256_of, write_json
from jfreq.ranges import shortlist, shown
from jfreq.train import average
from jfreq.train.checkpoint import choose_whole
from jfreq.train.checkpoint_files import read_meta, reading
from jfreq.train.fits import misfits
from jfreq.train.optimizer import rates
from jfreq.train.plan import RunPlan
from jfreq.train.run_folder import CHECKPOINTS, OTHER_VERSION, differing, read_config
from jfreq.train.state import State
from jfreq.train.stored import complete
from jfreq.train.watch import Watch
from jfreq.types import InputError, PyTree

FILE = "resumed_from.json"
FIELD = "checkpoint.resume_from"
MAY_DIFFER = ("name", "optim", "average", "validation.every", "validation.rows")
"""Beside the fields that may change between two starts of a run."""
OF_SCHEDULES = (
    "lr", "schedule", "schedule_steps", "cooldown", "warmup", "warmup_fraction", "final_lr",
    "step_decay", "step_every", "step_from", "plateau_decay", "plateau_patience",
    "plateau_threshold", "plateau_figure", "groups",
)  # fmt: skip
"""Fields of the optimiser that decide its learning rate."""


class Origin(NamedTuple):
    """A whole checkpoint of another run whose state fits."""

    source: ResumeFrom
    path: Path
    """Its folder."""
    meta: dict[str, Any]
    before: Experiment
    """What the other run was when it was saved."""
    with_average: bool
    """Whether its mean of snapshots is taken over too."""
    notes: list[str]
    """What the user is told, in sentences."""

    @property
    def step(self) -> int:
        return int(self.meta["step"])

    def watch(self) -> Watch:
        """What is remembered of its figures; its best checkpoint is not one of the new run."""
        return Watch(**self.meta.get("watch", {})).of(None)

    def restore(self, setup: RunPlan) -> State:
        """Its state, placed as the new run has it."""
        parts = _parts(setup.abstract, self.with_average)
        with reading(self.path), ocp.PyTreeCheckpointer() as reader:
            args = ocp.args.PyTreeRestore(
                item=parts,
                restore_args=ocp.checkpoint_utils.construct_restore_args(parts),
                partial_restore=True,
            )
            found = reader.restore((self.path / "state").absolute(), args=args)
        state = State(**found)
        if setup.abstract.average and not self.with_average:
            places = jax.tree.map(lambda leaf: leaf.sharding, setup.abstract.average)
            fresh = jax.jit(average.empty, out_shardings=places)(state.params)
            state = state._replace(average=fresh)
        return state

    def note(self, workdir: Path) -> None:
        """Writes into ``workdir`` where the run comes from."""
        value = {
            "run": self.source.path,
            "name": self.before.name,
            "step": self.step,
            "sha256": sha256_of(self.path / checksums.FILE),
            "manifest": self.meta["manifest"],
            "time": time.time(),
        }
        if distributed.is_chief():
            write_json(workdir / FILE, value)


@contextlib.contextmanager
def opened(setup: RunPlan) -> Iterator[Origin | None]:
    """The checkpoint that a fresh run of this plan goes on from; None where it names none.

    Raises ``InputError``, before anything is written, where it is not whole, is of a run that
    cannot go on as this one, or has a state that does not fit. Nothing there is changed.
    """
    source = setup.experiment.checkpoint.resume_from
    if source is None:
        yield None
        return
    with staging.opened(source.path, FIELD) as run:
        yield _found(setup, source, run)


def read_note(workdir: Path) -> dict[str, Any] | None:
    """Where a run comes from, as :meth:`Origin.note` wrote it; None where it began by itself."""
    path = workdir / FILE
    if not path.exists():
        return None
    found = read_json(path, "the note of where a run comes from", advice="move it away")
    good = isinstance(found.get("step"), int) and isinstance(found.get("run"), str)
    check(good, str(path), "lacks step or run; move it away")
    return found


def first_step(workdir: Path) -> int:
    """The updates that a run took over from another one."""
    note = read_note(workdir)
    return 0 if note is None else note["step"]


def _found(setup: RunPlan, source: ResumeFrom, run: Path) -> Origin:
    experiment = setup.experiment
    try:
        read_config(run)
        step = distributed.from_chief(lambda: choose_whole(run, source.step))
    except InputError as error:
        raise InputError(f"{FIELD}: {error}") from None
    path = run / CHECKPOINTS / str(step)
    complete(path)
    meta = read_meta(path)
    where = f"{source.path}, step {step}"
    check(
        step < experiment.steps,
        FIELD,
        f"{where}: the new run ends at step {experiment.steps}, so nothing is left to train; "
        "give more --steps, or an earlier step",
    )
    before = methods.experiment_from_dict(meta["config"], str(path), OTHER_VERSION)
    _check_same(where, source.path, step, before, experiment)
    check(
        meta["manifest"] == setup.pipeline.manifest_hash,
        FIELD,
        f"{where}: was trained on other shards than {', '.join(experiment.data.path)} hold; give "
        f"the same data, or start with {_init_from(source.path, step)}",
    )
    with_average, notes = _average(source.path, before, experiment)
    notes = [f"goes on from step {step} of {source.path}", *notes]
    notes += _other_settings(source.path, before, experiment)
    factor = meta.get("watch", {}).get("factor", 1.0)
    notes += jumps(source.path, before, experiment, step, factor)
    found = misfits(
        (path / "state").absolute(),
        _parts(setup.abstract, with_average),
        left_out=() if with_average else ("average",),
    )
    what = "the state of its optimiser" if "opt/" in found else "its state"
    check(
        not found,
        FIELD,
        f"{where}: {what} does not fit: {found}; start with {_init_from(source.path, step)}, which "
        "takes the parameters alone",
    )
    return Origin(source, path, meta, before, with_average, notes)


def _init_from(run: str, step: int) -> str:
    return f"--checkpoint.init-from {run},step={step}"


def _check_same(where: str, run: str, step: int, before: Experiment, after: Experiment) -> None:
    """Raises ``InputError`` where the rows, the method or the optimiser are others."""
    other = differing(to_dict(before), after, MAY_DIFFER)
    other += ["optim.kind"] if before.optim.kind != after.optim.kind else []
    values = changes(to_dict(before), to_dict(after))
    if not other:
        return
    if other == ["method.signals"]:
        raise InputError(
            f"{FIELD}: {where}: was trained on other shards than {', '.join(after.data.path)} "
            "hold: their signals differ; give the same data, or start with "
            f"{_init_from(run, step)}"
        )
    own = [name for name in other if name != "method.signals"]  # which follows from others
    named = [f"{n} ({shown(values[n][0])}, now {shown(values[n][1])})" for n in own]
    raise InputError(
        f"{FIELD}: {where}: its run differs in {shortlist(named, 3)}; give the same settings, "
        f"or start with {_init_from(run, step)}, which takes the parameters alone"
    )


def _parts(abstract: State, with_average: bool) -> dict[str, PyTree]:
    return {k: v for k, v in abstract._asdict().items() if k != "average" or with_average}


def _average(run: str, before: Experiment, after: Experiment) -> tuple[bool, list[str]]:
    """Whether the mean of snapshots is taken over, and what to say where it is not."""
    had, has = (average.averages_weights(each.average) for each in (before, after))
    same = before.average == after.average and before.steps == after.steps
    if had and has and not same:
        return False, [
            f"the mean of snapshots begins anew, because steps or average differ from {run}"
        ]
    dropped = ["the mean of snapshots is left out, because average is not set"] * (had and not has)
    return had and has, dropped


def _other_settings(run: str, before: Experiment, after: Experiment) -> list[str]:
    found = changes(to_dict(before.optim), to_dict(after.optim))
    named = [
        f"optim.{name} {new} (there {old})"
        for name, (old, new) in found.items()
        if name.partition(".")[0] not in OF_SCHEDULES
    ]
    return [f"other settings than in {run} from here on: {', '.join(named)}"] if named else []


def jumps(
    run: str, before: Experiment, after: Experiment, step: int, factor: float = 1.0
) -> list[str]:
    """Warnings of learning rates that would jump after update ``step``, with what keeps them.

    ``factor`` is what the rate of a plateau schedule has come down by.
    """

    def at_step(experiment: Experiment, **changes: Any) -> dict[str, float]:
        optim = dataclasses.replace(experiment.optim, **changes)
        opt = {"plateau": jnp.float32(factor)}
        return {name: float(at(step, opt)) for name, at in rates(optim, experiment.steps).items()}

    old, new = at_step(before), at_step(after)
    found = _apart(old, new)
    if not found:
        return []
    shorter = {"cooldown": min(after.optim.cooldown, after.steps - step)}
    laid_out = {"schedule_steps": before.optim.schedule_steps or before.steps}
    other = {
        name: old
        for name, (old, _) in changes(to_dict(before.optim), to_dict(after.optim)).items()
        if name in OF_SCHEDULES
    }
    advice = "".join(f"; optim.{name} was {old}" for name, old in other.items())
    for way in (shorter, laid_out, laid_out | shorter):
        if not _apart(old, at_step(after, **way)):
            options = [f"--optim.{name.replace('_', '-')} {x}" for name, x in way.items()]
            advice = f"; with {' '.join(options)} it does not"
            break
    return [
        f"warning: {name} jumps after step {step}, from {old[name]:.4g} in {run} to "
        f"{new[name]:.4g}{advice}"
        for name in found
    ]


def _apart(old: dict[str, float], new: dict[str, float]) -> list[str]:
    return [n for n in new if n in old and not math.isclose(old[n], new[n], rel_tol=1e-4)]
