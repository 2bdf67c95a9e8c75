"""FreqMAE: the properties that its sheet lists, as released and as meant."""

import dataclasses
import math
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jfreq import losses, param_paths, recipes
from jfreq.config import Optim, replace
from jfreq.frontends.sensor_stft import Spectrum
from jfreq.masks import window_masks
from jfreq.method import Streams
from jfreq.methods.freqmae import FreqMAE, as_released, frequency_weights
from jfreq.nn.swin import Swin
from jfreq.testing import ACC_MIC, compiled, data_of, fake_batch, fitted, loss_and_grad
from jfreq.train import optimizer
from jfreq.types import DataSpec, InputError, SignalSpec

MOD = DataSpec((SignalSpec("audio", 8000, 16000), SignalSpec("seismic", 100, 200)))
QUIET: dict[str, Any] = {"dropout": 0.0, "attention_dropout": 0.0, "drop_path": 0.0}
SMALL = FreqMAE(
    encoder=Swin(width=8, depths=(2,), heads=2, window=(2, 4), **QUIET),
    embedding=12,
    fusion=16,
    patch_bins=(2, 4),
)
"""One stage compiles fast; what merging does is tested in tests/nn/test_swin.py."""


@pytest.fixture(scope="module")
def small():
    method = SMALL.bind(ACC_MIC)
    return method, compiled(method, "init")(jax.random.key(1))


# ------------------------------------------------------------------ geometry


@pytest.mark.parametrize(
    ("name", "tokens", "masked"), [("audio", (12, 72), 72), ("seismic", (12, 36), 36)]
)
def test_released_grid_of_mod(name, tokens, masked):
    cfg = cast(FreqMAE, recipes.load("freqmae_mod_released").method.bind(MOD))
    spec = cfg.specs[name]
    read = cfg.read_tokens(spec)
    assert spec.grid.shape == tokens and read.all()
    assert window_masks.count(read, cfg.swin(spec.tokens).window, 0.75) == masked
    sampled = window_masks.sample(jax.random.key(0), 3, read, window=(1, 9), ratio=0.75)
    assert np.asarray(sampled).sum((1, 2)).tolist() == [9 * masked] * 3


def test_size_of_the_published_network():
    method = recipes.load("freqmae_mod_released").method.bind(MOD)
    shapes = param_paths.flatten(jax.eval_shape(method.init, jax.random.key(0)))
    count = {
        part: sum(math.prod(leaf.shape) for path, leaf in shapes.items() if path.startswith(part))
        for part in (
            "sensor_audio",
            "sensor_seismic",
            "unimodal_decoder_audio",
            "unimodal_decoder_seismic",
            "predict",
        )
    }
    assert count["sensor_audio"] == 7_365_984 + 64  # with the mask token
    assert count["sensor_seismic"] == 5_591_520 + 64
    assert count["unimodal_decoder_audio"] == 4_223_136
    assert count["unimodal_decoder_seismic"] == 2_441_682
    assert count["predict"] == 525_824


