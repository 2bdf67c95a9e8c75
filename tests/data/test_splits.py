import numpy as np
import pytest
import soundfile

from jfreq.data import splits
from jfreq.data.prepare import prepare
from jfreq.data.records import open_shards
from jfreq.types import InputError


@pytest.fixture
def make_shards(tmp_path, write_index):
    def make(**columns):
        n = len(next(iter(columns.values())))
        folder = tmp_path / "in"
        folder.mkdir()
        rows = []
        for i in range(n):
            soundfile.write(folder / f"{i}.wav", np.full(100, 0.1), 16000)
            rows.append({"path": f"{i}.wav", **{k: v[i] for k, v in columns.items()}})
        write_index(folder, rows)
        prepare(str(folder), tmp_path / "out", progress=False)
        return open_shards(tmp_path / "out")

    return make


def check_partition(found, rows):
    tests = np.concatenate([s.test for s in found])
    np.testing.assert_array_equal(np.sort(tests), rows)
    for s in found:
        np.testing.assert_array_equal(np.sort(np.concatenate([s.train, s.test])), rows)


def test_folds_of_the_index_win(make_shards):
    fold = [0, 1, 2, 2, 1, 0]
    shards = make_shards(fold=fold, label=list("ababab"))
    found = splits.cross_validation(shards)
    assert [s.name for s in found] == ["fold 0", "fold 1", "fold 2"]
    check_partition(found, np.arange(6))
    np.testing.assert_array_equal(found[1].test, [1, 4])


def test_made_folds_keep_subjects_together_and_classes_in_proportion(make_shards):
    subject = [f"s{i // 6}" for i in range(60)]
    label = ["ab"[i % 2] for i in range(60)]
    shards = make_shards(subject=subject, label=label)
    found = splits.cross_validation(shards, k=5, seed=1)
    check_partition(found, np.arange(60))
    names, labels = np.array(subject), np.array(label)
    for s in found:
        assert not set(names[s.train]) & set(names[s.test])
        assert np.mean(labels[s.test] == "a") == 0.5
    again = splits.cross_validation(shards, k=5, seed=1)
    other = splits.cross_validation(shards, k=5, seed=2)
    assert all((a.test == b.test).all() for a, b in zip(found, again))
    assert any(a.test.tolist() != b.test.tolist() for a, b in zip(found, other))
    with pytest.raises(InputError, match="k: 11 folds cannot be made of 10"):
        splits.cross_validation(shards, k=11)


def test_windows_of_one_recording_stay_together(tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(6):
        soundfile.write(tmp_path / "in" / f"{i}.wav", np.full(4000, 0.1), 1000)
    prepare(str(tmp_path / "in"), tmp_path / "out", rate=1000, seconds=1, progress=False)
    shards = open_shards(tmp_path / "out")
    found = splits.cross_validation(shards, k=3)
    check_partition(found, np.arange(24))
    path = shards.column("path")
    for s in found:
        assert not set(path[s.train]) & set(path[s.test])


def test_a_subject_on_both_sides_is_refused(make_shards):
    shards = make_shards(
        fold=[0, 1, 0, 1], subject=["x", "y", "x", "x"], split=["train", "train", "test", "val"]
    )
    with pytest.raises(InputError, match=r"fold 0: 'x' is on both sides"):
        splits.cross_validation(shards)
    with pytest.raises(InputError, match=r"official: 'x' is on both sides"):
        splits.official(shards)


def test_official_and_one_subject_out(make_shards):
    shards = make_shards(
        subject=["x", "y", "z", "z", ""], split=["train", "train", "test", "test", "val"]
    )
    found = splits.official(shards)
    np.testing.assert_array_equal(found.train, [0, 1])
    np.testing.assert_array_equal(found.test, [2, 3])
    each = splits.leave_one_subject_out(shards)
    assert [s.name for s in each] == ["subject x", "subject y", "subject z"]
    check_partition(each, np.arange(4))


def test_sets_without_what_a_split_needs(make_shards):
    shards = make_shards(fold=[3, 3], label=["a", "b"])
    with pytest.raises(InputError, match=r"only the fold \[3\]"):
        splits.cross_validation(shards)
    with pytest.raises(InputError, match="has no 'train' split"):
        splits.official(shards)
    with pytest.raises(InputError, match="names 0 subjects"):
        splits.leave_one_subject_out(shards)
