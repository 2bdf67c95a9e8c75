"""Rows drawn by weight: how often, against closed forms; repeatable; epochs of different rows."""

import csv
import itertools

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from jfreq.config import Data, replace
from jfreq.data.loading import index_order
from jfreq.data.loading.pipeline import open_pipeline
from jfreq.data.loading.sampling import Order, balanced_weights
from jfreq.data.prepare.run import prepare
from jfreq.data.shards.reader import open_shards
from jfreq.types import InputError


def all_rows(order, steps):
    return np.concatenate([order(step) for step in range(steps)])


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(-1, 5), min_size=1, max_size=40), st.integers(0, 99))
def test_weights_are_the_sum_over_classes(label, seed):
    """The same for one label as a number and as a multi-hot row, and for several labels by hand."""
    label = np.array(label)
    hot = (label[:, None] == np.arange(6)).astype(np.float32)
    by_hand = [1000 / ((label == x).sum() + 0.01) if x >= 0 else 0 for x in label]
    np.testing.assert_allclose(balanced_weights(label), by_hand)
    np.testing.assert_allclose(balanced_weights(hot), by_hand)
    several = np.random.default_rng(seed).integers(0, 2, (7, 4)).astype(np.float32)
    counts = several.sum(0, dtype=np.float64)
    by_hand = [sum(1000 / (counts[c] + 0.01) for c in np.flatnonzero(row)) for row in several]
    np.testing.assert_allclose(balanced_weights(several), by_hand)


