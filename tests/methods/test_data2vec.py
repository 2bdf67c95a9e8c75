"""data2vec 2.0 on waveforms: what the student sees, what the teacher says, what padding does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq import param_paths
from jfreq.config import replace
from jfreq.method import Streams
from jfreq.methods.common.teacher import gather_per_clone
from jfreq.methods.data2vec import Data2Vec
from jfreq.nn.apply import apply
from jfreq.nn.bias import ALiBi
from jfreq.nn.predictors import ConvDecoder
from jfreq.nn.vit import ViT
from jfreq.nn.waveform import ConvFeatures, ConvPositions
from jfreq.testing import compiled, fake_batch
from jfreq.types import DataSpec, InputError, SignalSpec

SECOND = DataSpec((SignalSpec("audio", 16000, 16000),))
SMALL = Data2Vec(
    features=ConvFeatures(widths=(8, 8), kernels=(40, 20), strides=(20, 16)),
    positions=ConvPositions(depth=2, kernel=3, groups=4),
    encoder=ViT(width=16, depth=2, heads=2, norm="post", eps=1e-5, bias=ALiBi()),
    decoder=ConvDecoder(width=8, depth=1, kernel=3, groups=4),
    clones=3,
    target_layers=2,
)
STREAMS = Streams(jax.random.key(3))


@functools.cache
def built():
    """Method, parameters, a teacher of other parameters, and a function of both and a batch: the
    loss and the gradients of student and teacher."""
    method = SMALL.bind(SECOND)
    init = compiled(method, "init")
    params, other = (init(jax.random.key(i)) for i in (0, 7))

    def loss(params, target, batch):
        found = method.loss(params, target, batch, STREAMS, 0)
        return found.value, found

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    return method, params, method.init_target(other), run


@functools.cache
def clips():
    """Four seconds of noise, of which two end early."""
    return fake_batch(SECOND, 4) | {"length": jnp.array([16000, 9000, 2000, 16000])}


def means(found):
    """Metrics of what ``run`` returns."""
    return {k: float(s / c) for k, (s, c) in found[0][1].all_metrics.items()}


def test_published_geometry():
    """20 ms a token, 24 of 49 masked, and the parameters of every part as the layers count."""
    method = Data2Vec().bind(SECOND)
    assert (method.grid.time, method.grid.hop, method.visible) == (49, 320, 25)
    shapes = jax.eval_shape(method.init, jax.random.key(0))
    context = shapes["context"]
    assert (
        param_paths.count(shapes["features"]) == 512 * (10 + 4 * 3 * 512 + 2 * 2 * 512) + 7 * 1024
    )
    assert param_paths.count(context["positions"]) == 5 * (19 * 48 * 768 + 768)
    assert param_paths.count(context["encoder"]) == 12 * 7_087_872 + 2 * 768 + 12
    first, others = 7 * 48 * 384 + 384, 3 * (7 * 24 * 384 + 384)
    assert param_paths.count(shapes["decoder"]) == first + others + 384 * 768 + 768


def test_the_loss_is_the_released_sum():
    """Squared errors over sqrt(d), summed, over the masked tokens; every clip counts alike."""
    method, params, target, run = built()
    found = run(params, target, clips())

    @jax.jit
    def parts(params, target):
        wave, valid = method.wave(clips())
        mask = method.sample_mask(STREAMS("mask"), jnp.repeat(valid, 3, axis=0))
        local, pred = apply(method.net, params, wave, valid, mask, STREAMS("fill"))
        truth = method.teacher_targets(target["context"], local, valid)
        return mask.masked, pred, gather_per_clone(truth, mask.masked)

    masked, pred, truth = (np.asarray(x) for x in parts(params, target))
    error = np.square(pred - truth).sum(-1) / 4.0
    rows = np.repeat([49, 27, 5, 49], 3)
    clones = [e[d < count].mean() for e, d, count in zip(error, masked, rows)]
    assert means(found)["loss"] == pytest.approx(np.mean(clones), rel=1e-4)


def test_who_learns():
    """Every parameter of the student; the teacher none, whose values matter all the same."""
    method, params, target, run = built()
    (value, _), (student, teacher) = run(params, target, clips())
    assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in jax.tree.leaves(student))
    assert all(not np.any(g) for g in jax.tree.leaves(teacher))
    assert set(target) == {"context"}, "the features of the waveform are the student's own"
    own = run(params, method.init_target(params), clips())[0][0]
    assert abs(float(value) - float(own)) > 1e-3


def test_targets_have_mean_zero_over_the_signal():
    method, _, target, _ = built()
    _, valid = method.wave(clips())
    local = jax.random.normal(jax.random.key(0), (4, 49, 16))
    truth = np.asarray(jax.jit(method.teacher_targets)(target["context"], local, valid))
    for clip, count in zip(truth, (49, 27, 5, 49)):
        np.testing.assert_allclose(clip[:count].mean(0), 0, atol=1e-5)
        np.testing.assert_array_equal(clip[count:], 0)


def test_a_masked_token_reaches_no_visible_one():
    method, params, _, _ = built()
    local, valid = jax.random.normal(jax.random.key(0), (2, 49, 16)), jnp.ones((2, 49), bool)
    mask = jax.jit(method.sample_mask)(jax.random.key(5), valid)
    run = jax.jit(lambda local: apply(method.context, params["context"], local, valid, mask)[0])
    poisoned = jnp.where(mask.is_masked[..., None], 1e3, local)
    np.testing.assert_array_equal(run(local), run(poisoned))


@pytest.mark.parametrize("blocks", ["masked", "visible"])
def test_half_of_the_signal_is_masked_in_blocks(blocks):
    """Neighbours share their lot more often than at random, in spans of what lies in blocks."""
    method = replace(SMALL, blocks=blocks).bind(SECOND)
    mask = jax.jit(method.sample_mask)(jax.random.key(0), jnp.ones((500, 49), bool))
    chosen = np.asarray(mask.is_masked) == (blocks == "masked")
    assert mask.masked.shape == (500, 24)
    spans = [
        len(s) for row in chosen for s in "".join("01"[c] for c in row.astype(int)).split("0") if s
    ]
    assert np.mean(np.array(spans) >= 5) > 0.3


def test_padding_and_gain_change_nothing():
    """What lies beyond a clip's end, how long its window is, how loud it was recorded."""
    method, params, target, run = built()
    batch = clips()
    inside = jnp.arange(16000)[None] < batch["length"][:, None]
    other = {**batch, "audio": jnp.where(inside[..., None], 50 * batch["audio"], 0.7)}
    one, two = (run(params, target, b)[0][0] for b in (batch, other))
    assert float(one) == pytest.approx(float(two), rel=1e-4)
    short = SMALL.bind(DataSpec((SignalSpec("audio", 16000, 12000),)))
    cut = {"audio": other["audio"][:, :12000], "length": jnp.array([12000, 9000, 2000, 12000])}
    whole, part = compiled(method, "encode")(params, batch), compiled(short, "encode")(params, cut)
    np.testing.assert_array_equal(whole.valid.sum(1), [49, 27, 5, 49])
    np.testing.assert_allclose(whole.clip[1:3], part.clip[1:3], atol=1e-3)
    np.testing.assert_allclose(whole.tokens[1, :27], part.tokens[1, :27], atol=1e-3)
    assert whole.layers.shape == (2, 4, 49, 16)


