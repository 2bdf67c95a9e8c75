import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq import param_paths
from jfreq.config import replace
from jfreq.method import Streams, encoder_params
from jfreq.methods.ssast import SSAST
from jfreq.nn.convnext import ConvNeXt
from jfreq.nn.vit import SIZES, ViT
from jfreq.testing import CLIP, Compiled, compiled, fake_batch, fitted, loss_and_grad
from jfreq.types import DataSpec, InputError, SignalSpec

SMALL = ViT(width=32, depth=2, heads=2)
TEN_SECONDS = DataSpec((SignalSpec("audio", 16000, 160000),))


@pytest.fixture(scope="module")
def batch():
    return fake_batch(CLIP, 4)


def setup(cfg, seed=0):
    cfg = method = cfg.bind(CLIP)
    return cfg, method, jax.jit(lambda k: method.init(k))(jax.random.key(seed))


@pytest.mark.parametrize(
    ("size", "encoder", "whole"),
    [
        ("tiny", 5_487_168, 6_046_290),
        ("small", 21_591_168, 22_854_354),
        ("base", 85_649_664, 88_763_346),
    ],
)
def test_published_parameter_counts(size, encoder, whole):
    """The sheet counts two unused 1000-way ImageNet heads and two stored sizes in ``whole``."""
    cfg = SSAST(encoder=SIZES[size]).bind(TEN_SECONDS)
    params = jax.eval_shape(lambda k: cfg.init(k), jax.random.key(0))
    assert param_paths.count(params["trunk"]) == encoder
    assert param_paths.count(params) + 2 * 1000 * (cfg.encoder.width + 1) + 2 == whole
    frame = replace(cfg, patch=(2, 128), mask_kind="random")
    other = jax.eval_shape(lambda k: frame.init(k), jax.random.key(0))
    assert param_paths.count(other) == param_paths.count(params)


def test_binding_gives_the_published_geometry():
    cfg = SSAST().bind(TEN_SECONDS)
    assert (cfg.frames, cfg.grid.freq, cfg.grid.time, cfg.mask) == (1024, 8, 64, 400)
    assert (cfg.grid.first, cfg.grid.hop) == (0.0875 * 16000, 0.16 * 16000)
    frame = SSAST(patch=(2, 128), mask_kind="random").bind(TEN_SECONDS)
    assert (frame.grid.freq, frame.grid.time, frame.mask) == (1, 512, 400)
    assert (frame.grid.first, frame.grid.hop) == (0.0175 * 16000, 0.02 * 16000)


@pytest.mark.parametrize("form", ["paper", "official"])
def test_fresh_loss_is_near_chance(form):
    """Within-clip InfoNCE starts at about ln m; the squared error at about the mean squares of the
    target and of the prediction.

    A fresh prediction c of p values has |c|^2 of about p (1/18 + 1/3d) by torch's initialisers
    and scores targets of variance v with variance |c|^2 v, which adds half of that to ``paper``;
    over predictions, nearly equal at first, scores vary little (``official``).
    """
    _, method, params = setup(SSAST(encoder=SMALL, info_nce=form, patch=(8, 8), mask=200))
    spec = 0.5 * jax.random.normal(jax.random.key(1), (8, 128, 128, 1))
    found = compiled(method, "loss")(
        params, {}, {"spectrogram": spec}, Streams(jax.random.key(2)), 0
    )
    mean = {k: float(s / c) for k, (s, c) in found.metrics.items()}
    square = 1 / 18 + 1 / (3 * 32)
    spread = {"paper": 64 * square * 0.25 / 2, "official": 0.0}[form]
    assert mean["info_nce"] == pytest.approx(np.log(200) + spread, abs=0.15)
    assert mean["mse"] == pytest.approx(0.25 + square, abs=0.08)
    assert mean["accuracy"] == pytest.approx(1 / 200, abs=0.02)


def test_masked_values_reach_the_loss_only_as_targets(batch):
    """States of all tokens do not change when the values under the mask do."""
    from jfreq import masks
    from jfreq.methods.ssast import _Net

    cfg, method, params = setup(SSAST(encoder=SMALL))
    spec = compiled(method, "with_spectrogram")(batch)["spectrogram"]
    assert cfg.mask is not None
    mask = Compiled(masks).random(jax.random.key(5), 4, cfg.grid, cfg.mask)
    plane = np.asarray(mask.is_masked).reshape(4, cfg.grid.freq, cfg.grid.time)
    cells = np.repeat(np.repeat(plane, 16, axis=1), 16, axis=2).transpose(0, 2, 1)[..., None]
    other = jnp.where(cells, 1e3, spec)
    states = jax.jit(lambda spec: _Net(cfg).apply({"params": params}, spec, mask))
    clean, poisoned = states(spec), states(other)
    np.testing.assert_array_equal(clean, poisoned)


