"""``jfreq checkpoints``: what a run has saved."""

from __future__ import annotations

import datetime
import json as json_format
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from jfreq.buckets import url_of
from jfreq.cli.parsing import print_note, run_or_bundle
from jfreq.ranges import Count, InputError

if TYPE_CHECKING:
    from jfreq.train.inventory import Entry, Inventory


def checkpoints(
    run: Positional[Path],
    /,
    verify: bool = False,
    prune: bool = False,
    keep: Count | None = None,
    keep_every: Count | None = None,
    yes: bool = False,
    export: Count | None = None,
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Lists the checkpoints of a run; verifies, prunes and exports them.

    The table says why each one stays while the run trains.

    Args:
        run: run folder.
        verify: compare every file with its digest; exit code 1 if a checkpoint is damaged.
        prune: name the checkpoints that the policy does not keep, and with --yes remove them. All
            are verified first, so that what stays is whole; damaged ones stay too.
        keep: with --prune, how many of the newest stay; by default as in the run.
        keep_every: with --prune, the multiples of this step stay; by default as in the run.
        yes: with --prune, remove them.
        export: write the encoder of the checkpoint of this step as a bundle.
        out: with --export, the folder of the bundle.
        json: print all of it as JSON.
    """
    from jfreq import staging
    from jfreq.train import inventory, resume_from

    for name, given in {"keep": keep, "keep-every": keep_every, "yes": yes}.items():
        if given and not prune:
            raise InputError(f"--{name}: says what --prune does; add --prune")
    if (export is None) != (out is None):
        raise InputError("--export: takes the step and --out the folder of the bundle; give both")
    folder = run_or_bundle(run)
    if export is not None:
        from jfreq.export.export_run import export_run

        print(export_run(folder, out or "", step=export, say=print_note))
        return
    policy = {"keep": keep, "keep_every": keep_every}
    with staging.opened(folder, "run", write=prune and yes) as here:
        if prune and yes:
            found, gone = inventory.prune(here, **policy)
        else:
            found, gone = inventory.take(here, verify=verify or prune, **policy), []
        origin = resume_from.read_note(here)
    would_go = inventory.prunable(found) if prune else []
    if json:
        print(json_format.dumps(_as_json(run, found, origin, gone, would_go), indent=1))
    else:
        lines = [f"goes on from step {origin['step']} of {origin['run']}"] if origin else []
        print("\n".join([*lines, *_table(found), *_remarks(found)]))
        if prune:
            print(_pruned(gone, would_go, yes))
    if found.damaged and verify:
        raise SystemExit(1)


def _table(found: Inventory) -> list[str]:
    """The rows, aligned."""
    head = ("step", "saved", "size", "state", "kept", "figures")
    rows = [head, *(_row(entry) for entry in found.entries)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return [
        "  ".join(cell.rjust(w) if i in (0, 2) else cell.ljust(w)
                  for i, (cell, w) in enumerate(zip(row, widths))).rstrip()
        for row in rows
    ]  # fmt: skip


def _row(entry: Entry) -> tuple[str, ...]:
    saved = "?"
    if entry.time is not None:
        saved = f"{datetime.datetime.fromtimestamp(entry.time):%Y-%m-%d %H:%M:%S}"
    state = f"damaged: {entry.damage}" if entry.damage else entry.state
    kept = ", ".join(entry.kept) or ("" if entry.damage else "no")
    return str(entry.step), saved, _size(entry.bytes), state, kept, _figures(entry)


def _figures(entry: Entry) -> str:
    """The loss as last logged, with the step where it is an earlier one, and what was measured at
    this step."""
    at = entry.metrics.get("step")
    late = "" if at in (None, entry.step) else f" (logged at step {at})"
    names = ["loss", *(n for n in entry.metrics if n.startswith(("val/", "eval/")))]
    numbers = {n: x for n in names if isinstance(x := entry.metrics.get(n), int | float)}
    shown = [
        f"{name} {x:.4g}{late if name == 'loss' else ''}"
        for name, x in numbers.items()
        if not name.endswith("/seconds")
    ]
    return ", ".join(shown[:5])


def _size(count: int) -> str:
    """``12.3 MB``."""
    for power, unit in ((4, "TB"), (3, "GB"), (2, "MB")):
        if count >= 1000**power:
            return f"{count / 1000**power:.1f} {unit}"
    return f"{count / 1000:.1f} kB"


def _remarks(found: Inventory) -> list[str]:
    """Lines about what is no checkpoint."""
    return [
        *["there is no checkpoint yet"] * (not found.entries),
        *(f"{name} was damaged and set aside; it is yours to remove" for name in found.set_aside),
        *(
            f"{name} is being written, or was when a process was killed; the next start removes it"
            for name in found.unfinished
        ),
    ]


def _pruned(gone: list[Entry], would_go: list[Entry], yes: bool) -> str:
    named = gone if yes else would_go
    if not named:
        return "nothing to remove: the policy keeps every checkpoint that is whole"
    steps = ", ".join(str(entry.step) for entry in named)
    room = _size(sum(entry.bytes for entry in named))
    if yes:
        return f"removed {steps} ({room})"
    return f"would remove {steps} ({room}); add --yes to do so"


def _as_json(
    run: Path,
    found: Inventory,
    origin: dict[str, Any] | None,
    gone: list[Entry],
    would_go: list[Entry],
) -> dict[str, Any]:
    return {
        "run": url_of(run) or str(run),
        "keep": found.policy.keep,
        "keep_every": found.policy.keep_every,
        "best": found.policy.best,
        "best_step": found.best_step,
        "checkpoints": [_plain(entry) for entry in found.entries],
        "set_aside": found.set_aside,
        "unfinished": found.unfinished,
        "removed": [entry.step for entry in gone],
        "would_remove": [entry.step for entry in would_go],
        "resumed_from": origin,
    }


def _plain(entry: Entry) -> dict[str, Any]:
    """Without NaN and infinity, which are no JSON."""
    metrics = {
        name: None if isinstance(x, float) and not math.isfinite(x) else x
        for name, x in entry.metrics.items()
    }
    return entry._replace(metrics=metrics)._asdict()
