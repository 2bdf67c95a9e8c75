"""Rows that training is measured on: never read, never of the test, whole subjects, whole runs."""

import itertools

import numpy as np
import pytest

from jfreq.config import Data, Validation, replace
from jfreq.data.loading.pipeline import open_pipeline
from jfreq.data.shards.reader import open_shards
from jfreq.types import InputError


def opened(machines, validation, **changes):
    cfg = replace(Data(path=(str(machines),), backend="memory"), **changes)
    return open_pipeline(cfg, batch=4, seed=3, labelled=True, validation=validation)


@pytest.mark.parametrize("exclude", [(), (4,)])
@pytest.mark.parametrize(
    "validation",
    [Validation(every=5, folds=(1, 3)), Validation(every=5, fraction=0.5)],
)
def test_rows_are_read_or_held_out_and_the_test_fold_is_neither(machines, validation, exclude):
    pipeline = opened(machines, validation, exclude_folds=exclude)
    shards = open_shards(machines)
    fold = shards.column("fold")
    both = np.sort(np.concatenate([pipeline.rows, pipeline.held_out]))
    np.testing.assert_array_equal(both, np.flatnonzero(~np.isin(fold, exclude)))
    if validation.folds:
        assert set(fold[pipeline.held_out]) == {1, 3}
    ids = np.concatenate([b["id"] for b in itertools.islice(pipeline.iterate(0), 12)])
    assert not set(ids) & set(pipeline.held_out)
    (note,) = pipeline.notes
    assert f"{len(pipeline.held_out)} rows are held out" in note
    # Statistics are those of the rows that are read.
    expected = shards.measured(pipeline.rows).signals
    assert [s.mean for s in pipeline.info.signals] == [s.mean for s in expected]


def test_a_fraction_keeps_subjects_whole_and_is_the_same_again(machines, monkeypatch):
    shards = open_shards(machines)
    names = np.array([f"s{i % 7}" for i in range(len(shards))])
    column = type(shards).column
    monkeypatch.setattr(
        type(shards), "column", lambda self, n: names if n == "subject" else column(self, n)
    )
    validation = Validation(every=5, fraction=0.25)
    found = [opened(machines, validation) for _ in range(2)]
    np.testing.assert_array_equal(found[0].held_out, found[1].held_out)
    assert not set(names[found[0].held_out]) & set(names[found[0].rows])
    assert 2 <= len(found[0].held_out) <= 9
    assert "1 of 4 of whole subjects" in found[0].notes[0]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("crop", [None, 0.1])
def test_batches_hold_every_row_once_in_all_processes(machines, count, crop):
    validation = Validation(every=5, fraction=0.5)
    cfg = Data(path=(str(machines),), backend="memory", crop_seconds=crop)
    parts = [
        open_pipeline(
            cfg, batch=4, seed=3, validation=validation, process_index=i, process_count=count
        )
        for i in range(count)
    ]
    ids, mask = [], []
    for step in zip(*(part.validation(4) for part in parts), strict=True):
        batch = {name: np.concatenate([part[name] for part in step]) for name in step[0]}
        assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
            k: (v.shape, v.dtype) for k, v in parts[0].batch_spec.items()
        }
        ids.append(batch["id"])
        mask.append(batch["_mask"])
    ids, mask = np.concatenate(ids), np.concatenate(mask)
    np.testing.assert_array_equal(ids[mask == 1], parts[0].held_out)
    assert len(ids) - len(parts[0].held_out) < 4


def test_a_few_rows_spread_evenly_and_whole_runs(machines):
    all_rows = opened(machines, Validation(every=5, fraction=0.5)).held_out
    few = opened(machines, Validation(every=5, fraction=0.5, rows=3)).held_out
    assert few.tolist() == [all_rows[0], all_rows[round((len(all_rows) - 1) / 2)], all_rows[-1]]
    runs = opened(machines, Validation(every=5, fraction=0.5, rows=5), sequence=2).held_out
    shards = open_shards(machines)
    path = shards.column("path")[runs].reshape(-1, 2)
    assert len(runs) == 4 and (path[:, 0] == path[:, 1]).all()


def test_nothing_left_to_train_on(machines):
    folds = tuple(open_shards(machines).info.folds)
    with pytest.raises(InputError, match=r"validation: folds .* leaves no rows to train on"):
        opened(machines, Validation(every=5, folds=folds))
    with pytest.raises(InputError, match=r"fold: no rows of fold 9"):
        opened(machines, Validation(every=5, folds=(9,)))


@pytest.mark.parametrize(
    ("fraction", "held_out", "otherwise"),
    [(0.33, 3, None), (0.4, None, "0.5 or 0.333"), (0.15, None, "0.167 or 0.143")],
)
def test_a_fraction_is_one_of_a_whole_number_of_folds(machines, fraction, held_out, otherwise):
    validation = Validation(every=5, fraction=fraction)
    if held_out is None:
        with pytest.raises(InputError, match=rf"got {fraction}; hold out {otherwise}"):
            opened(machines, validation)
    else:
        assert f"1 of {held_out} of whole" in opened(machines, validation).notes[0]
