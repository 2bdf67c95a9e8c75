"""The protocol on sets whose answer is known, and on all that it must refuse."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq import methods, recipes, testing
from jfreq.config import Experiment, replace
from jfreq.data.prepare.run import prepare
from jfreq.data.shards.reader import open_shards
from jfreq.evaluate import probe_protocol
from jfreq.evaluate.any_length import for_any_length
from jfreq.evaluate.features import extract
from jfreq.evaluate.folds import check_signals, divide
from jfreq.evaluate.probe_protocol import probe
from jfreq.evaluate.results import HAND_CRAFTED, TRAINED, UNTRAINED
from jfreq.method import Method
from jfreq.metrics import bounded, interval
from jfreq.train.state import Trained
from jfreq.types import Features, InputError, SignalSpec, TokenGrid

CLASSES = 3


class Project(Method):
    """Clip vector: mean over time, through ``params``; a fresh one sees almost nothing."""

    def init(self, key):
        width = self.signals[0].channels
        weak = 1e-3 * jax.random.normal(key, (width, 2)).at[:CLASSES].set(0.0)
        return {"kernel": weak}

    def encode(self, params, batch):
        clip = batch["x"].mean(1) @ params["kernel"]
        return Features(clip[:, None], TokenGrid(1), clip, jnp.ones((len(clip), 1), bool))


@pytest.fixture
def trained():
    method = Project((SignalSpec("x", 100.0, 16, 6),))
    return Trained(Experiment("project", method), {"kernel": np.eye(6, CLASSES, dtype=np.float32)})


def sets(make_shards, *, n=120, seed=0, gap=3.0, multi=False, **columns):
    """Class k raises the level of channel k; the other channels and all else are noise."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLASSES, n)
    x = rng.normal(size=(n, 16, 6)) + rng.normal(size=(n, 1, 6))
    x[:, :, :CLASSES] += gap * np.eye(CLASSES)[label][:, None]
    truth = label
    if multi:
        truth = np.eye(CLASSES, dtype=np.float32)[label]
        truth[np.arange(n), rng.integers(0, CLASSES, n)] = 1
        x[:, :, :CLASSES] += gap * (truth - np.eye(CLASSES)[label])[:, None]
    columns = columns or {"fold": np.arange(n) % 4 + 1}
    names = [f"class {k}" for k in range(CLASSES)]
    return make_shards(x.astype(np.float32), truth, labels=names, **columns)


def by_name(report):
    return {(r.features, r.kind, r.metric): r for r in report.results}


def test_table_has_all_systems_and_training_shows(trained, make_shards, tmp_path):
    seen = []
    report = probe(
        trained,
        sets(make_shards),
        seeds=(0, 1),
        batch=40,
        cache=tmp_path / "cache",
        progress=lambda *state: seen.append(state),
    )
    rows = by_name(report)
    assert {key[0] for key in rows} == {TRAINED, UNTRAINED, HAND_CRAFTED, "trained - untrained"}
    for kind in ("logistic", "ridge", "knn"):
        good, bare = (rows[name, kind, "accuracy"] for name in (TRAINED, UNTRAINED))
        assert good.mean > 0.85
        assert bare.mean < 0.6
        assert good.n == 120
        assert len(good.folds) == 4
        assert (good.mean, good.low, good.high) == pytest.approx(bounded(interval(good.folds)))
        gain = rows["trained - untrained", kind, "accuracy"]
        assert gain.folds == pytest.approx(np.subtract(good.folds, bare.folds))
        assert gain.low > 0
    assert report.folds == ("fold 1", "fold 2", "fold 3", "fold 4")
    assert {name for name, *_ in seen} == {TRAINED, UNTRAINED, HAND_CRAFTED}
    assert seen[-1][1:] == (120, 120)
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_report_round_trip(trained, make_shards, tmp_path):
    report = probe(trained, sets(make_shards), kinds=("ridge",))
    found = json.loads(report.save(tmp_path / "runs" / "results.json").read_text())
    assert found["results"][0]["mean"] == report.results[0].mean
    assert found["settings"]["majority_class"] < 0.5
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["results.json"]
    table = report.to_markdown().splitlines()
    widths = {line.count("|") for line in table[2:]}
    assert widths == {len(report.folds) + 6}
    assert len(table) == 4 + len(report.results)


