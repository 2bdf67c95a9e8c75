"""Which rows train and which test: folds, splits, subjects; what is refused, and the way out."""

import numpy as np
import pytest

from jfreq.evaluate.folds import (
    ABLATION,
    FINE_TUNING,
    check_classes,
    divide,
    labelled_rows,
    make_task,
    remarks,
    unseen_rows,
)
from jfreq.types import InputError

N = 24


@pytest.fixture
def make(make_shards):
    """``make(**columns)``: 24 rows of classes x, y, z in turn."""

    def call(label=None, **columns):
        label = np.arange(N) % 3 if label is None else label
        x = np.zeros((N, 4, 1), np.float32)
        columns = {name: np.asarray(values) for name, values in columns.items()}
        info = {
            name: columns.pop(name).item()
            for name in ("fold_by", "guard_seconds")
            if name in columns
        }
        shards = make_shards(x, label, labels="xyz", **columns)
        for name, value in info.items():
            object.__setattr__(shards.info, name, value)
        return shards

    return call


def of(shards, **options):
    return divide(shards, np.arange(N), **options)


PEOPLE = [f"s{i // 4}" for i in range(N)]
HALVES = np.where(np.arange(N) < 12, "train", "test")


def test_folds_and_splits_by_name(make):
    own = np.array(["balanced_train", "eval", "val"])[np.arange(N) // 8]
    shards = make(split=own, fold=np.arange(N) % 2)
    assert [fold.name for fold in of(shards)] == ["fold 0", "fold 1"]
    assert [fold.reads for fold in of(shards)] == [{"exclude_folds": (0,)}, {"exclude_folds": (1,)}]
    (fold,) = of(shards, train_split="balanced_train", test_split="eval")
    assert fold.name == "eval" and fold.reads == {"split": "balanced_train"}
    assert fold.train.tolist() == list(range(8)) and fold.test.tolist() == list(range(8, 16))
    (one,) = of(make(split=HALVES), only=("test",))
    assert one.reads == {"split": "train"} and len(one.train) == len(one.test) == 12
    (other,) = of(make(split=np.where(HALVES == "test", "dev", "train")), test_split="dev")
    assert other.name == "dev" and len(other.train) == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_split": "traim"}, r"train-split: no labelled rows of split 'traim' .* train"),
        (
            {"test_split": "eval"},
            r"test-split: no labelled rows of split 'eval' .*; it has test, t",
        ),
        ({"test_split": "train"}, "test-split: 'train' is also the split to train on"),
        (
            {"test_split": "test", "leave_one_subject_out": True},
            "train-split: cannot be combined with",
        ),
        ({"only": ("9",)}, "folds: there is no fold 9; the data have test"),
    ],
)
def test_splits_that_are_not_there(make, options, message):
    with pytest.raises(InputError, match=message):
        of(make(split=HALVES, subject=PEOPLE), **options)


