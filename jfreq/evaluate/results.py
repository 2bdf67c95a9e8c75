"""Results of probes and fine-tuning: JSON, tables, differences, and several reports as one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jfreq.config import check
from jfreq.files import local_path, read_json, write_atomically
from jfreq.metrics import interval_of
from jfreq.types import InputError

TRAINED, UNTRAINED, HAND_CRAFTED = "trained", "untrained", "spectrogram mean+std"
MAX_FOLD_COLUMNS = 10
"""A printed table has a column for each fold up to this many; JSON has all folds."""


@dataclasses.dataclass(frozen=True)
class Result:
    """One metric of one probe on one kind of features: the mean over folds, and its interval."""

    features: str
    kind: str
    metric: str
    mean: float
    low: float
    high: float
    folds: tuple[float, ...]
    """For each fold the mean over seeds and repeats."""
    n: int
    """The number of test rows of all folds."""
    fraction: float | None = None
    """The fraction of the labels, where not all were used."""
    rows: float | None = None
    """The mean number of training rows of a fold, given with ``fraction``."""
    runs: tuple[tuple[float, ...], ...] = ()
    """For each fold the value of every repeat, or of every seed (see :func:`over_seeds`)."""
    over: str = "folds"
    """What the interval is over: folds, repeats, seeds or test rows."""

    @property
    def key(self) -> tuple[str, str, str, float | None]:
        """What was measured: features, probe, metric and fraction of the labels."""
        return (self.features, self.kind, self.metric, self.fraction)


@dataclasses.dataclass(frozen=True)
class Report:
    """A table of results, and the settings that made them."""

    data: str
    folds: tuple[str, ...]
    results: tuple[Result, ...]
    settings: dict[str, Any]
    title: str = "Probe"

    def to_json(self) -> str:
        """Strict JSON, in which NaN is null."""
        return json.dumps(_finite(dataclasses.asdict(self)), indent=2, allow_nan=False) + "\n"

    def to_markdown(self) -> str:
        """A table with a row for each result, and a column for each fold where they fit."""
        folds = self.folds if len(self.folds) <= MAX_FOLD_COLUMNS else ()
        few = any(r.fraction is not None for r in self.results)
        mixed = len({r.over for r in self.results}) > 1
        head = ["features", "probe", *["labels"] * few, "metric", "mean", "95 % CI"]
        head += [*["interval over"] * mixed, *folds]
        lines = [
            f"{self.title} on {self.data}: {self.settings['interval']}.",
            *(f"Note: {note}." for note in self.settings.get("notes", ())),
            "",
            "| " + " | ".join(head) + " |",
            "|" + "---|" * len(head),
        ]
        for r in self.results:
            cells = [
                r.features,
                r.kind,
                *[_labels(r)] * few,
                r.metric,
                _number(r.mean),
                _bounds(r),
                *[r.over] * mixed,
                *map(_number, r.folds[: len(folds)]),
            ]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n"

    def save(self, path: str | Path) -> Path:
        """Writes :meth:`to_json` atomically to ``path``, which it returns."""
        return write_atomically(path, lambda file: file.write(self.to_json().encode()))

    @classmethod
    def read(cls, path: str | Path) -> Report:
        """Reads what :meth:`save` wrote.

        Raises:
          InputError: for a file that is missing or holds anything else.
        """
        path = local_path(path, "path")
        check(
            path.is_file(),
            str(path),
            "no such file; `jfreq probe` and `jfreq finetune` write such files",
        )
        value = read_json(path, "a table of results")
        try:
            results = tuple(_result(row) for row in value.pop("results"))
            return cls(results=results, folds=tuple(value.pop("folds")), **value)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(
                f"{path}: is not a table of results ({error}); make it again with `jfreq probe`"
            ) from None


def gains(results: Sequence[Result]) -> list[Result]:
    """The differences between the trained and the untrained encoder, see :func:`difference`."""
    untrained = {r.key[1:]: r for r in results if r.features == UNTRAINED}
    pairs = [difference(r, untrained[r.key[1:]]) for r in results if r.features == TRAINED]
    return [gain for gain in pairs if gain is not None]


def difference(a: Result, b: Result) -> Result | None:
    """``a - b`` of one metric, paired by fold or, on a single split, by repeat.

    Returns:
      The mean difference and its interval; None for a single pair, which has no interval.
    """
    runs = [np.subtract(x, y) for x, y in zip(a.runs, b.runs)]
    folds = np.subtract(a.folds, b.folds)
    units = folds if len(folds) > 1 else np.ravel(runs)
    if len(units) < 2:
        return None
    mean, low, high = interval_of(a.metric, units, low=-1.0)
    return dataclasses.replace(
        a,
        features=f"{a.features} - {b.features}",
        mean=mean,
        low=low,
        high=high,
        folds=_floats(folds),
        runs=_table(runs),
    )


def over_seeds(reports: Sequence[Report]) -> Report:
    """Joins the reports of several trainings of one experiment.

    Args:
      reports: they differ in nothing but the seed or the sample of labels.

    Returns:
      A report with means and Student-t intervals over the trainings, whose values by fold are in
      ``runs``. A baseline that is the same in all reports keeps its interval.

    Raises:
      InputError: for fewer than two reports, the same seed twice, and reports of different
        experiments, data, folds or measurements.
    """
    check(
        len(reports) >= 2,
        "seeds",
        f"an interval over trainings needs two or more, got {len(reports)}",
    )
    first, count = reports[0], len(reports)
    for other in reports[1:]:
        for what, a, b in _compared(first, other):
            check(a == b, "seeds", f"the reports differ in {what}: {a} and {b}")
    seeds = [(r.settings.get("seed"), r.settings.get("label_seed", 0)) for r in reports]
    check(None not in next(zip(*seeds)), "seeds", "a report does not state its seed; make it again")
    check(
        len(set(seeds)) == count,
        "seeds",
        f"every training needs its own seed, got {[seed for seed, _ in seeds]}",
    )
    results = [_over(group) for group in zip(*(r.results for r in reports))]
    words = f"{count} trainings, 95 % Student-t over trainings"
    settings = {k: v for k, v in first.settings.items() if k not in ("seed", "label_seed")}
    settings |= {"interval": words, "trainings": [list(pair) for pair in seeds]}
    return dataclasses.replace(first, results=tuple(results), settings=_shared(settings, reports))


def _shared(settings: dict[str, Any], reports: Sequence[Report]) -> dict[str, Any]:
    """``settings`` with the notes of all reports; those of a single one are in its own file."""
    every = [report.settings.get("notes", ()) for report in reports]
    notes = [note for note in every[0] if all(note in others for others in every)]
    others = {name: value for name, value in settings.items() if name != "notes"}
    return others | ({"notes": notes} if notes else {})


def _compared(a: Report, b: Report) -> list[tuple[str, Any, Any]]:
    """What must be equal in two reports, as ``(name, value of a, value of b)``."""
    pairs = [(name, getattr(a, name), getattr(b, name)) for name in ("title", "data", "folds")]
    settings = ("manifest", "fold_by", "experiment", "method", "pool", "layer", "steps")
    pairs += [(name, a.settings.get(name), b.settings.get(name)) for name in settings]
    return [*pairs, ("results", [r.key for r in a.results], [r.key for r in b.results])]


def _over(group: Sequence[Result]) -> Result:
    """One result of several trainings."""
    first, values = group[0], [r.mean for r in group]
    if first.features in (UNTRAINED, HAND_CRAFTED) and len({r.folds for r in group}) == 1:
        return first
    folds = np.array([r.folds for r in group])
    mean, low, high = interval_of(first.metric, values, low=_lowest(first))
    return dataclasses.replace(
        first,
        mean=mean,
        low=low,
        high=high,
        over="seeds",
        folds=_floats(folds.mean(0)),
        runs=_table(folds.T),
    )


def joined(reports: Sequence[Report]) -> Report:
    """Joins reports on the same data, for instance with 1, 10 and 100 % of the labels.

    Returns:
      A report with all results, sorted by fraction.

    Raises:
      InputError: for different data or folds, and a result that is in two reports.
    """
    check(bool(reports), "reports", "there is none to join; give at least one")
    first = reports[0]
    for other in reports[1:]:
        for what, a, b in _compared(first, other)[1:4]:
            check(a == b, "reports", f"they differ in {what}: {a} and {b}")
    results = sorted(
        (r for report in reports for r in report.results), key=lambda r: r.fraction or 0
    )
    keys = [r.key for r in results]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    check(
        twice is None,
        "reports",
        f"{twice} is in two of them; join repeated trainings by over_seeds first",
    )
    settings = _shared(first.settings, reports)
    return dataclasses.replace(first, results=tuple(results), settings=settings)


def _result(row: dict[str, Any]) -> Result:
    """The inverse of ``asdict`` through JSON."""
    unknown = {k: float("nan") for k in ("mean", "low", "high") if row[k] is None}
    runs = tuple(_floats(run) for run in row.get("runs", ()))
    return Result(**{**row, **unknown, "folds": _floats(row["folds"]), "runs": runs})


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(float("nan") if v is None else float(v) for v in values)


def _table(values: Any) -> tuple[tuple[float, ...], ...]:
    return tuple(_floats(row) for row in values)


def _finite(value: Any) -> Any:
    """``value`` with NaN and infinity as None, at any depth."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _labels(r: Result) -> str:
    """The fraction and the training rows of a fold, for instance ``10 % (32)``."""
    return "-" if r.fraction is None else f"{100 * r.fraction:g} % ({r.rows or 0:g})"


def _bounds(r: Result) -> str:
    """The interval, where there are enough values for one."""
    if np.isfinite(r.low) and np.isfinite(r.high):
        return f"{_number(r.low)} to {_number(r.high)}"
    return "n too small" if max([len(r.folds), *map(len, r.runs)]) > 1 else "-"


def _lowest(r: Result) -> float:
    """The lowest value of a metric from 0 to 1, or of a difference of two."""
    return -1.0 if " - " in r.features else 0.0


def _number(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "-"
