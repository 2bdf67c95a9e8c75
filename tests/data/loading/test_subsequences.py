"""Runs of consecutive rows: how they are cut, and what batches of them hold."""

import itertools
from typing import Any, cast

import numpy as np
import pytest

from jfreq.config import Data
from jfreq.data.loading.pipeline import open_pipeline
from jfreq.data.loading.subsequences import runs_of
from jfreq.data.prepare.run import prepare
from jfreq.data.shards.reader import open_shards
from jfreq.types import InputError


class Columns:
    """What ``runs_of`` needs of shards."""

    def __init__(self, path, start, part=None):
        self.columns = {"path": np.array(path), "start": np.array(start)}
        self.part = np.zeros(len(path), int) if part is None else np.array(part)

    def __len__(self):
        return len(self.part)

    def column(self, name):
        return self.columns[name]

    def folder_of(self, ids):
        return self.part[ids]


def runs(path, start, length, rows=None, part=None):
    shards = Columns(list(path), start, part)
    chosen = np.arange(len(shards)) if rows is None else np.array(rows)
    return chosen[runs_of(cast(Any, shards), chosen, length)].tolist()


def test_whole_runs_an_overlapping_tail_and_a_short_recording():
    assert runs("aaaaaa", range(0, 60, 10), 2) == [[0, 1], [2, 3], [4, 5]]
    assert runs("aaaaaaa", range(0, 70, 10), 3) == [[0, 1, 2], [3, 4, 5], [4, 5, 6]]
    assert runs("aab", [0, 10, 0], 4) == [[0, 1, 1, 1], [2, 2, 2, 2]]
    assert runs("aab", [0, 10, 0], 1) == [[0], [1], [2]]


def test_rows_are_taken_by_time_and_recordings_are_kept_apart():
    assert runs("abab", [10, 0, 0, 10], 2) == [[1, 3], [2, 0]]
    # The same path in two folders of shards is two recordings.
    assert runs("aaaa", [0, 10, 20, 30], 4, part=[0, 0, 1, 1]) == [[0, 1, 1, 1], [2, 3, 3, 3]]
    # A file of two recordings: starts begin again.
    assert runs("aaaa", [0, 10, 0, 10], 2) == [[0, 1], [2, 3]]
    assert runs("aaa", [0, 0, 0], 2) == [[0, 0], [1, 1], [2, 2]]


def test_gaps_and_rows_left_out_end_a_run():
    assert runs("aaaa", [0, 10, 25, 35], 2) == [[0, 1], [2, 3]]
    assert runs("aaaa", [0, 10, 25, 35], 4) == [[0, 1, 2, 3]], "1.5 steps are no gap"
    assert runs("aaaa", [0, 10, 26, 36], 4) == [[0, 1, 1, 1], [2, 3, 3, 3]]
    start = range(0, 60, 10)
    assert runs("aaaaaa", start, 3, rows=[0, 1, 3, 4, 5]) == [[0, 1, 1], [3, 4, 5]]
    # The usual step is that of the recording, not of the rows that are left.
    assert runs("aaaaaa", start, 2, rows=[0, 2, 4]) == [[0, 0], [2, 2], [4, 4]]


