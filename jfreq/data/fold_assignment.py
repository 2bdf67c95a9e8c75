"""Folds for sources and shards that come without, or in place of their own."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from jfreq.config import Data, check
from jfreq.data.options import Options
from jfreq.data.shards.metadata import ShardsInfo
from jfreq.data.shards.reader import Shards, open_shards
from jfreq.data.sources.base import Row, Source
from jfreq.data.sources.segments import name_of
from jfreq.data.stratified_folds import Rows, make, numbered
from jfreq.ranges import FoldBy
from jfreq.types import InputError

USUAL = 5
"""Folds that messages suggest."""


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
    """The source with ``k`` folds, and what they keep together.

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
    keys = np.stack([part, *map(numbered, names), shards.column("item")])
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


def _some(names: list[str], most: int = 6) -> str:
    """The first few names."""
    return ", ".join(names[:most]) + ", ..." * (len(names) > most)
