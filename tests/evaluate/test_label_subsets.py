"""Probes with few labels: against plain probes of sets that hold only the sampled rows."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from jfreq.config import Experiment
from jfreq.data.loading.label_subsets import sample
from jfreq.evaluate.probe_protocol import probe
from jfreq.evaluate.results import HAND_CRAFTED, TRAINED, UNTRAINED
from jfreq.method import Method
from jfreq.metrics import interval_of, wilson
from jfreq.train.state import Trained
from jfreq.types import Features, InputError, SignalSpec, TokenGrid

CLASSES, WIDTH = 4, 6


class Project(Method):
    """Clip vector: mean over time, scaled; fresh parameters see noise only."""

    def init(self, key):
        return {"gain": jnp.array([0.0] * CLASSES + [1.0] * (WIDTH - CLASSES))}

    def encode(self, params, batch):
        clip = batch["x"].mean(1) * params["gain"][None]
        return Features(clip[:, None], TokenGrid(1), clip, jnp.ones((len(clip), 1), bool))


@pytest.fixture
def trained():
    method = Project((SignalSpec("x", 100.0, 8, WIDTH),))
    return Trained(Experiment("project", method, seed=5), {"gain": np.ones(WIDTH, np.float32)})


@pytest.fixture
def few(make_shards):
    """``few(n, **columns)``: class k raises channel k a little; classes of unequal size, in
    fours, so that halves and quarters of the rows hold them in proportion."""

    def make(n=200, *, gap=1.2, **columns):
        rng = np.random.default_rng()
        fours = np.repeat(np.arange(CLASSES), n // 4 * np.array([4, 3, 2, 1]) // 10)
        label = np.repeat(rng.permutation(fours), 4)
        x = rng.normal(size=(n, 8, WIDTH)) + rng.normal(size=(n, 1, WIDTH))
        x[:, :, :CLASSES] += gap * np.eye(CLASSES)[label][:, None]
        return make_shards(x.astype(np.float32), label, labels="abcd", **columns)

    return make


def halves(n=200):
    return {"split": np.where(np.arange(n) % 2, "test", "train")}


def by_key(report):
    return {r.key: r for r in report.results}


def part(shards, rows, make_shards):
    """The same set with these rows only."""
    kept = {name: shards.column(name)[rows] for name in ("fold", "split", "subject")}
    return make_shards(shards._x[rows], shards._label[rows], labels="abcd", **kept)


@pytest.mark.parametrize("kind", ["ridge", "logistic"])
def test_a_fraction_is_a_set_with_fewer_rows(trained, few, make_shards, kind):
    """Each repeat scores what a plain probe scores on a set without the other training rows."""
    shards = few(**halves())
    report = probe(
        trained, shards, kinds=(kind,), with_baselines=False, fractions=(0.3,), repeats=3
    )
    train = np.flatnonzero(shards.column("split") == "train")
    test = np.flatnonzero(shards.column("split") == "test")
    for i in range(3):
        rows = np.union1d(train[sample(shards._label[train], 0.3, i)], test)
        plain = probe(trained, part(shards, rows, make_shards), kinds=(kind,), with_baselines=False)
        for r in plain.results:
            assert by_key(report)[TRAINED, kind, r.metric, 0.3].runs[0][i] == r.mean
    for r in report.results:
        assert (r.mean, r.low, r.high) == pytest.approx(interval_of(r.metric, r.runs[0]))
        assert (r.over, r.n, r.rows) == ("repeats", 100, 30)


def test_nearest_neighbour_against_scikit_learn(trained, few):
    """One row of each class is all there is: the nearest by cosine decides."""
    shards = few(gap=3.0, **halves())
    report = probe(
        trained,
        shards,
        kinds=("knn",),
        with_baselines=False,
        fractions=(0.001,),
        repeats=2,
        at_least_one=True,
    )
    x = shards._x.mean(1)
    train, test = (np.flatnonzero(shards.column("split") == s) for s in ("train", "test"))
    for i in range(2):
        rows = train[sample(shards._label[train], 0.001, i, at_least_one=True)]
        mean, std = x[rows].mean(0), x[rows].std(0)
        near = KNeighborsClassifier(1, metric="cosine").fit(
            (x[rows] - mean) / std, shards._label[rows]
        )
        expected = near.score((x[test] - mean) / std, shards._label[test])
        assert report.results[0].rows == CLASSES
        assert report.results[0].runs[0][i] == pytest.approx(expected)


def test_all_labels_are_the_plain_probe(trained, few):
    shards = few(fold=np.arange(200) % 4)
    plain = probe(trained, shards, kinds=("ridge", "knn"), seeds=(0, 1))
    curve = probe(trained, shards, kinds=("ridge", "knn"), seeds=(0, 1), fractions=(1.0, 0.1))
    found = by_key(curve)
    for r in plain.results:
        same = found[(*r.key[:3], 1.0)]
        assert (same.mean, same.low, same.high) == pytest.approx((r.mean, r.low, r.high))
        assert same.folds == pytest.approx(r.folds)
        assert same.rows == 150
    assert [r.fraction for r in curve.results[:6]] == [0.1] * 3 + [1.0] * 3
    assert "of means over 5 samples of the labels" in curve.to_markdown()


def test_folds_are_what_the_interval_is_over(trained, few):
    shards = few(fold=np.arange(200) % 4)
    report = probe(trained, shards, kinds=("ridge",), fractions=(0.1, 1.0), repeats=4)
    found = by_key(report)
    for fraction, repeats in ((0.1, 4), (1.0, 1)):
        r = found[TRAINED, "ridge", "macro_f1", fraction]
        assert np.shape(r.runs) == (4, repeats)
        assert (r.mean, r.low, r.high) == pytest.approx(
            interval_of(r.metric, np.mean(r.runs, axis=1))
        )
        gain = found[f"{TRAINED} - {UNTRAINED}", "ridge", "macro_f1", fraction]
        bare = found[UNTRAINED, "ridge", "macro_f1", fraction]
        np.testing.assert_allclose(gain.runs, np.subtract(r.runs, bare.runs))
    assert found[TRAINED, "ridge", "accuracy", 0.1].rows == 16  # 4 of 37 or 38 of each class
    lines = [line for line in report.to_markdown().splitlines() if "10 % (16)" in line]
    assert len(lines) == 4 * 3


def test_more_labels_help_and_only_what_was_learnt_shows(trained, few):
    shards = few(1000, **halves(1000))
    report = probe(trained, shards, kinds=("ridge",), fractions=(0.02, 0.2, 1.0))
    found = by_key(report)
    few_, some, all_ = (
        found[TRAINED, "ridge", "balanced_accuracy", f].mean for f in (0.02, 0.2, 1.0)
    )
    assert few_ < some < all_ + 0.05
    assert few_ + 0.05 < all_
    assert abs(found[UNTRAINED, "ridge", "balanced_accuracy", 1.0].mean - 1 / CLASSES) < 0.1
    assert (HAND_CRAFTED, "ridge", "accuracy", 0.2) in found
    assert found[f"{TRAINED} - {UNTRAINED}", "ridge", "balanced_accuracy", 0.2].low > 0
    # A single sample on a single split: over test rows, and no pair to take a difference of.
    whole = found[TRAINED, "ridge", "accuracy", 1.0]
    assert whole.over == "test rows"
    assert (whole.low, whole.high) == pytest.approx(wilson(round(500 * whole.mean), 500)[1:])
    assert (f"{TRAINED} - {UNTRAINED}", "ridge", "accuracy", 1.0) not in found


def test_features_are_computed_once(trained, few):
    shards, seen = few(**halves()), []
    probe(
        trained,
        shards,
        kinds=("ridge", "knn"),
        with_baselines=False,
        fractions=(0.1, 0.5, 1.0),
        batch=50,
        progress=lambda *state: seen.append(state),
    )
    assert shards.reads == 200
    assert seen[-1] == (f"probes, {TRAINED}", 6, 6)


def test_the_official_split_of_a_set_with_folds(trained, few):
    shards = few(fold=np.arange(200) % 4, **halves())
    assert len(probe(trained, shards, kinds=("knn",), with_baselines=False).folds) == 4
    report = probe(trained, shards, kinds=("knn",), with_baselines=False, only=("test",))
    assert report.folds == ("test",)
    assert report.results[0].n == 100
    assert report.settings["seed"] == 5
    with pytest.raises(InputError, match="two folds or a train and a test split"):
        probe(trained, few(fold=np.arange(200) % 4), only=("test",))


def test_several_labels_a_clip(trained, few, make_shards):
    one = few()
    truth = np.eye(CLASSES, dtype=np.float32)[one._label]
    shards = make_shards(one._x, truth, labels="abcd", fold=np.arange(200) % 2)
    report = probe(trained, shards, kinds=("ridge",), with_baselines=False, fractions=(0.2, 1.0))
    assert {r.metric for r in report.results} == {"mAP", "d_prime"}
    assert by_key(report)[TRAINED, "ridge", "mAP", 0.2].rows == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fractions": (0.01,)}, r"fake, test: 0\.01 of 100 rows leaves class '[bcd]'"),
        ({"fractions": (0.5, 2.0)}, "must be above 0 and at most 1, got 2"),
        ({"fractions": (0.5, 0.5)}, "fractions: name each once"),
        ({"fractions": (0.5,), "repeats": 0}, "repeats: must be 1 or more"),
    ],
)
def test_refused_before_any_row_is_read(trained, few, options, message):
    shards = few(**halves())
    with pytest.raises(InputError, match=message):
        probe(trained, shards, **options)
    assert shards.reads == 0