@pytest.mark.parametrize("length", [2, 3, 4])
def test_every_row_is_in_a_run_and_runs_are_consecutive(rng, length):
    sizes = rng.integers(1, 12, 20)
    path = np.repeat([f"r{i}" for i in range(20)], sizes)
    start = np.concatenate([640 * np.arange(n) for n in sizes])
    mixed = rng.permutation(len(path))
    path, start = path[mixed], start[mixed]
    found = np.array(runs(path, start, length))
    assert set(found.ravel()) == set(range(len(path)))
    assert len(found) == (-(-sizes // length)).sum()
    for run in found:
        assert len(set(path[run])) == 1
        assert set(np.diff(start[run])) <= {0, 640}
        if (path == path[run[0]]).sum() >= length:
            assert set(np.diff(start[run])) == {640}


@pytest.fixture(scope="module")
def walks(tmp_path_factory):
    """Recordings of 5, 3, 8 and 1 windows; a sample is its number in the recording."""
    folder = tmp_path_factory.mktemp("walks")
    for i, windows in enumerate((5, 3, 8, 1)):
        x = np.arange(20 * windows, dtype=np.float32)[:, None] + 1000 * i
        np.savez(folder / f"{i}.npz", x=x, sr=20.0, label="ab"[i % 2])
    prepare(str(folder), folder / "s", seconds=1.0, progress=False)
    return folder / "s"


def take(pipeline, start, count):
    return list(itertools.islice(pipeline.iterate(start), count))


def open_(walks, backend="memory", p=0, n=1, seed=3, **options):
    cfg = Data(path=(str(walks),), backend=cast(Any, backend), sequence=4, **options)
    return open_pipeline(cfg, batch=16, seed=seed, process_index=p, process_count=n)


@pytest.mark.tf
def test_batches_of_runs_are_the_same_for_both_backends_any_processes_and_any_start(walks):
    reference = take(open_(walks, crop_seconds=0.5), 0, 5)
    for backend, count in (("memory", 1), ("memory", 4), ("tfdata", 1), ("tfdata", 2)):
        opened = [open_(walks, backend, p, count, crop_seconds=0.5) for p in range(count)]
        parts = [take(pipeline, 2, 3) for pipeline in opened]
        for step in range(3):
            for name, value in reference[2 + step].items():
                joined = np.concatenate([part[step][name] for part in parts])
                np.testing.assert_array_equal(joined, value, err_msg=f"{backend} {count} {name}")


def test_rows_of_a_run_lie_side_by_side_and_runs_are_shuffled(walks):
    pipeline, shards = open_(walks), open_shards(walks)
    path, start = shards.column("path"), shards.column("start")
    assert pipeline.order.runs is not None and len(pipeline.order.runs) == 2 + 1 + 2 + 1
    assert pipeline.size == 24
    ids = np.concatenate([pipeline.global_ids(s) for s in range(6)]).reshape(-1, 4)
    for run in ids:
        assert len(set(path[run])) == 1
        assert (np.diff(start[run]) >= 0).all()
    epochs = ids.reshape(4, 6, 4)
    for epoch in epochs:
        assert set(epoch.ravel()) == set(range(len(shards)))
    firsts = epochs[:, :, 0]
    assert len({tuple(f) for f in firsts}) > 1
    assert not np.array_equal(ids[:6], open_(walks, seed=4).global_ids(0).reshape(-1, 4)[:6])
    first = take(pipeline, 0, 1)[0]
    x = first["signal"][:, :, 0].reshape(4, 4, 20)
    known = np.array([1000 * int(p[0]) for p in path[first["id"]]]) + start[first["id"]]
    np.testing.assert_array_equal(x[..., 0], known.reshape(4, 4))
    assert pipeline.sample(50)["signal"].shape == (17, 20, 1), "rows, not runs"
    in_order = open_(walks, shuffle=False).global_ids(0).reshape(-1, 4).tolist()
    assert in_order == [[0, 1, 2, 3], [1, 2, 3, 4], [5, 6, 7, 7], [8, 9, 10, 11]]


def test_one_row_runs_change_nothing(walks):
    plain = open_pipeline(Data(path=(str(walks),)), batch=6, seed=1)
    one = open_pipeline(Data(path=(str(walks),), sequence=1), batch=6, seed=1)
    assert one.order.runs is None and one.size == plain.size == 17
    np.testing.assert_array_equal(one.global_ids(5), plain.global_ids(5))


def test_batches_that_are_no_whole_runs_are_refused(walks):
    cfg = Data(path=(str(walks),), sequence=4)
    with pytest.raises(InputError, match=r"data.sequence: .* make the batch a multiple of 4"):
        open_pipeline(cfg, batch=10, seed=0)
    with pytest.raises(InputError, match="a multiple of 8"):
        open_pipeline(cfg, batch=12, seed=0, process_count=2)
    with pytest.raises(InputError, match="sequence: must be 1 or more"):
        Data(sequence=0)
