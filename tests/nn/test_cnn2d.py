"""The convolutional map encoder against float64 loops, its geometry, and what stands around it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq.nn.cnn2d import Conv2d, MapNet, Projection
from jfreq.types import InputError

SMALL = Conv2d(widths=(8, 16), time_strides=(2, 1), freq_strides=(2, 2), groups=4)


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def run(net, params, x) -> Any:
    return jax.jit(net.apply)({"params": params}, x)


def made(net, x):
    """The module's parameters, moved off their initial values."""
    params = jax.jit(net.init)(jax.random.key(0), x)["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [v + 0.3 * jax.random.normal(k, v.shape) for v, k in zip(leaves, keys)]
    return jax.tree.unflatten(tree, moved)


def block(x, kernel, scale, bias, strides, groups):
    """One block, loop by loop."""
    (t, f, _), (st, sf) = x.shape, strides
    wide = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    out = np.zeros((-(-t // st), -(-f // sf), kernel.shape[-1]))
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            patch = wide[i * st : i * st + 3, j * sf : j * sf + 3]
            out[i, j] = np.einsum("tfc,tfcd->d", patch, kernel)
    parts = out.reshape(*out.shape[:2], groups, -1)
    mean = parts.mean((0, 1, 3), keepdims=True)
    deviation = np.sqrt(parts.var((0, 1, 3), keepdims=True) + 1e-6)
    normed = ((parts - mean) / deviation).reshape(out.shape)
    return np.maximum(normed * scale + bias, 0)


def test_equals_the_loops():
    x = noise(2, 9, 6, 3)
    net = SMALL.build()
    params = made(net, x)
    found = run(net, params, x)
    p = jax.tree.map(lambda v: np.asarray(v, np.float64), params)
    for row in range(2):
        y = np.asarray(x[row], np.float64)
        for i, strides in enumerate(zip(SMALL.time_strides, SMALL.freq_strides)):
            norm = p[f"norm{i}"]
            y = block(y, p[f"conv{i}"]["kernel"], norm["scale"], norm["bias"], strides, 4)
        np.testing.assert_allclose(found[row], y, atol=1e-4)


@pytest.mark.parametrize(("frames", "bins"), [(100, 64), (33, 17), (1, 1)])
def test_sizes(frames, bins):
    cfg = Conv2d()
    shape = jax.eval_shape(
        lambda x: cfg.build().init_with_output(jax.random.key(0), x)[0],
        jnp.zeros((1, frames, bins, 3)),
    ).shape
    assert shape == (1, *cfg.shape(frames, bins), 128)
    assert Conv2d().shape(100, 64) == (25, 4) and Conv2d().stride == (4, 16)


def test_a_cell_is_centred_on_its_stride():
    """Group norm spreads everything a little, so the convolutions alone: which frames and bins
    reach cell (i, j) with a non-zero weight is symmetric about (i, j) times the stride."""
    import flax.linen as nn

    class Plain(nn.Module):
        @nn.compact
        def __call__(self, x):
            for w, *s in zip(SMALL.widths, SMALL.time_strides, SMALL.freq_strides):
                x = nn.Conv(w, (3, 3), s, ((1, 1), (1, 1)), kernel_init=nn.initializers.ones)(x)
            return x

    x = jnp.zeros((1, 21, 21, 1))
    net = Plain()
    params = net.init(jax.random.key(0), x)
    grad = jax.grad(lambda x: run(net, params["params"], x)[0, 5, 2, 0])(x)[0, :, :, 0]
    weight = np.asarray(grad)
    seen = np.argwhere(weight > 0)
    np.testing.assert_array_equal(seen.mean(0), (5 * SMALL.stride[0], 2 * SMALL.stride[1]))


@pytest.mark.parametrize("rows", ["learned", "clip", "none"])
def test_row_levels(rows):
    x = noise(2, 12, 8, 3)
    net = MapNet(SMALL, rows)
    params = made(net, x)
    given = np.asarray(x)
    if rows == "learned":
        given = given * np.asarray(params["gain"]) + np.asarray(params["offset"])
    elif rows == "clip":
        centred = given - given.mean(1, keepdims=True)
        given = centred / np.sqrt(centred.var(1, keepdims=True) + 1e-5)
    encoder = SMALL.build()
    expected = run(encoder, params["encoder"], jnp.asarray(given))
    found = run(net, params, x)
    assert found.shape == (2, 6, 16)
    np.testing.assert_allclose(found, expected.mean(2), atol=1e-5)
    assert ("gain" in params) == (rows == "learned")


def test_projection_is_linear_after_the_last_relu():
    x = noise(5, 3, 7)
    net = Projection((6, 4))
    params = made(net, x)
    p = jax.tree.map(np.asarray, params)
    hidden = np.maximum(np.asarray(x) @ p["dense0"]["kernel"] + p["dense0"]["bias"], 0)
    expected = hidden @ p["dense1"]["kernel"] + p["dense1"]["bias"]
    np.testing.assert_allclose(run(net, params, x), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"widths": (8,)}, "1 blocks need as many strides"),
        ({"widths": ()}, "0 blocks"),
        ({"groups": 3}, "3 must divide"),
        ({"time_strides": (0, 1)}, "Conv2d.time_strides: must be 1 or more, got 0"),
    ],
)
def test_impossible_shapes(changes, match):
    from jfreq.config import replace

    with pytest.raises(InputError, match=match):
        replace(SMALL, **changes)
