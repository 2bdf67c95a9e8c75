"""Runs an ablation: trains every cell, probes it on the fold left out, and stores the scores."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jfreq import methods
from jfreq.ablate import grid
from jfreq.ablate.grid import Ablation, Cell, Replicate
from jfreq.ablate.table import Grid, summarise
from jfreq.config import check, replace
from jfreq.evaluate import probe_protocol
from jfreq.evaluate.folds import ABLATION, check_classes
from jfreq.files import local_path, read_json, write_json
from jfreq.monitoring import provenance
from jfreq.monitoring.metrics_writer import read_metrics
from jfreq.ranges import first_line
from jfreq.train.loop import Stopped, train
from jfreq.types import InputError

FILE = "grid.json"
Note = Callable[[str], None]


def run(
    ablation: Ablation,
    data: str | Path,
    workdir: str | Path,
    *,
    count: int | None = None,
    have: Sequence[str | Path] = (),
    note: Note = lambda text: None,
) -> Grid:
    """Trains and probes all cells, and writes ``grid.json``.

    Finished trainings are not repeated; an interrupted one continues from its checkpoint. A
    training that fails is recorded with its error and tried again by the next call. All cells get
    their first training before any gets its second, so that an unfinished grid is a fair one.

    Args:
      ablation: the cells.
      data: labelled shards with folds.
      workdir: the folder of the runs and of ``grid.json``.
      count: trainings of each cell; by default one for each fold.
      have: other ``grid.json`` files, whose finished trainings are used.
      note: called with a line for each training.

    Raises:
      InputError: before anything is trained, for unknown fields, impossible settings, shards
        without labels or folds, and files of ``have`` that cannot be read.
    """
    from jfreq.data.shards.reader import open_shards

    workdir = local_path(workdir, "workdir")
    shards = open_shards(data)
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
    trainings = list(itertools.product(grid.replicates(shards.info.folds, count), cells))
    done = _finished([workdir / FILE, *(local_path(path, "have") for path in have)])
    results: list[dict[str, Any]] = []
    began, fresh, machine = time.monotonic(), 0, _machine()
    for i, (replicate, cell) in enumerate(trainings):
        key = grid.key(ablation, cell, replicate, shards.manifest_hash)
        row = done.get(key)
        if row is None:
            row = {"key": key, **_train(ablation, cell, replicate, shards, workdir)}
            fresh += 1
            left = (time.monotonic() - began) / fresh * (len(trainings) - i - 1)
            note(_line(ablation, row, i + 1, len(trainings), left))
            new = summarise(ablation, shards.info.name, [*results, row], machine)
            write_json(workdir / FILE, new.to_dict())
        # The result may be of another grid, in which the same experiment has another name.
        results.append({**row, "name": cell.name, "levels": cell.levels, "changes": cell.changes})
    table = summarise(ablation, shards.info.name, results, machine)
    write_json(workdir / FILE, table.to_dict())
    return table


def _machine() -> dict[str, Any]:
    """The machine. Every row states its commit, because a grid may take days."""
    return {name: value for name, value in provenance.facts().items() if name != "commit"}


def _train(
    ablation: Ablation, cell: Cell, replicate: Replicate, shards: Any, workdir: Path
) -> dict[str, Any]:
    """Trains and probes one cell; the row of ``grid.json`` with its scores or its error."""
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
            log__tensorboard=False,
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
        if not path.exists():
            check(
                path.name == FILE,
                str(path),
                "no such file of results; give a grid.json of `jfreq ablate`",
            )
            continue
        grid = read_json(path, "the result of an ablation")
        try:
            finished |= {row["key"]: row for row in grid["cells"] if row["status"] == "done"}
        except (KeyError, TypeError) as error:
            raise InputError(f"{path}: is not the result of an ablation ({error!r})") from None
    return finished


def _line(ablation: Ablation, row: dict[str, Any], i: int, total: int, left: float) -> str:
    result = f"failed: {row['error']}"
    if row["values"]:
        result = f"{ablation.metric} {row['values'][ablation.metric]:.3f}"
    eta = f"{left / 3600:.0f} h {left / 60 % 60:02.0f} min"
    return f"{i}/{total}  {row['name']}, fold {row['fold']}: {result}  ETA {eta}"