def test_single_split_gives_an_interval_over_rows(trained, make_shards):
    split = np.where(np.arange(120) < 80, "train", "test")
    report = probe(trained, sets(make_shards, split=split), kinds=("knn",))
    row = by_name(report)[TRAINED, "knn", "accuracy"]
    assert row.n == 40
    assert 0 < row.low < row.mean <= row.high < 1.0001
    assert report.folds == ("test",)
    assert "over test rows" in report.to_markdown()
    assert not any(r.features == "trained - untrained" for r in report.results)


def test_multi_label(trained, make_shards):
    report = probe(trained, sets(make_shards, multi=True, n=160), with_baselines=False)
    rows = by_name(report)
    assert {key[2] for key in rows} == {"mAP", "d_prime"}
    for kind in ("logistic", "ridge", "knn"):
        assert rows[TRAINED, kind, "mAP"].mean > 0.85
        assert rows[TRAINED, kind, "d_prime"].mean > 1.5


def test_leave_one_subject_out(trained, make_shards):
    subject = np.array([f"s{i % 5}" for i in range(120)])
    data = sets(make_shards, subject=subject)
    folds = divide(data, np.arange(120), leave_one_subject_out=True)
    assert [fold.name for fold in folds] == ["s0", "s1", "s2", "s3", "s4"]
    for fold in folds:
        assert set(subject[fold.test]) == {fold.name}
        assert fold.name not in subject[fold.train]
        assert len(fold.train) + len(fold.test) == 120
    read = trained._replace(checkpoint="step 2 of 6 (the best by val/loss)")
    report = probe(read, data, kinds=("ridge",), with_baselines=False, leave_one_subject_out=True)
    assert "the encoder is that of step 2 of 6 (the best by val/loss)" in report.settings["notes"]
    assert by_name(report)[TRAINED, "ridge", "accuracy"].mean > 0.8


def test_real_shards_and_a_real_method(tmp_path):
    """Synthetic motion through prepare, a small SSAST with random weights, and the probes."""
    prepare("synthetic:motion", tmp_path / "m", seconds=2.56, n=100, workers=1, progress=False)
    shards = open_shards(tmp_path / "m")
    experiment = methods.bind(testing.small(recipes.load("ssast_nano")), shards.spec)
    method = experiment.method
    shapes = jax.eval_shape(method.init, jax.random.key(0))
    rng = np.random.default_rng(5)
    params = jax.tree.map(lambda s: np.float32(0.05 * rng.normal(size=s.shape)), shapes)
    report = probe(
        Trained(experiment, params), shards, kinds=("ridge", "knn"), pool="mean_std", batch=50
    )
    rows = by_name(report)
    assert rows[HAND_CRAFTED, "ridge", "accuracy"].mean > 0.5
    assert report.settings["rows"] == len(shards)
    gain = rows["trained - untrained", "ridge", "accuracy"]
    assert gain.mean == pytest.approx(
        rows[TRAINED, "ridge", "accuracy"].mean - rows[UNTRAINED, "ridge", "accuracy"].mean
    )


