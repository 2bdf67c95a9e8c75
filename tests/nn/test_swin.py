"""What reaches what through the stages, merging and expanding, padding, geometry and counts."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import truncnorm

from jfreq import param_paths
from jfreq.nn.swin import PatchExpand, PatchMerge, Swin, valid_by_stage
from jfreq.testing import cells, forward, frames, made, noise, trained
from jfreq.types import InputError

MOD = Swin(window=(1, 9), wrap_mask=False)
"""FreqMAE's trunk as released for MOD."""
SMALL = Swin(width=8, depths=(2, 1), heads=2, window=(2, 3))


def seen(net, params, x, at) -> set[tuple[int, int]]:
    """Cells that token ``at`` depends on, by gradient."""
    weight = noise(x.shape[-1], seed=3)
    grad = jax.jit(jax.grad(lambda x: net.apply({"params": params}, x)[0, at[0], at[1]] @ weight))(
        x
    )
    return cells(grad[0])


# --- what reaches what -------------------------------------------------------------------------


@pytest.mark.parametrize(("window", "first", "last"), [(2, 4, 7), (3, 3, 8)])
def test_receptive_field_of_two_blocks(window, first, last):
    """Token 6 of 12: 4 and 6 frames, and one window of bins."""
    net = Swin(width=8, depths=(2,), heads=2, window=(window, 3)).build()
    x = noise(1, 12, 9, 8)
    found = seen(net, made(net, x), x, (6, 4))
    assert found == {(t, f) for t in range(first, last + 1) for f in range(3, 6)}


@pytest.mark.parametrize(("wrap_mask", "reached"), [(True, False), (False, True)])
def test_wrap_mask_parts_the_ends_of_a_clip(wrap_mask, reached):
    net = Swin(width=8, depths=(4,), heads=2, window=(3, 3), wrap_mask=wrap_mask).build()
    x = noise(1, 12, 3, 8)
    assert (11 in frames(net, made(net, x), x, 0)) == reached


# --- merging, expanding, padding ---------------------------------------------------------------


def layer_norm(x, p):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def test_merge_order():
    x = noise(2, 4, 6, 3)
    net = PatchMerge()
    params = made(net, x)
    p = jax.tree.map(np.asarray, params)
    x0 = np.asarray(x)
    parts = (x0[:, 0::2, 0::2], x0[:, 1::2, 0::2], x0[:, 0::2, 1::2], x0[:, 1::2, 1::2])
    expected = layer_norm(np.concatenate(parts, -1), p["norm"]) @ p["linear"]["kernel"]
    np.testing.assert_allclose(forward(net)(params, x), expected, rtol=1e-4, atol=1e-4)


def test_children_lie_at_their_parent():
    """A single cell lights its own 2 x 2 children, each from its own quarter of the map; merging
    reads them in the same order."""
    x = jnp.zeros((1, 3, 4, 4)).at[0, 1, 2].set(noise(4))
    net = PatchExpand()
    params = made(net, x)
    params["norm"] = {"scale": jnp.ones(2), "bias": jnp.zeros(2)}
    found = forward(net)(params, x)
    assert found.shape == (1, 6, 8, 2)
    assert cells(found[0]) == {(2, 4), (2, 5), (3, 4), (3, 5)}
    quarters = np.asarray(x[0, 1, 2] @ params["linear"]["kernel"]).reshape(4, 2)
    for (t, f), quarter in zip([(2, 4), (3, 4), (2, 5), (3, 5)], quarters):
        expected = layer_norm(quarter, {"scale": 1.0, "bias": 0.0})
        np.testing.assert_allclose(found[0, t, f], expected, atol=1e-4)


def test_children_as_released_lie_side_by_side_in_the_list_of_tokens():
    """``B L (P1 P2 C) -> B (L P1 P2) C`` of the released code, away from their parent."""
    x = jnp.zeros((1, 3, 4, 4)).at[0, 1, 2].set(noise(4))
    net = PatchExpand("as_released")
    params = made(net, x)
    params["norm"] = {"scale": jnp.ones(2), "bias": jnp.zeros(2)}
    found = forward(net)(params, x)
    assert cells(found[0]) == {(3, 0), (3, 1), (3, 2), (3, 3)}  # tokens 4 * 6 to 4 * 6 + 3 of 6 x 8
    quarters = np.asarray(x[0, 1, 2] @ params["linear"]["kernel"]).reshape(4, 2)
    expected = layer_norm(quarters, {"scale": 1.0, "bias": 0.0})
    np.testing.assert_allclose(found[0, 3, :4], expected, atol=1e-4)


