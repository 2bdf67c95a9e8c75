"""Positions by convolution: against PyTorch's definition in SciPy, and on a part of a grid."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate
from scipy.special import erf

from jfreq.nn.position_conv import PositionConv
from jfreq.nn.vit import ViT
from jfreq.types import InputError, TokenGrid

GRID = TokenGrid(time=5, freq=3, order="time_major")


def made(cfg, x, **options):
    """Parameters of noise, and positions."""
    net, x = cfg.build(x.shape[-1]), jnp.asarray(x)
    params = jax.eval_shape(lambda: net.init(jax.random.key(0), x, grid=GRID))["params"]
    rng = np.random.default_rng(4)
    params = {name: jnp.asarray(rng.normal(size=s.shape), s.dtype) for name, s in params.items()}
    run = jax.jit(lambda params, x, ids: net.apply({"params": params}, x, grid=GRID, ids=ids))
    return params, np.asarray(run(params, x, options.get("ids")))


@pytest.mark.parametrize("taps", [4, 7])
def test_against_scipy(taps):
    x = np.random.default_rng(2).normal(size=(2, 15, 6)).astype(np.float32)
    params, found = made(PositionConv(taps, 2), x)
    kernel, scale, bias = (np.asarray(params[name]) for name in ("kernel", "scale", "bias"))
    kernel = kernel / np.linalg.norm(kernel.reshape(taps, -1), axis=1)[:, None, None]
    kernel = kernel * scale[:, None, None]
    padded = np.pad(x, ((0, 0), (taps // 2, taps - 1 - taps // 2), (0, 0)))
    y = np.zeros_like(x) + bias
    for row in range(2):
        for out in range(6):
            for c in range(3):
                plane = padded[row, :, out // 3 * 3 + c]
                y[row, :, out] += correlate(plane, kernel[:, c, out], "valid")
    np.testing.assert_allclose(found, 0.5 * y * (1 + erf(y / 2**0.5)), atol=1e-5)


def test_tokens_that_are_not_there_count_as_zeros():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, 15, 4)).astype(np.float32)
    ids = np.stack([rng.permutation(15)[:6] for _ in range(2)])
    there = np.zeros((2, 15, 1), np.float32)
    np.put_along_axis(there, ids[..., None], 1.0, axis=1)
    _, whole = made(PositionConv(6, 2), x * there)
    part = np.take_along_axis(x, ids[..., None], axis=1)
    _, found = made(PositionConv(6, 2), part, ids=ids)
    np.testing.assert_allclose(found, np.take_along_axis(whole, ids[..., None], axis=1), atol=1e-6)


def test_initial_scale_is_the_length_of_the_kernel():
    """So that a fresh kernel is what its initialiser gave it, as released."""
    net = PositionConv(4, 2).build(64)
    params: Any = net.init(jax.random.key(0), jnp.zeros((1, 15, 64)), grid=GRID)["params"]
    length = np.linalg.norm(np.asarray(params["kernel"]).reshape(4, -1), axis=1)
    np.testing.assert_allclose(params["scale"], length, rtol=1e-6)
    assert np.std(params["kernel"]) == pytest.approx((4 / (4 * 64)) ** 0.5, rel=0.05)


def test_special_tokens_get_none_and_padding_is_zero():
    cfg = ViT(width=8, depth=1, heads=2, norm="post", position_conv=PositionConv(6, 2))
    net = cfg.build()
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(1, 17, 8)), jnp.float32)
    valid = jnp.arange(17)[None] < 12
    params: Any = net.init(jax.random.key(0), x, grid=GRID, special=2)
    run = jax.jit(lambda x: net.apply(params, x, grid=GRID, special=2, valid=valid)[0])
    other = jnp.where(valid[..., None], x, 9.0)
    np.testing.assert_array_equal(run(x), run(other))
    shapes = jax.tree.map(jnp.shape, params["params"]["position_conv"])
    assert shapes == {"bias": (8,), "kernel": (6, 4, 8), "scale": (6,)}


def test_refused():
    with pytest.raises(InputError, match="16 do not divide the width 40"):
        ViT(width=40, heads=2, position_conv=PositionConv())
    net = ViT(width=8, depth=1, heads=2, position_conv=PositionConv(6, 2)).build()
    with pytest.raises(InputError, match="position_conv: needs the position of every token"):
        net.init(jax.random.key(0), jnp.zeros((1, 9, 8)), grid=GRID)
