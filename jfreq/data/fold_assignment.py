"""Folds for sets that come without: whole subjects, whole recordings, or rows.

Classes are kept in proportion by scikit-learn. What decides is names, never the order in which a
disk lists its files: the same source has the same folds on every machine.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple, get_args

import numpy as np

from jfreq.config import Data, check
from jfreq.data.options import Options
from jfreq.data.shards.metadata import ShardsInfo
from jfreq.data.shards.reader import Shards, open_shards
from jfreq.data.sources.base import Row, Source
from jfreq.data.sources.segments import name_of
from jfreq.ranges import FoldBy
from jfreq.types import InputError

USUAL = 5
"""Folds that messages suggest."""
MANY = 5000
"""So many groups of one class each are stratified as they are, without regard to their sizes:
their sizes even out, and the search that looks at them would take minutes."""


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
        """``[n]`` int: rows with the same number stay together.

        Whole subjects are whole recordings too: a recording of several subjects ties them
        together, and rows that name no subject go by their recording.
        """
        if by == "row":
            return _numbered(self.row)
        recording = _numbered(self.recording)
        if by == "recording":
            return recording
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        named = self.subject != ""
        first = int(recording.max()) + 1
        subject = first + _numbered(self.subject[named])
        size = int(subject.max(initial=first)) + 1
        ties = coo_array((np.ones(len(subject)), (recording[named], subject)), shape=(size, size))
        return connected_components(ties, directed=False)[1][recording]


class Made(NamedTuple):
    """Folds ``[n]`` from 0 on, what was kept together, and sentences about them."""

    fold: np.ndarray
    by: FoldBy
    notes: tuple[str, ...]


# ------------------------------------------------------------------ where folds are made


def divided(source: Source, options: Options) -> tuple[Source, str]:
    """The source with the folds that ``options`` ask for, and what these keep whole.

    Without ``make_folds`` it is the source itself and an empty word; then ``InputError`` for
    options that only say how folds are made.
    """
    k, by, replace = options.make_folds, options.fold_by, options.replace_folds
    if k is not None:
        return with_folds(source, k, by, seed=options.seed, replace=replace)
    check(by is None, "fold-by", "says how folds are made; say how many with --make-folds")
    if replace:
        raise InputError(
            "replace-folds: says that folds may go; say how many new ones with --make-folds"
        )
    return source, ""


def with_folds(
    source: Source, k: int, by: FoldBy | None = None, *, seed: int = 0, replace: bool = False
) -> tuple[Source, FoldBy]:
    """The source with ``k`` folds, and what they keep together; see :func:`make`.

    Unlabelled stretches follow their recording; with ``row``, those of a recording that lies in
    several folds are left out and named. Raises ``InputError`` as :func:`make`, and where the
    source has folds of its own, unless ``replace`` says that they may go.
    """
    existing = sorted({row.fold for row in source.rows} - {-1})
    check(
        replace or not existing,
        "make-folds",
        f"{source.name} has folds of its own ({_some(list(map(str, existing)))}), which published "
        "figures may go by; leave --make-folds out to use them, or add --replace-folds",
    )
    rows = [row._replace(fold=-1) for row in source.rows]
    listed = {_recording(row) for row in rows} if by == "row" else set()
    tied = [row for row in source.rest if _recording(row) in listed]
    every = [*rows, *(row for row in source.rest if _recording(row) not in listed)]
    made = make(_rows_of(source, every), k, by, seed=seed, name=source.name, labels=source.labels)
    folded = [row._replace(fold=int(fold)) for row, fold in zip(every, made.fold)]
    followed, lost = _follow(folded[: len(rows)], tied)
    missing = tuple(f"{name_of(row)}: its recording lies in several folds" for row in lost)
    splits = sorted({row.split for row in source.rows} - {""})
    kept = (
        (
            f"its splits {', '.join(splits)} stay; `--folds test` or `--train-split` and "
            "`--test-split` test by them",
        )
        if splits
        else ()
    )
    return dataclasses.replace(
        source,
        rows=tuple(folded[: len(rows)]),
        rest=(*folded[len(rows) :], *followed),
        missing=(*source.missing, *missing),
        notes=(*source.notes, *made.notes, *kept),
    ), made.by


def refolded(shards: Shards, k: int, by: FoldBy | None = None) -> tuple[Shards, tuple[str, ...]]:
    """The shards with ``k`` folds made here instead of their own, and sentences about them.

    Every row has one, labelled or not, so that training and testing agree about them; nothing on
    disk changes. Raises ``InputError`` as :func:`make`.
    """
    recording = recordings(shards)
    rows = Rows(
        label=shards.column("label"),
        subject=shards.column("subject"),
        recording=recording,
        row=np.unique([recording, shards.column("start")], axis=1, return_inverse=True)[1].reshape(
            -1
        ),
    )
    made = make(rows, k, by, name=shards.info.name, labels=shards.info.labels)
    return shards.with_folds(made.fold, made.by), made.notes


def recordings(shards: Shards) -> np.ndarray:
    """``[rows]`` int: rows of one recording share a number.

    A recording is a file, or one item of a file of many. In a file of sensors, every subject is a
    recording of its own; in sound, one microphone records all of them. Files of different
    folders of shards are different ones, unless the folders hold the same.
    """
    sound = any(s.name == "audio" for s in shards.info.signals)
    hashes = shards.manifests
    part = np.searchsorted(sorted(set(hashes)), hashes)[shards.part_of(np.arange(len(shards)))]
    names = [shards.column("path")] + [shards.column("subject")] * (not sound)
    keys = np.stack([part, *map(_numbered, names), shards.column("item")])
    return np.unique(keys, axis=1, return_inverse=True)[1].reshape(-1)


def open_data(cfg: Data) -> Shards:
    """The shards of ``cfg.path``, with the folds that ``cfg.make_folds`` asks for."""
    if cfg.fold_by is not None and cfg.make_folds is None:
        raise InputError(
            "data.fold_by: says how folds are made; say how many with --data.make-folds"
        )
    shards = open_shards(cfg.path)
    return shards if cfg.make_folds is None else refolded(shards, cfg.make_folds, cfg.fold_by)[0]


def usual(subjects: int, recordings: int = USUAL) -> int:
    """How many folds to suggest for so many subjects or, with fewer than two, recordings."""
    return max(2, min(USUAL, subjects if subjects > 1 else recordings))


def undivided(info: ShardsInfo, subject: Iterable[str]) -> str:
    """A sentence for a labelled set that has neither folds nor splits, with the ``subject`` of
    every row; empty for all others."""
    if not info.labels or len(info.folds) > 1 or len(info.splits) > 1:
        return ""
    return (
        f"{info.name} has labels, but neither folds nor splits: probing will need folds; add "
        f"`--make-folds {usual(len(set(subject) - {''}))}` to `jfreq data prepare`, or later to "
        "`jfreq probe` and `finetune`"
    )


# ------------------------------------------------------------------ making them


def make(
    rows: Rows,
    k: int,
    by: FoldBy | None = None,
    *,
    seed: int = 0,
    name: str,
    labels: tuple[str, ...] = (),
) -> Made:
    """``k`` folds that keep subjects, recordings or rows whole, with classes in proportion.

    Without ``by``: subjects where at least ``k`` of them are known, else recordings. Every fold
    holds labelled rows where the set has any.

    Raises ``InputError`` for fewer than two folds, and for fewer subjects, recordings or rows
    than folds.
    """
    check(k >= 2, "make-folds", f"needs 2 folds or more, got {k}")
    if by is not None and by not in get_args(FoldBy):
        raise InputError(f"fold-by: must be subject, recording or row, got {by!r}")
    known = {choice: _count(rows, choice) for choice in get_args(FoldBy)}
    kept_whole: FoldBy = by or ("subject" if known["subject"] >= k else "recording")
    _check_enough(k, kept_whole, known, name, guessed=by is None)
    group = rows.groups(kept_whole)
    fold = _assigned(rows.label, rows.labelled, group, k, seed)
    return Made(
        fold, kept_whole, _notes(rows, fold, k, kept_whole, known, labels, guessed=by is None)
    )


def _count(rows: Rows, by: FoldBy) -> int:
    """How many groups with labels there are; by subject only those that name one."""
    those = rows.labelled & (rows.subject != "") if by == "subject" else rows.labelled
    return len(np.unique(rows.groups(by)[those]))


def _check_enough(
    k: int, by: FoldBy, known: dict[FoldBy, int], name: str, *, guessed: bool
) -> None:
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
    there = _counted(known[by], by)
    if guessed and by == "recording":
        there = f"{_counted(known['subject'], 'subject')} and {there}"
    raise InputError(
        f"make-folds: {k} folds of {_whole(by)} need {k} of them, {name} has {there} to test on; "
        f"{advice}"
    )


def _assigned(
    label: np.ndarray, labelled: np.ndarray, group: np.ndarray, k: int, seed: int
) -> np.ndarray:
    """The fold of every row ``[n]`` int32."""
    inside = np.flatnonzero(labelled)
    inside = inside[np.argsort(group[inside], kind="stable")]
    names, mine = np.unique(group[inside], return_inverse=True)
    of_group = np.full(int(group.max()) + 1, -1)
    of_group[names] = _stratified(label[inside], mine, k, seed)
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
            alike = pure and (len(first) > MANY or sizes.min() == sizes.max())
            if alike and np.bincount(label[first] + 1).max() >= k:
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


# ------------------------------------------------------------------ small things


def _rows_of(source: Source, rows: list[Row]) -> Rows:
    """A file of sensors may hold several people, one after the other, who are recordings of their
    own; in sound one microphone records everyone."""
    recording = [
        (row.path, -1 if row.item is None else row.item, "" if source.audio else row.subject)
        for row in rows
    ]
    spans = [
        (*name, row.start, -1 if row.end is None else row.end) for name, row in zip(recording, rows)
    ]
    if source.multi_label:
        label = np.zeros((len(rows), len(source.labels)), bool)
        for i, row in enumerate(rows):
            label[i, list(row.label)] = True
    else:
        label = np.array([row.label[0] if row.label else -1 for row in rows], np.int64)
    return Rows(
        label, np.array([row.subject for row in rows], np.str_), _ranks(recording), _ranks(spans)
    )


def _ranks(names: list[tuple]) -> np.ndarray:
    """The rank of every name among all different ones, in order."""
    rank = {name: i for i, name in enumerate(sorted(set(names)))}
    return np.array([rank[name] for name in names], np.int64)


def _numbered(names: np.ndarray) -> np.ndarray:
    return np.unique(names, return_inverse=True)[1]


def _recording(row: Row) -> tuple[str, int | None]:
    return row.path, row.item


def _follow(rows: list[Row], rest: list[Row]) -> tuple[list[Row], list[Row]]:
    """Unlabelled stretches with the fold of their recording, and those whose recording has
    several."""
    folds = defaultdict(set)
    for row in rows:
        folds[_recording(row)].add(row.fold)
    kept, lost = [], []
    for row in rest:
        fold, *others = folds[_recording(row)]
        (lost if others else kept).append(row._replace(fold=fold))
    return kept, lost


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
    said = f"folds: {k} of {_whole(by)} ({_counted(known[by], by)})"
    if guessed and by == "recording":
        few = f"only {_counted(known['subject'], 'subject')} known, who may lie in several folds"
        said += f"; {few if known['subject'] else 'no subjects are known'}"
    notes = [said]
    if by == "subject" and (unnamed := int((rows.subject == "").sum())):
        notes.append(f"{unnamed} rows name no subject: they go by their recording")
    if by == "row" and known["row"] > known["recording"]:
        notes.append(
            "rows of one recording lie in different folds, so that a test is easier than "
            "on new recordings; --guard-seconds keeps them apart"
        )
    if rows.label.ndim == 1:
        for c in np.unique(rows.label[rows.label >= 0]):
            lies = np.unique(fold[rows.label == c])
            if len(lies) == 1:
                name = repr(labels[c]) if c < len(labels) else str(c)
                notes.append(
                    f"class {name} lies in fold {lies[0]} alone, so that this fold cannot be "
                    "tested; leave the class out (--drop-labels when preparing)"
                )
    return tuple(notes)


def _whole(by: FoldBy) -> str:
    return "rows" if by == "row" else f"whole {by}s"


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def _some(names: list[str], most: int = 6) -> str:
    """The first few names."""
    return ", ".join(names[:most]) + ", ..." * (len(names) > most)
