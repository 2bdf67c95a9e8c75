"""The checkpoints of a run as they lie on disk: listed, verified, pruned."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jfreq import checksums
from jfreq.config import Checkpoint
from jfreq.monitoring.metrics_writer import read_metrics
from jfreq.train import stored
from jfreq.train.checkpoint_files import (
    DAMAGED,
    UNFINISHED,
    files_of,
    finished,
    read_meta,
    remove,
)
from jfreq.train.keeping import reasons
from jfreq.train.run_folder import CHECKPOINTS, lock, read_config
from jfreq.types import InputError

MEASURED = ("val/", "eval/")
"""How the names of figures begin that are measured at certain steps, also between logged ones."""


class Entry(NamedTuple):
    """A"""

    step: int
    time: float | None
    """When it was saved, in seconds since 1970; None where its metadata cannot be read."""
    bytes: int
    state: str
    """``complete``: all its files are there; ``verified``: and hold what was written to them; else
    ``damaged``."""
    damage: str
    """What is wrong with it; empty for one that is whole."""
    kept: list[str]
    """Why it stays, by the policy of the run; it goes without a reason."""
    metrics: dict[str, Any]
    """The last row of metrics.jsonl with a loss at its step or before it, and what was measured at
    its step."""


class Inventory(NamedTuple):
    """All of them, ascending, and the names of what else lies there."""

    policy: Checkpoint
    best_step: int | None
    entries: list[Entry]
    set_aside: list[str]
    """Checkpoints that were damaged and have another name since."""
    unfinished: list[str]
    """What is being written, or was when a process was killed."""

    @property
    def damaged(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.damage]


def take(
    workdir: Path,
    *,
    verify: bool = False,
    keep: int | None = None,
    keep_every: int | None = None,
) -> Inventory:
    """The checkpoints of a run; nothing is changed.

    Args:
        workdir: The run folder.
        verify: Compare every file with its digest.
        keep, keep_every: In place of those of the run. None: as the run has them.

    Raises:
        InputError: It is no run folder, or has no checkpoints.
    """
    policy = read_config(workdir).checkpoint
    policy = dataclasses.replace(
        policy, keep=keep or policy.keep, keep_every=keep_every or policy.keep_every
    )
    folder = workdir / CHECKPOINTS
    if not folder.is_dir():
        raise InputError(f"{workdir}: has no checkpoint yet; let `jfreq train` run longer")
    steps = sorted(finished(folder))
    metas = {step: _meta(folder / str(step)) for step in steps}
    damage = {step: _damage(folder / str(step), step, verify) for step in steps}
    steps = [step for step in steps if (folder / str(step)).exists()]  # a training removes some
    best = _best(policy, metas, damage)
    why = reasons([step for step in steps if not damage[step]], policy, best)
    rows = read_metrics(workdir)
    entries = [
        Entry(
            step,
            metas[step].get("time"),
            sum(files_of(folder / str(step)).values()),
            "damaged" if damage[step] else "verified" if verify else "complete",
            damage[step],
            why.get(step, []),
            _metrics(rows, step),
        )
        for step in steps
    ]
    names = sorted(path.name for path in folder.iterdir())
    return Inventory(
        policy,
        best,
        entries,
        [name for name in names if name.startswith(DAMAGED)],
        [name for name in names if UNFINISHED in name],
    )


def _metrics(rows: Sequence[dict[str, Any]], step: int) -> dict[str, Any]:
    """The last row with a loss at ``step`` or before, and the figures measured at ``step``."""
    logged = next((row for row in reversed(rows) if row["step"] <= step and "loss" in row), {})
    found = {name: x for name, x in logged.items() if not name.startswith(MEASURED)}
    here = [row for row in rows if row["step"] == step]
    return found | {n: x for row in here for n, x in row.items() if n.startswith(MEASURED)}


def prunable(found: Inventory) -> list[Entry]:
    """What the policy does not keep. Damaged checkpoints are neither counted nor named: they are
    no copies, and somebody may want to look at them."""
    return [entry for entry in found.entries if not entry.kept and not entry.damage]


def prune(
    workdir: Path, *, keep: int | None = None, keep_every: int | None = None
) -> tuple[Inventory, list[Entry]]:
    """Removes the checkpoints that the policy does not keep; returns what stays and what went.

    All are verified before, so what stays is whole. Raises ``InputError`` where a process trains
    in the folder.
    """
    with lock(workdir):
        found = take(workdir, verify=True, keep=keep, keep_every=keep_every)
        gone = prunable(found)
        for entry in gone:
            remove(workdir / CHECKPOINTS / str(entry.step))
    return found._replace(entries=[e for e in found.entries if e not in gone]), gone


def _meta(path: Path) -> dict[str, Any]:
    """What is saved beside a state; empty where it cannot be read."""
    try:
        return read_meta(path)
    except (InputError, OSError):
        return {}


def _damage(path: Path, step: int, verify: bool) -> str:
    """What is wrong with a checkpoint: with its files, or without ``verify`` with their names."""
    try:
        if verify:
            stored.verify(path, step=step)
            if found := stored.stored(path.parent):  # whose copy may take more room than there is
                found.forget(step)
        else:
            checksums.check_names(path, files_of(path), step=step)
    except checksums.Damaged as damage:
        return str(damage)
    return ""


def _best(
    policy: Checkpoint, metas: Mapping[int, Mapping[str, Any]], damage: Mapping[int, str]
) -> int | None:
    """The best step as the newest whole checkpoint notes it; None where none is known."""
    whole = [step for step in metas if not damage[step]]
    watch = metas[max(whole)].get("watch", {}) if whole else {}
    return watch.get("best_step") if policy.best and watch.get("figure") == policy.best else None
