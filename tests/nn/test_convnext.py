"""ConvNeXt over the token lattice: both orders, padding that does not leak, NumPy as oracle."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate2d
from scipy.special import erf

from jfreq.nn.convnext import ConvNeXt
from jfreq.types import InputError, TokenGrid

CFG = ConvNeXt(width=6, depth=2, kernel=3, mlp_ratio=2.0)
FREQ, TIME = 3, 5
GRIDS = {
    order: TokenGrid(time=TIME, freq=FREQ, order=order) for order in ("freq_major", "time_major")
}


@pytest.fixture(scope="module")
def weights():
    net, x = CFG.build(), jnp.zeros((1, FREQ * TIME, 6))
    init = jax.jit(lambda key: net.init(key, x, grid=GRIDS["freq_major"]))
    params = init(jax.random.key(0))["params"]
    rng = np.random.default_rng()
    return jax.tree.map(lambda p: p + 0.4 * rng.normal(size=p.shape).astype(np.float32), params)


@pytest.fixture
def plane():
    """[b f t d]"""
    return np.random.default_rng().normal(size=(2, FREQ, TIME, 6)).astype(np.float32)


@functools.cache
def compiled(cfg, order):
    """``(params, tokens, valid) -> (output, layers)``."""
    net, grid = cfg.build(), GRIDS[order]
    return jax.jit(lambda p, x, v: net.apply({"params": p}, x, grid=grid, valid=v, layers=True))


def flat(plane, order):
    axes = (0, 1, 2, 3) if order == "freq_major" else (0, 2, 1, 3)
    return jnp.asarray(plane.transpose(axes).reshape(len(plane), FREQ * TIME, -1))


def unflat(tokens, order):
    tokens = np.asarray(tokens)
    if order == "freq_major":
        return tokens.reshape(len(tokens), FREQ, TIME, -1)
    return tokens.reshape(len(tokens), TIME, FREQ, -1).transpose(0, 2, 1, 3)


def norm(x, p):
    centred = x - x.mean(axis=-1, keepdims=True)
    scale = np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + CFG.eps)
    return centred / scale * p["scale"] + p["bias"]


def reference(params, plane, valid):
    """Float64, convolution by SciPy; [b f t d], ``valid`` [b f t]."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    x = plane.astype(np.float64)
    for i in range(CFG.depth):
        kernel, bias = p[f"depthwise{i}"]["kernel"], p[f"depthwise{i}"]["bias"]
        y = np.where(valid[..., None], x, 0.0)
        y = np.stack(
            [
                np.stack([correlate2d(row[..., c], kernel[:, :, 0, c], "same") for c in range(6)])
                for row in y
            ]
        )
        y = norm(y.transpose(0, 2, 3, 1) + bias, p[f"norm{i}"])
        y = y @ p[f"fc1_{i}"]["kernel"] + p[f"fc1_{i}"]["bias"]
        y = 0.5 * y * (1 + erf(y / np.sqrt(2)))
        x = x + y @ p[f"fc2_{i}"]["kernel"] + p[f"fc2_{i}"]["bias"]
    return norm(x, p["norm"]), x


def swapped(params):
    """The kernels as the other order sees them: its first axis is time."""
    return {
        name: {**p, "kernel": p["kernel"].swapaxes(0, 1)} if name.startswith("depthwise") else p
        for name, p in params.items()
    }


@pytest.mark.parametrize("order", GRIDS)
def test_against_float64(weights, plane, order):
    valid = np.broadcast_to(np.arange(TIME) < np.array([5, 3])[:, None, None], (2, FREQ, TIME))
    params = weights if order == "freq_major" else swapped(weights)
    mask = flat(valid[..., None], order)[..., 0]
    out, states = compiled(CFG, order)(params, flat(plane, order), mask)
    expected, last = reference(weights, plane, valid)
    np.testing.assert_allclose(unflat(out, order), expected, rtol=1e-4, atol=1e-4)
    assert states.shape == (2, *out.shape)
    np.testing.assert_allclose(unflat(states[-1], order), last, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("order", GRIDS)
def test_padding_does_not_leak(weights, plane, order):
    valid = np.broadcast_to(np.arange(TIME) < 3, (2, FREQ, TIME))
    noisy = np.where(valid[..., None], plane, 9.0).astype(np.float32)
    mask = flat(valid[..., None], order)[..., 0]
    one, two = (compiled(CFG, order)(weights, flat(x, order), mask)[0] for x in (plane, noisy))
    np.testing.assert_array_equal(one[mask], two[mask])
    assert np.abs(one - two).max() > 0.1


def test_kernel_is_cut_to_narrow_grids():
    """Taps that only ever see padding would be dead parameters."""
    cfg = dataclasses.replace(CFG, kernel=7)
    x = jnp.zeros((1, 8, 6))
    params = jax.eval_shape(
        lambda key: cfg.build().init(key, x, grid=TokenGrid(time=8, freq=1))["params"],
        jax.random.key(0),
    )
    assert params["depthwise0"]["kernel"].shape == (1, 7, 1, 6)


def test_bfloat16_is_close(weights, plane):
    x = flat(plane, "freq_major")
    args = weights, x, np.ones(x.shape[:2], bool)
    low, _ = compiled(dataclasses.replace(CFG, dtype="bfloat16"), "freq_major")(*args)
    full, _ = compiled(CFG, "freq_major")(*args)
    assert low.dtype == jnp.float32
    assert 0 < np.abs(full - low).max() < 0.2


def test_special_tokens_are_refused():
    with pytest.raises(InputError, match="whole grid of 15 tokens, got 16; set special_tokens"):
        CFG.build().init(jax.random.key(0), jnp.zeros((1, 16, 6)), grid=GRIDS["freq_major"])


@pytest.mark.parametrize(
    ("changes", "match"),
    [({"kernel": 4}, "must be odd"), ({"kernel": -1}, "1 or more"), ({"depth": 0}, "depth")],
)
def test_impossible_sizes(changes, match):
    with pytest.raises(InputError, match=match):
        dataclasses.replace(CFG, **changes)
