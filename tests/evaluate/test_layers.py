"""Probes of every block against the probe protocol, and against a set whose answer is known."""

import jax.numpy as jnp
import numpy as np
import pytest

from jfreq.config import Experiment
from jfreq.evaluate.layers import CLIP, probe_layers
from jfreq.evaluate.probe_protocol import probe
from jfreq.method import Method
from jfreq.train.state import Trained
from jfreq.types import Features, InputError, SignalSpec, TokenGrid

CLASSES = 3


class TwoBlocks(Method):
    """The first block keeps only channels of noise, the second those of the classes."""

    def encode(self, params, batch):
        x = batch["x"][:, :4]
        tokens = jnp.concatenate([x, jnp.zeros_like(x[..., :1])], axis=-1) * params["gain"]
        noise = tokens.at[..., :CLASSES].set(0.0)
        valid = jnp.ones(tokens.shape[:2], bool)
        return Features(tokens, TokenGrid(4), tokens.mean(1), valid, jnp.stack([noise, tokens]))


@pytest.fixture
def trained():
    method = TwoBlocks((SignalSpec("x", 100.0, 8, 6),))
    return Trained(Experiment("blocks", method), {"gain": np.float32(1)})


def labelled(make_shards, *, gap=4.0, swap=0, multi=False, n=120, **columns):
    """Class k raises channel k; the first ``swap`` rows of class 0 look like class 1."""
    rng = np.random.default_rng(0)
    label = np.arange(n) % CLASSES
    shown = label.copy()
    shown[np.flatnonzero(label == 0)[:swap]] = 1
    x = rng.normal(size=(n, 8, 6))
    x[:, :, :CLASSES] += gap * np.eye(CLASSES)[shown][:, None]
    columns = columns or {"fold": np.arange(n) // CLASSES % 4 + 1}
    truth = np.eye(CLASSES, dtype=np.float32)[label] if multi else label
    names = [f"class {k}" for k in range(CLASSES)]
    return make_shards(x.astype(np.float32), truth, labels=names, **columns)


def test_blocks_are_told_apart_and_match_the_protocol(trained, make_shards):
    shards = labelled(make_shards, gap=1.5)
    found = probe_layers(trained, shards, batch=50)
    assert [r.features for r in found.results] == [CLIP, "block 1", "block 2"]
    assert {r.metric for r in found.results} == {"accuracy"}
    clip, first, second = (r.mean for r in found.results)
    assert abs(first - 1 / 3) < 4 * np.sqrt(2 / 9 / 120)
    assert second == clip > 0.9
    for layer, result in ((None, clip), (0, first), (1, second)):
        table = probe(trained, shards, kinds=("ridge",), layer=layer, with_baselines=False)
        assert table.results[0].mean == result
    assert found.folds == ("fold 1", "fold 2", "fold 3", "fold 4")
    assert (found.rows, found.labelled) == (120, 120)


def test_confusion_has_the_true_class_in_rows(trained, make_shards):
    """Eight of forty rows of class 0 look like class 1: too few to be learnt, all mixed up."""
    found = probe_layers(trained, labelled(make_shards, swap=8, gap=8.0))
    assert found.confusion is not None
    np.testing.assert_array_equal(found.confusion, [[32, 8, 0], [0, 40, 0], [0, 0, 40]])


def test_rows_and_folds_can_be_limited(trained, make_shards):
    shards = labelled(make_shards)
    found = probe_layers(trained, shards, limit=60, only=("2",))
    assert found.confusion is not None
    assert (found.rows, found.labelled, found.folds) == (60, 120, ("fold 2",))
    assert shards.reads == 64  # two batches of 32
    assert 0 < found.confusion.sum() < 60


def test_several_labels_have_no_confusion(trained, make_shards):
    found = probe_layers(trained, labelled(make_shards, multi=True, gap=1.0))
    assert found.confusion is None
    assert found.results[0].metric == "mAP"


def test_sets_without_folds_are_refused(trained, make_shards):
    with pytest.raises(InputError, match="two folds"):
        probe_layers(trained, labelled(make_shards, fold=np.full(120, -1)))
