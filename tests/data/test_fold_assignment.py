"""Folds that are made: what they keep whole, how they balance, and what is said and refused."""

import dataclasses

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from jfreq.config import Data
from jfreq.data.fold_assignment import open_data, refolded, with_folds
from jfreq.data.loading.pipeline import open_pipeline
from jfreq.data.prepare.run import prepare
from jfreq.data.shards.reader import open_shards
from jfreq.data.sources.base import Row, Source
from jfreq.data.stratified_folds import Rows, make_folds
from jfreq.types import InputError

BY = ("subject", "recording", "row")


def rows_of(label, subject, recording):
    n = len(label)
    return Rows(np.array(label), np.array(subject), np.array(recording), np.arange(n))


@st.composite
def sets(draw):
    """Up to 60 rows in recordings of up to four subjects' names, some unknown, some unlabelled."""
    n = draw(st.integers(2, 60))
    recording = draw(st.lists(st.integers(0, 14), min_size=n, max_size=n))
    owner = [draw(st.sampled_from(["", "a", "b", "c", "d", "e"])) for _ in range(15)]
    odd = draw(st.lists(st.integers(0, n - 1), max_size=2))
    subject = [owner[r] if i not in odd else "f" for i, r in enumerate(recording)]
    label = draw(st.lists(st.integers(-1, 3), min_size=n, max_size=n))
    return rows_of(label, subject, recording), draw(st.integers(2, 6)), draw(st.sampled_from(BY))


