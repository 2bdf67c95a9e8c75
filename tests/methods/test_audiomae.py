"""Audio-MAE: its geometry, what the encoder and the loss see, and what it starts from."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq import masks, param_paths
from jfreq.config import replace
from jfreq.method import Streams
from jfreq.methods.audiomae import AudioMAE
from jfreq.nn.vit import ViT
from jfreq.nn.window_decoder import WindowDecoder
from jfreq.ops.patch import patchify
from jfreq.ops.posemb import sincos_tokens
from jfreq.testing import CLIP, compiled, fake_batch, loss_and_grad
from jfreq.types import DataSpec, InputError, SignalSpec, TokenGrid

TEN_SECONDS = DataSpec((SignalSpec("audio", 16000, 160000),))
LOCAL = AudioMAE(
    encoder=ViT(width=16, depth=1, heads=2),
    decoder=WindowDecoder(width=16, depth=2, heads=2, bias_width=8, bias_dropout=0.0),
)
GLOBAL = replace(LOCAL, decoder=ViT(width=16, depth=1, heads=2))
METHODS = {"local": LOCAL.bind(CLIP), "global": GLOBAL.bind(CLIP)}
KINDS = list(METHODS)


@functools.cache
def params_of(kind):
    return jax.jit(METHODS[kind].init)(jax.random.key(0))


@functools.cache
def batch_of(kind):
    """Two clips with their spectrograms."""
    return compiled(METHODS[kind], "with_spectrogram")(fake_batch(CLIP, 2))


def reconstructed(kind):
    """A spectrogram, and what :meth:`AudioMAE.reconstruct` gives of it and others under one mask,
    compiled."""

    def run(spec):
        filled = {**batch_of(kind), "spectrogram": jnp.asarray(spec)}
        reconstruct = compiled(METHODS[kind], "reconstruct")
        return reconstruct(params_of(kind), filled, Streams(jax.random.key(3)))

    return batch_of(kind)["spectrogram"], run


def test_published_geometry():
    """10 s: 64 x 8 patches, 102 of them visible; ViT-B without its fixed positions, and a decoder
    of 16 blocks of width 512."""
    cfg = AudioMAE().bind(TEN_SECONDS)
    assert (cfg.frames, cfg.grid.time, cfg.grid.freq, cfg.grid.order) == (1024, 64, 8, "time_major")
    assert cfg.visible == 102
    params = jax.eval_shape(cfg.init, jax.random.key(0))
    assert param_paths.count(params["trunk"]) == 12 * 7_087_872 + 2 * 768 + 768 + 257 * 768
    blocks = 12 * 512**2 + 13 * 512 + 16 + (2 + 1) * 384 + (384 + 1) * 16
    outside = 769 * 512 + 512 + 2 * 512 + 513 * 256
    assert param_paths.count(params["decoder"]) == 16 * blocks + outside
    assert replace(cfg, mask_axes=(0.7, 0.3)).visible == 19 * 5


@pytest.mark.parametrize("kind", KINDS)
def test_masked_patches_are_not_seen(kind):
    """What is predicted, standardised by the true patch, changes with visible patches alone."""
    spec, run = reconstructed(kind)
    first = run(spec)
    masked = np.asarray(first.masked)[..., None]
    wanted = standardised(first.reconstruction, spec)[patches_of(masked).all(-1)]

    def change(other):
        found = standardised(run(jnp.asarray(other)).reconstruction, other)
        return np.abs(found[patches_of(masked).all(-1)] - wanted).max()

    assert change(np.where(masked, 2 * spec + 1, spec)) < 1e-3
    assert change(np.where(masked, spec, 2 * spec + 1)) > 0.01
    untouched = np.where(masked, 0, first.reconstruction - spec)
    np.testing.assert_array_equal(untouched, np.zeros(spec.shape))


def patches_of(cells):
    """``[b n 256]``, as floats."""
    cells = jnp.asarray(cells, jnp.float32)
    return np.asarray(patchify(cells, patch=(16, 16), order="time_major"))


def standardised(cells, truth):
    """Patches of ``cells`` by the mean and the deviation of those of ``truth``."""
    x, true = patches_of(cells).astype(float), patches_of(truth).astype(float)
    scale = np.sqrt(true.var(-1, keepdims=True, ddof=1) + 1e-6)
    return (x - true.mean(-1, keepdims=True)) / scale


@pytest.mark.parametrize("norm_patch", [True, False])
def test_the_loss_is_the_error_of_masked_patches(norm_patch):
    """From the reconstruction, in numpy, under the mask of the same key."""
    method = replace(METHODS["local"], norm_patch=norm_patch)
    batch = batch_of("local")
    key, params = jax.random.key(5), params_of("local")
    found = compiled(method, "reconstruct")(params, batch, Streams(key))
    spec = np.asarray(batch["spectrogram"])
    if norm_patch:
        error = standardised(found.reconstruction, spec) - standardised(spec, spec)
    else:
        error = patches_of(found.reconstruction) - patches_of(spec)
    masked = patches_of(np.asarray(found.masked)[..., None]).all(-1)
    assert (masked.sum(1) == method.grid.size - method.visible).all()
    loss, _ = loss_and_grad(method, params, batch, key)
    assert float(loss.value) == pytest.approx(float((error[masked] ** 2).mean()), rel=1e-3)


def test_every_parameter_learns():
    for kind in KINDS:
        _, grads = loss_and_grad(METHODS[kind], params_of(kind), batch_of(kind), jax.random.key(1))
        flat = param_paths.flatten(grads)
        # A softmax is the same with any number added to all scores.
        flat = {path: g for path, g in flat.items() if "bias_out/bias" not in path}
        still = {path for path, g in flat.items() if not np.abs(g).max() > 0}
        assert not still, (kind, still)


def test_positions_that_are_learned_start_as_released():
    """Token (t, f) has the sines of row (8 t + f) // 64 and column (8 t + f) % 64: the first half
    of the width codes the column. A wider window has other ones."""
    method = replace(LOCAL, positions="learned").bind(TEN_SECONDS)
    params = compiled(method, "init")(jax.random.key(0))
    for part, width in (("trunk", 16), ("decoder", 16)):
        table = np.asarray(params[part]["positions"]["grid"])
        assert table.shape == (8, 64, width)
        for t, f in ((0, 0), (7, 5), (8, 0), (63, 7)):
            row, column = divmod(8 * t + f, 64)
            omega = 10000.0 ** (-np.arange(4) / 4)
            angles = np.concatenate(
                [trig(at * omega) for at in (column, row) for trig in (np.sin, np.cos)]
            )
            np.testing.assert_allclose(table[f, t], angles, atol=1e-6)
    np.testing.assert_array_equal(params["trunk"]["positions"]["special"], np.zeros((1, 16)))
    assert "special" not in params["decoder"]["positions"]


def test_fixed_positions_are_those_of_the_grid():
    flat = param_paths.flatten(params_of("local"))
    assert not [path for path in flat if "positions" in path]
    spec, _ = reconstructed("local")
    method = METHODS["local"]
    zero = jax.tree.map(jnp.zeros_like, params_of("local")["trunk"])
    trunk: Any = method.trunk
    tokens = trunk.apply({"params": zero}, spec, method=lambda m, x: m.positions()[1])
    wanted = sincos_tokens(TokenGrid(8, 8, "time_major"), 16)
    np.testing.assert_allclose(tokens, wanted, atol=1e-6)


@pytest.mark.parametrize("initial", ["released", "cut"])
def test_initial_values(initial):
    """Released: Xavier's bound for every matrix, tokens and positions aside, biases 0."""
    method = replace(LOCAL, initial=initial, encoder=ViT(width=64, depth=2, heads=2)).bind(CLIP)
    params = compiled(method, "init")(jax.random.key(0))
    kernels = {
        path: np.asarray(x).reshape(-1, x.shape[-1])
        for path, x in param_paths.flatten(params).items()
        if path.endswith(("fc1/kernel", "embed/kernel", "reconstruction/kernel"))
    }
    assert len(kernels) == 5
    for path, kernel in kernels.items():
        stacked = 2 if "blocks" in path else 1
        inputs, outputs = kernel.shape[0] // stacked, kernel.shape[1]
        bound = (6 / (inputs + outputs)) ** 0.5
        largest = np.abs(kernel).max()
        if initial == "released":
            assert 0.9 * bound < largest <= bound, path
        elif "patch_embed" not in path:
            assert largest <= 0.0401 + 0.02, path
    tokens = params["trunk"]["special_tokens"], params["decoder"]["mask_token"]
    assert all(0.005 < np.std(token) < 0.04 for token in tokens)