def test_gradients(batch):
    """All parameters learn; targets are constants; the patch embedding learns from kept tokens."""
    _, method, params = setup(SSAST(encoder=SMALL))
    _, grads = loss_and_grad(method, params, batch, jax.random.key(1))
    for path, leaf in param_paths.flatten(grads).items():
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path


@pytest.mark.parametrize("objective", ["joint", "discriminative", "generative"])
@pytest.mark.parametrize("passes", [1, 2])
def test_objectives(batch, objective, passes):
    _, method, params = setup(SSAST(encoder=SMALL, objective=objective, passes=passes))
    found = compiled(method, "loss")(params, {}, batch, Streams(jax.random.key(1)), 0)
    value = {k: s / c for k, (s, c) in found.metrics.items()}
    expected = {
        "joint": lambda: value["info_nce"] + 10 * value["mse"],
        "discriminative": lambda: value["info_nce"],
        "generative": lambda: value["mse"],
    }[objective]()
    np.testing.assert_allclose(found.value, expected, rtol=1e-5)
    assert ("classification_head" in params) == (objective != "generative")
    assert ("reconstruction_head" in params) == (objective != "discriminative")


def test_rows_that_fill_up_and_neighbours_do_not_count(batch):
    _, method, params = setup(SSAST(encoder=SMALL))
    loss, rngs = compiled(method, "loss"), Streams(jax.random.key(3))
    half = {**batch, "_mask": jnp.array([1.0, 1, 0, 0])}
    poisoned = {**half, "audio": batch["audio"].at[2:].set(0.9)}
    found, other = (loss(params, {}, rows, rngs, 0) for rows in (half, poisoned))
    assert found.metrics["loss"][1] == 2
    np.testing.assert_allclose(found.value, other.value, rtol=1e-5)


def test_encode_ignores_padding_and_batch_companions(batch):
    _, method, params = setup(SSAST(encoder=SMALL))
    encode = compiled(method, "encode")
    length = 12000
    short = {"audio": batch["audio"].at[:, length:].set(0.0), "length": jnp.full(4, length)}
    noisy = {**short, "audio": batch["audio"].at[:, length:].set(0.7)}
    one, two = encode(params, short), encode(params, noisy)
    valid = np.asarray(one.valid)
    assert 0 < valid.sum() < valid.size
    np.testing.assert_allclose(one.tokens[valid], two.tokens[valid], atol=1e-4)
    np.testing.assert_allclose(one.clip, two.clip, atol=1e-4)
    alone = encode(params, {k: v[:1] for k, v in short.items()})
    np.testing.assert_allclose(alone.clip, one.clip[:1], atol=1e-5)


def test_conv_encoder_takes_the_place_of_the_transformer(batch):
    cfg = SSAST(encoder=ConvNeXt(width=32, depth=2, kernel=3), special_tokens=0)
    _, method, params = setup(cfg)
    found = compiled(method, "loss")(params, {}, batch, Streams(jax.random.key(1)), 0)
    assert np.isfinite(found.value)
    features = compiled(method, "encode")(params, batch)
    assert features.layers.shape == (2, *features.tokens.shape)


def test_released_initial_values():
    """Tokens, positions and blocks N(0, 0.02); the mask token N(0, 1 / width): 0.07 for tiny."""
    cfg = SSAST(encoder=ViT(width=192, depth=1, heads=3), initial="released")
    params = param_paths.flatten(setup(cfg)[2])
    assert np.std(params["mask_token"]) == pytest.approx(192**-0.5, rel=0.2)
    for name in ("special_tokens", "positions/grid", "encoder/blocks/fc1/kernel"):
        values = np.asarray(params[f"trunk/{name}"])
        assert np.std(values) == pytest.approx(0.02, rel=0.1)
        assert np.abs(values).max() > 0.041, name


def test_learns_eight_clips():
    batch = fake_batch(CLIP, 8, seed=3)
    _, method, params = setup(SSAST(encoder=SMALL, passes=1, mask=20))
    _, history = fitted(method, params, batch, steps=50)
    assert np.mean(history[-5:]) < 0.7 * np.mean(history[:3])


