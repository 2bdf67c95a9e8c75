"""What methods on raw series share: levels, padding, choice of sensors; STFNet as a classifier."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq import param_paths, recipes
from jfreq.config import replace
from jfreq.data.prepare.run import prepare
from jfreq.data.shards.reader import Shards
from jfreq.methods.common.features import pooled
from jfreq.methods.common.raw_sensors import RawSensorMethod, standardised
from jfreq.methods.stf_csl import STFCSL
from jfreq.methods.stfnet import STFNet
from jfreq.methods.supervised import Classify, Head
from jfreq.nn.cnn1d import Conv1d
from jfreq.nn.deepsense import DeepSense
from jfreq.nn.stf import STF
from jfreq.testing import compiled, fake_batch, filled, loss_and_grad
from jfreq.train import plan
from jfreq.types import DataSpec, InputError, SignalSpec

MOTION = DataSpec(
    (
        SignalSpec("acc", 50.0, 64, 3, mean=(0.0, 1.0, -9.8), std=(1.0, 2.0, 0.0)),
        SignalSpec("gyro", 50.0, 64, 3, mean=(0.1,) * 3, std=(0.5,) * 3),
    ),
    ("walk", "sit", "stand"),
)
SMALL = {
    "stf": STF(windows=(4, 8, 16), pooled=None, width=12, sensor_width=6, depth=2, taps=8),
    "cnn": Conv1d(widths=(8, 8), kernels=(5, 5)),
    "deepsense": DeepSense(width=8, hidden=6),
}


@pytest.fixture
def batch():
    return fake_batch(MOTION, 6, seed=int(np.random.default_rng().integers(1000)))


def test_data_levels_by_the_statistics_of_training_rows(batch):
    """A channel that was constant in training becomes 0; statistics come from the data's spec."""
    acc, gyro = standardised(MOTION.signals, batch, how="data")
    x = np.asarray(batch["acc"], np.float64)
    np.testing.assert_allclose(acc[..., 1], (x[..., 1] - 1) / 2, atol=1e-6)
    np.testing.assert_allclose(gyro, (np.asarray(batch["gyro"]) - 0.1) / 0.5, atol=1e-5)
    still = {**batch, "acc": batch["acc"].at[..., 2].set(-9.8)}
    np.testing.assert_allclose(
        standardised(MOTION.signals, still, how="data")[0][..., 2], 0, atol=1e-6
    )