def test_gain_makes_clips_louder_or_softer():
    """By up to 6 dB down and 3.5 dB up, only while training, and not its targets."""
    method = replace(METHODS["local"], gain=True, norm_patch=False)
    batch = fake_batch(CLIP, 2)
    wave = np.asarray(batch["audio"])

    @jax.jit
    @jax.vmap
    def louder(seed):
        return method._louder(batch, Streams(jax.random.key(seed)))["audio"][:, 100, 0]

    gains = np.asarray(louder(jnp.arange(40))) / wave[:, 100, 0]
    assert gains.min() > 0.5 and gains.max() < 1.5 and abs(gains.mean() - 1) < 0.05
    assert abs(gains.var() - 1 / 84) < 0.006  # of Beta(10, 10)
    integers = {**batch, "audio": jnp.asarray(wave / np.abs(wave).max() * 30000, jnp.int16)}
    same = jax.eval_shape(method._louder, integers, Streams(jax.random.key(0)))
    assert same["audio"].dtype == jnp.float32


def test_validation_leaves_the_gain_out():
    method = replace(METHODS["local"], gain=True, norm_patch=False)
    args = params_of("local"), {}, fake_batch(CLIP, 2), Streams(jax.random.key(1)), 0
    plain = float(compiled(replace(method, gain=False), "loss")(*args).value)
    assert float(compiled(method, "validation_loss")(*args).value) == plain
    assert float(compiled(method, "loss")(*args).value) != plain


def test_lines_are_masked_as_wholes():
    method = replace(METHODS["local"], mask_axes=(0.5, 0.3))
    mask = method.sample_mask(jax.random.key(0), 4)
    same = masks.axes(jax.random.key(0), 4, method.grid, (4, 5))
    np.testing.assert_array_equal(mask.masked, same.masked)
    assert mask.visible.shape == (4, 20)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_ratio": 0.99}, "leaves 0 visible"),
        ({"mask_axes": (0.95, 0.3)}, "leaves 0 x 5 visible"),
        ({"mask_axes": (0.0, 0.0)}, "leaves 8 x 8 visible"),
        ({"stride": (10, 10)}, "must not overlap"),
        ({"decoder": WindowDecoder(width=18, heads=2)}, "method.decoder.width"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        replace(LOCAL, **changes).bind(CLIP)