def test_targets_are_the_patches_in_token_order(batch):
    cfg, method, _ = setup(SSAST(encoder=SMALL, patch=(8, 16)))
    spec = np.asarray(compiled(method, "with_spectrogram")(batch)["spectrogram"])
    patches = np.asarray(method.patches(jnp.asarray(spec)))
    f, t = 3, 5
    expected = spec[0, 8 * t : 8 * t + 8, 16 * f : 16 * f + 16, 0].T.reshape(-1)
    np.testing.assert_array_equal(patches[0, f * cfg.grid.time + t], expected)


def test_encoder_params_are_the_trunk(batch):
    _, method, params = setup(SSAST(encoder=SMALL))
    kept, encode = encoder_params(method, params), compiled(method, "encode")
    assert set(kept) == {"trunk"}
    np.testing.assert_allclose(encode(kept, batch).clip, encode(params, batch).clip, rtol=1e-6)


@pytest.mark.parametrize(
    ("cfg", "spec", "match"),
    [
        (SSAST(mask=600), TEN_SECONDS, "600 of 64 x 8"),
        (SSAST(cluster_mode="official", mask=511), TEN_SECONDS, "choose 1 to 510"),
        (SSAST(), DataSpec((SignalSpec("audio", 8000, 8000),)), None),
        (SSAST(), DataSpec((SignalSpec("audio", 16000, 300),)), "shorter than one patch"),
        (SSAST(modality="gyro"), TEN_SECONDS, "no signal 'gyro'.*audio"),
        (SSAST(patch=(16, 256)), TEN_SECONDS, "no patch of 16 frames x 256 bins"),
    ],
)
def test_bad_geometry_is_refused_when_bound(cfg, spec, match):
    if match is None:
        assert cfg.bind(spec).frontend.rate == 8000
        return
    with pytest.raises(InputError, match=match):
        cfg.bind(spec)


@pytest.mark.parametrize(
    ("order", "patch"),
    [("freq_major", (16, 32)), ("time_major", (32, 8)), ("freq_major", (2, 128))],
)
def test_reconstruction_scores_as_the_loss_does(batch, order, patch):
    """With the loss's streams the masks are the loss's, so its mean square error is that of the
    reconstruction over the masked cells."""
    cfg, method, params = setup(
        SSAST(encoder=SMALL, objective="generative", order=order, mask_kind="random", patch=patch)
    )
    rngs = Streams(jax.random.key(4))
    assert cfg.mask is not None
    spec, masked, pred = compiled(method, "reconstruct")(params, batch, rngs)
    metrics = compiled(method, "loss")(params, {}, batch, rngs, 0).metrics
    assert pred is not None and pred.shape == spec.shape == (*masked.shape, 1)
    error = float(np.square(np.asarray(pred - spec)[np.asarray(masked)]).mean())
    assert error == pytest.approx(float(metrics["mse"][0] / metrics["mse"][1]), rel=1e-4)
    np.testing.assert_array_equal(np.asarray(pred)[~masked], np.asarray(spec)[~masked])
    np.testing.assert_array_equal(masked.sum((1, 2)), np.full(4, cfg.mask * patch[0] * patch[1]))


def test_masked_values_do_not_reach_the_reconstruction(batch):
    _, method, params = setup(SSAST(encoder=SMALL))
    reconstruct, rngs = compiled(method, "reconstruct"), Streams(jax.random.key(4))
    spec, masked, pred = reconstruct(params, batch, rngs)
    poisoned = {"spectrogram": jnp.where(masked[..., None], 1e3, spec)}
    other = reconstruct(params, poisoned, rngs)
    np.testing.assert_array_equal(masked, other.masked)
    np.testing.assert_array_equal(pred, other.reconstruction)


def test_discrimination_reconstructs_nothing(batch):
    cfg, method, params = setup(SSAST(encoder=SMALL, objective="discriminative"))
    assert cfg.mask is not None
    rngs = Streams(jax.random.key(4))
    spec, masked, pred = compiled(method, "reconstruct")(params, batch, rngs)
    assert pred is None
    assert float(masked.mean()) == pytest.approx(cfg.mask / cfg.grid.size)
    overlapping = replace(cfg, stride=(10, 10))
    with pytest.raises(InputError, match="must not overlap"):
        overlapping.reconstruct(params, {"spectrogram": spec}, rngs)
