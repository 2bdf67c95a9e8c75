import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jfreq import losses, param_paths
from jfreq.augment import Views
from jfreq.config import Experiment, Optim, replace
from jfreq.data.sources import synthetic
from jfreq.export.bundle import load_bundle, save_bundle
from jfreq.frontends.scalogram import Scalogram
from jfreq.method import Streams, encoder_params
from jfreq.methods.ltfc import LTFC, cell_means, dense_contrast, map_view
from jfreq.methods.supervised import Classify, Head
from jfreq.nn.cnn1d import Conv1d
from jfreq.nn.cnn2d import Conv2d
from jfreq.testing import assert_step_specs, compiled, loss_and_grad
from jfreq.train.optimizer import make
from jfreq.types import DataSpec, InputError, SignalSpec

RAW = Scalogram(rate=50.0, n_scales=16, standardise="none")
SMALL = LTFC(
    encoder=Conv1d(widths=(8, 12), kernels=(12, 8)),
    frontend=RAW,
    map_encoder=Conv2d(widths=(8, 16), time_strides=(2, 2), freq_strides=(2, 2), groups=4),
    time_projection=(16, 8),
    map_projection=(16, 8),
    views=Views(time=("scale", "jitter"), frequency=()),
    cells=3,
)
STREAMS = ("both", "time", "frequency")


def data(seconds=3.2, n=20):
    """Windows of a walking, running, ... person, and what the shards would say of them."""
    clips = synthetic.make("motion", n=n, seconds=seconds)
    x = np.stack([c.signals["acc"][0] for c in clips])
    mean, std = (tuple(map(float, f(x, axis=(0, 1)))) for f in (np.mean, np.std))
    signal = SignalSpec("acc", 50.0, x.shape[1], 3, mean, std)
    label = jnp.asarray([c.label for c in clips])
    return DataSpec((signal,), synthetic.MOTIONS), {"acc": jnp.asarray(x), "label": label}


@pytest.fixture(scope="module")
def motion():
    return data()


@functools.cache
def setup(cfg, spec):
    """The same objects for the same config: what is compiled once serves all tests."""
    method = cfg.bind(spec)
    return method, compiled(method, "init")(jax.random.key(0))


