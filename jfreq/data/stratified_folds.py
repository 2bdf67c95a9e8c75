"""Folds that keep subjects, recordings or rows whole, with classes in proportion.

Classes are kept in proportion by scikit-learn. What decides is names, never the order in which a
disk lists its files: the same source has the same folds on every machine.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple, get_args

import numpy as np

from jfreq.config import check
from jfreq.ranges import FoldBy
from jfreq.types import InputError

_MANY_GROUPS = 5000
"""More groups than this, of one class each, are stratified without regard to their sizes: the
sizes even out, and scikit-learn would need minutes to balance them."""


class Rows(NamedTuple):
    """What the folds of ``n`` rows depend on.

    ``label`` ``[n]``, -1 for none, or multi-hot ``[n k]``; names ``[n]`` of the ``subject`` (empty
    where it is unknown), the ``recording`` and the ``row`` itself.
    """

    label: np.ndarray
    subject: np.ndarray
    recording: np.ndarray
    row: np.ndarray

    @property
    def labelled(self) -> np.ndarray:
        """``[n]`` bool; all rows where none has a label."""
        has = np.ones(len(self.label), bool) if self.label.ndim == 2 else self.label >= 0
        return has if has.any() else ~has

    def groups(self, by: FoldBy) -> np.ndarray:
        """``[n]`` int: rows with the same number are kept together.

        By subject, recordings are kept whole too: subjects of one recording are kept together,
        and so are the rows of a recording that name no subject.
        """
        if by == "row":
            return integer_codes(self.row)
        recording = integer_codes(self.recording)
        if by == "recording":
            return recording
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        named = self.subject != ""
        first = int(recording.max()) + 1
        subject = first + integer_codes(self.subject[named])
        size = int(subject.max(initial=first)) + 1
        ties = coo_array((np.ones(len(subject)), (recording[named], subject)), shape=(size, size))
        return connected_components(ties, directed=False)[1][recording]


class Folds(NamedTuple):
    """The fold of every row ``[n]`` int32 from 0, what is kept whole, and sentences about it."""

    fold: np.ndarray
    by: FoldBy
    notes: tuple[str, ...]


def make_folds(
    rows: Rows,
    k: int,
    by: FoldBy | None = None,
    *,
    seed: int = 0,
    name: str,
    labels: tuple[str, ...] = (),
) -> Folds:
    """``k`` folds that keep subjects, recordings or rows whole, with classes in proportion.

    Where the set has labelled rows, every fold holds some.

    Args:
      by: what is kept whole; None for subjects where at least ``k`` of them are known, else
        recordings.
      name: of the set, for messages.
      labels: names of the classes, for messages.

    Raises:
      InputError: for fewer than two folds, and for fewer subjects, recordings or rows than folds.
    """
    check(k >= 2, "make-folds", f"needs 2 folds or more, got {k}")
    if by is not None and by not in get_args(FoldBy):
        raise InputError(f"fold-by: must be subject, recording or row, got {by!r}")
    known = {choice: _count(rows, choice) for choice in get_args(FoldBy)}
    kept_whole: FoldBy = by or ("subject" if known["subject"] >= k else "recording")
    _check_enough(k, kept_whole, known, name, guessed=by is None)
    group = rows.groups(kept_whole)
    fold = _assigned(rows.label, rows.labelled, group, k, seed)
    notes = _notes(rows, fold, k, kept_whole, known, labels, guessed=by is None)
    return Folds(fold, kept_whole, notes)


def _count(rows: Rows, by: FoldBy) -> int:
    """Number of groups with labels; by subject, only of rows that name one."""
    counted = rows.labelled & (rows.subject != "") if by == "subject" else rows.labelled
    return len(np.unique(rows.groups(by)[counted]))


def _check_enough(
    k: int, by: FoldBy, known: dict[FoldBy, int], name: str, *, guessed: bool
) -> None:
    """``InputError`` with advice where fewer than ``k`` groups are ``known``."""
    if by == "subject" and not known["subject"]:
        raise InputError(
            f"fold-by: no row of {name} names its subject; use --fold-by recording (there are "
            f"{known['recording']})"
        )
    if known[by] >= k:
        return
    least = max(k, known[by] + 1)
    others: list[FoldBy] = [
        other for other in get_args(FoldBy)[1:] if other != by and known[other] >= least
    ]
    ways = [f"--make-folds {known[by]}"] if known[by] >= 2 else []
    ways += [f"--fold-by {other} (there are {known[other]})" for other in others]
    advice = f"use {' or '.join(ways)}" if ways else "it cannot be divided, add recordings"
    available = _counted(known[by], by)
    if guessed and by == "recording":
        available = f"{_counted(known['subject'], 'subject')} and {available}"
    raise InputError(
        f"make-folds: {k} folds of {_whole(by)} need {k} of them, {name} has {available} to test "
        f"on; {advice}"
    )


def _assigned(
    label: np.ndarray, labelled: np.ndarray, group: np.ndarray, k: int, seed: int
) -> np.ndarray:
    """The fold of every row ``[n]`` int32."""
    inside = np.flatnonzero(labelled)
    inside = inside[np.argsort(group[inside], kind="stable")]
    groups, codes = np.unique(group[inside], return_inverse=True)
    of_group = np.full(int(group.max()) + 1, -1)
    of_group[groups] = _stratified(label[inside], codes, k, seed)
    sizes = np.bincount(group)
    filled = np.bincount(of_group[group[inside]], minlength=k)
    # Groups without any label: the largest first, each into the smallest fold.
    free = np.flatnonzero((of_group < 0) & (sizes > 0))
    for g in free[np.argsort(-sizes[free], kind="stable")]:
        of_group[g] = int(np.argmin(filled))
        filled[of_group[g]] += sizes[g]
    return of_group[group].astype(np.int32)


def _stratified(label: np.ndarray, group: np.ndarray, k: int, seed: int) -> np.ndarray:
    """The fold of every group ``[groups]``; rows lie in the order of their groups."""
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, StratifiedKFold

    first = np.unique(group, return_index=True)[1]
    sizes, zeros = np.bincount(group), np.zeros(len(label))
    if label.ndim == 1 and np.bincount(label + 1).max() >= k and len(np.unique(label)) > 1:
        pure = bool((label == label[first][group]).all())
        options = {"n_splits": k, "shuffle": True, "random_state": seed}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a class with fewer rows than folds
            by_group = pure and (len(first) > _MANY_GROUPS or sizes.min() == sizes.max())
            if by_group and np.bincount(label[first] + 1).max() >= k:
                parts = StratifiedKFold(**options).split(first, label[first])
                return _numbers(parts, len(first))
            parts = StratifiedGroupKFold(**options).split(zeros, label, group)
            fold = _numbers(parts, len(label))[first]
        if len(np.unique(fold)) == k:
            return fold
    # By size alone, equal sizes in an order that the seed decides.
    order = np.random.default_rng(seed).permutation(len(first))
    return _numbers(GroupKFold(k).split(zeros, groups=order[group]), len(label))[first]


def _numbers(parts, n: int) -> np.ndarray:
    """The number of the part that tests each of ``n`` rows."""
    fold = np.full(n, -1)
    for i, (_, test) in enumerate(parts):
        fold[test] = i
    return fold


def integer_codes(names: np.ndarray) -> np.ndarray:
    """``[n]`` int: the rank of every name among all different ones."""
    return np.unique(names, return_inverse=True)[1]


def _notes(
    rows: Rows,
    fold: np.ndarray,
    k: int,
    by: FoldBy,
    known: dict[FoldBy, int],
    labels: tuple[str, ...],
    *,
    guessed: bool,
) -> tuple[str, ...]:
    """What was made, what was guessed, and what it means for a test."""
    summary = f"folds: {k} of {_whole(by)} ({_counted(known[by], by)})"
    if guessed and by == "recording":
        few = f"only {_counted(known['subject'], 'subject')} known, who may lie in several folds"
        summary += f"; {few if known['subject'] else 'no subjects are known'}"
    notes = [summary]
    if by == "subject" and (unnamed := int((rows.subject == "").sum())):
        notes.append(f"{unnamed} rows name no subject: they are kept together by recording")
    if by == "row" and known["row"] > known["recording"]:
        notes.append(
            "rows of one recording lie in different folds, so that a test is easier than "
            "on new recordings; --guard-seconds keeps them apart"
        )
    if rows.label.ndim == 1:
        for c in np.unique(rows.label[rows.label >= 0]):
            folds = np.unique(fold[rows.label == c])
            if len(folds) == 1:
                name = repr(labels[c]) if c < len(labels) else str(c)
                notes.append(
                    f"class {name} lies in fold {folds[0]} alone, so that this fold cannot be "
                    "tested; leave the class out (--drop-labels when preparing)"
                )
    return tuple(notes)


def _whole(by: FoldBy) -> str:
    return "rows" if by == "row" else f"whole {by}s"


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"
