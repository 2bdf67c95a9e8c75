"""What is asked of frozen features: labelled rows, their divisions, and signals that fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jfreq.config import check
from jfreq.types import InputError, SignalSpec


class Task(NamedTuple):
    """Labels of one set: ``label`` ``[n]`` or ``[n k]``, and its divisions.

    ``groups``: what belongs together when validation rows are held out, ``[n]`` each, the most
    wanted first (subjects, then folds).
    """

    label: np.ndarray
    classes: int
    groups: tuple[np.ndarray, ...]
    folds: tuple[Fold, ...]


class Fold(NamedTuple):
    """Positions of one train/test division."""

    name: str
    train: np.ndarray
    test: np.ndarray


def labelled_rows(shards: Any) -> np.ndarray:
    """Rows that carry a label; ``InputError`` where there are none."""
    info, every = shards.info, np.arange(len(shards))
    check(bool(info.labels), info.name, "has no labels to probe; prepare it with labels, "
          "for instance `--labels` or a folder for each class")  # fmt: skip
    rows = every if info.multi_label else np.flatnonzero(shards.column("label") >= 0)
    check(len(rows) > 0, info.name, "no row carries a label")
    return rows


def divide(
    shards: Any,
    rows: np.ndarray,
    *,
    leave_one_subject_out: bool = False,
    only: Sequence[str] = (),
) -> tuple[Fold, ...]:
    """Train/test positions within ``rows``: by subject, by fold, or by split, as the shards say.

    ``only`` names the folds to test on (``1`` or ``fold 1``); all by default. ``test`` alone is
    the set's own split, also where the set has folds. ``InputError`` for folds that are not there.
    """
    if leave_one_subject_out:
        folds = _by_subject(shards, rows)
    else:
        folds = () if tuple(only) == ("test",) else _by_fold(shards, rows)
        folds = folds or _by_split(shards, rows)
    known = [fold.name for fold in folds]
    wanted = {name if name in known or not name.isdigit() else f"fold {name}" for name in only}
    check(wanted <= set(known), "folds", f"no {', '.join(sorted(wanted - set(known)))}; the data "
          f"have {', '.join(known)}")  # fmt: skip
    return tuple(fold for fold in folds if not wanted or fold.name in wanted)


def _by_subject(shards: Any, rows: np.ndarray) -> tuple[Fold, ...]:
    subject = shards.column("subject")[rows]
    names = sorted(set(subject) - {""})
    check(len(names) >= 2, shards.info.name, "leave-one-subject-out needs two subjects or more")
    return tuple(_fold(str(s), subject == s, subject != "") for s in names)


def _by_fold(shards: Any, rows: np.ndarray) -> tuple[Fold, ...]:
    """Nothing where there are fewer than two."""
    fold = shards.column("fold")[rows]
    known = [int(f) for f in np.unique(fold) if f in shards.info.folds]
    if len(known) < 2:
        return ()
    inside = np.isin(fold, known)
    return tuple(_fold(f"fold {f}", fold == f, inside) for f in known)


def _by_split(shards: Any, rows: np.ndarray) -> tuple[Fold, ...]:
    split = shards.column("split")[rows]
    if (split == "train").any() and (split == "test").any():
        return (_fold("test", split == "test", (split == "train") | (split == "test")),)
    info = shards.info
    known = np.unique(shards.column("fold")[rows])
    raise InputError(
        f"{info.name}: a probe needs two folds or a train and a test split; it has folds "
        f"{[int(f) for f in known if f in info.folds] or 'none'} and splits "
        f"{', '.join(info.splits) or 'none'}; prepare it with folds"
    )


def _fold(name: str, test: np.ndarray, inside: np.ndarray) -> Fold:
    return Fold(name, np.flatnonzero(inside & ~test), np.flatnonzero(test))


def make_task(shards: Any, rows: np.ndarray, folds: tuple[Fold, ...]) -> Task:
    """Labels and groups of the rows, checked fold by fold."""
    label = shards.column("label")[rows]
    for fold in folds:
        part = label[fold.train]
        several = len(np.unique(part)) > 1 if label.ndim == 1 else part.any()
        check(bool(several), f"{shards.info.name}, {fold.name}", "its training rows hold a single "
              "class; give the classes to several folds")  # fmt: skip
    groups = tuple(shards.column(name)[rows] for name in ("subject", "fold"))
    return Task(label, len(shards.info.labels), groups, folds)


def check_signals(signals: Sequence[SignalSpec], shards: Any) -> None:
    """``InputError`` unless the shards hold every signal that the encoder reads, at its rate."""
    for wanted in signals:
        found = shards.spec.signal(wanted.name)
        for field in ("rate", "channels"):
            a, b = getattr(found, field), getattr(wanted, field)
            check(a == b, f"{shards.info.name}, {wanted.name}", f"{field} is {a:g}, the encoder "
                  f"reads {b:g}; prepare the set again to match (--rate, --seconds)")  # fmt: skip
