"""Runs an ablation: trains every cell, probes it on the fold left out, and stores the scores."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jfreq import methods
from jfreq.ablate import grid
from jfreq.ablate.grid import Ablation, Cell, Replicate
from jfreq.ablate.shared import Trainings, ordered
from jfreq.ablate.table import Grid, summarise
from jfreq.config import check, replace
from jfreq.evaluate import probe_protocol
from jfreq.evaluate.folds import ABLATION, check_classes
from jfreq.files import local_path, read_json, write_json
from jfreq.monitoring import provenance
from jfreq.monitoring.metrics_writer import read_metrics
from jfreq.parts import Part
from jfreq.ranges import first_line
from jfreq.staging import staged
from jfreq.train.loop import Stopped, train
from jfreq.types import InputError

FILE = "grid.json"
Note = Callable[[str], None]
OnGrid = Callable[[Grid], None]


class Training(NamedTuple):
    """One training of a cell, and what its score depends on."""

    key: str
    cell: Cell
    replicate: Replicate


@staged("workdir")
def run(
    ablation: Ablation,
    data: str | Path,
    workdir: str | Path,
    *,
    count: int | None = None,
    have: Sequence[str | Path] = (),
    part: Part | None = None,
    note: Note = lambda text: None,
    on_grid: OnGrid = lambda grid: None,
) -> Grid:
    """Trains and probes all cells, and writes ``grid.json``.

    Finished trainings are not repeated; an interrupted one continues from its checkpoint. A
    training that fails is recorded with its error and tried again by the next call. All cells get
    their first training before any gets its second, so that an unfinished grid is a fair one.

    Several processes, also on machines that share ``workdir``, do one grid together: each training
    is claimed by one of them, and whoever ends one merges the results of all.

    Args:
      ablation: the cells.
      data: labelled shards with folds.
      workdir: the folder of the runs and of ``grid.json``; a path or a URL, s3:// or gs://.
      count: trainings of each cell; by default one for each fold.
      have: other ``grid.json`` files, whose finished trainings are used.
      part: the trainings that this process does first, of as many parts as there are processes;
        then it does those that nobody has begun.
      note: called with a line for each training.
      on_grid: called with the results so far after each training.

    Returns:
      The results of all processes, without the trainings that others are still at.

    Raises:
      InputError: before anything is trained, for unknown fields, impossible settings, shards
        without labels or folds, and files of ``have`` that cannot be read.
    """
    from jfreq.data.shards.reader import open_shards

    workdir = Path(workdir)
    shards = open_shards(data)
    trainings = _trainings(ablation, shards, count)
    known = _finished([local_path(path, "have") for path in have])
    shared, machine = Trainings(workdir), _machine()

    def merge() -> tuple[Grid, int]:
        with shared.alone():
            rows = {**shared.results(), **known}
            found = [_renamed(rows[t.key], t.cell) for t in trainings if t.key in rows]
            table = summarise(ablation, shards.info.name, found, machine)
            write_json(workdir / FILE, table.to_dict())
            on_grid(table)
        return table, len(found)

    began, fresh = time.monotonic(), 0
    for training in ordered(trainings, part):
        if training.key in known or shared.ended(training.key):
            continue
        claim = shared.claim(training.key)
        if claim is None:
            continue  # another process is at it
        with claim:
            if shared.ended(training.key):
                continue  # it was, and has just ended
            row = {"key": training.key, **_train(ablation, training, shards, workdir)}
            shared.store(training.key, row)
        fresh += 1
        _, ended = merge()
        left = (time.monotonic() - began) / fresh * (len(trainings) - ended)
        note(_line(ablation, row, ended, len(trainings), left))
    table, ended = merge()
    if ended < len(trainings):
        note(
            f"{len(trainings) - ended} of {len(trainings)} trainings are still done by other "
            f"processes, which will add them to {workdir / FILE}"
        )
    return table


def _trainings(ablation: Ablation, shards: Any, count: int | None) -> list[Training]:
    """All trainings of a grid, the first of all cells first; ``InputError`` where one cannot be."""
    cells = grid.cells(ablation)
    rows = probe_protocol.labelled_rows(shards)
    check(
        len(shards.info.folds) >= 2,
        shards.info.name,
        "has fewer than two folds, and an ablation leaves a fold out of pre-training; prepare the "
        "set with a fold column, or with --make-folds 5",
    )
    folds = probe_protocol.divide(shards, rows, purpose=ABLATION)
    check_classes(shards.info, shards.column("label")[rows], folds)
    for cell in cells:
        try:
            methods.check_experiment(cell.experiment)
            methods.bind(cell.experiment, shards.spec)
        except InputError as error:
            raise InputError(f"{ablation.name}, {cell.name}: {error}") from None
    return [
        Training(grid.key(ablation, cell, replicate, shards.manifest_hash), cell, replicate)
        for replicate, cell in itertools.product(grid.replicates(shards.info.folds, count), cells)
    ]


def _renamed(row: dict[str, Any], cell: Cell) -> dict[str, Any]:
    """A result under the name of its cell here; it may be of another grid, with another name."""
    return {**row, "name": cell.name, "levels": cell.levels, "changes": cell.changes}


def _machine() -> dict[str, Any]:
    """The machine. Every row states its commit, because a grid may take days."""
    return {name: value for name, value in provenance.facts().items() if name != "commit"}


def _train(ablation: Ablation, training: Training, shards: Any, workdir: Path) -> dict[str, Any]:
    """Trains and probes one cell; the row of ``grid.json`` with its scores or its error."""
    _, cell, replicate = training
    folder = f"{cell.name.replace(', ', '_').replace(' ', '-')}/{replicate.seed}"
    row: dict[str, Any] = {
        "name": cell.name,
        "levels": cell.levels,
        "changes": cell.changes,
        "seed": replicate.seed,
        "fold": replicate.fold,
        "run": folder,
        "commit": provenance.commit(),
    }
    began = time.monotonic()
    try:
        experiment = replace(
            cell.experiment,
            seed=replicate.seed,
            data__path=tuple(map(str, shards.paths)),
            data__exclude_folds=(int(replicate.fold),),
            checkpoint__keep=1,
            log__writers=(),
        )
        trained = train(experiment, workdir / folder, quiet=True)
        report = probe_protocol.probe(
            trained,
            shards,
            kinds=(ablation.probe,),
            pool=ablation.pool,
            with_baselines=False,
            only=(str(replicate.fold),),
        )
        values = {r.metric: r.mean for r in report.results}
        check(
            ablation.metric in values,
            f"{ablation.name}.metric",
            f"{ablation.metric!r} is not a metric of this data; choose one of {', '.join(values)}",
        )
        last = read_metrics(workdir / folder)[-1]
        values |= {f"pretext_{k}": last[k] for k in ("loss", "accuracy") if k in last}
        row |= {"status": "done", "error": None, "values": values}
    except Stopped:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {first_line(error)}"
        row |= {"status": "failed", "error": said, "values": {}}
    return {**row, "minutes": round((time.monotonic() - began) / 60, 3)}


def _finished(files: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """The finished trainings of several ``grid.json`` files, by key."""
    finished: dict[str, dict[str, Any]] = {}
    for path in files:
        check(
            path.exists(),
            str(path),
            "no such file of results; give a grid.json of `jfreq ablate`",
        )
        grid = read_json(path, "the result of an ablation")
        try:
            finished |= {row["key"]: row for row in grid["cells"] if row["status"] == "done"}
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{path}: is not the result of an ablation "
                f"({error!r}), or that of another version of jfreq; give one of this version"
            ) from None
    return finished


def _line(ablation: Ablation, row: dict[str, Any], i: int, total: int, left: float) -> str:
    result = f"failed: {row['error']}"
    if row["values"]:
        result = f"{ablation.metric} {row['values'][ablation.metric]:.3f}"
    eta = f"{left / 3600:.0f} h {left / 60 % 60:02.0f} min"
    return f"{i}/{total}  {row['name']}, fold {row['fold']}: {result}  ETA {eta}"
