"""Runs the cells of an ablation: train, probe on the fold left out, note, go on."""

from __future__ import annotations

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
    """Every cell, ``count`` trainings each (one for each fold by default), kept in ``grid.json``.

    Finished trainings are kept, there and in the files ``have``; an interrupted one continues from
    its checkpoint. A training that fails is written down with its error, the others go on, and the
    next call tries it again. All cells get their first training before any gets its second, so
    that an unfinished grid is a fair one.

    Raises ``InputError`` for unknown fields, impossible settings and shards without labels or
    folds before anything is trained.
    """
    from jfreq.data.shards.reader import open_shards

    workdir = local_path(workdir, "workdir")
    shards = open_shards(data)
    cells = grid.cells(ablation)
    rows = probe_protocol.labelled_rows(shards)
    check(
        len(shards.info.folds) >= 2,
        shards.info.name,
        "an ablation leaves folds out of pre-training; prepare the set with a fold column, or with "
        "--make-folds 5",
    )
    folds = probe_protocol.divide(shards, rows, purpose=ABLATION)
    check_classes(shards.info, shards.column("label")[rows], folds)
    for cell in cells:
        try:
            methods.check_experiment(cell.experiment)
            methods.bind(cell.experiment, shards.spec)
        except InputError as error:
            raise InputError(f"{ablation.name}, {cell.name}: {error}") from None
    plan = [
        (cell, replicate)
        for replicate in grid.replicates(shards.info.folds, count)
        for cell in cells
    ]
    done = _known([workdir / FILE, *(local_path(path, "have") for path in have)])
    results: list[dict[str, Any]] = []
    began, fresh, machine = time.monotonic(), 0, _machine()
    for i, (cell, replicate) in enumerate(plan):
        key = grid.key(ablation, cell, replicate, shards.manifest_hash)
        row = done.get(key)
        if row is None:
            row = {"key": key, **_train(ablation, cell, replicate, shards, workdir)}
            fresh += 1
            left = (time.monotonic() - began) / fresh * (len(plan) - i - 1)
            note(_line(ablation, row, i + 1, len(plan), left))
            new = summarise(ablation, shards.info.name, [*results, row], machine)
            write_json(workdir / FILE, new.to_dict())
        # Another grid may call the same experiment something else.
        results.append({**row, "name": cell.name, "levels": cell.levels, "changes": cell.changes})
    table = summarise(ablation, shards.info.name, results, machine)
    write_json(workdir / FILE, table.to_dict())
    return table


def _machine() -> dict[str, Any]:
    """The machine; every row has its own commit, because a grid may take days and machines."""
    return {name: value for name, value in provenance.facts().items() if name != "commit"}


def _train(
    ablation: Ablation, cell: Cell, replicate: Replicate, shards: Any, workdir: Path
) -> dict[str, Any]:
    """One training and its score, or its error."""
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
            f"{ablation.metric!r} is not among {', '.join(values)}",
        )
        last = read_metrics(workdir / folder)[-1]
        values |= {f"pretext_{k}": last[k] for k in ("loss", "accuracy") if k in last}
        row |= {"status": "done", "error": None, "values": values}
    except Stopped:
        raise
    except Exception as error:
        text = (str(error).strip().splitlines() or [""])[0]
        row |= {"status": "failed", "error": f"{type(error).__name__}: {text}"[:300], "values": {}}
    return {**row, "minutes": round((time.monotonic() - began) / 60, 3)}


def _known(files: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Finished results by key; a file that cannot be read is named."""
    known: dict[str, dict[str, Any]] = {}
    for path in files:
        if not path.exists():
            check(path.name == FILE, str(path), "no such file of results")
            continue
        grid = read_json(path, "the result of an ablation")
        try:
            known |= {row["key"]: row for row in grid["cells"] if row["status"] == "done"}
        except (KeyError, TypeError) as error:
            raise InputError(f"{path}: is not the result of an ablation ({error!r})") from None
    return known


def _line(ablation: Ablation, row: dict[str, Any], i: int, total: int, left: float) -> str:
    result = f"failed: {row['error']}"
    if row["values"]:
        result = f"{ablation.metric} {row['values'][ablation.metric]:.3f}"
    eta = f"{left / 3600:.0f} h {left / 60 % 60:02.0f} min"
    return f"{i}/{total}  {row['name']}, fold {row['fold']}: {result}  ETA {eta}"