def test_single_draws_come_up_in_proportion_to_their_weights():
    weights = np.random.default_rng(1).uniform(0.1, 5, 40)
    order = Order(40, 64, 7, weights=weights)
    found = all_rows(order, 500)
    counts = np.bincount(found, minlength=40)
    assert chisquare(counts, len(found) * weights / weights.sum()).pvalue > 1e-3
    pairs = np.bincount(found[:-1] // 8 * 5 + found[1:] // 8, minlength=25).reshape(5, 5)
    share = weights.reshape(5, 8).sum(1) / weights.sum()
    expected = (len(found) - 1) * np.outer(share, share)
    assert chisquare(pairs.ravel(), expected.ravel()).pvalue > 1e-3, "neighbours are independent"


def test_samples_without_repetition_have_the_distribution_of_successive_draws():
    """P(a, b, c) = w_a / W * w_b / (W - w_a) * w_c / (W - w_a - w_b), in any order of a set."""
    weights, count, epochs = np.array([1.0, 2.0, 3.0, 5.0, 9.0]), 3, 6000
    order = Order(5, count * epochs, 3, epoch_rows=count, weights=weights)
    found = order(0).reshape(epochs, count)
    sets = list(itertools.combinations(range(5), count))

    def probability(*path):
        left = weights.sum() - np.concatenate([[0], np.cumsum(weights[list(path)])[:-1]])
        return np.prod(weights[list(path)] / left)

    expected = [epochs * sum(probability(*p) for p in itertools.permutations(s)) for s in sets]
    observed = np.zeros(len(sets))
    for row in np.sort(found, axis=1).tolist():
        observed[sets.index(tuple(row))] += 1
    assert chisquare(observed, expected).pvalue > 1e-3
    # Inside an epoch the order is shuffled: heavy rows do not come first.
    heavy = np.argwhere(found == 4)[:, 1]
    assert chisquare(np.bincount(heavy, minlength=count)).pvalue > 1e-3


@settings(deadline=None, max_examples=25)
@given(
    rows=st.integers(2, 50), part=st.floats(0.1, 1), batch=st.integers(1, 30),
    seed=st.integers(0, 999), drawn=st.booleans(),
)  # fmt: skip
def test_epochs_hold_different_rows_across_batches(rows, part, batch, seed, drawn):
    count = max(1, round(part * rows))
    weights = np.random.default_rng(seed).uniform(0.5, 2, rows) if drawn else None
    order = Order(rows, batch, seed, epoch_rows=count, weights=weights)
    found = all_rows(order, -(-3 * count // batch))[: 3 * count].reshape(3, count)
    for epoch in found:
        assert len(set(epoch.tolist())) == count
        assert epoch.min() >= 0 and epoch.max() < rows
    # What a step reads depends on the step alone.
    again = Order(rows, batch, seed, epoch_rows=count, weights=weights)
    np.testing.assert_array_equal(again(2), order(2))


def test_uniform_samples_read_every_row_equally_often():
    order = Order(30, 1000, 5, epoch_rows=10)
    assert order.size == 10
    assert chisquare(np.bincount(all_rows(order, 30), minlength=30)).pvalue > 1e-3


def test_a_full_epoch_is_what_it_was_without_the_option():
    plain, full = Order(21, 8, 3), Order(21, 8, 3, epoch_rows=21)
    np.testing.assert_array_equal(all_rows(plain, 9), all_rows(full, 9))
    np.testing.assert_array_equal(plain(4), index_order.global_ids(4, batch=8, rows=21, seed=3))


def test_the_draws_never_change_between_versions():
    # A checkpoint resumes by step number alone: these values are part of the format.
    weights = np.arange(1.0, 31.0)
    assert Order(30, 6, 3, weights=weights)(7).tolist() == DRAWN
    assert Order(30, 6, 3, weights=weights, epoch_rows=9)(7).tolist() == SAMPLED


# ------------------------------------------------------------------ from shards


@pytest.fixture(scope="module")
def rare(tmp_path_factory):
    """Forty clips: 28 of class a, 8 of b, 4 of c, and in a second set both b and c in some."""
    root = tmp_path_factory.mktemp("rare")
    wave = np.random.default_rng(0).integers(-99, 99, (40, 160)).astype(np.int16)
    single = ["a"] * 28 + ["b"] * 8 + ["c"] * 4
    several = ["a"] * 20 + ["a;b"] * 10 + ["b;c"] * 4 + ["c"] * 6
    for name, labels in (("single", single), ("several", several)):
        (root / name).mkdir()
        with (root / name / "index.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["path", "label" if name == "single" else "labels", "fold"])
            for i, label in enumerate(labels):
                soundfile.write(root / name / f"{i:02}.wav", wave[i], 16000)
                table.writerow([f"{i:02}.wav", label, i % 2])
        prepare(str(root / name), root / f"{name}.s", workers=1, progress=False)
    return root / "single.s", root / "several.s"


@pytest.mark.parametrize("which", [0, 1])
def test_classes_come_up_as_often_as_the_closed_form_says(rare, which):
    """Without fold 1, whose rows are neither drawn nor counted."""
    cfg = Data(path=(str(rare[which]),), exclude_folds=(1,), sampling="balanced")
    pipeline = open_pipeline(cfg, batch=20, seed=4, labelled=True)
    shards = open_shards(rare[which])
    label, fold = shards.column("label"), shards.column("fold")
    hot = label if which else (label[:, None] == np.arange(3)).astype(float)
    hot = hot.astype(np.float64) * (fold == 0)[:, None]
    weight = hot @ (1000 / (hot.sum(0) + 0.01))
    ids = np.concatenate([pipeline.global_ids(step) for step in range(600)])
    read = np.flatnonzero(weight)
    counts = np.bincount(ids, minlength=40)
    assert counts[fold == 1].sum() == 0
    expected = len(ids) * (weight / weight.sum())[read]
    assert chisquare(counts[read], expected).pvalue > 1e-3
    if not which:  # one label each: classes are even
        by_class = np.bincount(label[ids])
        np.testing.assert_allclose(by_class / len(ids), 1 / 3, atol=0.02)


@pytest.mark.tf
@pytest.mark.parametrize("epoch_rows", [None, 15])
def test_both_backends_any_process_count_and_any_start(rare, epoch_rows):
    cfg = Data(path=(str(rare[1]),), sampling="balanced", epoch_rows=epoch_rows)

    def ids(backend, start, count):
        parts = []
        for i in range(count):
            pipeline = open_pipeline(
                replace(cfg, backend=backend), batch=8, seed=2, process_index=i, process_count=count
            )
            parts.append([b["id"] for b in itertools.islice(pipeline.iterate(start), 6 - start)])
        return [np.concatenate(step) for step in zip(*parts)]

    straight = ids("memory", 0, 1)
    for backend, start, count in (("memory", 3, 2), ("tfdata", 0, 1), ("tfdata", 4, 2)):
        for a, b in zip(straight[start:], ids(backend, start, count), strict=True):
            np.testing.assert_array_equal(a, b)


def test_rows_without_a_label_are_counted_and_never_drawn(rare, monkeypatch):
    from jfreq.data.shards.reader import Shards

    column = Shards.column

    def some(self, name):
        values = column(self, name)
        return np.where(np.arange(40) % 4 == 1, -1, values) if name == "label" else values

    monkeypatch.setattr(Shards, "column", some)
    monkeypatch.setattr(Shards, "labels", lambda self, ids: self.column("label")[ids])
    cfg = Data(path=(str(rare[0]),), sampling="balanced")
    pipeline = open_pipeline(cfg, batch=20, seed=4)
    assert pipeline.notes == ("balanced sampling: 10 of 40 rows have no label and are never drawn",)
    ids = np.concatenate([pipeline.global_ids(step) for step in range(50)])
    assert set(ids.tolist()) == set(np.flatnonzero(np.arange(40) % 4 != 1).tolist())
    assert open_pipeline(replace(cfg, sampling="uniform"), batch=20, seed=4).notes == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch_rows": 41}, r"data\.epoch_rows: is 41, but there are 40 rows"),
        ({"sampling": "balanced", "shuffle": False}, r"data\.shuffle: balanced sampling has no"),
        ({"epoch_rows": 9, "shuffle": False}, r"data\.epoch_rows: is a sample in a shuffled order"),
        ({"sampling": "balanced", "sequence": 2}, r"data\.sampling: draws single rows"),
        ({"epoch_rows": 9, "sequence": 2}, r"data\.epoch_rows: draws single rows"),
    ],
)
def test_sampling_that_these_rows_rule_out(rare, changes, message):
    with pytest.raises(InputError, match=message):
        open_pipeline(replace(Data(path=(str(rare[0]),)), **changes), batch=8, seed=0)


def test_balanced_needs_labels(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(1600, np.int16), 16000)
    prepare(str(tmp_path), tmp_path / "s", seconds=0.01, workers=1, progress=False)
    cfg = Data(path=(str(tmp_path / "s"),), sampling="balanced")
    with pytest.raises(InputError, match=r"data\.sampling: balanced needs labels: no row"):
        open_pipeline(cfg, batch=2, seed=0)


DRAWN = [28, 7, 23, 24, 26, 15]
SAMPLED = [24, 26, 17, 9, 17, 11]