def test_what_is_missing_and_the_option_that_helps(make):
    people, bare = make(subject=PEOPLE), make()
    alone = make(path=np.full(N, "one.wav"))
    three = make(split=np.array(["a", "b", "c"])[np.arange(N) // 8])
    for shards, purpose, words in (
        (
            people,
            None,
            "a probe needs two folds or a train and a test split; it has folds none and "
            "splits none; test on each of its 6 subjects with --leave-one-subject-out, "
            "or make folds of whole subjects with --make-folds 5",
        ),
        (
            people,
            FINE_TUNING,
            "fine-tuning needs two folds or a train and a test split; it has "
            "folds none and splits none; make folds of whole subjects with "
            "--make-folds 5",
        ),
        (bare, None, "splits none; make folds of whole recordings with --make-folds 5"),
        (alone, None, "it holds one recording: prepare it with --make-folds 5 --fold-by row"),
        (
            three,
            None,
            "splits a, b, c; name two of its splits with --train-split and --test-split, "
            "or make folds",
        ),
        (people, ABLATION, "an ablation needs .*; prepare it with --make-folds 5"),
    ):
        with pytest.raises(InputError, match=words) as error:
            of(shards, **({"purpose": purpose} if purpose else {}))
        assert purpose is None or "probe" not in str(error.value)


def test_a_subject_or_recording_on_both_sides_is_refused_by_name(make):
    both = make(subject=PEOPLE, split=HALVES, fold=np.arange(N) % 2)
    with pytest.raises(
        InputError,
        match=r"fold 0: subject 's0', one of 6 such, is in both training and test rows.*"
        "--make-folds 5 or --leave-one-subject-out",
    ):
        of(both)
    assert len(of(both, only=("test",))) == 1, "the split keeps them apart"
    paths = np.array([f"{i // 6}.wav" for i in range(N)])
    split = np.where(np.arange(N) < 9, "train", "test")
    with pytest.raises(
        InputError, match=r"test: recording '1.wav' is in both training and test rows"
    ):
        of(make(path=paths, split=split), purpose=FINE_TUNING)
    items = np.arange(N) % 6
    assert of(make(path=paths, item=items, split=split)), "items of a file are recordings"
    named = make(path=paths, subject=np.where(np.arange(N) < 9, "ann", "bob"), split=split)
    assert of(named), "where subjects are known they decide"


def test_what_the_user_chose_is_not_refused_but_said(make):
    paths = np.array([f"{i // 6}.wav" for i in range(N)])
    fold, label = np.arange(N) % 2, np.arange(N) % 3
    rows = make(path=paths, fold=fold, fold_by="row")
    assert remarks(rows, label, of(rows)) == ("folds are of rows, one recording may be in several",)
    guarded = make(path=paths, split=np.where(fold, "train", "test"), guard_seconds=2.0)
    assert "2 s apart" in remarks(guarded, label, of(guarded))[0]
    shared = make(subject=PEOPLE, fold=fold, fold_by="recording")
    assert "one subject may be in several" in remarks(shared, label, of(shared))[0]
    whole = make(path=paths, fold=fold, fold_by="recording")
    with pytest.raises(InputError, match=r"recording '0\.wav'"):
        of(whole)


def test_classes_that_are_never_trained(make):
    label = np.array([0, 1] * 6 + [0, 2] * 6)
    shards = make(label, split=HALVES)
    with pytest.raises(
        InputError,
        match=r"test: class 'z' never occurs in its training rows, so "
        r"that 6 of its 12 .* \(--drop-labels 'z'\)",
    ):
        make_task(shards, np.arange(N), of(shards))
    (fold,) = of(shards)
    np.testing.assert_array_equal(unseen_rows(label, fold), label[12:] == 2)
    people = make(np.arange(N) // 8, subject=np.array(["a", "b", "c"])[np.arange(N) // 8])
    with pytest.raises(InputError, match=r"a: none of its classes \('x'\) occurs in its training"):
        make_task(people, np.arange(N), of(people, leave_one_subject_out=True))
    fine = make(split=HALVES)
    check_classes(fine.info, np.arange(N) % 3, of(fine))


def test_several_labels_a_row(make):
    """One class that both sides have is enough to measure something; the others are counted."""
    label = np.zeros((N, 3), np.float32)
    label[:, 0] = np.arange(N) % 2
    label[:6, 1] = 1
    label[20:, 2] = 1
    shards = make(label, split=HALVES)
    folds = of(shards)
    assert len(labelled_rows(shards)) == N
    make_task(shards, np.arange(N), folds)
    assert remarks(shards, label, folds) == (
        "test: without a positive test row, 1 of 3 classes are left out of mAP and d'",
        "test: without a positive training row, 1 of 3 classes are scored at chance",
    )
    label[:, 0] = 0
    with pytest.raises(InputError, match=r"test: none of its classes \('z'\)"):
        check_classes(shards.info, label, folds)


def test_sets_without_labels_together(make):
    shards = make()
    shards.why_unlabelled = "b has no class 'x'"
    with pytest.raises(InputError, match="no labels together: b has no class 'x'"):
        labelled_rows(shards)
