"""Masks by energy and coherence on both trunks: counts, budgets, direction, what is refused."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq.config import replace
from jfreq.masks import energy_coherence
from jfreq.method import Streams
from jfreq.methods.freqmae import FreqMAE
from jfreq.methods.mae import MAE
from jfreq.methods.phymask import PhyMask, scores, unit_masks
from jfreq.nn.swin import Swin
from jfreq.nn.vit import ViT
from jfreq.testing import ACC_MIC, MOTION, compiled, fake_batch, loss_and_grad
from jfreq.types import InputError

SCORES = jax.jit(scores, static_argnums=0)
UNIT_MASKS = jax.jit(unit_masks, static_argnums=0)
VIT = MAE(
    encoder=ViT(width=16, depth=1, heads=2),
    decoder=ViT(width=8, depth=1, heads=2),
    mask_ratio=0.9,
    patch_bins=(1, 4),
)
SWIN = FreqMAE(
    encoder=Swin(width=8, depths=(1,), heads=2, window=(2, 4)),
    embedding=8,
    fusion=8,
    patch_bins=(1, 2),
)


def burst(rows=4, seed=0):
    """Faint noise, and in ``mic`` one loud stretch of one tone."""
    rng = np.random.default_rng(seed)
    batch = fake_batch(ACC_MIC, rows)
    t = np.arange(512) / 200
    tone = np.sin(2 * np.pi * 40 * t) * ((t > 0.7) & (t < 1.4))
    noise = 0.02 * rng.normal(size=(rows, 512, 1))
    return batch | {"mic": jnp.asarray(0.1 + noise + tone[None, :, None], jnp.float32)}


@pytest.mark.parametrize("ratio", [0.75, 0.9, 0.96])
def test_budgets_are_kept_exactly(ratio):
    cfg = PhyMask(trunk=replace(VIT, mask_ratio=ratio)).bind(ACC_MIC).calibrate(burst())
    assert cfg.unit_counts == (64, 64)
    assert cfg.visible is not None
    total = 2 * round((1 - ratio) * 64)
    assert abs(sum(cfg.visible) - total) <= 2 and min(cfg.visible) >= 1
    # A tone fills fewer patches than noise: it gets fewer.
    assert cfg.visible[1] <= cfg.visible[0]
    found = UNIT_MASKS(cfg, jax.random.key(0), compiled(cfg.trunk, "spectra")(burst()), 0)
    assert tuple(m.visible.shape[1] for m in found.values()) == cfg.visible
    for mask in found.values():
        ids = np.concatenate([mask.visible, mask.masked], axis=1)
        assert (np.sort(ids) == np.arange(64)).all()


def test_equal_budgets_need_no_data():
    cfg = PhyMask(trunk=VIT, budget="equal").bind(ACC_MIC)
    assert cfg.calibrate(burst()).visible is None and cfg.visible_counts == (6, 6)
    assert replace(cfg, visible=(3, 9)).unbind().visible is None


def test_what_is_loud_stays_visible_and_the_opposite_sign_masks_it():
    fraction = {}
    for high_scores in ("visible", "masked"):
        cfg = PhyMask(
            trunk=VIT,
            alpha=1.0,
            high_scores=high_scores,
            floor=0.0,
            budget="equal",
            temperature=(1.0, 1e-6),
            anneal_steps=10,
        ).bind(ACC_MIC)
        found = compiled(cfg.trunk, "spectra")(burst())
        power = np.asarray(
            energy_coherence.patch_energy(found["mic"].real, found["mic"].imag, (1, 4))
        )
        power = power.reshape(4, -1)
        mask = UNIT_MASKS(cfg, jax.random.key(1), found, 10)["mic"]
        visible = np.take_along_axis(power, np.asarray(mask.visible), axis=1).sum(1)
        fraction[high_scores] = (visible / power.sum(1)).min()
        sign = -1 if high_scores == "visible" else 1
        order = np.argsort(sign * power, axis=1)
        assert (np.sort(mask.visible) == np.sort(order[:, :6])).all()
    assert fraction["visible"] > 0.9 and fraction["masked"] < 0.01


def test_annealing_runs_without_compiling_again():
    method = PhyMask(trunk=VIT, anneal_steps=4).bind(ACC_MIC)
    params = compiled(method, "init")(jax.random.key(0))
    loss = jax.jit(
        lambda step: method.loss(params, {}, burst(), Streams(jax.random.key(0)), step).value
    )
    values = [float(loss(jnp.int32(step))) for step in (0, 2, 4, 400)]
    assert cast(Any, loss)._cache_size() == 1 and np.isfinite(values).all()
    assert len(set(values[:3])) == 3 and values[2] == values[3]


def test_floor_reaches_every_patch():
    def reached(floor):
        cfg = PhyMask(
            trunk=replace(VIT, mask_ratio=0.75),
            alpha=1.0,
            floor=floor,
            budget="equal",
            temperature=(1e-3, 1e-6),
            anneal_steps=1,
        ).bind(ACC_MIC)
        found = compiled(cfg.trunk, "spectra")(burst(1))
        keys = jax.random.split(jax.random.key(0), 600)
        first = jax.jit(jax.vmap(lambda k: unit_masks(cfg, k, found, 1)["mic"].visible[0]))
        ids = first(keys)
        return len(np.unique(ids))

    assert reached(0.0) == 16 and reached(0.1) == 64


def test_masks_are_asked_for_as_those_of_the_trunk():
    """The same call for both: as many patches, and among them those of the loud tone."""
    method = PhyMask(trunk=VIT, budget="equal", floor=0.0).bind(ACC_MIC)
    assert method.encoder_method == method.trunk
    found = compiled(method.trunk, "spectra")(burst())
    power = {}
    for cfg in (method, method.encoder_method):
        mask = cast(Any, cfg).sample_masks(jax.random.key(0), found)["mic"]
        assert mask.visible.shape == (4, 6)
        patch = method.trunk.specs["mic"].patch
        energy = energy_coherence.patch_energy(found["mic"].real, found["mic"].imag, patch)
        power[cfg] = float(jnp.take_along_axis(energy.reshape(4, -1), mask.visible, axis=1).sum())
    assert power[method] > 3 * power[method.trunk]
    late, end = (method.sample_masks(jax.random.key(0), found, s) for s in (10**6, None))
    assert np.array_equal(late["mic"].visible, end["mic"].visible)


def test_windows_of_the_other_trunk():
    method = PhyMask(trunk=SWIN).bind(ACC_MIC)
    assert method.unit_counts == (8, 16)  # 4 x 2 and 4 x 4 windows of 2 x 4 tokens
    params = jax.eval_shape(method.init, jax.random.key(0))
    params = jax.tree.map(lambda x: jnp.zeros(x.shape), params)
    found = compiled(method, "reconstruct")(params, burst(2), Streams(jax.random.key(0)))
    masked = np.asarray(found.masked)
    acc = masked[:, :, :8].reshape(2, 4, 2, 2, 4)
    assert (acc.any((2, 4)) == acc.all((2, 4))).all()
    assert acc.all((2, 4)).sum((1, 2)).tolist() == [6, 6]  # 2 of 8 windows stay


def test_coherence_between_sensors():
    with pytest.raises(InputError, match="no other sensor has the rate of 'acc'"):
        PhyMask(trunk=VIT, coherence="modalities").bind(ACC_MIC)
    trunk = replace(VIT, patch_bins=(2,), standardise="none")
    cfg = PhyMask(trunk=trunk, coherence="modalities", alpha=0.0, budget="equal").bind(MOTION)
    batch = fake_batch(MOTION, 2)
    wave = batch["acc"][..., :1].repeat(3, -1)  # one wave in all axes of both
    alike = SCORES(cfg, compiled(cfg.trunk, "spectra")(batch | {"acc": wave, "gyro": wave}))["acc"]
    apart = SCORES(cfg, compiled(cfg.trunk, "spectra")(batch))["acc"]
    assert np.asarray(alike).min() > 0.99 and np.asarray(apart).mean() < 0.5
    both = replace(cfg, coherence="both")
    assert np.asarray(SCORES(both, compiled(cfg.trunk, "spectra")(batch))["acc"]).max() <= 1


def test_silence_and_absence_give_finite_losses():
    method = PhyMask(trunk=VIT).bind(ACC_MIC)
    params = compiled(method, "init")(jax.random.key(0))
    batch = burst()
    batch["acc"] = batch["acc"].at[0].set(0.0).at[1, 0, 0].set(jnp.nan)
    batch["mic"] = batch["mic"].at[1].set(0.0)
    found, grads = loss_and_grad(method, params, batch, jax.random.key(0))
    assert np.isfinite(found.value) and all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"alpha": 1.5}, "PhyMask.alpha"),
        ({"floor": -0.1}, "PhyMask.floor"),
        ({"temperature": (1.0, 0.0)}, "PhyMask.temperature"),
        ({"visible": (3,)}, "1 budgets for 2 sensors"),
        ({"visible": (64, 3)}, "64 of 64 patches of 'acc'"),
        ({"visible": (0, 3)}, "PhyMask.visible: must be 1 or more"),
        ({"trunk": replace(VIT, mask_kind="time")}, "energy and coherence decide"),
    ],
)
def test_bad_settings_are_refused(changes, words):
    with pytest.raises(InputError, match=words):
        replace(PhyMask(trunk=VIT), **changes).bind(ACC_MIC)
