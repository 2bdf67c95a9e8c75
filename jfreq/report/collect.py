"""Reads a run folder leniently: the page shows what is there and says what is missing."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jfreq.config import Experiment
from jfreq.export.bundle import is_bundle
from jfreq.files import read_json
from jfreq.monitoring.metrics_writer import FILE as METRICS
from jfreq.monitoring.metrics_writer import read_metrics, unreadable
from jfreq.train import checkpoint_files, resume_from, run_folder
from jfreq.types import InputError

GRID, RESULTS, FRACTIONS = "grid.json", "results.json", "fractions.json"


class Run(NamedTuple):
    """The contents of a run folder."""

    folder: Path
    experiment: Experiment
    rows: list[dict[str, Any]]
    """Metrics, a dict for each logged step."""
    saved: list[int]
    """The steps of the checkpoints."""
    origin: Mapping[str, Any] | None
    """The ``run`` and ``step`` that it goes on from; None for one that began by itself."""
    results: Mapping[str, Any] | None
    """The table of ``jfreq probe`` or ``finetune``."""
    fractions: Mapping[str, Any] | None
    """The table by fraction of the labels."""
    dumps: list[str]
    """Names of the files about losses that were not finite."""
    manifest: str | None
    """The hash of the data that it was trained on; None where no checkpoint states it."""
    written: str
    """When the metrics were last written to, in words."""
    damage: list[str]
    """Sentences about files that could not be read."""

    @property
    def step(self) -> int:
        """The last step that was logged or saved."""
        return max([0, *(row["step"] for row in self.rows[-1:]), *self.saved])


def is_grid(folder: Path) -> bool:
    """Whether the folder is that of an ablation."""
    return (folder / GRID).is_file()


def read_run(folder: Path) -> Run:
    """Reads a run folder; raises ``InputError`` for a folder that is not one."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "no such folder"
        raise InputError(f"{folder}: {what}; give a folder of `jfreq train` or `jfreq ablate`")
    if is_bundle(folder):
        raise InputError(f"{folder}: is a bundle, which has no metrics; give its run folder")
    if not (folder / run_folder.CONFIG).is_file():
        raise InputError(
            f"{folder}: holds neither a run ({run_folder.CONFIG}) nor an ablation ({GRID}); give "
            "a folder of `jfreq train` or `jfreq ablate`"
        )
    damage: list[str] = []
    if bad := unreadable(folder):
        damage.append(f"{bad} lines of {METRICS} cannot be read and are left out.")
    saved = _saved(folder / run_folder.CHECKPOINTS)
    return Run(
        folder=folder,
        experiment=run_folder.read_config(folder),
        rows=[row for row in read_metrics(folder) if is_known(row.get("step"))],
        saved=saved,
        origin=_origin(folder, damage),
        results=_results(folder / RESULTS, damage),
        fractions=_results(folder / FRACTIONS, damage),
        dumps=sorted(path.name for path in folder.glob("not_finite_*.json")),
        manifest=_manifest(folder / run_folder.CHECKPOINTS, saved),
        written=_written(folder / METRICS),
        damage=damage,
    )


def notices_of(run: Run) -> list[str]:
    """Sentences about what is unfinished or went wrong; none for a finished run."""
    total = run.experiment.steps
    notices = []
    if not run.rows and not run.saved:
        notices.append(
            "This run is empty: it has its settings, but no step has been logged and no "
            "checkpoint saved."
        )
    elif run.step < total:
        latest = (
            f"the last checkpoint is of step {run.saved[-1]}"
            if run.saved
            else "there is no checkpoint yet"
        )
        notices.append(
            f"This run is unfinished: step {run.step:,} of {total:,}; {latest}. The page shows "
            "what is there; the command that started the run continues it."
        )
    elif not run.saved:
        notices.append("This run has no checkpoint, so nothing that needs the encoder is shown.")
    if run.dumps:
        notices.append(
            f"The loss or its gradient was not finite: see {', '.join(run.dumps)} for the "
            "step and the rows."
        )
    return [*notices, *run.damage]


def _saved(folder: Path) -> list[int]:
    return sorted(checkpoint_files.finished(folder)) if folder.is_dir() else []


def _origin(folder: Path, damage: list[str]) -> Mapping[str, Any] | None:
    try:
        return resume_from.read_note(folder)
    except InputError as error:
        damage.append(f"Where this run comes from is not known: {error}.")
        return None


def _manifest(folder: Path, saved: list[int]) -> str | None:
    """The hash of the data, from the metadata of the newest checkpoint."""
    if not saved:
        return None
    try:
        meta = read_json(folder / str(saved[-1]) / "meta" / "metadata", "a checkpoint's metadata")
        return str(meta["manifest"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _results(path: Path, damage: list[str]) -> Mapping[str, Any] | None:
    """A table of results; None where there is none, or where it is damaged, which is noted."""
    if not path.is_file():
        return None
    try:
        value = read_json(path, "a table of results")
        if _is_table(value):
            return value
    except (ValueError, KeyError, TypeError):
        pass
    damage.append(f"{path.name} is not a table of `jfreq probe` and is left out.")
    return None


def _is_table(value: Any) -> bool:
    """Whether ``value`` has all that the page shows of a probe."""
    rows = value["results"]
    words = all(isinstance(row[k], str) for row in rows for k in ("features", "kind", "metric"))
    numbers = all(
        row.get(k) is None or is_known(row[k])
        for row in rows
        for k in ("mean", "low", "high", "fraction", "rows")
    )
    return bool(rows) and words and numbers and isinstance(value["data"], str)


def is_known(value: Any) -> bool:
    """Whether ``value`` is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def _written(path: Path) -> str:
    if not path.is_file():
        return ""
    when = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)
    return f"metrics last written {when:%Y-%m-%d %H:%M} UTC"