def test_intended_grid_shrinks_windows_and_knows_padding():
    cfg = cast(FreqMAE, recipes.load("freqmae_mod").method.bind(MOD))
    audio, seismic = cfg.specs["audio"], cfg.specs["seismic"]
    assert audio.tokens == (10, 20) and seismic.tokens == (10, 10)
    assert cfg.read_tokens(audio).sum() == 200 and cfg.read_tokens(seismic).sum() == 100
    assert seismic.grid.freq < 36 and cfg.swin(seismic.tokens).window[1] <= 3
    (time, freq), read = cfg.swin(audio.tokens).window, cfg.read_tokens(audio)
    masked = window_masks.sample(jax.random.key(0), 2, read, window=(time, freq), ratio=0.75)
    blocks = np.asarray(masked).reshape(2, -1, time, audio.grid.freq // freq, freq)
    assert (blocks.any((2, 4)) == blocks.all((2, 4))).all()  # constant inside a window
    assert (masked[0] != masked[1]).any()


# ------------------------------------------------------------------ weights and losses


def test_frequency_weights():
    released = frequency_weights(2880, two_sided=True)
    assert np.allclose(released[[0, 400, 800, 1200, 1599]], [1, 0.72, 0.44, 0.17, 0.11], atol=0.005)
    assert released[1600:].sum() / released.sum() == pytest.approx(0.49, abs=0.005)
    for bins in (10, 11):
        two = frequency_weights(bins, two_sided=True)
        assert np.allclose(two, two[::-1]) and two[0] == 1 and two.min() == 0 and two.max() == 1
        one = frequency_weights(bins, two_sided=False)
        assert one[0] == 1 and one[-1] == 0 and (np.diff(one) < 0).all()


def test_padding_has_no_weight_unless_as_released():
    from jfreq.methods.freqmae import _cell_weights

    cfg = cast(FreqMAE, recipes.load("freqmae_mod").method.bind(MOD))
    spec = cfg.specs["audio"]
    assert spec.patch == (1, 40) and spec.grid.shape == (16, 20)
    weight = _cell_weights(cfg, spec).reshape(*spec.grid.shape, -1)
    assert weight[:10].all(-1).sum() == 10 * 19 and not weight[10:].any()
    released = cast(FreqMAE, recipes.load("freqmae_mod_released").method.bind(MOD))
    full = _cell_weights(released, released.specs["audio"]).reshape(12, 72, -1)
    assert full[10:].any() and full[:, 40:].any()


def test_exponent_has_no_gradient_as_released_and_has_one_as_meant():
    rng = np.random.default_rng(0)
    error, energy, signal = (jnp.asarray(rng.uniform(1, 9, 6), jnp.float32) for _ in range(3))
    count = jnp.full(6, 7)

    def released(error, exponent):
        return losses.wpsnr_as_released(error, energy, exponent=exponent, count=count).sum()

    grads = [jax.grad(released)(error, e) for e in (0.0, 0.3, 1.0)]
    np.testing.assert_array_equal(grads[0], grads[1])
    np.testing.assert_array_equal(grads[0], grads[2])
    assert released(error, 0.0) != released(error, 1.0)
    np.testing.assert_allclose(grads[0], 10 / np.log(10) / 7 / error, rtol=1e-6)

    def meant(error, energy):
        return losses.snr_weighted(error, signal, energy, exponent=0.3).sum()

    louder = energy.at[2].multiply(2.0)
    share = [
        jax.grad(meant)(error, e) / jnp.where(jnp.arange(6) == 2, 1.0, 1.0)
        for e in (energy, louder)
    ]
    ratio = (share[1][2] / share[1][0]) / (share[0][2] / share[0][0])
    assert float(ratio) == pytest.approx(2**0.3, rel=1e-5)


def test_joint_scaling():
    error = jnp.array([2.0, 5.0])
    energy, signal, count = jnp.array([3.0, 4.0]), jnp.array([9.0, 7.0]), jnp.full(2, 5)
    s = 3.0
    for exponent in (0.0, 0.3):
        a = losses.wpsnr_as_released(error, energy, exponent=exponent, count=count)
        b = losses.wpsnr_as_released(s**2 * error, s**2 * energy, exponent=exponent, count=count)
        constant = 10 / np.log(10) * (2 - 2 * exponent) * np.log(s) / 5
        np.testing.assert_allclose(b - a, constant, rtol=1e-5)
    one = losses.snr_weighted(error, signal, energy, exponent=0.0)
    scaled = losses.snr_weighted(
        error * jnp.array([9.0, 1.0]),
        signal * jnp.array([9.0, 1.0]),
        energy * jnp.array([9.0, 1.0]),
        exponent=0.0,
    )
    np.testing.assert_allclose(one, scaled, rtol=1e-5)
    np.testing.assert_allclose(one, -10 * np.log10(signal / error), rtol=1e-4)


def test_a_bin_of_zero_weight_has_no_gradient(small):
    from jfreq.methods.freqmae import _cell_weights, _error, _error_weights

    cfg = small[0]
    spec = cfg.specs["mic"]
    weight = _cell_weights(cfg, spec)
    rng = np.random.default_rng(0)
    out, truth = (jnp.asarray(rng.normal(size=(2, *weight.shape)), jnp.float32) for _ in range(2))
    masked, frames = jnp.ones((2, *spec.grid.shape), bool), jnp.ones((2, spec.frames), bool)
    under_mask = _error_weights(cfg, spec, masked, frames)

    def loss(out):
        return _error(cfg, out, truth, under_mask, jnp.ones(2), jnp.ones(2)).sum()

    grad = np.asarray(jax.jit(jax.grad(loss))(out))
    assert (weight == 0).any() and not grad[:, weight == 0].any() and grad[:, weight > 0].all()


# ------------------------------------------------------------------ the network


def test_what_is_masked_is_the_mask_token(small):
    """Everything masked: the vector of a sensor depends on nothing it measured."""
    from jfreq.methods.freqmae import _Net

    cfg, params = small
    rng = np.random.default_rng(0)
    masked = {n: jnp.ones((2, *spec.grid.shape), bool) for n, spec in cfg.specs.items()}
    present = {n: jnp.ones(2, bool) for n in cfg.specs}

    @jax.jit
    def vectors(patches):
        return _Net(cfg).apply({"params": params}, patches, present, masked, method=_Net.vectors)

    shape = {n: (2, spec.grid.size, spec.patch_size) for n, spec in cfg.specs.items()}
    a, b = (
        vectors({n: rng.normal(size=shape[n]).astype(np.float32) for n in shape})[0]
        for _ in range(2)
    )
    for name in cfg.specs:
        np.testing.assert_array_equal(a[name], b[name])


def test_a_prediction_ignores_its_own_sensor(small):
    method, params = small
    batch, encode = fake_batch(ACC_MIC, 2), compiled(method, "encode")
    changed = batch | {"acc": -2 * batch["acc"]}
    one, other = (np.asarray(encode(params, b).clip) for b in (batch, changed))
    assert one.shape == (2, 2 * 2 * 12)  # own and predicted, two sensors
    own_acc, own_mic, of_acc, of_mic = (slice(i * 12, (i + 1) * 12) for i in range(4))
    assert (one[:, own_acc] != other[:, own_acc]).any()
    np.testing.assert_array_equal(one[:, own_mic], other[:, own_mic])
    np.testing.assert_array_equal(one[:, of_acc], other[:, of_acc])
    assert (one[:, of_mic] != other[:, of_mic]).any()


def test_without_gamma_fusion_is_not_trained(small):
    method, params = small
    batch, key = fake_batch(ACC_MIC, 2), jax.random.key(0)
    with_fusion = param_paths.flatten(loss_and_grad(method, params, batch, key)[1])
    off = replace(SMALL, gamma=0.0).bind(ACC_MIC)
    without = param_paths.flatten(loss_and_grad(off, params, batch, key)[1])
    fusion = [p for p in with_fusion if p.startswith(("fused_decoder", "predict"))]
    assert fusion
    assert all(np.asarray(with_fusion[p]).any() for p in fusion if p.endswith("kernel"))
    assert not any(np.asarray(without[p]).any() for p in fusion)
    assert any(np.asarray(without[p]).any() for p in without if p.startswith("unimodal_decoder"))


@pytest.mark.parametrize(("embed", "width"), [("unimodal", 24), ("fused", 24), ("both", 48)])
def test_width_of_the_clip_vector(small, embed, width):
    method = replace(SMALL, embed=embed).bind(ACC_MIC)
    found = jax.eval_shape(method.encode, small[1], fake_batch(ACC_MIC, 2))
    assert found.clip.shape == (2, width)


def test_frozen_patch_embedding_stays(small):
    method, params = small
    frozen = dict(recipes.load("freqmae_nano").optim.lr_mult)
    cfg = Optim(lr=0.1, weight_decay=0.5, lr_mult=tuple(frozen.items()))
    optimiser = optimizer.make(cfg, steps=10, params=params)

    @jax.jit
    def updated(grads, state, now):
        updates, state = optimiser.update(grads, state, now)
        return optax.apply_updates(now, updates), state

    state, now = optimiser.init(params), params
    for i in range(3):
        grads = loss_and_grad(method, now, fake_batch(ACC_MIC, 2, seed=i), jax.random.key(i))[1]
        now, state = updated(grads, state, now)
    before, after = param_paths.flatten(params), param_paths.flatten(now)
    fixed = [p for p in before if "/patch_embed/" in p]
    assert len(fixed) == 8
    for path in before:
        same = np.array_equal(before[path], after[path])
        assert same == (path in fixed) or not np.asarray(before[path]).any(), path


def test_absent_sensors_and_short_windows(small):
    method, params = small
    batch = fake_batch(ACC_MIC, 3) | {"length": jnp.array([128, 40, 128])}
    batch["acc"] = batch["acc"].at[0].set(0.0).at[2, 1, 1].set(jnp.nan)
    batch["mic"] = batch["mic"].at[2].set(0.0)
    found, grads = loss_and_grad(method, params, batch, jax.random.key(0))
    assert np.isfinite(found.value) and all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    found = compiled(method, "encode")(params, batch)
    assert np.isfinite(found.clip).all() and not np.asarray(found.clip[0, :12]).any()
    assert np.asarray(found.valid.sum(1)).tolist() == [8, 2, 0]


def test_tokens_lie_on_the_last_plane():
    method = replace(SMALL, encoder__depths=(1, 1)).bind(ACC_MIC)
    grid = method.grid
    assert grid.hop == 32 and grid.first == 16 and grid.time == 4
    params = jax.eval_shape(method.init, jax.random.key(0))
    found = jax.eval_shape(method.encode, params, fake_batch(ACC_MIC, 3))
    assert found.tokens.shape == (3, 4, 2 * 16) and found.valid.shape == (3, 4)


def test_encoding_is_deterministic_and_training_is_not(small):
    _, params = small
    noisy = replace(SMALL, encoder__dropout=0.5).bind(ACC_MIC)
    batch, encode = fake_batch(ACC_MIC, 2), compiled(noisy, "encode")
    a, b = (encode(params, batch).clip for _ in range(2))
    np.testing.assert_array_equal(a, b)
    c = compiled(noisy, "forward")(params, batch, Streams(jax.random.key(0))).clip
    assert (np.asarray(a) != np.asarray(c)).any()


def test_it_overfits_a_few_samples(small):
    """The reconstruction of fixed samples gets better than their mean spectrum."""
    method, params = small
    rng = np.random.default_rng(0)
    t = np.arange(512) / 200
    f = rng.uniform(3, 12, (8, 1))
    wave = np.sin(2 * np.pi * f * t)
    batch = {
        "acc": jnp.asarray(np.repeat(wave[:, ::4, None], 3, -1), jnp.float32),
        "mic": jnp.asarray(wave[..., None], jnp.float32),
    }
    params, values = fitted(method, params, batch, steps=150)
    smooth = np.convolve(values, np.ones(30) / 30, "valid")[::30]
    assert (np.diff(smooth) < 0).all(), smooth
    found = compiled(method, "reconstruct")(params, batch, Streams(jax.random.key(7)))
    spec, pred = np.asarray(found.spectrogram), np.asarray(found.reconstruction)
    masked = np.asarray(found.masked)[..., None]
    mean = np.broadcast_to(spec.mean((0, 1), keepdims=True), spec.shape)
    assert ((pred - spec) ** 2)[masked].mean() < ((mean - spec) ** 2)[masked].mean()


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mask_ratio": 0.0}, "between 0 and 1"),
        ({"mask_ratio": 0.01}, "masks none of"),
        ({"gamma": -1.0}, "must be 0 or more"),
        ({"modalities": ("acc",), "patch_bins": (2,), "embed": "fused"}, "needs two sensors"),
        ({"frontend": Spectrum(0.321)}, "16.05 samples of 'acc'"),
    ],
)
def test_bad_settings_are_refused(changes, words):
    with pytest.raises(InputError, match=words):
        dataclasses.replace(SMALL, **changes).bind(ACC_MIC)


