"""Folds of labelled rows for probes and fine-tuning, and the check that signals fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jfreq.config import check
from jfreq.data.fold_assignment import SUGGESTED_FOLDS, recordings, suggested_folds
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
    """Positions of one train/test division.

    ``reads``: the fields of ``Data`` that select its training rows; empty where no fields do.
    """

    name: str
    train: np.ndarray
    test: np.ndarray
    reads: Mapping[str, Any] = {}


class Asker(NamedTuple):
    """Who wants to divide a set: what it is called, and which of its options make folds."""

    name: str
    leaves_subjects_out: bool = False
    makes_folds: bool = True


PROBE = Asker("a probe", leaves_subjects_out=True)
FINE_TUNING = Asker("fine-tuning")
ABLATION = Asker("an ablation", makes_folds=False)


def labelled_rows(shards: Any) -> np.ndarray:
    """Rows that carry a label; ``InputError`` where there are none."""
    info, every = shards.info, np.arange(len(shards))
    why = getattr(shards, "why_unlabelled", "")
    check(not why, info.name, f"the sets have no labels together: {why}")
    check(
        bool(info.labels),
        info.name,
        "has no labels; prepare it with labels, for instance `--labels` or a folder for each class",
    )
    rows = every if info.multi_label else np.flatnonzero(shards.column("label") >= 0)
    check(len(rows) > 0, info.name, "no row carries a label")
    return rows


def divide(
    shards: Any,
    rows: np.ndarray,
    *,
    leave_one_subject_out: bool = False,
    only: Sequence[str] = (),
    train_split: str | None = None,
    test_split: str | None = None,
    asker: Asker = PROBE,
) -> tuple[Fold, ...]:
    """Train/test positions within ``rows``: by subject, by fold, or by split, as the shards say.

    ``only`` names the folds to test on (``1`` or ``fold 1``); all by default. ``test`` alone is
    the set's own split, also where the set has folds; ``train_split`` and ``test_split`` name two
    other splits.

    Raises ``InputError`` for folds and splits that are not there, and for a subject, or where
    there are none a recording, that is on both sides.
    """
    named = train_split is not None or test_split is not None
    check(
        not (named and leave_one_subject_out),
        "train-split",
        "is no use with --leave-one-subject-out; give one of them",
    )
    splits = (train_split or "train", test_split or "test")
    if leave_one_subject_out:
        folds = _by_subject(shards, rows)
    else:
        folds = () if named or tuple(only) == ("test",) else _by_fold(shards, rows)
        folds = folds or _by_split(shards, rows, splits, named, asker)
    known = [fold.name for fold in folds]
    wanted = {name if name in known or not name.isdigit() else f"fold {name}" for name in only}
    check(
        wanted <= set(known),
        "folds",
        f"no {', '.join(sorted(wanted - set(known)))}; the data have {', '.join(known)}",
    )
    folds = tuple(fold for fold in folds if not wanted or fold.name in wanted)
    _check_apart(shards, rows, folds, asker)
    return folds


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
    return tuple(_fold(f"fold {f}", fold == f, inside, exclude_folds=(f,)) for f in known)


def _by_split(
    shards: Any, rows: np.ndarray, splits: tuple[str, str], named: bool, asker: Asker
) -> tuple[Fold, ...]:
    column, (train, test) = shards.column("split")[rows], splits
    check(train != test, "test-split", f"{test!r} is the split to train on as well")
    if (column == train).any() and (column == test).any():
        inside = (column == train) | (column == test)
        return (_fold(test, column == test, inside, split=train),)
    info = shards.info
    names = [str(name) for name in np.unique(column) if name]
    if named:
        lacking = next(name for name in splits if not (column == name).any())
        option = "train-split" if lacking == train else "test-split"
        raise InputError(
            f"{option}: no labelled rows of split {lacking!r} in {info.name}; it has "
            f"{', '.join(names) or 'no splits'}"
        )
    known = np.unique(shards.column("fold")[rows])
    raise InputError(
        f"{info.name}: {asker.name} needs two folds or a train and a test split; it has folds "
        f"{[int(f) for f in known if f in info.folds] or 'none'} and splits "
        f"{', '.join(names) or 'none'}; {_way_out(shards, rows, names, asker)}"
    )


def _way_out(shards: Any, rows: np.ndarray, splits: Sequence[str], asker: Asker) -> str:
    """The options that help, as far as the set has what they need."""
    subjects = len(set(shards.column("subject")[rows]) - {""})
    groups = len(np.unique(recordings(shards)[rows]))
    if not asker.makes_folds:
        return f"prepare it with --make-folds {suggested_folds(subjects, groups)}"
    ways = []
    if len(splits) > 1:
        ways.append("name two of its splits with --train-split and --test-split")
    if subjects > 1:
        if asker.leaves_subjects_out:
            ways.append(f"test on each of its {subjects} subjects with --leave-one-subject-out")
        ways.append(f"make folds of whole subjects with --make-folds {suggested_folds(subjects)}")
    elif groups > 1:
        ways.append(
            f"make folds of whole recordings with --make-folds {suggested_folds(0, groups)}"
        )
    if not ways:
        return (
            f"it holds one recording: prepare it with --make-folds {SUGGESTED_FOLDS} --fold-by row"
        )
    return ", or ".join(ways)


def _fold(name: str, test: np.ndarray, inside: np.ndarray, **reads: Any) -> Fold:
    return Fold(name, np.flatnonzero(inside & ~test), np.flatnonzero(test), reads)


def _check_apart(shards: Any, rows: np.ndarray, folds: Sequence[Fold], asker: Asker) -> None:
    """``InputError`` where one person or recording is both trained on and tested on.

    Not where the user chose just that: folds of rows, and spans kept apart by a guard.
    """
    info = shards.info
    for fold in folds:
        made = info.fold_by if "exclude_folds" in fold.reads else ""
        if made == "row" or info.guard_seconds > 0:
            continue
        party = _parties(shards, made != "recording")[rows]
        both = np.intersect1d(party[fold.train], party[fold.test])
        if not both.size:
            continue
        first = both[both < 0].max(initial=both[0])
        kind, column = ("subject", "subject") if first < 0 else ("recording", "path")
        name = str(shards.column(column)[rows[np.flatnonzero(party == first)[0]]])
        count = len(np.unique(party[party < 0] if kind == "subject" else party))
        ways = [f"--make-folds {suggested_folds(count, count)}"] if asker.makes_folds else []
        ways += ["--leave-one-subject-out"] * (kind == "subject" and asker.leaves_subjects_out)
        advice = f"divide it anew with {' or '.join(ways)}" if ways else "mend the folds"
        several = f", one of {both.size} such," if both.size > 1 else ""
        raise InputError(
            f"{info.name}, {fold.name}: {kind} {name!r}{several} is on both sides, so "
            f"the test would be of what was trained on; {advice}"
        )


def _parties(shards: Any, by_subject: bool) -> np.ndarray:
    """``[rows]`` int: rows of one subject share a number below 0, others of one recording one from
    0 on."""
    recording, subject = recordings(shards), shards.column("subject")
    if not by_subject:
        return recording
    return np.where(subject != "", -1 - np.unique(subject, return_inverse=True)[1], recording)


def make_task(shards: Any, rows: np.ndarray, folds: tuple[Fold, ...]) -> Task:
    """Labels and groups of the rows, checked fold by fold."""
    label = shards.column("label")[rows]
    check_classes(shards.info, label, folds)
    groups = tuple(shards.column(name)[rows] for name in ("subject", "fold"))
    return Task(label, len(shards.info.labels), groups, folds)


def check_classes(info: Any, label: np.ndarray, folds: Sequence[Fold]) -> None:
    """``InputError`` for a fold whose training rows hold a single class, or whose test rows hold
    a class that training never sees: no probe could score there, and nothing would say why."""
    for fold in folds:
        where, train = f"{info.name}, {fold.name}", label[fold.train]
        several = len(np.unique(train)) > 1 if label.ndim == 1 else train.any()
        check(
            bool(several),
            where,
            "its training rows hold a single class; give the classes to several folds",
        )
        known, asked = _classes(train), _classes(label[fold.test])
        unseen = np.setdiff1d(asked, known)
        if label.ndim == 2 and len(unseen) < len(asked):
            continue
        if len(unseen):
            raise InputError(f"{where}: {_never_seen(info, label, fold, unseen, len(asked))}")


def remarks(shards: Any, label: np.ndarray, folds: Sequence[Fold]) -> tuple[str, ...]:
    """Sentences to print with scores on these folds: what they keep apart, and which of several
    labels cannot be scored."""
    said, info = [], shards.info
    made = info.fold_by if any("exclude_folds" in fold.reads for fold in folds) else ""
    if made == "recording" and len(set(shards.column("subject")) - {""}) > 1:
        said.append("folds keep recordings whole, one subject may be in several")
    if made == "row":
        said.append("folds are of rows, one recording may be in several")
    if info.guard_seconds > 0:
        said.append(f"rows of one recording may be on both sides, {info.guard_seconds:g} s apart")
    if label.ndim == 1:
        return tuple(said)
    for fold in folds:
        train, test = (label[side].any(0) for side in (fold.train, fold.test))
        if none := int((~test).sum()):
            said.append(
                f"{fold.name}: without a positive test row, {none} of {label.shape[1]} "
                "classes are left out of mAP and d'"
            )
        if new := int((test & ~train).sum()):
            said.append(
                f"{fold.name}: without a positive training row, {new} of "
                f"{label.shape[1]} classes are scored at chance"
            )
    return tuple(said)


def unseen_rows(label: np.ndarray, fold: Fold) -> np.ndarray:
    """``[test rows]`` bool: those whose one class never occurs in the training rows."""
    return ~np.isin(label[fold.test], np.unique(label[fold.train]))


def _classes(label: np.ndarray) -> np.ndarray:
    return np.unique(label) if label.ndim == 1 else np.flatnonzero(label.any(0))


def _never_seen(info: Any, label: np.ndarray, fold: Fold, unseen: np.ndarray, asked: int) -> str:
    names = [repr(info.labels[c]) for c in unseen]
    some = ", ".join(names[:6]) + ", ..." * (len(names) > 6)
    if len(unseen) == asked:
        return (
            f"none of its classes ({some}) occurs in its training rows, so nothing can be "
            "measured; divide the set so that every class is on both sides (--make-folds "
            f"{SUGGESTED_FOLDS} --fold-by recording)"
        )
    count = int(np.isin(label[fold.test], unseen).sum())
    what = f"class {some} never occurs" if len(unseen) == 1 else f"classes {some} never occur"
    return (
        f"{what} in its training rows, so that {count} of its {len(fold.test)} test rows can only "
        f"be wrong; prepare the set without (--drop-labels {' '.join(names[:6])}), or divide it in "
        "another way"
    )


def check_signals(signals: Sequence[SignalSpec], shards: Any) -> None:
    """``InputError`` unless the shards hold every signal that the encoder reads, at its rate, with
    its channels in the same order and mixed in the same way."""
    for wanted in signals:
        stored = shards.spec.signal(wanted.name)
        where, again = f"{shards.info.name}, {wanted.name}", "prepare the set again to match"
        for field in ("rate", "channels"):
            a, b = getattr(stored, field), getattr(wanted, field)
            problem = f"{field} is {a:g}, the encoder reads {b:g}"
            check(a == b, where, f"{problem}; {again} (--rate, --seconds, --modalities)")
        problem = f"was prepared with --mix {stored.mix}, the encoder learned from --mix "
        check(stored.mix == wanted.mix, where, f"{problem}{wanted.mix}; {again}")
        swapped = stored.names != wanted.names and sorted(stored.names) == sorted(wanted.names)
        problem = f"has the channels {', '.join(stored.names)}, the encoder reads "
        check(not swapped, where, f"{problem}{', '.join(wanted.names)}; {again} (--modalities)")
