"""Patches, positions and special tokens around a small encoder."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq import param_paths
from jfreq.nn.bias import ALiBi
from jfreq.nn.heads import MLPHead, NormLinear
from jfreq.nn.patch_encoder import PatchEmbed, Positions, SpectrogramTrunk
from jfreq.nn.vit import ViT
from jfreq.types import TokenGrid

FRAMES, BINS, PATCH, WIDTH = 12, 8, (3, 4), 6
ENCODER = ViT(width=WIDTH, depth=1, heads=2)
GRIDS = {"freq_major": TokenGrid(time=4, freq=2), "time_major": TokenGrid(4, 2, "time_major")}


@pytest.fixture
def spec():
    return jnp.asarray(np.random.default_rng().normal(size=(2, FRAMES, BINS, 1)), jnp.float32)


def trunk(grid, special=2, stride=PATCH):
    return SpectrogramTrunk(PATCH, stride, grid, special, ENCODER)


def forward(net, spec, valid=None):
    return net.encode(net.embed(spec), valid=valid, layers=True)


@functools.cache
def compiled(order):
    """``(params, spectrogram, valid) -> (special, tokens, layers)``."""
    net = trunk(GRIDS[order])
    return jax.jit(lambda p, s, v: net.apply({"params": p}, s, v, method=forward))


@pytest.fixture(scope="module")
def params():
    net, spec = trunk(GRIDS["freq_major"]), jnp.zeros((1, FRAMES, BINS, 1))
    init = jax.jit(lambda key: net.init(key, spec, method=forward)["params"])
    return init(jax.random.key(0))


@pytest.mark.parametrize("order", GRIDS)
@pytest.mark.parametrize("stride", [PATCH, (1, 2)], ids=["touching", "overlapping"])
def test_patch_embedding_is_a_linear_map_of_each_patch(spec, order, stride):
    time, freq = (FRAMES - PATCH[0]) // stride[0] + 1, (BINS - PATCH[1]) // stride[1] + 1
    grid = TokenGrid(time=time, freq=freq, order=order)
    net = PatchEmbed(PATCH, stride, WIDTH, grid)
    params = jax.jit(net.init)(jax.random.key(0), spec)["params"]
    assert {k: v.shape for k, v in params.items()} == {"kernel": (12, WIDTH), "bias": (WIDTH,)}
    tokens = np.asarray(net.apply({"params": params}, spec))
    assert tokens.shape == (2, grid.size, WIDTH)
    for f in range(freq):
        for t in range(time):
            t0, f0 = t * stride[0], f * stride[1]
            part = np.asarray(spec)[:, t0 : t0 + PATCH[0], f0 : f0 + PATCH[1], 0]
            flat = part.transpose(0, 2, 1).reshape(2, -1).astype(np.float64)
            at = f * time + t if order == "freq_major" else t * freq + f
            expected = flat @ np.asarray(params["kernel"]) + np.asarray(params["bias"])
            np.testing.assert_allclose(tokens[:, at], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("order", GRIDS)
def test_position_table_keeps_its_geometry(order):
    """Stored [f t d] whatever the token order, so that it can be resized and moved."""
    grid = GRIDS[order]
    net = Positions(grid, 2, WIDTH)
    table = jnp.arange(2 * 4 * WIDTH, dtype=jnp.float32).reshape(2, 4, WIDTH)
    special = -jnp.arange(2 * WIDTH, dtype=jnp.float32).reshape(2, WIDTH)
    found: Any = net.apply({"params": {"grid": table, "special": special}})
    first, out = found
    assert out.shape == (8, WIDTH)
    np.testing.assert_array_equal(first, special)
    for f in range(2):
        for t in range(4):
            at = f * 4 + t if order == "freq_major" else t * 2 + f
            np.testing.assert_array_equal(out[at], table[f, t])


def test_orders_are_renumberings(spec, params):
    """The same parameters give the same token vectors in either order."""
    valid = np.ones((2, 8), bool)
    special, tokens, layers = compiled("freq_major")(params, spec, valid)
    other, moved, _ = compiled("time_major")(params, spec, valid)
    assert special.shape == (2, 2, WIDTH)
    assert layers.shape == (1, 2, 8, WIDTH)
    np.testing.assert_allclose(special, other, atol=1e-5)
    moved = np.asarray(moved).reshape(2, 4, 2, WIDTH).swapaxes(1, 2).reshape(2, 8, WIDTH)
    np.testing.assert_allclose(tokens, moved, atol=1e-5)


def test_special_tokens_are_always_valid(spec, params):
    valid = np.tile(np.arange(8) < 3, (2, 1))
    run = compiled("freq_major")
    # Tokens 3.. are frames 9.. of the lower band and all of the upper one.
    noisy = spec.at[:, 9:, :4].set(3.0).at[:, :, 4:].set(-2.0)
    (special, tokens, _), (other, moved, _) = run(params, spec, valid), run(params, noisy, valid)
    np.testing.assert_array_equal(special, other)
    np.testing.assert_array_equal(tokens[:, :3], moved[:, :3])
    # The second special token is still looked at by the first.
    bumped = params | {"special_tokens": params["special_tokens"].at[1, 0].add(5.0)}
    changed, _, _ = run(bumped, spec, valid)
    assert np.abs(changed[:, 0] - special[:, 0]).max() > 1e-4


def test_without_special_tokens(spec):
    net = trunk(GRIDS["freq_major"], special=0)
    shapes = jax.eval_shape(lambda k: net.init(k, spec, method=forward), jax.random.key(0))
    paths = set(param_paths.flatten(shapes["params"]))
    assert {p for p in paths if not p.startswith("encoder/")} == {
        "patch_embed/kernel", "patch_embed/bias", "positions/grid",
    }  # fmt: skip
    special, tokens, _ = jax.eval_shape(lambda p: net.apply(p, spec, method=forward), shapes)
    assert special.shape == (2, 0, WIDTH)
    assert tokens.shape == (2, 8, WIDTH)


def test_registers_are_seen_and_in_no_output(spec, params):
    """Three registers and a bias: outputs keep their shapes, positions and the other parameters
    theirs; what the registers hold reaches every token."""
    encoder = dataclasses.replace(ENCODER, bias=ALiBi("manhattan"))
    net = SpectrogramTrunk(PATCH, PATCH, GRIDS["freq_major"], 2, encoder, registers=3)
    shapes = jax.eval_shape(
        lambda k: net.init(k, spec, method=forward)["params"], jax.random.key(0)
    )
    more = set(param_paths.flatten(shapes)) - set(param_paths.flatten(params))
    assert more == {"register_tokens", "encoder/attention_bias/scale"}
    assert shapes["register_tokens"].shape == (3, WIDTH)
    assert shapes["positions"]["special"].shape == (2, WIDTH)

    @jax.jit
    def run(registers):
        extra = {"attention_bias": {"scale": jnp.ones(2)}}
        own = params | {"register_tokens": registers, "encoder": params["encoder"] | extra}
        valid = jnp.arange(8)[None] < jnp.array([[8], [3]])
        return net.apply({"params": own}, spec, valid, method=forward)

    one, two = (run(jnp.full((3, WIDTH), v).at[:, 0].set(0.0)) for v in (0.5, -2.0))
    for a, b, shape in zip(one, two, [(2, 2, WIDTH), (2, 8, WIDTH), (1, 2, 8, WIDTH)]):
        assert a.shape == b.shape == shape
        assert (np.abs(a - b).max(-1) > 1e-6).all()


def test_torch_initialisers():
    """Uniform within 1 / sqrt(fan_in), kernel and bias, as torch's Linear and Conv."""
    x = jnp.zeros((1, 64))
    params = jax.jit(MLPHead(400, 9).init)(jax.random.key(0), x)["params"]
    for layer, fan_in in (("hidden", 64), ("out", 400)):
        bound = fan_in**-0.5
        kernel, bias = (np.asarray(params[layer][k]) for k in ("kernel", "bias"))
        assert 0.95 * bound < np.abs(kernel).max() <= bound
        assert np.std(kernel) == pytest.approx(bound / np.sqrt(3), rel=0.05)
        assert np.abs(bias).max() <= bound
        assert np.std(bias) > 0.3 * bound


def test_heads_against_numpy():
    rng = np.random.default_rng()
    x = jnp.asarray(rng.normal(size=(3, 10)), jnp.float32)
    for net in (MLPHead(7, 4), NormLinear(4)):
        params = jax.jit(net.init)(jax.random.key(1), x)["params"]
        params = jax.tree.map(
            lambda p: np.asarray(p) + 0.1 * rng.normal(size=p.shape).astype(np.float32), params
        )
        found, y = jax.jit(net.apply)({"params": params}, x), np.asarray(x)
        if isinstance(net, MLPHead):
            y = np.maximum(y @ params["hidden"]["kernel"] + params["hidden"]["bias"], 0)
            expected = y @ params["out"]["kernel"] + params["out"]["bias"]
        else:
            y = (y - y.mean(1, keepdims=True)) / np.sqrt(y.var(1, keepdims=True) + 1e-5)
            y = y * params["norm"]["scale"] + params["norm"]["bias"]
            expected = y @ params["linear"]["kernel"] + params["linear"]["bias"]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