def test_one_sensor_is_enough():
    method = replace(SMALL, modalities=("acc",), patch_bins=(2,)).bind(ACC_MIC)
    params = jax.eval_shape(method.init, jax.random.key(0))
    assert not any(p.startswith("predict") for p in param_paths.flatten(params))
    found = jax.eval_shape(method.encode, params, fake_batch(ACC_MIC, 2))
    assert found.clip.shape == (2, 12)


@pytest.mark.parametrize("kind", ["time", "tube", "mixed"])
def test_other_masks_trace_in_both_forms(kind):
    for base in (SMALL, as_released(SMALL)):
        cfg = replace(base, mask_kind=kind, mask_ratio=0.5, patch_bins=(1, 2))
        method = cfg.bind(ACC_MIC)
        params = jax.eval_shape(method.init, jax.random.key(0))
        rngs = Streams(jax.random.key(0))
        found = jax.eval_shape(method.loss, params, {}, fake_batch(ACC_MIC, 2), rngs, 0)
        assert found.value.shape == ()


def test_children_as_released_need_padding_as_released():
    with pytest.raises(InputError, match=r"method\.children"):
        replace(SMALL, children="as_released")
    assert as_released(SMALL).children == "as_released"


def test_released_recipes_decay_all_that_is_trained():
    """As torch's AdamW: norms, biases, position biases and mask tokens; the frozen patch embedding
    has no gradient there and keeps its values."""
    experiment = recipes.load("freqmae_released_hapt")
    method = experiment.method.bind(data_of(experiment))
    params = jax.eval_shape(method.init, jax.random.key(0))
    optim = experiment.optim
    assert all(jax.tree.leaves(optimizer.decay_mask(optim, params)))
    frozen = [p for p in param_paths.flatten(params) if "/patch_embed/" in p]
    assert frozen and dict(optim.lr_mult) == {".*/patch_embed/.*": 0.0}