@given(sets(), st.integers(0, 9))
@settings(max_examples=80, deadline=None)
def test_folds_are_a_partition_that_keeps_its_promise(case, seed):
    rows, k, by = case
    try:
        made = make_folds(rows, k, by, seed=seed, name="set")
    except InputError:
        keys = {"subject": rows.subject, "recording": rows.recording, "row": rows.row}[by]
        groups = rows.groups(by)
        named = rows.labelled & (keys != "" if by == "subject" else True)
        assert len(np.unique(groups[named])) < k
        return
    assert made.fold.shape == rows.label.shape and set(made.fold) == set(range(k))
    assert set(made.fold[rows.labelled]) == set(range(k)), "every fold can be tested"
    if by != "row":
        for r in np.unique(rows.recording):
            assert len(set(made.fold[rows.recording == r])) == 1
    if by == "subject":
        for s in set(rows.subject) - {""}:
            assert len(set(made.fold[rows.subject == s])) == 1
    order = np.random.default_rng(seed).permutation(len(rows.label))
    moved = Rows(*(column[order] for column in rows))
    again = make_folds(moved, k, by, seed=seed, name="set")
    np.testing.assert_array_equal(again.fold, made.fold[order], "order of rows does not matter")


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("multi", [False, True])
def test_folds_balance(by, multi, rng):
    """Sizes and classes to a few per cent, for forty people with unlike shares of four classes."""
    person = np.repeat(np.arange(40), 30)
    shares = rng.dirichlet(np.full(4, 2.0), 40)
    label = np.array([rng.choice(4, p=shares[p]) for p in person])
    rows = rows_of(label, [f"p{p}" for p in person], np.arange(1200) // 5)
    if multi:
        rows = rows._replace(label=np.eye(4)[label])
    made = make_folds(rows, 5, by, name="set")
    sizes = np.bincount(made.fold, minlength=5)
    assert sizes.max() - sizes.min() <= (30 if by == "subject" else 15)
    if not multi:
        table = np.stack([np.bincount(label[made.fold == f], minlength=4) for f in range(5)])
        share = table / table.sum(0)
        assert np.abs(share - 0.2).max() < (0.06 if by == "subject" else 0.03)


def test_classes_that_no_two_subjects_share_still_fill_every_fold():
    rows = rows_of(np.repeat(np.arange(6), 4), [f"s{i // 4}" for i in range(24)], np.arange(24))
    made = make_folds(rows, 6, "subject", name="set", labels=tuple("uvwxyz"))
    assert sorted(np.bincount(made.fold)) == [4] * 6
    assert sum("lies in fold" in note for note in made.notes) == 6
    assert "class 'u' lies in fold" in made.notes[1]


def test_the_seed_decides_and_subjects_come_before_recordings():
    label, person = np.arange(60) % 3, [f"s{i // 6}" for i in range(60)]
    rows = rows_of(label, person, np.arange(60))
    a, b, c = (make_folds(rows, 5, seed=s, name="set") for s in (0, 0, 1))
    np.testing.assert_array_equal(a.fold, b.fold)
    assert (a.fold != c.fold).any()
    assert a.by == "subject" and a.notes == ("folds: 5 of whole subjects (10 subjects)",)
    many = make_folds(rows, 20, name="set")
    assert many.by == "recording"
    assert "only 10 subjects known, who may lie in several folds" in many.notes[0]
    bare = make_folds(rows._replace(subject=np.full(60, "")), 5, name="set")
    assert bare.notes == ("folds: 5 of whole recordings (60 recordings); no subjects are known",)


@pytest.mark.parametrize(
    ("k", "by", "message"),
    [
        (1, None, "make-folds: needs 2 folds or more"),
        (9, "subject", r"9 folds of whole subjects need 9 of them, set has 3 subjects .*; use "
                       r"--make-folds 3 or --fold-by recording \(there are 12\)"),
        (13, None, r"set has 3 subjects and 12 recordings .*; use --make-folds 12 or --fold-by "
                   r"row \(there are 24\)"),
        (25, "row", "set has 24 rows to test on; use --make-folds 24$"),
        (2, "person", "fold-by: must be subject, recording or row"),
    ],
)  # fmt: skip
def test_too_few_are_refused_with_the_numbers_and_what_to_do(k, by, message):
    rows = rows_of(np.arange(24) % 2, [f"s{i // 8}" for i in range(24)], np.arange(24) // 2)
    with pytest.raises(InputError, match=message):
        make_folds(rows, k, by, name="set")


def test_subjects_that_nobody_names():
    rows = rows_of([0, 1] * 4, [""] * 8, np.arange(8))
    with pytest.raises(InputError, match=r"no row of set names its subject; use --fold-by recor"):
        make_folds(rows, 2, "subject", name="set")


# ------------------------------------------------------------------ sources


def source(rows, rest=(), **fields):
    return Source("set", "index", tuple(rows), lambda row: {}, lambda row: 1.0, audio=True,
                  labels=("x", "y"), rest=tuple(rest), **fields)  # fmt: skip


def test_unlabelled_stretches_follow_their_recording():
    spans = [Row(f"{r}.wav", (r % 2,), start=100 * i, end=100 * i + 50)
             for r in range(6) for i in range(3)]  # fmt: skip
    rest = [row._replace(label=(), start=row.start + 50, end=row.start + 100) for row in spans]
    rest.append(Row("lonely.wav"))
    for by in ("recording", "row"):
        found, how = with_folds(source(spans, rest), 3, by)
        assert how == by
        of = {}
        for row in found.rows:
            of.setdefault(row.path, set()).add(row.fold)
        for row in found.rest:
            assert row.fold in (of.get(row.path) or range(3)) and row.label == ()
        alone = [row.path for row in found.rest]
        several = {path for path, folds in of.items() if len(folds) > 1}
        assert "lonely.wav" in alone and not several & set(alone)
        assert len(found.missing) == 3 * len(several)
        assert (by == "row") == bool(several)
    assert "its recording lies in several folds" in found.missing[0]


def test_own_folds_stay_unless_they_may_go():
    rows = [Row(f"{i}.wav", (i % 2,), fold=i % 2, split="train") for i in range(6)]
    with pytest.raises(InputError, match=r"set has folds of its own \(0, 1\).* --replace-folds"):
        with_folds(source(rows), 3)
    found, _ = with_folds(source(rows), 3, replace=True)
    assert sorted(row.fold for row in found.rows) == [0, 0, 1, 1, 2, 2]
    assert {row.split for row in found.rows} == {"train"}
    assert "its splits train stay" in found.notes[-1]


def test_people_in_one_table_are_apart_and_people_in_one_room_are_not():
    rows = [Row("all.csv", (i % 2,), subject=f"s{i // 2}", start=i, end=i + 1) for i in range(8)]
    table = dataclasses.replace(source(rows), audio=False)
    found, _ = with_folds(table, 4)
    assert len({row.fold for row in found.rows}) == 4
    with pytest.raises(InputError, match="4 folds"):
        with_folds(source(rows), 4)


# ------------------------------------------------------------------ prepared sets


@pytest.fixture
def folder(tmp_path, rng, write_index):
    """Twelve recordings of three spans each, by six people, with two classes."""
    root, rows = tmp_path / "in", []
    root.mkdir()
    for i in range(12):
        wave = rng.integers(-99, 99, 3000).astype(np.int16)
        soundfile.write(root / f"{i:02d}.wav", wave, 1000)
        rows += [
            {"path": f"{i:02d}.wav", "label": "xy"[(i + j) % 2], "subject": f"s{i % 6}",
             "start": 1000 * j, "end": 1000 * j + 900} for j in range(3)
        ]  # fmt: skip
    return write_index(root, rows)


def options(**changes):
    return {"rate": 1000, "seconds": 0.3, "progress": False, "workers": 1, **changes}


def test_prepare_makes_folds(folder, tmp_path, capsys):
    info = prepare(str(folder), tmp_path / "a", **options(make_folds=3, progress=True))
    said = capsys.readouterr().err
    assert "folds: 3 of whole subjects (6 subjects)" in said and "neither" not in said
    shards = open_shards(tmp_path / "a")
    assert info.folds == (0, 1, 2) and info.fold_by == "subject"
    fold, subject = shards.column("fold"), shards.column("subject")
    assert {len(set(fold[subject == s])) for s in set(subject)} == {1}
    assert np.bincount(fold).tolist() == [len(shards) // 3] * 3
    again = prepare(str(folder), tmp_path / "a", **options(make_folds=3))
    assert again == info, "the same call finds it finished"
    for changes in ({}, {"make_folds": 2}, {"make_folds": 3, "fold_by": "recording"},
                    {"make_folds": 3, "seed": 1}):  # fmt: skip
        with pytest.raises(InputError, match="another folder or delete it"):
            prepare(str(folder), tmp_path / "a", **options(**changes))
    prepare(str(folder), tmp_path / "none", **options(progress=True))
    assert "neither folds nor splits: probing will need folds" in capsys.readouterr().err


def test_prepare_by_row_with_a_guard_and_without_a_number(folder, tmp_path, capsys):
    prepare(str(folder), tmp_path / "r",
            **options(make_folds=3, fold_by="row", guard_seconds=0.2, progress=True))  # fmt: skip
    assert "rows of one recording lie in different folds" in capsys.readouterr().err
    shards = open_shards(tmp_path / "r")
    assert (shards.info.fold_by, shards.info.guard_seconds) == ("row", 0.2)
    path, fold, start = (shards.column(n) for n in ("path", "fold", "start"))
    assert any(len(set(fold[path == p])) > 1 for p in set(path))
    end = start + shards.column("length")
    for i in range(len(shards)):
        other = (path == path[i]) & (fold != fold[i]) & (start > start[i])
        assert (start[other] >= end[i] + 200).all()
    for changes, message in (
        ({"fold_by": "row"}, "fold-by: .* --make-folds"),
        ({"replace_folds": True}, "replace-folds: .* --make-folds"),
    ):
        with pytest.raises(InputError, match=message):
            prepare(str(folder), tmp_path / "no", **options(**changes))


@pytest.fixture
def plain(folder, tmp_path):
    prepare(str(folder), tmp_path / "plain", **options())
    return tmp_path / "plain"


def test_a_prepared_set_is_divided_for_training_and_test_alike(plain):
    shards = open_shards(plain)
    found, notes = refolded(shards, 3)
    assert notes == ("folds: 3 of whole subjects (6 subjects)",)
    assert shards.info.folds == () and found.info.folds == (0, 1, 2)
    assert found.manifest_hash == shards.manifest_hash
    fold, subject = found.column("fold"), found.column("subject")
    assert {len(set(fold[subject == s])) for s in set(subject)} == {1}
    cfg = Data(path=(str(plain),), make_folds=3, exclude_folds=(1,))
    np.testing.assert_array_equal(open_data(cfg).column("fold"), fold)
    np.testing.assert_array_equal(
        open_pipeline(cfg, batch=4, seed=0).rows, np.flatnonzero(fold != 1)
    )
    by_row = refolded(shards, 3, "row")[0].column("fold")
    assert len(set(by_row[shards.column("path") == "00.wav"])) > 1
    with pytest.raises(InputError, match=r"fold_by: .* --data.make-folds"):
        open_data(Data(path=(str(plain),), fold_by="row"))
    with pytest.raises(InputError, match="20 folds of whole recordings"):
        refolded(shards, 20)


def test_a_file_of_many_recordings_and_folders_of_the_same_names(tmp_path, rng, write_index):
    for name in ("one", "two"):
        root = tmp_path / name
        root.mkdir()
        np.savez(root / "all.npz", x=rng.normal(size=(6, 50, 2)), sr=50)
        rows = [{"path": "all.npz", "row": i, "label": "xy"[i % 2]} for i in range(6)]
        prepare(str(write_index(root, rows)), tmp_path / f"{name}.s", progress=False)
    one, both = (open_shards([tmp_path / f"{n}.s" for n in names])
                 for names in (["one"], ["one", "two"]))  # fmt: skip
    assert np.bincount(refolded(one, 3)[0].column("fold")).tolist() == [2, 2, 2]
    assert np.bincount(refolded(both, 12)[0].column("fold")).tolist() == [1] * 12
    twice = open_shards([tmp_path / "one.s", tmp_path / "one.s"])
    fold = refolded(twice, 3)[0].column("fold")
    np.testing.assert_array_equal(fold[:6], fold[6:])
