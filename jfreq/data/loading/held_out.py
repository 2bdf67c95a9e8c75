"""Which rows training reads, and which it is measured on and never reads."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jfreq.config import Data, Validation, check, replace
from jfreq.data.fold_assignment import recordings
from jfreq.data.loading.label_subsets import sampled_rows
from jfreq.data.loading.subsequences import runs_of
from jfreq.data.shards.reader import Shards
from jfreq.data.stratified_folds import Rows, make_folds

NOTHING_HELD_OUT = Validation()


class Division(NamedTuple):
    """Row numbers, ascending."""

    known: np.ndarray
    """All that may be read, of which statistics are taken; no row that is held out."""
    read: np.ndarray
    """Those of ``known`` that training reads: with a label where it learns from labels, a fraction
    of these where one is asked for."""
    held_out: np.ndarray
    """Those that training is measured on."""
    note: str
    """What is held out, in a sentence; empty where nothing is."""


def divide_rows(shards: Shards, cfg: Data, validation: Validation, *, labelled: bool) -> Division:
    """Divides the rows of ``cfg.split`` without ``cfg.exclude_folds``.

    Rows of the excluded folds are neither read nor held out. Labels are counted before rows are
    held out: a fraction of them is divided between training and validation.

    Args:
      labelled: whether training reads only rows that have a label.

    Raises:
      InputError: for a split or fold that does not exist, where nothing is left to read or to
        measure, and as :func:`jfreq.data.loading.label_subsets.sampled_rows`.
    """
    known = shards.rows(cfg.split, exclude_folds=cfg.exclude_folds)
    check(len(known) > 0, "data", "split and exclude_folds leave no rows; exclude fewer folds")
    read = sampled_rows(shards, known, cfg, labelled=labelled)
    if validation.every is None:
        return Division(known, read, known[:0], "")
    held_out, how = _held_out(shards, read, cfg, validation, labelled)
    left = np.setdiff1d(read, held_out)
    for rows, what in ((held_out, "hold out"), (left, "train on")):
        check(len(rows) > 0, "validation", f"{how} leaves no rows to {what}; choose other rows")
    note = f"validation: {len(held_out)} rows are held out, {how}; {len(left)} are trained on"
    return Division(np.setdiff1d(known, held_out), left, held_out, note)


def _held_out(
    shards: Shards, read: np.ndarray, cfg: Data, validation: Validation, labelled: bool
) -> tuple[np.ndarray, str]:
    """The rows that are held out, and how they were chosen, in words."""
    if validation.split is not None:
        known = ", ".join(shards.info.splits) or "no splits"
        check(
            validation.split in shards.info.splits,
            "validation.split",
            f"no rows of split {validation.split!r}; the set has {known}; name one of them, or "
            "hold out a fraction (--validation.split None --validation.fraction 0.05)",
        )
        rows = shards.rows(validation.split, exclude_folds=cfg.exclude_folds)
        rows = sampled_rows(shards, rows, replace(cfg, label_fraction=1.0), labelled=labelled)
        return rows, f"split {validation.split}"
    if validation.folds:
        both = sorted(set(validation.folds) & set(cfg.exclude_folds))
        check(
            not both,
            "validation.folds",
            f"fold {', '.join(map(str, both))} is left out of this run (data.exclude_folds), for "
            "a test; hold out another",
        )
        rows = shards.rows(cfg.split, exclude_folds=cfg.exclude_folds, folds=validation.folds)
        names = ", ".join(map(str, validation.folds))
        return np.intersect1d(read, rows), f"fold{'s' * (len(validation.folds) > 1)} {names}"
    return _fraction(shards, read, validation.fraction or 0.0)


def _fraction(shards: Shards, read: np.ndarray, fraction: float) -> tuple[np.ndarray, str]:
    """The first of as many stratified folds as the fraction asks for, 1 / ``fraction``."""
    k, fewer = round(1 / fraction), int(1 / fraction)
    check(
        abs(k * fraction - 1) < 0.025,
        "validation.fraction",
        f"must be 1 of a whole number of folds, got {fraction:g}; hold out {1 / fewer:.3g} or "
        f"{1 / (fewer + 1):.3g}",
    )
    recording = recordings(shards)[read]
    row = np.unique([recording, shards.column("start")[read]], axis=1, return_inverse=True)[1]
    rows = Rows(
        shards.column("label")[read], shards.column("subject")[read], recording, row.reshape(-1)
    )
    count = len(np.unique(recording[rows.labelled]))
    check(
        count >= k,
        "validation.fraction",
        f"{fraction:g} of whole recordings needs {k} of them, {shards.info.name} has {count}; "
        "hold out a larger fraction",
    )
    folds = make_folds(rows, k, name=shards.info.name, labels=shards.info.labels)
    return read[folds.fold == 0], f"1 of {k} of whole {folds.by}s"


def measured_rows(
    shards: Shards, held_out: np.ndarray, *, most: int | None, sequence: int
) -> np.ndarray:
    """The rows ``held_out`` in the order in which they are measured.

    Args:
      most: at most so many, spread evenly; None: all.
      sequence: rows come in runs of this length, as :func:`runs_of` cuts them.

    Returns:
      Row numbers ``[m]``, in whole runs.
    """
    runs = np.arange(len(held_out))[:, None]
    if sequence > 1:
        runs = runs_of(shards, held_out, sequence)
    wanted = len(runs) if most is None else min(len(runs), max(1, most // sequence))
    chosen = np.unique(np.linspace(0, len(runs) - 1, wanted).round().astype(int))
    return held_out[runs[chosen].ravel()]
