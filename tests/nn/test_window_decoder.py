"""The window decoder against float64 loops: cosines, log distances, norms after each sum."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from jfreq.nn.window_decoder import WindowDecoder
from jfreq.testing import forward, noise
from jfreq.types import InputError, TokenGrid

SMALL = WindowDecoder(width=8, depth=2, heads=2, window=(4, 2), shift=(2, 0), bias_width=5)


def layer_norm(x, p):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-6) * p["scale"] + p["bias"]


def dense(x, p):
    return x @ p["kernel"] + p["bias"]


def gelu(x):
    return 0.5 * x * (1 + erf(x / np.sqrt(2)))


def bias_of(p, distance):
    """What a distance (time, frequency) adds to the score of every head."""
    x = np.array([np.sign(d) * np.log(1 + abs(d)) for d in distance])
    return dense(np.maximum(dense(x, p["bias_in"]), 0), p["bias_out"])


def near(query, key, cfg, shift):
    """Whether a query (time, frequency) attends to a key: they lie in one window of the shifted
    lattice, which the ends of the grid cut."""
    moved = [
        [(at + w - s) // w for at, w, s in zip(place, cfg.window, shift)] for place in (query, key)
    ]
    return moved[0] == moved[1]


def block_reference(x, p, cfg, shift):
    """One row ``[t f d]``, token by token."""
    places, size = list(np.ndindex(*x.shape[:2])), cfg.width // cfg.heads
    q, k, v = np.moveaxis(
        np.einsum("tfd,dphk->tfphk", x, p["qkv"]["kernel"]) + p["qkv"]["bias"], 2, 0
    )
    out = np.zeros_like(x)
    for at in places:
        keys = [key for key in places if near(at, key, cfg, shift)]
        heads = []
        for h in range(cfg.heads):
            a = q[at][h]
            cosines = [a @ k[b][h] / np.linalg.norm(a) / np.linalg.norm(k[b][h]) for b in keys]
            scores = np.array(cosines) / max(p["temperature"][h], 0.01)
            scores += [bias_of(p, np.subtract(at, b))[h] for b in keys]
            weights = np.exp(scores - scores.max())
            heads.append(weights / weights.sum() @ np.array([v[b][h] for b in keys]))
        y = np.array(heads).reshape(-1) @ p["proj"]["kernel"].reshape(cfg.heads * size, -1)
        y = x[at] + layer_norm(y + p["proj"]["bias"], p["norm1"])
        out[at] = y + layer_norm(dense(gelu(dense(y, p["fc1"])), p["fc2"]), p["norm2"])
    return out


@pytest.mark.parametrize("order", ["time_major", "freq_major"])
@pytest.mark.parametrize("size", [(8, 4), (6, 3), (3, 2)])
def test_the_decoder_equals_loops_over_tokens(size, order):
    """A whole grid, one that windows do not tile, and one within the window, which is not
    shifted."""
    grid = TokenGrid(size[0], size[1], order)
    net, x = SMALL.build(), noise(2, grid.size, 8)
    shapes = jax.eval_shape(lambda key: net.init(key, x, grid=grid), jax.random.key(0))["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape) / 2, jnp.float32), shapes)
    params["blocks"]["temperature"] = jnp.array([[1.3, 0.4], [-1.0, 0.2]])
    found = forward(net, grid=grid)(params, x)
    p = jax.tree.map(lambda v: np.asarray(v, np.float64), params)
    for row, tokens in zip(found, np.asarray(x, np.float64)):
        y = tokens.reshape(*grid.shape, 8)
        y = y.swapaxes(0, 1) if order == "freq_major" else y
        for i in range(SMALL.depth):
            block = jax.tree.map(lambda v, i=i: v[i], p["blocks"])
            y = block_reference(y, block, SMALL, (2, 0) if i % 2 and size[0] > 4 else (0, 0))
        y = y.swapaxes(0, 1) if order == "freq_major" else y
        expected = [layer_norm(token, p["norm"]) for token in y.reshape(-1, 8)]
        np.testing.assert_allclose(row, expected, rtol=1e-3, atol=1e-3)


GRID = TokenGrid(8, 4, "time_major")


@functools.cache
def started():
    """Tokens and the parameters of a fresh decoder."""
    x = noise(2, GRID.size, 8)
    return x, jax.jit(lambda key: SMALL.build().init(key, x, grid=GRID))(jax.random.key(0))


def test_dropout_is_of_the_bias_alone():
    x, params = started()
    plain = forward(SMALL.build(), grid=GRID)(params["params"], x)

    def trained(cfg):
        how = {"grid": GRID, "train": True}
        return jax.jit(lambda key: cfg.build().apply(params, x, rngs={"dropout": key}, **how))

    dropped = trained(SMALL)
    assert not np.allclose(dropped(jax.random.key(0)), dropped(jax.random.key(1)))
    still = trained(dataclasses.replace(SMALL, bias_dropout=0.0))
    np.testing.assert_allclose(still(jax.random.key(0)), plain, rtol=1e-6, atol=1e-6)


def test_what_is_recomputed_changes_no_gradient():
    x, params = started()

    def gradient(remat):
        net: Any = dataclasses.replace(SMALL, remat=remat).build()
        return jax.jit(jax.grad(lambda p: (net.apply(p, x, grid=GRID) ** 3).mean()))(params)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        gradient("none"),
        gradient("full"),
    )


def test_vectors_of_length_zero_have_a_finite_gradient():
    """A query of zeros has no direction."""
    x, params = started()
    nothing = jax.tree.map(jnp.zeros_like, params)
    net: Any = SMALL.build()
    grads = jax.jit(jax.grad(lambda p: net.apply(p, 0 * x, grid=GRID).sum()))(nothing)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r"decoder.width: 8 must be a multiple of heads 3"):
        WindowDecoder(width=8, heads=3)
    with pytest.raises(InputError, match=r"decoder.shift: \(4, 0\) must be smaller"):
        WindowDecoder(shift=(4, 0))