def unit(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


# ------------------------------------------------------------------ local contrast


def test_one_cell_is_the_whole_clip():
    """W7."""
    a, b = unit(0, 6, 10, 5), unit(1, 6, 10, 5)

    @jax.jit
    def both(a, b):
        cells = cell_means(a, 1), cell_means(b, 1)
        whole = losses.nt_xent(a.mean(1), b.mean(1), temperature=0.2)
        return dense_contrast(*cells, temperature=0.2), whole

    np.testing.assert_allclose(*both(a, b), rtol=1e-5)


def test_dense_contrast_pairs_cells_in_time():
    """W8: rolling both views leaves it alone, rolling one raises it; and it is the average of
    one contrast for each cell, in float64."""
    a = unit(0, 6, 5, 8)
    b = a + 0.3 * unit(1, 6, 5, 8)
    run = jax.jit(functools.partial(dense_contrast, temperature=0.1))
    aligned = run(a, b)
    both = run(jnp.roll(a, 2, 1), jnp.roll(b, 2, 1))
    np.testing.assert_allclose(both, aligned, rtol=1e-5)
    assert run(a, jnp.roll(b, 1, 1)).mean() > aligned.mean() + 1
    z = np.concatenate([a, b]).astype(np.float64)
    z = z / np.linalg.norm(z, axis=-1, keepdims=True)
    value = np.zeros(6)
    for u in range(5):
        score = z[:, u] @ z[:, u].T / 0.1
        np.fill_diagonal(score, -np.inf)
        log_prob = score - np.log(np.exp(score).sum(1, keepdims=True))
        for i in range(6):
            value[i] -= (log_prob[i, i + 6] + log_prob[i + 6, i]) / 2 / 5
    np.testing.assert_allclose(aligned, value, rtol=1e-4)


def test_other_cells_of_the_same_clip_are_no_negatives():
    """A perfectly periodic clip, all cells equal, is as good as any: the loss of each cell."""
    a, b = unit(0, 4, 1, 8), unit(1, 4, 1, 8)
    run = jax.jit(functools.partial(dense_contrast, temperature=0.1))
    many = run(jnp.repeat(a, 5, 1), jnp.repeat(b, 5, 1))
    np.testing.assert_allclose(many, run(a, b), rtol=1e-5)


@pytest.mark.parametrize(("n", "cells"), [(25, 5), (7, 3), (4, 4)])
def test_cells_share_the_time_evenly(n, cells):
    """A step of many fine grains gives the same means as steps split among cells."""
    x = np.random.default_rng(0).normal(size=(2, n, 3)).astype(np.float32)
    fine = np.repeat(x, cells, axis=1).reshape(2, cells, n, 3).mean(2)
    np.testing.assert_allclose(cell_means(jnp.asarray(x), cells), fine, atol=1e-5)


def test_views_leave_places_in_time_unless_cropped(motion):
    """A click stays in its frame in every view of the dense form."""
    spec, _ = motion
    level = jnp.zeros((64, 40, 16, 3)).at[:, 20].set(2.0)
    views = replace(SMALL.map_views, time_mask=0.0)
    run = jax.jit(map_view, static_argnames="cfg")
    kept = run(jax.random.key(0), level, cfg=replace(SMALL, map_views=views).bind(spec))
    assert (np.asarray(kept).sum((2, 3)).argmax(1) == 20).all()
    cropped = run(jax.random.key(0), level, cfg=replace(SMALL, local="crops").bind(spec))
    assert len(set(np.asarray(cropped).sum((2, 3)).argmax(1).tolist())) > 5


# ------------------------------------------------------------------ the method


def test_defaults_are_the_sheets():
    """Sizes of the specification: 64 x 100 x 3, a map of 4 x 25 x 128, heads, TPN."""
    spec, _ = data(seconds=8.0, n=2)
    cfg = LTFC().bind(spec)
    assert cfg.frontend is not None
    assert (cfg.frontend.bins, cfg.frames) == (64, 100)
    assert cfg.map_encoder.shape(cfg.frames, cfg.frontend.bins) == (25, 4)
    assert (cfg.grid.time, cfg.grid.freq, cfg.grid.first, cfg.grid.hop) == (25, 1, 2.0, 16)
    assert cfg.branch_widths == (96, 128)
    params = jax.eval_shape(lambda k: cfg.init(k), jax.random.key(0))
    shapes = {k: v.shape for k, v in param_paths.flatten(params).items()}
    kernels = {k: s for k, s in shapes.items() if k.endswith("kernel")}
    time = [s for k, s in kernels.items() if k.startswith("time/encoder")]
    assert sorted(time) == sorted([(24, 3, 32), (16, 32, 64), (8, 64, 96)])
    sizes = [kernels[f"time/projection/dense{i}/kernel"][1] for i in range(3)]
    assert sizes == [256, 128, 50]
    for head in ("global", "local"):
        assert kernels[f"frequency/projection/{head}/dense1/kernel"] == (128, 64)
    assert [kernels[f"frequency/net/encoder/conv{i}/kernel"] for i in range(4)] == [
        (3, 3, 3, 32),
        (3, 3, 32, 64),
        (3, 3, 64, 128),
        (3, 3, 128, 128),
    ]


@pytest.mark.parametrize("branch", STREAMS)
def test_all_parameters_learn_and_branches_share_nothing(motion, branch):
    spec, batch = motion
    method, params = setup(replace(SMALL, branch=branch), spec)
    assert set(params) == ({"time", "frequency"} if branch == "both" else {branch})
    found, grads = loss_and_grad(method, params, batch, jax.random.key(1))
    for path, leaf in param_paths.flatten(grads).items():
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path
    value = {k: float(s / c) for k, (s, c) in found.metrics.items()}
    assert value["loss"] == pytest.approx(sum(value[k] for k in params), rel=1e-5)
    if branch != "time":
        both = 0.5 * value["global"] + 0.5 * value["local"]
        assert value["frequency"] == pytest.approx(both, rel=1e-5)


def test_the_sum_trains_each_branch_as_if_alone(motion):
    spec, batch = motion
    method, params = setup(SMALL, spec)
    _, whole = loss_and_grad(method, params, batch, jax.random.key(1))
    other = {**params, "frequency": jax.tree.map(lambda v: 1.1 * v, params["frequency"])}
    _, moved = loss_and_grad(method, other, batch, jax.random.key(1))
    for a, b in zip(jax.tree.leaves(whole["time"]), jax.tree.leaves(moved["time"])):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("local", ["crops", "none"])
def test_without_cells_there_is_no_second_head(motion, local):
    spec, batch = motion
    method, params = setup(replace(SMALL, branch="frequency", local=local), spec)
    assert set(params["frequency"]["projection"]) == {"global"}
    found = compiled(method, "loss")(params, {}, batch, Streams(jax.random.key(1)), 0)
    assert set(found.metrics) == {"loss", "frequency"} and np.isfinite(found.value)
    assert method.bind(spec) == method


def test_learns_synthetic_motion(motion):
    """Loss and contrast of both branches fall, in one compilation."""
    spec, batch = motion
    batch = {"acc": batch["acc"]}
    method, params = setup(SMALL, spec)
    optimiser = optax.adam(3e-3)

    @jax.jit
    def step(params, opt, key):
        found, grads = loss_and_grad(method, params, batch, key)
        updates, opt = optimiser.update(grads, opt)
        mean = {k: s / c for k, (s, c) in found.metrics.items()}
        return optax.apply_updates(params, updates), opt, mean

    opt, history = optimiser.init(params), []
    for i in range(60):
        params, opt, mean = step(params, opt, jax.random.key(i))
        history.append(mean)
    assert step._cache_size() == 1  # type: ignore[attr-defined]
    for name in ("loss", "time", "global", "local"):
        first, last = (
            np.mean([float(m[name]) for m in part]) for part in (history[:5], history[-5:])
        )
        assert last < 0.9 * first, name


@pytest.mark.parametrize("branch", STREAMS)
def test_encoding(motion, branch):
    """The grid, the parts of the clip vector, determinism, and only the encoder's weights."""
    spec, batch = motion
    method, params = setup(replace(SMALL, branch=branch), spec)
    encode = compiled(method, "encode")
    found = encode(params, batch)
    widths = {"both": (12, 16), "time": (12,), "frequency": (16,)}[branch]
    assert method.branch_widths == (widths if branch == "both" else ())
    assert found.clip.shape == (20, sum(widths))
    assert found.tokens.shape == (20, method.grid.time, sum(widths))
    np.testing.assert_array_equal(found.clip, encode(params, batch).clip)
    alone = encode(params, {"acc": batch["acc"][:1]})
    np.testing.assert_allclose(alone.clip, found.clip[:1], atol=1e-5)
    kept = encoder_params(method, params)
    assert not any("projection" in path for path in param_paths.flatten(kept))
    np.testing.assert_array_equal(encode(kept, batch).clip, found.clip)


def test_branches_side_by_side_are_the_branches(motion):
    spec, batch = motion
    method, params = setup(SMALL, spec)
    both = compiled(method, "encode")(params, batch)
    one, two = (replace(SMALL, branch=s).bind(spec) for s in ("time", "frequency"))
    time, frequency = (compiled(m, "encode")(params, batch) for m in (one, two))
    np.testing.assert_allclose(
        both.clip, jnp.concatenate([time.clip, frequency.clip], 1), rtol=1e-6
    )
    np.testing.assert_allclose(both.tokens[..., 12:], frequency.tokens, rtol=1e-6)
    centre = both.grid.first + both.grid.hop * np.arange(both.grid.time)
    source = time.grid.first + time.grid.hop * np.arange(time.grid.time)
    for d in range(12):
        expected = np.interp(centre, source, np.asarray(time.tokens)[3, :, d])
        np.testing.assert_allclose(both.tokens[3, :, d], expected, atol=1e-4)


def test_gravity_reaches_the_time_branch_only(motion):
    """Sitting and standing differ in the direction of gravity, which a wavelet of zero mean does
    not see; without levels of the data, for the mean itself is the matter."""
    spec, batch = motion
    turned = {"acc": batch["acc"] + jnp.array([[[0.9, 0.0, -0.9]]])}
    cfg = replace(SMALL, standardise="none")
    for branch, seen in (("time", True), ("frequency", False)):
        method, params = setup(replace(cfg, branch=branch), spec)
        encode = compiled(method, "encode")
        moved = np.abs(encode(params, turned).clip - encode(params, batch).clip).max()
        assert (moved > 0.1) == seen
        assert seen or moved < 1e-2


def test_padding_does_not_count(motion):
    spec, batch = motion
    method, params = setup(SMALL, spec)
    encode = compiled(method, "encode")
    length = jnp.full(20, 100)
    inside = jnp.arange(160)[None, :, None] < length[:, None, None]
    one = encode(params, {"acc": batch["acc"] * inside, "length": length})
    two = encode(params, {"acc": jnp.where(inside, batch["acc"], 3.0), "length": length})
    np.testing.assert_array_equal(one.valid, two.valid)
    assert 0 < np.asarray(one.valid).sum() < one.valid.size
    np.testing.assert_allclose(one.clip, two.clip, atol=1e-5)


def test_late_fusion(motion):
    """W9: a share of 1 is that branch alone, probabilities sum to one, equal branches stay."""
    spec, batch = motion
    shared = None
    probs = {}
    for weights in ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0)):
        head = Head(fusion="late", fusion_weights=weights)
        method, params = setup(Classify(backbone=SMALL, head=head), spec)
        shared = shared or params
        logits = compiled(method, "encode")(shared, batch).logits
        probs[weights] = np.exp(np.asarray(logits))
        np.testing.assert_allclose(probs[weights].sum(1), 1, rtol=1e-5)
    mean = (probs[1.0, 0.0] + probs[0.0, 1.0]) / 2
    np.testing.assert_allclose(probs[1.0, 1.0], mean, rtol=1e-4)
    assert np.abs(probs[1.0, 0.0] - probs[0.0, 1.0]).max() > 1e-3