def test_a_head_that_trains_through_gets_dropout():
    _, params, *_ = built()
    dropping = replace(SMALL, encoder__dropout=0.5).bind(SECOND)
    run = jax.jit(lambda key: dropping.forward(params, clips(), Streams(key)).clip)
    one, two = run(jax.random.key(0)), run(jax.random.key(1))
    assert np.abs(one - two).max() > 0.01


def test_collapse_shows_in_the_log():
    method, params, target, run = built()
    fresh = means(run(params, target, clips()))
    dead = means(run(params, jax.tree.map(jnp.zeros_like, target), clips()))
    for name, least in method.collapse_thresholds.items():
        assert fresh[name] > least
        assert name == "pred_std" or dead[name] < least


def test_sensors_of_any_rate_and_number_of_channels():
    spec = DataSpec((SignalSpec("seismic", 100, 3000, 3), SignalSpec("audio", 8000, 240_000)))
    method = replace(SMALL, modality="seismic").bind(spec)
    assert [s.name for s in method.signals] == ["seismic"]
    assert method.grid.time == 9
    shapes = jax.eval_shape(method.init, jax.random.key(0))
    assert shapes["features"]["conv0"]["kernel"].shape == (40, 3, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask_ratio": 1.0}, "Data2Vec.mask_ratio"),
        ({"mask_ratio": 0.01}, "leaves 49 visible"),
        ({"target_layers": 3}, "method.target_layers: must be 2 or less"),
        ({"positions": ConvPositions(groups=5)}, "method.positions.groups: 5 must divide"),
        ({"encoder": ViT(width=18, depth=2, heads=2)}, "must divide encoder.width 18"),
        ({"features": ConvFeatures(strides=(9,) * 7)}, "features: windows of 16000 samples"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(InputError, match=message):
        replace(SMALL, **change).bind(SECOND)