def test_valid_cells_of_every_stage():
    valid = np.zeros((8, 8), bool)
    valid[:5, :3] = True
    levels = valid_by_stage(valid, 3)
    assert [level.sum() for level in levels if level is not None] == [15, 6, 2]
    assert levels[1] is not None and levels[1][:3, :2].all()
    assert valid_by_stage(None, 2) == [None, None]


@pytest.mark.parametrize("which", ["encoder", "decoder"])
def test_padding_changes_nothing_for_the_others(which):
    """Not even infinite padding; without ``valid`` it is read like the rest."""
    valid = np.zeros((8, 12), bool)
    valid[:5, :7] = True
    if which == "encoder":
        net, level, shape = SMALL.build(), valid, (2, 8, 12, 8)
        out = valid_by_stage(valid, 2)[1]
    else:
        level, out = valid_by_stage(valid, 2)[1], valid
        net, shape = SMALL.decoder(5), (2, 4, 6, 16)
    assert level is not None and out is not None
    x = noise(*shape)
    params = made(net, x)
    noisy = jnp.where(level[None, :, :, None], x, 7.0)
    aware, blind = forward(net, valid=valid), forward(net)
    one = aware(params, x)
    np.testing.assert_array_equal(one[:, out], aware(params, noisy)[:, out])
    assert np.abs(blind(params, x) - blind(params, noisy))[:, out].max() > 1e-3
    if which == "encoder":
        worst = jnp.where(level[None, :, :, None], x, jnp.nan)
        np.testing.assert_array_equal(aware(params, worst), one)
        assert not np.any(one[:, ~out])


@pytest.mark.interop
def test_merge_equals_transformers():
    swin: Any = pytest.importorskip("transformers.models.swin.modeling_swin")
    import torch  # pyright: ignore[reportMissingImports]

    theirs, net, x = swin.SwinPatchMerging(5), PatchMerge(), noise(2, 4, 6, 5)
    params = made(net, x)
    p = jax.tree.map(np.asarray, params)
    theirs.load_state_dict({
        "norm.weight": torch.tensor(p["norm"]["scale"]),
        "norm.bias": torch.tensor(p["norm"]["bias"]),
        "reduction.weight": torch.tensor(p["linear"]["kernel"].T),
    })  # fmt: skip
    with torch.no_grad():
        expected = theirs(torch.tensor(np.asarray(x)).reshape(2, 24, 5), (4, 6))
    np.testing.assert_allclose(
        forward(net)(params, x).reshape(expected.shape), expected, rtol=1e-4, atol=1e-4
    )


