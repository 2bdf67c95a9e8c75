"""Fractions of labels: in proportion, nested, the same again, refused where a class is lost."""

import re

import numpy as np
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jfreq.config import Data, replace
from jfreq.data.loading.label_subsets import sample
from jfreq.data.loading.pipeline import open_pipeline
from jfreq.data.prepare.run import prepare
from jfreq.data.shards.reader import open_shards
from jfreq.types import InputError

SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=12)


def labels(sizes, seed):
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))


@settings(deadline=None)
@given(sizes=SIZES, fraction=st.floats(0.01, 1), seed=st.integers(0, 99))
def test_every_class_has_its_fraction(sizes, fraction, seed):
    """Half a row off at most, without repetition."""
    label = labels(sizes, seed)
    found = sample(label, fraction, seed, at_least_one=True)
    wanted = np.maximum(np.floor(fraction * np.array(sizes) + 0.5), 1)
    assert (np.diff(found) > 0).all()
    np.testing.assert_array_equal(np.bincount(label[found], minlength=len(sizes)), wanted)


@settings(deadline=None)
@given(sizes=SIZES, a=st.floats(0.01, 1), b=st.floats(0.01, 1), seed=st.integers(0, 99))
def test_small_samples_lie_inside_large_ones(sizes, a, b, seed):
    label = labels(sizes, 7)
    small, large = (sample(label, x, seed, at_least_one=True) for x in sorted((a, b)))
    assert set(small) <= set(large)
    np.testing.assert_array_equal(large, sample(label, max(a, b), seed, at_least_one=True))


def test_all_labels_are_all_rows_and_seeds_differ():
    label = labels([30, 20, 10], 1)
    np.testing.assert_array_equal(sample(label, 1.0), np.arange(60))
    samples = {tuple(sample(label, 0.2, seed)) for seed in range(10)}
    assert len(samples) == 10
    # Over many samples every row of a class is as likely as any other: 6 of 30, ten of 50 here.
    often = np.bincount(np.concatenate([sample(label, 0.2, s) for s in range(400)]), minlength=60)
    assert np.abs(often / 400 - 0.2).max() < 5 * np.sqrt(0.2 * 0.8 / 400)


@settings(deadline=None, max_examples=50)
@example(sizes=[23, 23, 55, 114, 160])
@given(sizes=st.lists(st.integers(1, 200), min_size=2, max_size=8))
def test_a_lost_class_is_named_with_the_smallest_fraction_that_works(sizes):
    label, names = labels(sizes, 3), [f"class {i}" for i in range(len(sizes))]
    with pytest.raises(InputError, match="without a row") as refused:
        sample(label, 0.4 / max(sizes), names=names, where="set")
    text = str(refused.value)
    assert text.startswith("set: ")
    assert re.search(r"leaves class 'class \d+' \(\d+ rows\)", text)
    least = float(re.findall(r"works is ([\d.e-]+)", text)[0])
    assert len(np.unique(label[sample(label, least)])) == len(sizes)
    with pytest.raises(InputError, match="without a row"):
        sample(label, 0.98 * least)


def test_rows_of_several_labels_are_sampled_as_they_come():
    label = np.zeros((40, 3), np.float32)
    small, large = sample(label, 0.1, 4), sample(label, 0.5, 4)
    assert len(small) == 4 and len(large) == 20 and set(small) < set(large)
    with pytest.raises(InputError, match=r"0\.01 of 40 rows leaves no row; .* works is 0\.0125"):
        sample(label, 0.01)
    assert len(sample(label, 0.01, at_least_one=True)) == 1


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5, float("nan")])
def test_fractions_outside_one(fraction):
    with pytest.raises(InputError, match="must be"):
        sample(np.arange(3), fraction)
    with pytest.raises(InputError, match=r"Data\.label_fraction: must be"):
        Data(label_fraction=fraction)


# ------------------------------------------------------------------ in the pipeline


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    out = tmp_path_factory.mktemp("tones") / "t"
    prepare("synthetic:tones", out, n=60, seconds=0.05, workers=1, progress=False)
    return out


def test_training_reads_only_the_sampled_rows(tones):
    shards = open_shards(tones)
    cfg = Data(path=(str(tones),), exclude_folds=(1,), label_fraction=0.5, label_seed=3)
    pipeline = open_pipeline(cfg, batch=8, seed=0)
    inside = shards.rows(exclude_folds=(1,))
    expected = inside[sample(shards.column("label")[inside], 0.5, 3)]
    np.testing.assert_array_equal(pipeline.rows, expected)
    seen = {i for batch, _ in zip(pipeline.iterate(), range(20)) for i in batch["id"].tolist()}
    assert seen == set(expected)
    whole = open_pipeline(replace(cfg, label_fraction=1.0), batch=8, seed=0)
    assert pipeline.info == whole.info, "statistics are those of all rows: they need no labels"
    pipeline.close()
    whole.close()


def test_a_fraction_of_labels_needs_labels(tones, tmp_path):
    (tmp_path / "plain").mkdir()
    soundfile.write(tmp_path / "plain" / "a.wav", np.full(1600, 0.1), 16000)
    prepare(str(tmp_path / "plain"), tmp_path / "plain.s", progress=False)
    cfg = Data(path=(str(tones), str(tmp_path / "plain.s")), label_fraction=0.5)
    with pytest.raises(InputError, match="label_fraction: the shards have no labels"):
        open_pipeline(cfg, batch=8, seed=0)
    with pytest.raises(InputError, match=r"data: the shards have no labels together: .*plain\.s"):
        open_pipeline(cfg, batch=8, seed=0, labelled=True)
    cfg = Data(path=(str(tones),), label_fraction=0.01)
    with pytest.raises(InputError, match=r"tones-0, data\.label_fraction: 0\.01 of 60 rows leaves"):
        open_pipeline(cfg, batch=8, seed=0)
    rows = open_pipeline(Data(path=(str(tones),), label_fraction=0.01, label_at_least_one=True),
                         batch=8, seed=0).rows  # fmt: skip
    label = open_shards(tones).column("label")
    np.testing.assert_array_equal(np.sort(label[rows]), np.unique(label))