def test_a_frozen_encoder_stays_to_the_bit(motion):
    """W10."""
    spec, batch = motion
    method, params = setup(Classify(backbone=SMALL), spec)
    optim = Optim(lr=1e-2, weight_decay=0.1, lr_mult=((r"backbone/.*", 0.0),))
    optimiser = make(optim, steps=5, params=params)
    _, grads = loss_and_grad(method, params, batch, jax.random.key(0))

    @jax.jit
    def updated(params, grads):
        updates, _ = optimiser.update(grads, optimiser.init(params), params)
        return optax.apply_updates(params, updates)

    after = updated(params, grads)
    for a, b in zip(jax.tree.leaves(params["backbone"]), jax.tree.leaves(after["backbone"])):
        np.testing.assert_array_equal(a, b)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), params["head"], after["head"])
    assert any(jax.tree.leaves(moved))


def test_a_bundle_encodes_as_training_did(motion, tmp_path):
    spec, batch = motion
    method, params = setup(SMALL, spec)
    experiment = Experiment("x", method)
    kept = encoder_params(method, params)
    folder = save_bundle(tmp_path / "enc", experiment=experiment, params=kept)
    found = load_bundle(folder)
    assert found.experiment == experiment
    clip = compiled(found.experiment.method, "encode")(found.params, batch).clip
    np.testing.assert_array_equal(clip, compiled(method, "encode")(params, batch).clip)