def test_clip_levels_every_channel_by_its_own_samples(batch):
    batch = {**batch, "length": jnp.full(6, 40, jnp.int32)}
    acc, _ = standardised(MOTION.signals, batch, how="clip")
    np.testing.assert_allclose(acc[:, :40].mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(acc[:, :40].std(1), 1, atol=1e-3)
    for gain in (1e-9, 1e6):
        other = {**batch, "acc": gain * batch["acc"]}
        np.testing.assert_allclose(
            standardised(MOTION.signals, other, how="clip")[0], acc, atol=1e-3
        )
    still = {**batch, "acc": jnp.full((6, 64, 3), -9.8)}
    assert np.abs(standardised(MOTION.signals, still, how="clip")[0]).max() < 0.05


@pytest.mark.parametrize("how", ["data", "clip", "none"])
def test_padding_is_zero_in_every_sensor_at_its_own_rate(how, batch):
    fast = DataSpec((MOTION.signals[0], SignalSpec("gyro", 100.0, 128, 3)))
    batch = {**batch, "gyro": jnp.ones((6, 128, 3)), "length": jnp.full(6, 20, jnp.int32)}
    acc, gyro = standardised(fast.signals, batch, how=how)
    assert not acc[:, 20:].any() and not gyro[:, 40:].any()
    assert how == "clip" or gyro[:, :40].any()


def test_sensors_are_chosen_and_ordered_by_name():
    cfg = RawSensorMethod(modalities=("gyro", "acc"), encoder=SMALL["cnn"]).bind(MOTION)
    assert [s.name for s in cfg.signals] == ["gyro", "acc"]
    with pytest.raises(InputError, match="no signal 'mag' in the data; it has: acc, gyro"):
        RawSensorMethod(modalities=("acc", "mag"), encoder=SMALL["cnn"]).bind(MOTION)
    with pytest.raises(InputError, match="must name one sensor or more"):
        RawSensorMethod(modalities=())
    assert replace(cfg.unbind(), modalities=None).bind(MOTION).signals == MOTION.signals


def test_pooling_looks_at_valid_tokens_only():
    tokens = jnp.array([[[1.0], [2.0], [9.0]]])
    valid = jnp.array([[True, True, False]])
    assert float(pooled(tokens, valid, "mean")[0, 0]) == 1.5
    assert float(pooled(tokens, valid, "max")[0, 0]) == 2


@pytest.mark.parametrize("name", SMALL)
def test_the_same_harness_trains_every_encoder(name, batch):
    """Shapes, dropout in training only, gradients everywhere but in what nothing reads."""
    method = STFNet(encoder=SMALL[name]).bind(MOTION)
    params, encode = filled(method), compiled(method, "encode")
    features, again = encode(params, batch), encode(params, batch)
    assert features.tokens.shape[:2] == (6, method.grid.size) and features.logits.shape == (6, 3)
    np.testing.assert_array_equal(features.clip, again.clip)

    keys = jax.random.split(jax.random.key(1))
    (a, grad), (b, _) = (loss_and_grad(method, params, batch, key) for key in keys)
    assert np.isfinite(a.value) and a.value != b.value, "dropout"
    dead = [n for n, g in param_paths.flatten(grad).items() if not np.abs(g).max() > 0]
    assert not [n for n in dead if "bias" not in n and "shift" not in n], dead


def test_hhar_and_wifi_networks_have_their_published_size():
    """212,910 and 55,910 trainable numbers in the released TensorFlow graphs."""
    classes = tuple("abcdef")

    def count(cfg, channels):
        signals = tuple(SignalSpec(n, 100.0, 512, channels) for n in ("first", "second"))
        spec = DataSpec(signals, classes)
        return param_paths.count(jax.eval_shape(cfg.bind(spec).init, jax.random.key(0)))

    hhar = STF(merge="zero", dead_bias=True)
    wifi = STF(merge="zero", operator="convolution", activation="frequency")
    assert count(STFNet(encoder=hhar), 3) == 212_910
    assert count(STFNet(encoder=wifi), 30) == 55_910


def test_late_fusion_is_the_mean_of_probabilities(batch):
    """W9: shares of 1 and 0 return each stream; sums to 1; two streams that agree stay."""

    class TwoStreams(STFCSL):
        @property
        def branch_widths(self):
            return (4, 4)

    backbone = TwoStreams(encoder=Conv1d(widths=(8,), kernels=(5,)))

    def logits(params=None, **head):
        method = Classify(backbone=backbone, head=Head(fusion="late", **head)).bind(MOTION)
        params = params or compiled(method, "init")(jax.random.key(0))
        return params, jax.nn.softmax(compiled(method, "encode")(params, batch).logits)

    params, first = logits(fusion_weights=(1.0, 0.0))
    _, second = logits(params, fusion_weights=(0.0, 3.0))
    _, both = logits(params, fusion_weights=(1.0, 3.0))
    _, equal = logits(params)
    np.testing.assert_allclose(both, 0.25 * first + 0.75 * second, atol=1e-6)
    np.testing.assert_allclose(equal, (first + second) / 2, atol=1e-6)
    np.testing.assert_allclose(both.sum(-1), 1, atol=1e-6)
    assert not np.allclose(first, second)


def test_late_fusion_wants_streams():
    cfg = Classify(backbone=STFCSL(encoder=SMALL["cnn"]), head=Head(fusion="late"))
    with pytest.raises(InputError, match="'late' needs an encoder with several branches"):
        cfg.bind(MOTION)
    with pytest.raises(InputError, match="must not all be 0"):
        Head(fusion_weights=(0.0, 0.0))


def test_binding_is_refused_where_blocks_do_not_fit():
    spec = replace(MOTION, signals=tuple(replace(s, samples=60) for s in MOTION.signals))
    with pytest.raises(InputError, match="60 samples are not a multiple of the longest window 16"):
        STFNet(encoder=SMALL["stf"]).bind(spec)


def test_only_supervised_training_skips_rows_without_a_label(tmp_path, monkeypatch):
    prepare("synthetic:motion", tmp_path, n=12, seconds=1.3, workers=1, progress=False)
    column, label = Shards.column, np.where(np.arange(12) % 3, 1, -1)
    monkeypatch.setattr(
        Shards, "column", lambda self, name: label if name == "label" else column(self, name)
    )

    def rows(name):
        changes = {"data__path": (str(tmp_path),), "data__split": None, "batch": 8}
        run = plan.plan_run(replace(recipes.load(name), **changes))
        with contextlib.closing(run.pipeline) as pipeline:
            return pipeline.rows.tolist()

    assert rows("cnn_csl_hapt") == list(range(12))
    assert rows("cnn_hapt") == np.flatnonzero(label >= 0).tolist()
    label[:] = -1
    with pytest.raises(InputError, match="motion-0: none of the rows to train on has a label"):
        rows("cnn_hapt")
