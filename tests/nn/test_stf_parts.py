"""The operators of STFNets alone, sizes of the released networks, and bad input."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq.nn import stf as net
from jfreq.nn.stf import STF
from jfreq.ops import stf
from jfreq.types import InputError, SignalSpec


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


WINDOWS = STF().windows


def operated(operator, base, x, j):
    """``x [t]`` through an operator of one channel at window ``j``."""
    n, bins = WINDOWS[j], stf.bin_order(WINDOWS, WINDOWS, j)

    def run(x):
        z = stf.block_spectrum(stf.to_blocks(x[None, :, None], 128), n, bins)
        params = {"base": jnp.asarray(base, jnp.float32)}
        z, order = operator.apply(
            {"params": params}, (z[:, 0], z[:, 1]), bins, size=n, dilation=n // WINDOWS[0]
        )
        return stf.to_series(stf.synthesise(z, n, order))[0, :, 0]

    return np.asarray(jax.jit(run)(jnp.asarray(x, jnp.float32)))


@pytest.mark.parametrize("j", range(4))
@pytest.mark.parametrize("kernel", ["identity", "hann", "free"])
def test_convolution_is_one_window_in_time_at_every_resolution(kernel, j):
    c, a = {"identity": (0, 1), "hann": (-0.25, 0.5), "free": (0.3 - 0.4j, -0.7)}[kernel]
    taps = [np.conj(c), a, c]
    base = np.stack([np.real(taps), np.imag(taps)]).reshape(2, 3, 1, 1)
    t, x = np.arange(256), noise(256)
    expected = x * (a + 2 * np.real(c * np.exp(-2j * np.pi * t / 16)))
    found = operated(net._Convolution(STF(operator="convolution"), 1, 1), base, x, j)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def circular(x, h, n):
    """Circular convolution inside blocks of ``n``; ``h`` at lags 0 to ``n - 1``."""
    spectrum = np.fft.rfft(x.reshape(-1, n)) * np.fft.rfft(h)
    return np.fft.irfft(spectrum, n).ravel()


@pytest.mark.parametrize("j", range(4))
@pytest.mark.parametrize("expansion", ["linear", "zero_pad"])
def test_filter_is_circular_convolution_inside_blocks(expansion, j):
    n, taps, x = WINDOWS[j], noise(32, seed=3), noise(256)
    lag = np.arange(n)
    if n == 16:
        h = taps[:16] + taps[16:]
    elif n == 32 or expansion == "zero_pad":
        h = np.where(lag < 32, taps[lag % 32], 0)
    else:
        length = n // 32
        sinc = np.sin(np.pi * lag / 32) / np.maximum(np.sin(np.pi * lag / n), 1e-9) / length
        h = taps[lag % 32] * np.where(lag == 0, 1, sinc**2)
    found = operated(net._Filter(STF(expansion=expansion), 1, 1), taps[:, None], x, j)
    np.testing.assert_allclose(found, circular(x.astype(np.float64), h, n), atol=5e-5)


@pytest.mark.parametrize("j", range(4))
def test_filter_of_ones_is_the_identity(j):
    base = np.stack([np.ones(17), np.zeros(17)], axis=1)[:, :, None]
    x = noise(256)
    found = operated(net._Filter(STF(filter_form="bins"), 1, 1), base, x, j)
    np.testing.assert_allclose(found, x, atol=1e-5)


# ------------------------------------------------------------------ config


def test_parameters_of_the_released_convolution():
    """Without the head of 390; the sizes of the other two are in test_raw_sensors.py."""
    cfg, sensors = STF(operator="convolution"), [jnp.zeros((1, 512, 3))] * 2
    shapes = jax.eval_shape(cfg.build().init, jax.random.key(0), sensors)["params"]
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 49_646 - 390
    out = jax.eval_shape(cfg.build().apply, {"params": shapes}, sensors)
    assert out.shape == (1, 4, 64) and cfg.grid(512).time == 4


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"windows": (16, 40)}, "not a chain"),
        ({"pooled": (8, 24, 48, 96)}, "by one factor"),
        ({"width": 62}, "encoder.width: 62 channels do not divide over 4 windows"),
        ({"sensor_width": 30}, "encoder.sensor_width"),
        ({"depth": 0}, "STF.depth"),
        ({"kernel": 4}, "encoder.kernel: must be odd"),
        ({"kernel": 13, "operator": "convolution"}, "13 taps reach beyond the 7 bins"),
        ({"taps": 7}, "encoder.taps"),
        ({"dropout": 1.0}, "STF.dropout"),
    ],
)
def test_bad_configs_are_named(more, message):
    with pytest.raises(InputError, match=message):
        STF(**more)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ((512, 256), "sensors of one length, got {'a': 512, 'b': 256}"),
        ((500, 500), "500 samples are not a multiple of the longest window 128"),
        ((640, 640), "640 samples pool to 480, not a multiple of the longest window 128"),
        ((512, 512), None),
    ],
)
def test_sensors_that_do_not_fit_are_named(samples, message):
    signals = [SignalSpec(name, 100.0, n, 3) for name, n in zip("ab", samples)]
    if message is None:
        STF().check(signals)
    else:
        with pytest.raises(InputError, match=re.escape(message)):
            STF().check(signals)