@pytest.mark.parametrize("samples", [10, 39, 40])
def test_transfer_to_rows_of_another_length(trained, make_shards, samples):
    """Pre-trained on windows of 16 samples; a window's clip vector is its mean, and those windows
    of a row are averaged that hold signal at their centre."""
    data = sets(make_shards)
    rows = np.tile(data._x, (1, 3, 1))[:, :samples]
    other = make_shards(rows, data._label, labels=data.info.labels, fold=data.column("fold"))
    report = probe(trained, other, kinds=("ridge",))
    assert by_name(report)[TRAINED, "ridge", "accuracy"].mean > 0.85
    method = for_any_length(trained.experiment.method, other.spec)
    found = extract(method, trained.params, other, np.arange(7)).x
    whole = np.pad(rows, ((0, 0), (0, -samples % 16), (0, 0))).reshape(len(rows), -1, 16, 6).mean(2)
    expected = whole[:7, : max(1, (samples + 8) // 16), :CLASSES].mean(1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_permuted_labels_are_at_chance(trained, make_shards):
    data = sets(make_shards, n=240, gap=0.0)
    for row in probe(trained, data, with_baselines=False).results:
        if row.metric == "accuracy":
            assert abs(row.mean - 1 / 3) < 4 * np.sqrt(2 / 9 / 240)


@pytest.mark.parametrize("kind", ["logistic", "ridge", "knn"])
def test_test_labels_reach_only_the_metric(trained, make_shards, kind, monkeypatch):
    """The scores of a fold stay the same bit for bit when the labels of its rows change."""
    kept = []
    original = probe_protocol.fold_scores

    def spy(kind, task, x, fold, *, seed):
        scores = original(kind, task, x, fold, seed=seed)
        label = task.label.copy()
        label[fold.test] = (label[fold.test] + 1) % CLASSES
        kept.append((scores, original(kind, task._replace(label=label), x, fold, seed=seed)))
        return scores

    monkeypatch.setattr(probe_protocol, "fold_scores", spy)
    probe(trained, sets(make_shards), kinds=(kind,), with_baselines=False)
    assert len(kept) == 4
    for scores, other in kept:
        np.testing.assert_array_equal(scores, other)


def test_rows_without_label_or_fold_take_no_part(trained, make_shards):
    fold = np.where(np.arange(120) < 100, np.arange(120) % 4 + 1, -1)
    data = sets(make_shards, fold=fold)
    data._columns["label"] = np.where(np.arange(120) % 10 == 0, -1, data._columns["label"])
    data._label = data._columns["label"]
    report = probe(trained, data, kinds=("knn",), with_baselines=False)
    assert report.results[0].n == 90


def one_class_in_training(make_shards):
    data = sets(make_shards, fold=np.arange(120) % 2 + 1)
    data._label[np.arange(120) % 2 == 0] = 1
    return data


def unlabelled(make_shards):
    data = sets(make_shards)
    object.__setattr__(data.info, "labels", ())
    return data


def all_minus_one(make_shards):
    data = sets(make_shards)
    data._columns["label"] = np.full(120, -1)
    return data


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (unlabelled, {}, "has no labels; prepare it"),
        (all_minus_one, {}, "no row carries a label"),
        (one_class_in_training, {}, "fold 2: its training rows hold a single class"),
        (lambda m: sets(m, fold=np.ones(120, int)), {}, "two folds or a train and a test split"),
        (lambda m: sets(m, split=np.full(120, "train")), {}, "two folds or a train"),
        (sets, {"leave_one_subject_out": True}, "at least two subjects"),
        (sets, {"kinds": ("logistics",)}, "did you mean 'logistic'"),
        (sets, {"kinds": ()}, "at least one"),
        (sets, {"seeds": ()}, "at least one"),
    ],
)
def test_refusals(trained, make_shards, make, options, message):
    with pytest.raises(InputError, match=message):
        probe(trained, make(make_shards), **options)


@pytest.mark.parametrize(
    ("signal", "message"),
    [
        (SignalSpec("y", 100.0, 16, 6), "no signal 'y'"),
        (SignalSpec("x", 50.0, 16, 6), "rate is 100, but the encoder reads 50"),
        (SignalSpec("x", 100.0, 16, 1), "channels is 6"),
        (SignalSpec("x", 100.0, 16, 6, mix="mean"), "prepared with --mix first, .* --mix mean"),
    ],
)
def test_shards_of_another_kind(trained, make_shards, signal, message):
    other = Trained(Experiment("project", Project((signal,))), trained.params)
    with pytest.raises(InputError, match=message):
        probe(other, sets(make_shards))


def test_channels_in_another_order_are_refused(make_shards):
    shards = sets(make_shards)
    there = replace(shards.info.signals[0], channel_names=tuple("zyxabc"))
    shards.info = replace(shards.info, signals=(there,))
    check_signals((SignalSpec("x", 100.0, 16, 6, names=tuple("zyxabc")),), shards)
    check_signals((SignalSpec("x", 100.0, 16, 6, names=tuple("uvwabc")),), shards)
    with pytest.raises(
        InputError, match=r"has the channels z, y, x.*, but the encoder reads x, y, z"
    ):
        check_signals((SignalSpec("x", 100.0, 16, 6, names=tuple("xyzabc")),), shards)
