"""Tokens of raw waveforms: what they see, and the layers against plain NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate
from scipy.special import erf

from jfreq.nn.waveform import ConvFeatures, ConvPositions
from jfreq.types import InputError, SignalSpec

SMALL = ConvFeatures(widths=(4, 6), kernels=(5, 3), strides=(3, 2))
POSITIONS = ConvPositions(depth=2, kernel=3, groups=2)


@functools.cache
def built(cfg, shape):
    """Parameters far from the initial ones, and the compiled module."""
    net = cfg.build()
    params = jax.jit(net.init)(jax.random.key(0), jnp.zeros(shape))["params"]
    rng = np.random.default_rng()
    params = jax.tree.map(lambda p: p + 0.3 * rng.normal(size=p.shape).astype(np.float32), params)
    return params, jax.jit(lambda params, *args, **kw: net.apply({"params": params}, *args, **kw))


def random(*shape):
    return jnp.asarray(np.random.default_rng().normal(size=shape), jnp.float32)


def norm(x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-5)


def gelu(x):
    return x * (1 + erf(x / np.sqrt(2))) / 2


def features_reference(params, x):
    """One clip ``[t c]``; full correlations of which every stride-th value is kept."""
    params = jax.tree.map(np.asarray, params)
    for i, stride in enumerate(SMALL.strides):
        kernel = np.asarray(params[f"conv{i}"]["kernel"], np.float64)
        parts = [
            correlate(x, kernel[..., o], mode="valid")[::stride] for o in range(kernel.shape[2])
        ]
        affine = params[f"norm{i}"]
        x = gelu(norm(np.concatenate(parts, axis=1)) * affine["scale"] + affine["bias"])
    return x


def test_features_against_numpy():
    x = random(2, 50, 3)
    params, run = built(SMALL, x.shape)
    found = run(params, x)
    assert found.shape == (2, SMALL.grid(50).time, 6)
    expected = np.stack([features_reference(params, np.asarray(clip, np.float64)) for clip in x])
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_published_features_see_400_samples_every_320():
    """20 ms at 16 kHz; the number of tokens as the layers give it one after the other."""
    cfg = ConvFeatures()
    assert cfg.field == (400, 320)
    for samples in (400, 719, 720, 16000, 250_000):
        count = samples
        for kernel, stride in zip(cfg.kernels, cfg.strides):
            count = (count - kernel) // stride + 1
        assert cfg.grid(samples).time == count
    assert cfg.grid(16000).first == 199.5 and cfg.grid(16000).hop == 320
    shapes = jax.eval_shape(cfg.build().init, jax.random.key(0), jnp.zeros((1, 400, 1)))["params"]
    # Convolutions without bias and seven norms, as counted in wav2vec 2.0's checkpoints.
    assert sum(p.size for p in jax.tree.leaves(shapes)) == 512 * (10 + 4 * 1536 + 2 * 1024) + 7168


def test_a_token_sees_its_samples_and_no_others():
    cfg = ConvFeatures(widths=(4,) * 7)
    x = random(1, 1100, 1)
    params, run = built(cfg, x.shape)
    grid = cfg.grid(1100)
    gradient = jax.jit(jax.jacrev(lambda x: run(params, x)[0].dot(jnp.arange(4.0))))
    for token, row in enumerate(np.asarray(gradient(x))):
        seen = np.flatnonzero(row[0, :, 0])
        assert (seen[0], seen[-1]) == (320 * token, 320 * token + 399)
        assert (seen[0] + seen[-1]) / 2 == grid.first + grid.hop * token
    valid = np.asarray(cfg.valid(jnp.array([0, 719, 720, 1100]), grid.time))
    np.testing.assert_array_equal(valid.sum(1), [1, 1, 2, 3])


def positions_reference(params, x):
    """One clip ``[n d]``."""
    for layer in range(POSITIONS.depth):
        kernel = np.asarray(params["blocks"]["kernel"][layer, 0], np.float64)
        y = np.zeros_like(x) + np.asarray(params["blocks"]["bias"][layer])
        size = kernel.shape[1]
        for o in range(x.shape[1]):
            first = o // size * size
            for c in range(size):
                y[:, o] += correlate(x[:, first + c], kernel[:, c, o], mode="same")
        x = gelu(norm(y))
    return x


def test_positions_against_numpy_and_in_a_longer_window():
    """Padding changes nothing, whatever stands in it."""
    x = random(2, 9, 6)
    params, run = built(POSITIONS, x.shape)
    expected = [positions_reference(params, np.asarray(clip, np.float64)) for clip in x]
    np.testing.assert_allclose(run(params, x), np.stack(expected), rtol=1e-3, atol=1e-4)
    longer = jnp.concatenate([x, 9 * random(2, 4, 6)], axis=1)
    valid = jnp.broadcast_to(jnp.arange(13) < 9, (2, 13))
    found = run(params, longer, valid=valid)[:, :9]
    np.testing.assert_allclose(found, np.stack(expected), rtol=1e-3, atol=1e-4)
    assert np.abs(run(params, longer)[:, 8] - found[:, 8]).max() > 0.01


def test_bad_settings():
    with pytest.raises(InputError, match="windows of 399 samples are shorter than the 400"):
        ConvFeatures().check([SignalSpec("audio", 16000, 399)])
    with pytest.raises(InputError, match="must name the same layers"):
        ConvFeatures(strides=(5,))
    with pytest.raises(InputError, match=r"positions.kernel: must be odd, got 4"):
        ConvPositions(kernel=4)
