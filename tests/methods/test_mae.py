"""The masked autoencoder over several sensors: what the encoder sees, what the loss counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq import masks
from jfreq.config import replace
from jfreq.method import Streams
from jfreq.methods.mae import MAE
from jfreq.nn.vit import ViT
from jfreq.testing import ACC_MIC, compiled, fake_batch, fitted, loss_and_grad
from jfreq.types import InputError, Mask

SMALL = MAE(
    encoder=ViT(width=16, depth=1, heads=2),
    decoder=ViT(width=8, depth=1, heads=2),
    patch_bins=(2, 8),
)


@pytest.fixture(scope="module")
def small():
    cfg = method = SMALL.bind(ACC_MIC)
    return cfg, method, compiled(method, "init")(jax.random.key(1))


def fixed(cfg, rows, seed=0) -> dict[str, Mask]:
    return {
        name: masks.random(jax.random.key(seed), rows, p.grid, p.grid.size - cfg.visible(p))
        for name, p in cfg.specs.items()
    }


def test_what_is_masked_never_reaches_the_encoder(small):
    cfg, method, params = small
    mask = fixed(cfg, 2)
    found = compiled(cfg, "spectra")(fake_batch(ACC_MIC, 2))
    # Poison every masked patch of one sensor: no reconstruction may change.
    name, spec = "acc", cfg.specs["acc"]
    masked = np.asarray(mask[name].is_masked).reshape(2, *spec.grid.shape)
    masked = np.repeat(masked, spec.patch[1], axis=2)[:, : spec.frames, : spec.bins]
    inputs = jnp.where(masked[..., None], 1e6, found[name].inputs)
    poisoned = {**found, name: found[name]._replace(inputs=inputs)}
    reconstruct = jax.jit(method.reconstruct_with_masks)
    a, b = (reconstruct(params, given, mask) for given in (found, poisoned))
    np.testing.assert_array_equal(
        np.asarray(a.reconstruction)[np.asarray(a.masked)],
        np.asarray(b.reconstruction)[np.asarray(b.masked)],
    )
    assert float(jnp.abs(b.spectrogram).max()) > 1e5  # the poison was there


@pytest.mark.parametrize("ratio", [0.75, 0.9, 0.96])
def test_exactly_so_many_tokens_are_left(ratio):
    cfg = method = replace(SMALL, mask_ratio=ratio).bind(ACC_MIC)
    for spec in cfg.specs.values():
        n = spec.grid.size
        assert cfg.visible(spec) == n - round(ratio * n) >= 1
    found = jax.eval_shape(cfg.spectra, fake_batch(ACC_MIC, 2))
    sampled = jax.eval_shape(method.sample_masks, jax.random.key(0), found)
    shapes = [(2, cfg.visible(spec)) for spec in cfg.specs.values()]
    assert [m.visible.shape for m in sampled.values()] == shapes


def test_an_absent_sensor_counts_nowhere(small):
    cfg, method, params = small
    batch = fake_batch(ACC_MIC, 3)
    batch["acc"] = batch["acc"].at[0].set(0.0).at[1, 3, 0].set(jnp.nan)
    batch["mic"] = batch["mic"].at[1].set(0.0)
    key = jax.random.key(0)
    found, grads = loss_and_grad(method, params, batch, key)
    assert np.isfinite(found.value) and all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    # Row 1 has no sensor left: it adds nothing but a row to the mean.
    rows = fake_batch(ACC_MIC, 3) | {"acc": batch["acc"], "mic": batch["mic"]}
    one = {k: v[jnp.array([0, 2, 2])] for k, v in rows.items()}
    twice = loss_and_grad(method, params, one, key)[0].value
    assert float(found.metrics["loss"][0]) < float(twice * 3)
    encode = compiled(method, "encode")
    found = encode(params, batch)
    assert np.isfinite(found.clip).all()
    half = 4 * cfg.encoder.width
    assert not np.asarray(found.clip[0, :half]).any() and np.asarray(found.clip[0, half:]).any()
    assert not np.asarray(found.clip[1]).any() and not np.asarray(found.valid[1]).any()
    # What an absent sensor holds does not matter to the other one.
    junk = batch | {"acc": batch["acc"].at[0].set(7.0).at[0, 0, 0].set(jnp.nan)}
    np.testing.assert_array_equal(encode(params, junk).clip[0], found.clip[0])


def test_features_are_deterministic_and_lie_on_the_grid(small):
    cfg, method, params = small
    batch = fake_batch(ACC_MIC, 2)
    encode = jax.jit(MAE.encode, static_argnums=0)
    a, b = (encode(method, params, batch) for _ in range(2))
    np.testing.assert_array_equal(a.clip, b.clip)
    assert a.clip.shape == (2, 8 * 16) and a.tokens.shape[1] == cfg.grid.size == 8 * (4 + 4)
    assert a.grid.first == 8 and a.grid.hop == 16  # interval of 16 samples of the first sensor
    mean, one = (replace(SMALL, pool=p).bind(ACC_MIC) for p in ("mean", "modality"))
    tokens = np.asarray(a.tokens)
    np.testing.assert_allclose(encode(mean, params, batch).clip, tokens.mean(1), atol=1e-5)
    by_sensor = tokens.reshape(2, 8, 8, 16)
    np.testing.assert_allclose(a.clip, by_sensor.mean(1).reshape(2, -1), atol=1e-5)
    np.testing.assert_allclose(
        encode(one, params, batch).clip,
        np.concatenate([by_sensor[:, :, :4].mean((1, 2)), by_sensor[:, :, 4:].mean((1, 2))], 1),
        atol=1e-5,
    )


def test_reconstruction_is_in_the_units_of_the_spectrogram(small):
    _, method, params = small
    rngs = Streams(jax.random.key(0))
    found = compiled(method, "reconstruct")(params, fake_batch(ACC_MIC, 2), rngs)
    assert found.spectrogram.shape == (2, 8, 8 + 32, 1) == found.reconstruction.shape
    same = np.asarray(found.reconstruction == found.spectrogram)[..., 0]
    assert same[~np.asarray(found.masked)].all() and not same[np.asarray(found.masked)].any()


def test_standardised_targets_are_undone_to_look_at(small):
    """Every masked patch has the mean and the variance of the true one over all its channels."""
    cfg, _, params = small
    mask, found = fixed(cfg, 2), cfg.spectra(fake_batch(ACC_MIC, 2))
    plain, shown = (
        jax.jit(replace(cfg, norm_patch=norm).reconstruct_with_masks)(params, found, mask)
        for norm in (False, True)
    )
    mean, std = [], []
    for name, spec in cfg.specs.items():
        patches = np.asarray(spec.patchify(found[name].inputs))
        for kind, values in ((mean, patches.mean(-1)), (std, patches.std(-1, ddof=1))):
            whole = np.broadcast_to(values[..., None], patches.shape)
            kind.append(spec.unpatchify(jnp.asarray(whole))[..., :1])
    mean, std = np.concatenate(mean, axis=2), np.concatenate(std, axis=2)
    masked = np.asarray(shown.masked)
    wanted = (np.asarray(plain.reconstruction) * std + mean)[masked]
    np.testing.assert_allclose(np.asarray(shown.reconstruction)[masked], wanted, atol=1e-4)
    assert std[masked].max() > 0.1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mask_ratio": 1.0}, "between 0 and 1"),
        ({"mask_ratio": 0.999}, "of 32 tokens of 'acc' leaves 0"),
        ({"mask_kind": "time", "mask_ratio": 0.97}, "leaves 0"),
        ({"encoder": ViT(width=18, depth=1, heads=2)}, "multiple of 4"),
    ],
)
def test_masks_that_leave_nothing_are_refused(changes, words):
    with pytest.raises(InputError, match=words):
        replace(SMALL, **changes).bind(ACC_MIC)


def test_it_learns_what_it_is_shown():
    method = replace(SMALL, mask_ratio=0.5).bind(ACC_MIC)
    t = np.arange(512) / 200
    rng = np.random.default_rng(0)
    f = rng.uniform(5, 20, (8, 1))
    batch = {
        "acc": jnp.asarray(np.sin(2 * np.pi * f * t[:128] * 4)[..., None].repeat(3, -1) + 0.0),
        "mic": jnp.asarray(np.sin(2 * np.pi * f * t)[..., None]),
    }
    batch = {k: v.astype(jnp.float32) for k, v in batch.items()}
    params = compiled(method, "init")(jax.random.key(0))
    _, values = fitted(method, params, batch, steps=120)
    assert np.mean(values[-10:]) < 0.5 * np.mean(values[:10])
