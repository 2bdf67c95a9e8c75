import csv
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jfreq.data.prepare.run import prepare
from jfreq.data.shards.describe import describe
from jfreq.data.shards.reader import open_shards
from jfreq.data.sources.base import Row, Source
from jfreq.data.sources.segments import guarded, unlabelled_stretches
from jfreq.types import InputError

spans = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 40)), min_size=1, max_size=8)


def rows_of(found, **more):
    return [Row("a", start=a, end=a + n, **more) for a, n in found]


@given(spans)
def test_named_and_unnamed_make_up_the_recording(found):
    rows = rows_of(found, subject="s", fold=2)
    rest = unlabelled_stretches(rows, lambda row: 100)
    count = np.zeros(100, int)
    for r in rest:
        count[r.start : r.end] += 1
        assert r.label == () and r.subject == "s" and r.fold == 2
    named = np.zeros(100, bool)
    for r in rows:
        named[r.start : r.end] = True
    np.testing.assert_array_equal(count, ~named)


def test_a_recording_in_two_folds_or_of_two_subjects_gives_no_rest():
    for field, values in (("fold", (0, 1)), ("split", ("train", "test")), ("subject", ("a", "b"))):
        rows = [Row("r", start=10 * i, end=10 * i + 5) for i in range(2)]
        rows = [r._replace(**{field: v}) for r, v in zip(rows, values)]
        assert unlabelled_stretches(rows, lambda row: 100) == ()
    assert (
        len(
            unlabelled_stretches(
                [Row("r", end=5), Row("r", start=9, end=20, label=(1,))], lambda _: 99
            )
        )
        == 2
    )


def source(rows):
    return Source("s", "index", tuple(rows), lambda row: {}, lambda row: None, False)


places = st.lists(
    st.tuples(st.integers(0, 90), st.integers(1, 40), st.integers(0, 2)), min_size=1, max_size=9
)


@given(places, st.integers(0, 12))
def test_no_sample_lies_nearer_than_the_guard_to_another_fold(found, guard):
    rows = [Row("a", fold=f, start=a, end=a + n, rate=10.0) for a, n, f in found]
    kept, lost = guarded(source(rows), guard / 10)
    for r, q in itertools.combinations(kept, 2):
        if r.fold != q.fold:
            assert q.start - (r.end or 0) >= guard or r.start - (q.end or 0) >= guard
    assert len(kept) + len(lost) >= len({*rows})
    for r in kept:
        assert any(q.end == r.end and q.fold == r.fold and q.start <= r.start for q in rows)


def test_the_guard_takes_the_start_of_the_later_row_only():
    rows = [
        Row("a", fold=0, start=0, end=100, rate=50.0),
        Row("a", fold=1, start=100, end=200, rate=50.0),
        Row("a", fold=1, start=200, end=300, rate=50.0),
        Row("b", fold=0, start=150, end=250, rate=50.0),
    ]
    kept, lost = guarded(source(rows), 0.5)
    assert [(r.path, r.start, r.end) for r in kept] == [
        ("a", 0, 100), ("a", 125, 200), ("a", 200, 300), ("b", 150, 250),
    ]  # fmt: skip
    assert lost == []
    kept, lost = guarded(source(rows), 2.0)
    assert [(r.path, r.start) for r in kept] == [("a", 0), ("a", 200), ("b", 150)]
    (line,) = lost
    assert line.startswith("a samples 100..200: is closer than 2 s (--guard-seconds) to a row of")


@pytest.fixture
def activity(tmp_path, rng, write_index):
    """One recording of 50 s at 20 Hz, of which three stretches have a label."""
    folder = tmp_path / "in"
    folder.mkdir()
    x = rng.normal(size=(1000, 6)).astype(np.float32)
    np.savez(folder / "r.npz", x=x, sr=20)
    named = [(100, 300, "sit"), (300, 500, "walk"), (515, 700, "sit_to_walk")]
    write_index(folder, [
        {"path": "r.npz", "start": a, "end": b, "label": label, "fold": 3, "split": "train",
         "subject": "s1"} for a, b, label in named
    ])  # fmt: skip
    return folder, x


def test_the_unlabelled_rest_never_meets_a_labelled_stretch(activity, tmp_path):
    folder, x = activity
    prepare(str(folder), tmp_path / "out", seconds=2, drop_labels=("*_to_*",), unlabelled=True,
            progress=False)  # fmt: skip
    shards = open_shards(tmp_path / "out")
    label, start, length = (shards.column(n) for n in ("label", "start", "length"))
    free = [(0, 100), (700, 1000)]  # 500..515 is less than half a window
    rest = np.flatnonzero(label < 0)
    assert all(any(a <= s and s + n <= b for a, b in free)
               for s, n in zip(start[rest], length[rest]))  # fmt: skip
    assert length[rest].sum() == 100 + 300, "half a window at an end is kept, and padded"
    for i in rest.tolist():
        np.testing.assert_array_equal(shards[i]["acc"][: length[i]], x[start[i] :][: length[i], :3])
    assert set(shards.column("fold")) == {3} and set(shards.column("subject")) == {"s1"}
    assert f"sit 5, walk 5, no label {len(rest)}" in describe(shards)
    prepare(str(folder), tmp_path / "named", seconds=2, drop_labels=("*_to_*",), progress=False)
    np.testing.assert_array_equal(
        open_shards(tmp_path / "named").column("start"), start[: len(start) - len(rest)],
        "rows with a label keep their numbers",
    )  # fmt: skip


def test_guard_in_prepare(activity, tmp_path):
    folder, _ = activity
    index = folder / "index.csv"
    rows = list(csv.DictReader(index.open(newline="")))
    index.write_text(index.read_text().replace("walk,3,train", "walk,3,test", 1))
    assert rows[1]["label"] == "walk"
    prepare(str(folder), tmp_path / "out", seconds=1, guard_seconds=1.0, progress=False)
    shards = open_shards(tmp_path / "out")
    split, start = shards.column("split"), shards.column("start")
    assert start[split == "test"].min() == 320
    later = start[(split == "train") & (start > 300)]
    assert later.min() == 520
    with pytest.raises(InputError, match="guard_seconds: must be 0 or more"):
        prepare(str(folder), tmp_path / "o", guard_seconds=-1.0, progress=False)


def test_a_window_longer_than_every_recording_names_the_longest(activity, tmp_path):
    message = r"window of 12 s is longer than every recording; the longest is r\.npz samples 100"
    with pytest.raises(InputError, match=message):
        prepare(str(activity[0]), tmp_path / "out", seconds=12, progress=False)


def test_only_some_paths(tmp_path, rng, write_index):
    (tmp_path / "in").mkdir()
    for name in ("a_waist", "a_head", "b_waist"):
        np.savez(tmp_path / "in" / f"{name}.npz", x=rng.normal(size=(50, 3)), sr=50)
    out = tmp_path / "out"
    prepare(str(tmp_path / "in"), out, kind="sensors", only=("*waist*",), progress=False)
    assert open_shards(out).column("path").tolist() == ["a_waist.npz", "b_waist.npz"]
    with pytest.raises(InputError, match=r"only: no path matches \*chest\*; paths look like"):
        prepare(str(tmp_path / "in"), out, kind="sensors", only=("*chest*",), progress=False)
