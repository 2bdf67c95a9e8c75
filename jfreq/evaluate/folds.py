"""Folds of labelled rows for probes, fine-tuning and ablations, and checks of shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jfreq.config import check
from jfreq.data.fold_assignment import SUGGESTED_FOLDS, recordings, suggested_folds
from jfreq.types import InputError, SignalSpec


class Task(NamedTuple):
    """The labels of ``n`` rows, and the folds to test on."""

    label: np.ndarray
    """``[n]``, or ``[n k]`` where a row may have several."""
    classes: int
    groups: tuple[np.ndarray, ...]
    """Numberings ``[n]`` of rows that must stay together when validation rows are held out; the
    first that has several groups is used (subjects, then folds)."""
    folds: tuple[Fold, ...]

    def validation_group(self, fold: Fold) -> np.ndarray | None:
        """``[training rows]`` the first of ``groups`` with more than one in the training rows."""
        groups = (group[fold.train] for group in self.groups)
        return next((group for group in groups if len(np.unique(group)) > 1), None)


class Fold(NamedTuple):
    """One division into training and test rows."""

    name: str
    train: np.ndarray
    """Positions of the training rows."""
    test: np.ndarray
    """Positions of the test rows."""
    reads: Mapping[str, Any] = {}
    """The fields of ``Data`` that select the training rows; empty where no fields do."""


class Purpose(NamedTuple):
    """What folds are for: its name in messages, and which options the command has to make folds."""

    name: str
    offers_leave_one_subject_out: bool = False
    offers_make_folds: bool = True


PROBE = Purpose("a probe", offers_leave_one_subject_out=True)
FINE_TUNING = Purpose("fine-tuning")
ABLATION = Purpose("an ablation", offers_make_folds=False)


def labelled_rows(shards: Any) -> np.ndarray:
    """Numbers ``[n]`` of the rows that have a label; raises ``InputError`` where there are none."""
    info = shards.info
    why = getattr(shards, "why_unlabelled", "")
    check(not why, info.name, f"the sets have no labels together: {why}")
    check(
        bool(info.labels),
        info.name,
        "has no labels; prepare it with labels, for instance `--labels` or a folder for each class",
    )
    if info.multi_label:
        return np.arange(len(shards))
    rows = np.flatnonzero(shards.column("label") >= 0)
    check(len(rows) > 0, info.name, "no row carries a label; prepare it with labels")
    return rows


def divide(
    shards: Any,
    rows: np.ndarray,
    *,
    leave_one_subject_out: bool = False,
    only: Sequence[str] = (),
    train_split: str | None = None,
    test_split: str | None = None,
    purpose: Purpose = PROBE,
) -> tuple[Fold, ...]:
    """Divides rows into training and test rows, by the folds of the shards or else their splits.

    Args:
      shards: the rows, with their subjects, folds and splits.
      rows: row numbers ``[n]``.
      leave_one_subject_out: one fold for each subject instead.
      only: names of the folds to test on (``1`` or ``fold 1``); all where it is empty. ``test``
        alone is the test split, also where the set has folds.
      train_split: split to train on, in place of folds and of ``train``.
      test_split: split to test on, in place of folds and of ``test``.
      purpose: what the folds are for.

    Returns:
      The folds, with positions in ``rows``.

    Raises:
      InputError: for folds and splits that are not there, and for a subject (where there are none,
        a recording) that is among both the training and the test rows.
    """
    named = train_split is not None or test_split is not None
    check(
        not (named and leave_one_subject_out),
        "train-split",
        "cannot be combined with --leave-one-subject-out; give one of them",
    )
    splits = (train_split or "train", test_split or "test")
    if leave_one_subject_out:
        folds = _by_subject(shards, rows)
    else:
        folds = () if named or tuple(only) == ("test",) else _by_fold(shards, rows)
        folds = folds or _by_split(shards, rows, splits, named, purpose)
    known = [fold.name for fold in folds]
    wanted = {name if name in known or not name.isdigit() else f"fold {name}" for name in only}
    check(
        wanted <= set(known),
        "folds",
        f"there is no {', '.join(sorted(wanted - set(known)))}; the data have {', '.join(known)}",
    )
    folds = tuple(fold for fold in folds if not wanted or fold.name in wanted)
    _check_disjoint(shards, rows, folds, purpose)
    return folds


def _by_subject(shards: Any, rows: np.ndarray) -> tuple[Fold, ...]:
    subject = shards.column("subject")[rows]
    names = sorted(set(subject) - {""})
    check(len(names) >= 2, shards.info.name, "leave-one-subject-out needs at least two subjects")
    return tuple(_fold(str(s), subject == s, subject != "") for s in names)


def _by_fold(shards: Any, rows: np.ndarray) -> tuple[Fold, ...]:
    """The folds of the shards; none where there are fewer than two."""
    fold = shards.column("fold")[rows]
    known = [int(f) for f in np.unique(fold) if f in shards.info.folds]
    if len(known) < 2:
        return ()
    inside = np.isin(fold, known)
    return tuple(_fold(f"fold {f}", fold == f, inside, exclude_folds=(f,)) for f in known)


def _by_split(
    shards: Any, rows: np.ndarray, splits: tuple[str, str], named: bool, purpose: Purpose
) -> tuple[Fold, ...]:
    """The single fold of a train and a test split; raises ``InputError`` where one is missing."""
    column, (train, test) = shards.column("split")[rows], splits
    check(train != test, "test-split", f"{test!r} is also the split to train on")
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
        f"{info.name}: {purpose.name} needs two folds or a train and a test split; it has folds "
        f"{[int(f) for f in known if f in info.folds] or 'none'} and splits "
        f"{', '.join(names) or 'none'}; {_advice(shards, rows, names, purpose)}"
    )


def _advice(shards: Any, rows: np.ndarray, splits: Sequence[str], purpose: Purpose) -> str:
    """The options that would help and for which the set has what they need."""
    subjects = len(set(shards.column("subject")[rows]) - {""})
    groups = len(np.unique(recordings(shards)[rows]))
    if not purpose.offers_make_folds:
        return f"prepare it with --make-folds {suggested_folds(subjects, groups)}"
    ways = []
    if len(splits) > 1:
        ways.append("name two of its splits with --train-split and --test-split")
    if subjects > 1:
        if purpose.offers_leave_one_subject_out:
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


def _check_disjoint(shards: Any, rows: np.ndarray, folds: Sequence[Fold], purpose: Purpose) -> None:
    """Raises ``InputError`` where a subject or recording is in both training and test rows.

    It does not where the user chose just that: with folds of rows, and with a guard between them.
    """
    info = shards.info
    for fold in folds:
        made = info.fold_by if "exclude_folds" in fold.reads else ""
        if made == "row" or info.guard_seconds > 0:
            continue
        group = _groups(shards, made != "recording")[rows]
        both = np.intersect1d(group[fold.train], group[fold.test])
        if not both.size:
            continue
        first = both[both < 0].max(initial=both[0])
        kind, column = ("subject", "subject") if first < 0 else ("recording", "path")
        name = str(shards.column(column)[rows[np.flatnonzero(group == first)[0]]])
        count = len(np.unique(group[group < 0] if kind == "subject" else group))
        ways = (
            [f"--make-folds {suggested_folds(count, count)}"] if purpose.offers_make_folds else []
        )
        if kind == "subject" and purpose.offers_leave_one_subject_out:
            ways.append("--leave-one-subject-out")
        advice = f"divide it anew with {' or '.join(ways)}" if ways else "correct its folds"
        several = f", one of {both.size} such," if both.size > 1 else ""
        raise InputError(
            f"{info.name}, {fold.name}: {kind} {name!r}{several} is in both training and test "
            f"rows, so the test would be of what was trained on; {advice}"
        )


def _groups(shards: Any, by_subject: bool) -> np.ndarray:
    """``[rows]`` int: negative numbers are subjects; others are recordings, of no known subject."""
    recording, subject = recordings(shards), shards.column("subject")
    if not by_subject:
        return recording
    return np.where(subject != "", -1 - np.unique(subject, return_inverse=True)[1], recording)


def make_task(shards: Any, rows: np.ndarray, folds: tuple[Fold, ...]) -> Task:
    """The labels and groups of ``rows``; raises ``InputError`` as :func:`check_classes`."""
    label = shards.column("label")[rows]
    check_classes(shards.info, label, folds)
    groups = tuple(shards.column(name)[rows] for name in ("subject", "fold"))
    return Task(label, len(shards.info.labels), groups, folds)


def check_classes(info: Any, label: np.ndarray, folds: Sequence[Fold]) -> None:
    """Checks that a probe can be trained and scored on every fold.

    Args:
      info: the metadata of the set.
      label: ``[n]`` or ``[n k]``.
      folds: with positions in ``label``.

    Raises:
      InputError: for a fold whose training rows hold a single class or lack the class of a test
        row; where a row may have several labels, only if they lack all classes of the test rows.
    """
    for fold in folds:
        where, train = f"{info.name}, {fold.name}", label[fold.train]
        several = len(np.unique(train)) > 1 if label.ndim == 1 else train.any()
        check(
            bool(several),
            where,
            "its training rows hold a single class; give the classes to several folds",
        )
        tested = _classes(label[fold.test])
        unseen = np.setdiff1d(tested, _classes(train))
        if label.ndim == 2 and len(unseen) < len(tested):
            continue
        if len(unseen):
            raise InputError(f"{where}: {_unseen(info, label, fold, unseen, len(tested))}")


def remarks(shards: Any, label: np.ndarray, folds: Sequence[Fold]) -> tuple[str, ...]:
    """Notes to print with scores on these folds.

    They say what the folds do not keep apart, and how many of several labels cannot be scored.
    """
    notes, info = [], shards.info
    made = info.fold_by if any("exclude_folds" in fold.reads for fold in folds) else ""
    if made == "recording" and len(set(shards.column("subject")) - {""}) > 1:
        notes.append("folds keep recordings whole, one subject may be in several")
    if made == "row":
        notes.append("folds are of rows, one recording may be in several")
    if info.guard_seconds > 0:
        notes.append(
            "training and test rows may be of one recording, at least "
            f"{info.guard_seconds:g} s apart"
        )
    if label.ndim == 1:
        return tuple(notes)
    for fold in folds:
        train, test = (label[side].any(0) for side in (fold.train, fold.test))
        if none := int((~test).sum()):
            notes.append(
                f"{fold.name}: without a positive test row, {none} of {label.shape[1]} "
                "classes are left out of mAP and d'"
            )
        if new := int((test & ~train).sum()):
            notes.append(
                f"{fold.name}: without a positive training row, {new} of "
                f"{label.shape[1]} classes are scored at chance"
            )
    return tuple(notes)


def unseen_rows(label: np.ndarray, fold: Fold) -> np.ndarray:
    """``[test rows]`` bool: True where the class of a row never occurs in the training rows."""
    return ~np.isin(label[fold.test], np.unique(label[fold.train]))


def _classes(label: np.ndarray) -> np.ndarray:
    return np.unique(label) if label.ndim == 1 else np.flatnonzero(label.any(0))


def _unseen(info: Any, label: np.ndarray, fold: Fold, unseen: np.ndarray, tested: int) -> str:
    """The message about classes that are tested but never trained."""
    names = [repr(info.labels[c]) for c in unseen]
    listed = ", ".join(names[:6]) + ", ..." * (len(names) > 6)
    if len(unseen) == tested:
        return (
            f"none of its classes ({listed}) occurs in its training rows, so nothing can be "
            "measured; divide the set so that every class is in both (--make-folds "
            f"{SUGGESTED_FOLDS} --fold-by recording)"
        )
    count = int(np.isin(label[fold.test], unseen).sum())
    what = f"class {listed} never occurs" if len(unseen) == 1 else f"classes {listed} never occur"
    return (
        f"{what} in its training rows, so that {count} of its {len(fold.test)} test rows can only "
        f"be wrong; prepare the set without (--drop-labels {' '.join(names[:6])}), or divide it in "
        "another way"
    )


def check_signals(signals: Sequence[SignalSpec], shards: Any) -> None:
    """Checks that shards hold every signal that an encoder reads.

    Raises:
      InputError: for a missing signal, another rate or count of channels, channels in another
        order, and sound that was mixed in another way.
    """
    for wanted in signals:
        stored = shards.spec.signal(wanted.name)
        where, again = f"{shards.info.name}, {wanted.name}", "prepare the set again to match"
        for field in ("rate", "channels"):
            a, b = getattr(stored, field), getattr(wanted, field)
            problem = f"{field} is {a:g}, but the encoder reads {b:g}"
            check(a == b, where, f"{problem}; {again} (--rate, --seconds, --modalities)")
        problem = f"was prepared with --mix {stored.mix}, but the encoder was trained on --mix "
        check(stored.mix == wanted.mix, where, f"{problem}{wanted.mix}; {again}")
        swapped = stored.names != wanted.names and sorted(stored.names) == sorted(wanted.names)
        problem = f"has the channels {', '.join(stored.names)}, but the encoder reads "
        check(not swapped, where, f"{problem}{', '.join(wanted.names)}; {again} (--modalities)")
