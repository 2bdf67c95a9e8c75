"""Encoders of raw series: geometry by perturbation, a numpy convolution, causality of the GRU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq import param_paths
from jfreq.nn.cnn1d import Conv1d
from jfreq.nn.deepsense import DeepSense
from jfreq.types import InputError, SignalSpec

ACC, GYRO = SignalSpec("acc", 50.0, 64, 3), SignalSpec("gyro", 50.0, 64, 3)


@pytest.fixture
def sensors():
    rng = np.random.default_rng()
    return [jnp.asarray(rng.normal(size=(2, 64, 3)), jnp.float32) for _ in range(2)]


def run(cfg, sensors, seed=0):
    net = cfg.build()
    params = jax.jit(net.init)(jax.random.key(seed), sensors)["params"]
    return jax.jit(lambda x: net.apply({"params": params}, x)), params


def moved(f, sensors, at):
    """Tokens that change with sample ``at`` of the first sensor."""
    other = [sensors[0].at[:, at].add(3.0), *sensors[1:]]
    return np.flatnonzero(np.abs(f(other) - f(sensors)).max((0, 2)) > 1e-6)


def test_tpn_has_its_published_layers():
    """Tang et al. 2020: 32 x 24, 64 x 16, 96 x 8 on three axes, 400 samples."""
    cfg = Conv1d()
    x = [jnp.zeros((1, 400, 3))]
    f, params = run(cfg, x)
    assert param_paths.count(params) == (24 * 3 + 1) * 32 + (16 * 32 + 1) * 64 + (8 * 64 + 1) * 96
    assert f(x).shape == (1, 400 - 45, 96) and cfg.grid(400).time == 355


def test_one_layer_is_a_valid_convolution(sensors):
    f, params = run(Conv1d(widths=(4,), kernels=(5,), dropout=0.0), sensors)
    x = np.concatenate(sensors, -1).astype(np.float64)
    kernel, bias = (np.asarray(params["conv0"][k], np.float64) for k in ("kernel", "bias"))
    expected = [
        [np.einsum("kc,kcd->d", x[b, i : i + 5], kernel) for i in range(60)] for b in range(2)
    ]
    np.testing.assert_allclose(f(sensors), np.maximum(np.array(expected) + bias, 0), atol=1e-5)


@pytest.mark.parametrize("strides", [None, (2, 3)])
def test_tokens_of_a_cnn_lie_where_the_grid_says(strides, sensors):
    cfg = Conv1d(widths=(8, 8), kernels=(5, 4), strides=strides, dropout=0.0)
    f, _ = run(cfg, sensors)
    grid = cfg.grid(64)
    assert f(sensors).shape[1] == grid.time
    for at in (0, 20, 63):
        centres = grid.first + grid.hop * np.arange(grid.time)
        near = np.flatnonzero(np.abs(centres - at) <= (cfg.field[0] - 1) / 2)
        assert set(moved(f, sensors, at)) <= set(near)
    assert len(moved(f, sensors, 20)) > 0


def test_deepsense_is_causal_over_chunks(sensors):
    """A GRU runs forward: a sample changes the token of its chunk and later ones only."""
    cfg = DeepSense(chunk=16, width=8, hidden=6)
    f, _ = run(cfg, sensors)
    assert f(sensors).shape == (2, 4, 6) and cfg.grid(64).hop == 16
    np.testing.assert_array_equal(moved(f, sensors, 40), [2, 3])


def test_dropout_needs_a_key_and_changes_training_only(sensors):
    for cfg in (Conv1d(widths=(8,), kernels=(5,), dropout=0.5), DeepSense(width=8, hidden=6)):
        net = cfg.build()
        params = jax.jit(net.init)(jax.random.key(0), sensors)["params"]

        @jax.jit
        def apply(key, net=net, params=params):
            return net.apply({"params": params}, sensors, train=True, rngs={"dropout": key})

        a, b = apply(jax.random.key(1)), apply(jax.random.key(2))
        assert not np.allclose(a, b)
        np.testing.assert_array_equal(a, apply(jax.random.key(1)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Conv1d(widths=(8,), kernels=(5, 4)), "must name the same layers"),
        (lambda: Conv1d(dropout=1.0), "Conv1d.dropout: must be 0 or more and below 1"),
        (lambda: Conv1d(kernels=(40, 30, 8)).check([ACC]), "64 samples are shorter than the 76"),
        (lambda: DeepSense(chunk=24).check([ACC, GYRO]), "64 samples are not a multiple of 24"),
        (lambda: DeepSense(chunk=4), "encoder.chunk: must be 8 samples or more"),
        (
            lambda: Conv1d().check([ACC, SignalSpec("gyro", 100.0, 128, 3)]),
            "sensors of one length, got {'acc': 64, 'gyro': 128}",
        ),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
