"""Kernels for TPU, interpreted, against the plain formulas: values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq.kernels import tpu, tpu_cosine
from jfreq.nn.vit import ViT
from jfreq.nn.window_decoder import WindowDecoder
from jfreq.ops.scale import unit
from jfreq.types import InputError, TokenGrid


@pytest.fixture
def rng():
    return np.random.default_rng()


@pytest.fixture
def interpreted(monkeypatch):
    for module in (tpu, tpu_cosine):
        run = functools.partial(module.attention, interpret=True)
        monkeypatch.setattr(module, "attention", run)


def array(rng, *shape, gain=1.0):
    return jnp.asarray(gain * rng.normal(size=shape), jnp.float32)


def both(fn, args, weight):
    """Values and gradients, in one compilation."""

    def run(args, weight):
        out, pull = jax.vjp(fn, *args)
        return out, pull(weight)

    return jax.tree.leaves(jax.jit(run)(args, weight))


def cosines(qkv, gain, bias):
    """The formula, step by step."""
    q, k, v = jnp.moveaxis(qkv, 2, 0)
    scores = jnp.einsum("bqhk,bmhk->bhqm", unit(q), unit(k)) * gain[None, :, None, None]
    return jnp.einsum("bhqm,bmhk->bqhk", jax.nn.softmax(scores + bias[None], axis=-1), v)


@pytest.mark.parametrize(("heads", "width"), [(3, 5), (8, 32), (2, 128)])
def test_attention_of_cosines(rng, heads, width):
    """One group of heads, two groups of four, and heads that are groups themselves."""
    qkv = array(rng, 3, 7, 3, heads, width).at[0, 2].set(0.0)  # a token of zeros has no direction
    bias = array(rng, heads, 7, 7).at[:, 1, 3:].set(-1e30)
    args = (qkv, jnp.abs(array(rng, heads)) + 0.1, bias)
    weight = array(rng, 3, 7, heads, width)
    kernel = functools.partial(tpu_cosine.attention, interpret=True)
    found, expected = both(kernel, args, weight), both(cosines, args, weight)
    for name, mine, theirs in zip(("out", "qkv", "gain", "bias"), found, expected, strict=True):
        size = float(jnp.abs(theirs).max())
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=2e-6 * size, err_msg=name)


def run(net, params, x, **options):
    """Output and gradients of a network for a random weight of the output."""

    def loss(params, x):
        out = net.apply({"params": params}, x, **options)
        out = out[0] if isinstance(out, tuple) else out
        return jnp.sum(out * jnp.cos(jnp.arange(out.size)).reshape(out.shape)), out

    return jax.tree.leaves(jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, x))


def assert_close(found, expected, tolerance):
    """Relative to the largest value of each array, or to a hundredth of the largest of all: some
    gradients are zero but for rounding."""
    sizes = [float(jnp.abs(x).max()) for x in expected]
    for mine, theirs, own in zip(found, expected, sizes, strict=True):
        size = max(own, 0.01 * max(sizes))
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=tolerance * size)


@pytest.mark.parametrize("remat", ["none", "dots"])
def test_an_encoder_with_whole_rows(rng, interpreted, remat):
    """The same parameters, initial values, outputs and gradients as with the plain formula."""
    plain = ViT(width=24, depth=2, heads=3)
    fused = ViT(width=24, depth=2, heads=3, attention="whole", remat=remat)
    x, options = array(rng, 2, 7, 24), {"grid": TokenGrid(7)}
    params, others = (
        cfg.build().init(jax.random.key(0), x, **options)["params"] for cfg in (plain, fused)
    )
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), params, others))
    params = jax.tree.map(lambda p: p + array(rng, *p.shape, gain=0.1), params)
    valid = jnp.asarray(rng.uniform(size=(2, 7)) < 0.7).at[:, 0].set(True)
    found = run(fused.build(), params, x, valid=valid, **options)
    assert_close(found, run(plain.build(), params, x, valid=valid, **options), 2e-5)


def test_a_stream_in_bfloat16(rng):
    """It rounds every sum to 8 bits, and what comes out is float32 all the same."""
    plain, rounded = (ViT(width=24, depth=3, heads=3, stream=s) for s in ("float32", "bfloat16"))
    x, options = array(rng, 2, 7, 24), {"grid": TokenGrid(7)}
    params = plain.build().init(jax.random.key(0), x, **options)["params"]
    found, expected = (run(cfg.build(), params, x, **options) for cfg in (rounded, plain))
    assert all(x.dtype == jnp.float32 for x in found)
    assert_close(found, expected, 0.05)
    assert np.abs(np.asarray(found[-1] - expected[-1])).max() > 1e-4


@pytest.mark.parametrize("size", [(8, 4), (6, 3)])
def test_windows_as_a_mask(rng, interpreted, size):
    """All tokens at once, windows as a mask, equal the attention window by window; on a grid that
    windows do not tile too."""
    plain = WindowDecoder(
        width=128, depth=2, heads=4, window=(4, 2), bias_width=5, bias_dropout=0.0
    )
    fused = WindowDecoder(
        width=128, depth=2, heads=4, window=(4, 2), bias_width=5, bias_dropout=0.0,
        attention="whole", remat="dots",
    )  # fmt: skip
    grid = TokenGrid(*size)
    x = array(rng, 2, grid.size, 128)
    params, others = (
        cfg.build().init(jax.random.key(0), x, grid=grid)["params"] for cfg in (plain, fused)
    )
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), params, others))
    params = jax.tree.map(lambda p: p + array(rng, *p.shape, gain=0.1), params)
    found = run(fused.build(), params, x, grid=grid)
    assert_close(found, run(plain.build(), params, x, grid=grid), 5e-5)


def test_shapes_that_the_window_kernel_does_not_take():
    with pytest.raises(InputError, match=r"decoder.attention: whole wants a width"):
        WindowDecoder(width=96, heads=6, attention="whole")
    cfg = WindowDecoder(width=128, heads=4, depth=1, attention="whole")
    grid = TokenGrid(tpu_cosine.MOST_TOKENS // 4 + 4, 4)
    with pytest.raises(InputError, match=r"up to \d+ tokens, got \d+; set it to auto"):
        jax.eval_shape(
            lambda key: cfg.build().init(key, jnp.zeros((1, grid.size, 128)), grid=grid),
            jax.random.key(0),
        )