@pytest.mark.parametrize("branch", STREAMS)
def test_steps_trace(motion, branch):
    assert_step_specs(Experiment("x", replace(SMALL, branch=branch), batch=4), motion[0])


def test_several_sensors_and_other_rates():
    signals = tuple(
        SignalSpec(n, 100.0, 300, c, (0.0,) * c, (1.0,) * c) for n, c in (("acc", 3), ("gyro", 3))
    )
    cfg = replace(SMALL, modalities=None, frontend=None)
    bound = cfg.bind(DataSpec(signals))
    assert bound.frontend is not None and bound.frontend.rate == 100
    assert bound.frontend.frequencies[-1] == pytest.approx(40)
    method = bound
    params = jax.eval_shape(lambda k: method.init(k), jax.random.key(0))
    assert params["frequency"]["net"]["encoder"]["conv0"]["kernel"].shape[2] == 6


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"temperature": 0.0}, "LTFC.temperature"),
        ({"global_weight": 1.5}, "LTFC.global_weight"),
        ({"frontend": Scalogram(rate=50.0)}, "method.frontend.standardise: .*'none'"),
        ({"cells": 11}, "method.cells: must be 10 or less"),
        ({"modalities": ("gyro",)}, "no signal 'gyro'"),
        ({"frontend": Scalogram(rate=20.0, standardise="none")}, "at 50 Hz"),
        ({"map_views__gain": (2.0, 1.0)}, "map_views.gain"),
        ({"map_views__area": (0.5, 0.4)}, "map_views.area"),
        ({"map_views__time_mask": 1.0}, "map_views.time_mask"),
    ],
)
def test_bad_configs_are_refused(motion, changes, match):
    spec, _ = motion
    with pytest.raises(InputError, match=match):
        replace(SMALL, **changes).bind(spec)


def test_unknown_statistics_are_refused():
    spec = DataSpec((SignalSpec("acc", 50.0, 160, 3),))
    with pytest.raises(InputError, match=r"method.standardise: .*'acc'; use 'clip'"):
        SMALL.bind(spec)
    assert replace(SMALL, standardise="clip").bind(spec).signals == spec.signals
