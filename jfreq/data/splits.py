"""Which rows train and which test; a subject is never on both sides."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jfreq.config import check
from jfreq.data.records import Shards


class Split(NamedTuple):
    """Row numbers int64, ascending; ``name`` says where the split comes from."""

    name: str
    train: np.ndarray
    test: np.ndarray


def official(shards: Shards) -> Split:
    """The set's own split: ``test`` against ``train``, without ``val``.

    Raises ``InputError`` where the set has none, or a subject is on both sides.
    """
    for name in ("train", "test"):
        check(name in shards.info.splits, "split", f"{shards.info.name} has no {name!r} split; "
              "use cross_validation")  # fmt: skip
    return _checked(shards, Split("official", shards.rows("train"), shards.rows("test")))


def cross_validation(shards: Shards, *, k: int = 5, seed: int = 0) -> tuple[Split, ...]:
    """Folds of the index where it has any, else ``k`` made here.

    Folds made here keep a subject together (where there are none, a recording), and the classes
    in proportion. Raises ``InputError`` for fewer than two folds, too few groups, or a subject
    on both sides.
    """
    fold = shards.column("fold")
    if (fold < 0).all():
        fold = _make_folds(shards, k, seed)
    used = [int(f) for f in np.unique(fold) if f >= 0]
    check(len(used) >= 2, "fold", f"{shards.info.name} has only the fold {used}; "
          "cross-validation needs two")  # fmt: skip
    every = np.flatnonzero(fold >= 0)
    return tuple(
        _checked(shards, Split(f"fold {f}", every[fold[every] != f], np.flatnonzero(fold == f)))
        for f in used
    )


def leave_one_subject_out(shards: Shards) -> tuple[Split, ...]:
    """One split for each named subject; ``InputError`` for fewer than two."""
    subject = shards.column("subject")
    names = sorted(set(subject.tolist()) - {""})
    check(len(names) >= 2, "subject", f"{shards.info.name} names {len(names)} subjects; "
          "leaving one out needs two")  # fmt: skip
    named = np.flatnonzero(subject != "")
    return tuple(
        Split(f"subject {n}", named[subject[named] != n], np.flatnonzero(subject == n))
        for n in names
    )


def groups(shards: Shards) -> np.ndarray:
    """``[rows]`` int64: rows of one subject, or else of one recording, share a number."""
    subject, path = shards.column("subject"), shards.column("path")
    names = np.where(subject != "", np.char.add("subject ", subject), np.char.add("path ", path))
    return np.unique(names, return_inverse=True)[1]


def _make_folds(shards: Shards, k: int, seed: int) -> np.ndarray:
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    group, label = groups(shards), shards.column("label")
    count = len(np.unique(group))
    check(2 <= k <= count, "k", f"{k} folds cannot be made of {count} subjects or recordings")
    stratify = label.ndim == 1 and (label >= 0).any()
    maker = StratifiedGroupKFold if stratify else GroupKFold
    parts = maker(k, shuffle=True, random_state=seed).split(group, label, group)
    fold = np.full(len(shards), -1)
    for i, (_, test) in enumerate(parts):
        fold[test] = i
    return fold


def _checked(shards: Shards, split: Split) -> Split:
    """The split itself; ``InputError`` where a subject or recording is on both sides."""
    group = groups(shards)
    both = np.intersect1d(group[split.train], group[split.test])
    if both.size:
        row = int(np.flatnonzero(group == both[0])[0])
        who = str(shards.column("subject")[row] or shards.column("path")[row])
        check(False, split.name, f"{who!r} is on both sides ({len(both)} such in "
              f"{shards.info.name}); leave subjects out instead")  # fmt: skip
    return split
