"""Folds for sources and shards that have none, or in place of the folds that they have."""

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
from jfreq.data.sources.rows import packed
from jfreq.data.sources.segments import name_of
from jfreq.data.stratified_folds import Rows, integer_codes, make_folds
from jfreq.ranges import FoldBy, shortlist
from jfreq.types import InputError

SUGGESTED_FOLDS = 5
"""Number of folds that messages suggest."""


def with_requested_folds(source: Source, options: Options) -> tuple[Source, str]:
    """The source with the folds that ``options`` ask for, and what these folds keep whole.

    Without ``options.make_folds`` this is the source as it is and an empty string.

    Raises:
      InputError: as :func:`with_folds`; for ``fold_by`` or ``replace_folds`` without
        ``make_folds``.
    """
    k, by, replace = options.make_folds, options.fold_by, options.replace_folds
    if k is not None:
        return with_folds(source, k, by, seed=options.seed, replace=replace)
    check(by is None, "fold-by", "has no effect alone; add --make-folds with a number of folds")
    check(
        not replace, "replace-folds", "has no effect alone; add --make-folds with a number of folds"
    )
    return source, ""


def with_folds(
    source: Source, k: int, by: FoldBy | None = None, *, seed: int = 0, replace: bool = False
) -> tuple[Source, FoldBy]:
    """The source with ``k`` folds, and what they keep whole.

    Unlabelled stretches are in the fold of their recording. Where ``by`` is ``row``, a recording
    may lie in several folds; its unlabelled stretches are then left out and named in
    ``Source.missing``.

    Args:
      by: what a fold keeps whole; None chooses as :func:`make_folds` does.
      replace: the folds that the source has may be replaced.

    Raises:
      InputError: as :func:`make_folds`; for a source that has folds, without ``replace``.
    """
    existing = [str(fold) for fold in sorted({row.fold for row in source.rows} - {-1})]
    check(
        replace or not existing,
        "make-folds",
        f"{source.name} has folds of its own ({shortlist(existing, 6)}), on which published "
        "figures may rest; leave --make-folds out to use them, or add --replace-folds",
    )
    rows = [row._replace(fold=-1) for row in source.rows]
    labelled = {row.recording for row in rows} if by == "row" else set()
    followers = [row for row in source.rest if row.recording in labelled]
    divided = [*rows, *(row for row in source.rest if row.recording not in labelled)]
    folds = make_folds(
        _rows_of(source, divided), k, by, seed=seed, name=source.name, labels=source.labels
    )
    folded = [row._replace(fold=int(fold)) for row, fold in zip(divided, folds.fold)]
    followed, left_out = _follow(folded[: len(rows)], followers)
    missing = tuple(f"{name_of(row)}: its recording lies in several folds" for row in left_out)
    splits = sorted({row.split for row in source.rows} - {""})
    splits_note = (
        f"its splits {', '.join(splits)} stay; `--folds test` or `--train-split` and "
        "`--test-split` test by them"
    )
    return dataclasses.replace(
        source,
        rows=packed(folded[: len(rows)]),
        rest=(*folded[len(rows) :], *followed),
        missing=(*source.missing, *missing),
        notes=(*source.notes, *folds.notes, *([splits_note] if splits else [])),
    ), folds.by


def refolded(shards: Shards, k: int, by: FoldBy | None = None) -> tuple[Shards, tuple[str, ...]]:
    """The shards with ``k`` new folds instead of their own, and sentences about these folds.

    Every row has a fold, labelled or not, so that training and testing agree about it. Nothing on
    disk changes.

    Raises:
      InputError: as :func:`make_folds`.
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
    folds = make_folds(rows, k, by, name=shards.info.name, labels=shards.info.labels)
    return shards.with_folds(folds.fold, folds.by), folds.notes


def recordings(shards: Shards) -> np.ndarray:
    """``[rows]`` int: rows of one recording have the same number.

    A recording is a file, or one item of a file of many. In a file of sensors, every subject is a
    recording of its own; in sound, one microphone records all of them. Where the shards lie in
    several folders, files of different folders are different recordings, unless the folders hold
    the same shards.
    """
    sound = any(s.name == "audio" for s in shards.info.signals)
    hashes = shards.manifests
    part = np.searchsorted(sorted(set(hashes)), hashes)[shards.folder_of(np.arange(len(shards)))]
    names = [shards.column("path")] + [shards.column("subject")] * (not sound)
    keys = np.stack([part, *map(integer_codes, names), shards.column("item")])
    return np.unique(keys, axis=1, return_inverse=True)[1].reshape(-1)


def open_data(cfg: Data) -> Shards:
    """The shards of ``cfg.path``, with the folds that ``cfg.make_folds`` asks for."""
    if cfg.fold_by is not None and cfg.make_folds is None:
        raise InputError(
            "data.fold_by: has no effect alone; add --data.make-folds with a number of folds"
        )
    shards = open_shards(cfg.path, cache=cfg.cache)
    return shards if cfg.make_folds is None else refolded(shards, cfg.make_folds, cfg.fold_by)[0]


def suggested_folds(subjects: int, recordings: int = SUGGESTED_FOLDS) -> int:
    """Number of folds to suggest for so many subjects or, with fewer than two, recordings."""
    return max(2, min(SUGGESTED_FOLDS, subjects if subjects > 1 else recordings))


def advice_without_folds(info: ShardsInfo, subject: Iterable[str]) -> str:
    """A sentence about a labelled set that has neither folds nor splits; empty for other sets.

    ``subject`` is that of every row.
    """
    if not info.labels or len(info.folds) > 1 or len(info.splits) > 1:
        return ""
    folds = suggested_folds(len(set(subject) - {""}))
    return (
        f"{info.name} has labels, but neither folds nor splits: probing will need folds; add "
        f"`--make-folds {folds}` to `jfreq data prepare`, or later to `jfreq probe` and `finetune`"
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


def _follow(rows: list[Row], rest: list[Row]) -> tuple[list[Row], list[Row]]:
    """Unlabelled stretches in the fold of their recording, and those of recordings in several."""
    folds = defaultdict(set)
    for row in rows:
        folds[row.recording].add(row.fold)
    kept, left_out = [], []
    for row in rest:
        fold, *others = folds[row.recording]
        (left_out if others else kept).append(row._replace(fold=fold))
    return kept, left_out