# --- geometry and counts -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window", "image", "patch", "padded", "tokens", "last"),
    [
        ((1, 9), (10, 1600), 40, (12, 2880), 864, (3, 18)),
        ((1, 9), (10, 20), 1, (12, 36), 432, (3, 9)),
        ((3, 3), (10, 1600), 40, (12, 1920), 576, (3, 12)),
        ((3, 3), (10, 20), 1, (12, 24), 288, (3, 6)),
        ((2, 4), (7, 256), 8, (8, 256), 256, (2, 8)),
        ((3, 3), (9, 50), 2, (12, 72), 432, (3, 9)),
        ((3, 5), (9, 40), 2, (12, 40), 240, (3, 5)),
    ],
)
def test_planes_of_the_papers(window, image, patch, padded, tokens, last):
    cfg = Swin(window=window)
    found = cfg.padded((image[0], image[1] // patch))
    assert (found[0], found[1] * patch) == padded
    assert found[0] * found[1] == tokens
    assert cfg.last(found) == (*last, 256)
    assert cfg.padded(found) == found and cfg.padded((1, 1)) == cfg.unit
    x = jax.ShapeDtypeStruct((1, *found, 64), jnp.float32)
    cells_, _ = jax.eval_shape(cfg.build().init_with_output, jax.random.key(0), x)
    assert cells_.shape == (1, *last, 256)
    out, _ = jax.eval_shape(cfg.decoder(patch).init_with_output, jax.random.key(0), cells_)
    assert out.shape == (1, *found, patch)


@pytest.mark.parametrize(
    ("tokens", "window", "shift"),
    [((16, 40), (4, 6), (2, 3)), ((8, 9), (2, 3), (2, 3)), ((1, 1), (1, 1), (1, 1))],
)
def test_windows_fit_the_last_stage(tokens, window, shift):
    """No window holds more padding than the merges ask for."""
    cfg = Swin(window=(4, 6), shift=(2, 3)).fitted(tokens)
    assert (cfg.window, cfg.shift) == (window, shift)
    t, f, _ = cfg.last(cfg.padded(tokens))
    assert t >= window[0] and f >= window[1]


def count(net, shape):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return param_paths.count(jax.eval_shape(net.init, jax.random.key(0), x)["params"])


@pytest.mark.parametrize(
    ("plane", "patch", "encoder", "decoder"),
    [((12, 72), 80, 7365984, 4223136), ((12, 36), 2, 5591520, 2441682)],
    ids=["audio", "seismic"],
)
def test_counts_of_the_released_trunk(plane, patch, encoder, decoder):
    """Sums with patch embedding (convolution, norm) and the linear maps around the last grid."""
    t, f, width = MOD.last(plane)
    trunk = count(MOD.build(), (1, *plane, 64))
    assert trunk == 3821472
    flat = t * f * width
    assert trunk + (patch * 64 + 64 + 128) + (flat * 256 + 256) == encoder
    assert count(MOD.decoder(patch), (1, t, f, width)) + (256 * flat + flat) == decoder


def test_initial_weights():
    """Linear maps and their biases as torch draws them, position biases normal of 0.02 cut at two
    deviations, norms at one and zero."""
    block = Swin(width=32, depths=(1,), heads=2, window=(4, 8)).build()
    params = param_paths.flatten(
        jax.jit(block.init)(jax.random.key(0), noise(1, 4, 8, 32))["params"]
    )
    merge = jax.jit(PatchMerge().init)(jax.random.key(0), noise(1, 2, 2, 32))["params"]
    fan_in = {"qkv": 32, "proj": 32, "fc1": 32, "fc2": 128, "linear": 128}
    for path, leaf in {**params, "merge/linear/kernel": merge["linear"]["kernel"]}.items():
        *_, module, kind = path.split("/")
        if kind == "position_bias":
            assert np.std(leaf) == pytest.approx(0.02 * truncnorm(-2, 2).std(), rel=0.2), path
            assert np.abs(leaf).max() <= 0.04, path
        elif module.startswith("norm"):
            np.testing.assert_array_equal(leaf, {"bias": 0.0, "scale": 1.0}[kind])
        else:
            bound = fan_in[module] ** -0.5
            assert 0.8 * bound < np.abs(leaf).max() <= bound, path
            assert np.std(leaf) == pytest.approx(bound / np.sqrt(3), rel=0.25), path


# --- training ----------------------------------------------------------------------------------


def test_training_draws_and_evaluation_does_not():
    cfg = Swin(width=8, depths=(2,), heads=2, window=(2, 3), drop_path=0.5)
    net, x = cfg.build(), noise(4, 4, 3, 8)
    params, keys, run = made(net, x), jax.random.split(jax.random.key(1), 2), trained(net)
    one, two = (run(params, x, key) for key in keys)
    assert np.abs(one - two).max() > 1e-2
    np.testing.assert_array_equal(one, run(params, x, keys[0]))
    quiet = dataclasses.replace(cfg, dropout=0.0, attention_dropout=0.0, drop_path=0.0).build()
    still = forward(net)(params, x)  # without a key
    np.testing.assert_allclose(trained(quiet)(params, x, keys[0]), still, atol=1e-5)


def test_drop_path_grows_over_all_blocks():
    cfg = Swin(depths=(2, 2, 4), drop_path=0.7)
    rates = [rate for stage in cfg.rates for rate in stage]
    np.testing.assert_allclose(rates, np.arange(8) / 10)
    assert [len(stage) for stage in cfg.rates] == [2, 2, 4]


# --- configs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"heads": 5}, "encoder.width: 8 must be a multiple of heads 5"),
        ({"depths": ()}, "encoder.depths"),
        ({"depths": (2, 0)}, "Swin.depths"),
        ({"window": (0, 3)}, "Swin.window: must be 1 or more"),
        ({"shift": (3, 0)}, "encoder.shift"),
        ({"shift": (-1, 0)}, "Swin.shift"),
        ({"mlp_ratio": 0.0}, "Swin.mlp_ratio"),
        ({"dropout": 1.0}, "Swin.dropout"),
        ({"attention_dropout": -0.1}, "Swin.attention_dropout"),
        ({"drop_path": 1.0}, "Swin.drop_path"),
    ],
)
def test_impossible_configs(changes, match):
    with pytest.raises(InputError, match=match):
        dataclasses.replace(SMALL, **changes)


def test_planes_that_windows_do_not_tile():
    for shape, match in [((1, 6, 6, 8), r"pad it to \(8, 6\)"), ((1, 4, 9, 8), r"\(4, 12\)")]:
        with pytest.raises(InputError, match=match):
            jax.eval_shape(SMALL.build().init, jax.random.key(0), jnp.zeros(shape))
    with pytest.raises(InputError, match="valid is"):
        SMALL.build().init(jax.random.key(0), noise(1, 4, 6, 8), valid=np.ones((4, 5), bool))
