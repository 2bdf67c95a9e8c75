"""STFNets against complex numbers in float64 numpy, written from the published equations."""

import dataclasses
import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq.nn import stf as net
from jfreq.nn.stf import STF
from jfreq.ops import stf

SMALL = STF(windows=(8, 16), pooled=None, width=4, sensor_width=2, depth=1, taps=8, dropout=0.5)
DEEP = {
    "windows": (8, 16, 32),
    "pooled": (6, 12, 24),
    "width": 6,
    "sensor_width": 3,
    "depth": 2,
    "taps": 16,
}
CASES = {
    "filter": {},
    "convolution": {
        "operator": "convolution",
        "activation": "frequency",
        "windows": (8, 16),
        "pooled": (4, 8),
        "width": 4,
        "sensor_width": 2,
        "kernel": 3,
    },
    "bins": {"filter_form": "bins", "scaling": "ortho", "merge": "zero", "pooled": None},
    "zero_pad": {"expansion": "zero_pad", "dead_bias": True, "taps": 8, "depth": 1},
}


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def apply(cfg, params, sensors, **more) -> Any:
    params, sensors = jax.tree.map(jnp.asarray, (params, list(sensors)))
    return cfg.build().apply({"params": params}, sensors, **more)


def random_params(cfg, sensors, seed=0) -> Any:
    """Parameters of a network, all of them moved off their start."""
    x = [jnp.asarray(x) for x in sensors]
    shapes = jax.eval_shape(cfg.build().init, jax.random.key(0), x)["params"]
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(seed)
    return tree.unflatten([(rng.normal(size=s.shape) / 2).astype(np.float32) for s in leaves])


# ------------------------------------------------------------------ the oracle


def leaky(x):
    return np.where(x > 0, x, 0.2 * x)


def merged(p, cfg, spectra, i, j, k):
    """Bin ``k`` of window ``j`` from window ``i``, ``[b m c]``."""
    r = cfg.windows[j] // cfg.windows[i]
    z = spectra[i][:, :, k // r]
    z = z.reshape(z.shape[0], -1, r, z.shape[-1])
    if i == j or cfg.merge == "zero":
        return z.sum(2)
    own = p[f"merge{cfg.windows[i]}_{cfg.windows[j]}"]
    weight = np.fft.fft(own["kernel"].astype(np.float64), axis=1)[:, 1 : r + 1].T
    bias = own["bias"][0] + 1j * own["bias"][1].astype(np.float64)
    size = np.abs(np.einsum("bmpc,pq->bmqc", z, weight) + bias[:, None])
    share = np.exp(size - size.max(2, keepdims=True))
    return r * (share * z).sum(2) / share.sum(2)


def normed(p, z, eps) -> Any:
    """Whitened by the eigenvectors of each row's covariance, then the learned map."""
    out = np.empty_like(z)
    for row, value in enumerate(z):
        pair = np.stack([value.real.ravel(), value.imag.ravel()])
        pair = pair - pair.mean(1, keepdims=True)
        values, vectors = np.linalg.eigh(pair @ pair.T / pair.shape[1] + eps * np.eye(2))
        pair = vectors @ np.diag(values**-0.5) @ vectors.T @ pair
        out[row] = (pair[0] + 1j * pair[1]).reshape(value.shape)
    rr, ri, ii, shift = (p[k] for k in ("scale_rr", "scale_ri", "scale_ii", "shift"))
    real = rr * out.real + ri * out.imag + shift[0]
    return real + 1j * (ri * out.real + ii * out.imag + shift[1])


def filtered(p, cfg, z, size) -> Any:
    base = p["base"].astype(np.float64)
    if cfg.expansion == "zero_pad" and size > cfg.taps:
        response = np.fft.rfft(base, size, axis=0)
    else:
        taps = cfg.filter_form == "taps"
        own = np.fft.rfft(base, axis=0) if taps else base[:, 0] + 1j * base[:, 1]
        at = np.linspace(0, len(own) - 1, size // 2 + 1)
        response = np.stack([np.interp(at, range(len(own)), column) for column in own.T], axis=1)
    return np.einsum("bmfc,fco->bmfo", z, response.reshape(*z.shape[2:], -1))


def convolved(p, cfg, z, dilation) -> Any:
    kernel = p["base"][0] + 1j * p["base"][1].astype(np.float64)
    last = z.shape[2] - 1
    out = np.zeros((*z.shape[:3], kernel.shape[-1]), complex)
    for k, t in itertools.product(range(last + 1), range(cfg.kernel)):
        at = k + (t - cfg.kernel // 2) * dilation
        if at < 0:
            value = z[:, :, -at].conj()
        else:
            value = z[:, :, at] if at <= last else z[:, :, 2 * last - at].conj()
        out[:, :, k] += value @ kernel[t]
    return out


def layer(p, cfg, x, pool=False) -> Any:
    b, t, _ = x.shape
    spectra = [np.fft.rfft(x.reshape(b, t // n, n, -1), axis=2) for n in cfg.windows]
    series = []
    for j, n in enumerate(cfg.windows):
        size = cfg.sizes[j] if pool else n
        scale = n**-0.5 if cfg.scaling == "ortho" else 1.0
        owners = [
            min(i for i in range(j + 1) if k % (n // cfg.windows[i]) == 0)
            for k in range(size // 2 + 1)
        ]
        bins = [merged(p, cfg, spectra, i, j, k) for k, i in enumerate(owners)]
        z = normed(p[f"norm{j}"], np.stack(bins, axis=2) * scale, cfg.eps)
        if cfg.operator == "filter":
            z = filtered(p["operator"], cfg, z, size)
        else:
            z = convolved(p["operator"], cfg, z, n // cfg.windows[0])
        if cfg.activation == "frequency":
            z = leaky(z.real) + 1j * leaky(z.imag)
        series.append(np.fft.irfft(z / scale, size, axis=2).reshape(b, t // n * size, -1))
    out = np.concatenate(series, axis=2) + p.get("bias", 0.0)
    return leaky(out) if cfg.activation == "time" else out


def network(params, cfg, sensors):
    towers = []
    for i, x in enumerate(sensors):
        x = x.astype(np.float64)
        for j in range(cfg.depth):
            x = layer(params[f"sensor{i}_{j}"], cfg, x)
        towers.append(x)
    x = np.concatenate(towers, axis=2)
    for j in range(cfg.depth):
        x = layer(params[f"fused{j}"], cfg, x, pool=j == 0)
    tokens = sensors[0].shape[1] // cfg.windows[-1]
    return x.reshape(x.shape[0], tokens, -1, x.shape[-1]).mean(2)


@pytest.mark.parametrize("case", CASES)
def test_network_matches_complex_numpy(case):
    cfg = STF(**DEEP | CASES[case])
    sensors = [noise(2, 128, 3), noise(2, 128, 2, seed=1)]
    params = random_params(cfg, sensors)
    found = jax.jit(partial(apply, cfg))(params, sensors)
    expected = network(params, cfg, sensors)
    assert found.shape == (2, cfg.grid(128).time, cfg.width)
    np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())


# ------------------------------------------------------------------ the network


def layer_of(cfg, x, pool=False, seed=0):
    """A bare layer on series ``[b t c]``, its parameters and the call ``params, x -> [b t2 o]``."""
    module = net.STFLayer(cfg, cfg.width, pool)
    blocks = stf.to_blocks(jnp.asarray(x), cfg.windows[-1])
    params: Any = jax.jit(module.init)(jax.random.key(seed), blocks)["params"]

    @jax.jit
    def run(params, x):
        y: Any = module.apply({"params": params}, stf.to_blocks(x, cfg.windows[-1]))
        return stf.to_series(y)

    return params, run


def test_layers_are_local_and_follow_shifts_by_a_block(monkeypatch):
    """Without the norm, whose statistics span the series."""
    monkeypatch.setattr(stf, "whiten", lambda z, *_, **__: (z[:, 0], z[:, 1]))
    cfg, x = STF(width=8), noise(1, 512, 2)
    for pool, block in ((False, 128), (True, 96)):
        params, run = layer_of(cfg, x, pool)
        y, other = run(params, x), x.copy()
        other[0, 133] += 1.0
        touched = np.flatnonzero(np.abs(run(params, other) - y).max((0, 2)))
        assert touched.size and touched.min() >= block and touched.max() < 2 * block
        np.testing.assert_allclose(
            run(params, np.roll(x, 128, axis=1)), np.roll(y, block, axis=1), atol=1e-5
        )


def test_windows_share_one_filter_and_stand_in_order():
    cfg, x = SMALL, noise(2, 32, 3)
    params, run = layer_of(cfg, x)
    y = run(params, x)
    doubled = params | {"operator": {"base": 2 * params["operator"]["base"]}}
    np.testing.assert_allclose(run(doubled, x), 2 * y, rtol=1e-5)
    for j in range(2):
        gone = {name: jnp.zeros_like(v) for name, v in params[f"norm{j}"].items()}
        changed = np.abs(run(params | {f"norm{j}": gone}, x) - y).max((0, 1)) > 0
        np.testing.assert_array_equal(changed, np.repeat([j == 0, j == 1], 2))

        def share(p, j=j):
            return (run(p, x)[..., 2 * j : 2 * j + 2] ** 2).sum()

        assert np.abs(jax.jit(jax.grad(share))(params)["operator"]["base"]).max() > 0


def test_gain_of_a_sensor_is_invisible_without_merging():
    """Merging weighs by the modulus of scores: with it, level counts."""
    sensors = [noise(2, 32, 3), noise(2, 32, 3, seed=1)]
    for merge, invisible in (("zero", True), ("xavier", False)):
        cfg = dataclasses.replace(SMALL, merge=merge, eps=1e-8)
        params, run = random_params(cfg, sensors), jax.jit(partial(apply, cfg))
        y, louder = run(params, sensors), run(params, [30 * sensors[0], sensors[1]])
        assert (np.abs(y - louder).max() < 1e-4 * np.abs(y).max()) == invisible


def test_dropout_takes_whole_channels_in_training_only():
    sensors = [noise(4, 32, 3)]
    params = random_params(SMALL, sensors)

    @jax.jit
    def run(key):
        rngs = {"dropout": key}
        return apply(SMALL, params, sensors, train=True, rngs=rngs)

    still = jax.jit(partial(apply, SMALL))(params, sensors)
    first, again, other = run(jax.random.key(1)), run(jax.random.key(1)), run(jax.random.key(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other) and not np.array_equal(first, still)
    gone = np.asarray(first) == 0
    np.testing.assert_array_equal(gone, np.broadcast_to(gone.all(1, keepdims=True), gone.shape))
    assert 0 < gone.mean() < 1 and not np.any(np.asarray(still) == 0)


def test_released_start_of_the_merges_never_wakes():
    sensors = [noise(2, 32, 3)]

    def grads(**more):
        cfg = SMALL
        for name, value in more.items():
            cfg = dataclasses.replace(cfg, **{name: value})
        params = random_params(cfg, sensors)

        def loss(p):
            return (apply(cfg, p, sensors) ** 2).sum()

        found = jax.jit(jax.grad(loss))(params)
        return [g for path, g in jax.tree.leaves_with_path(found) if "merge" in str(path)]

    assert all(np.all(g == 0) for g in grads(merge="zero"))
    assert all(np.abs(g).max() > 0 for g in grads(merge="xavier"))


@pytest.mark.parametrize("operator", ["filter", "convolution"])
def test_silence_has_finite_gradients(operator):
    cfg = dataclasses.replace(SMALL, operator=operator)
    sensors = [jnp.zeros((2, 32, 3))]
    params = jax.jit(cfg.build().init)(jax.random.key(0), sensors)["params"]

    def loss(p, x):
        return (apply(cfg, p, x) ** 2).sum()

    for g in jax.tree.leaves(jax.jit(jax.grad(loss, argnums=(0, 1)))(params, sensors)):
        assert np.isfinite(g).all()


def test_groups_of_rows_give_what_the_batch_gives(monkeypatch):
    sensors = [noise(5, 32, 3), noise(5, 32, 2, seed=1)]
    params = random_params(SMALL, sensors)

    def loss(p, x):
        out = apply(SMALL, p, x, train=True, rngs={"dropout": jax.random.key(3)})
        return (out**2).sum(), out

    def run():
        grad = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        traced = jax.jit(grad).trace(params, [jnp.asarray(x) for x in sensors])
        lowered = traced.lower()
        return lowered.compile()(params, sensors), lowered.as_text().count("stablehlo.while")

    with jax.set_mesh(jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])):
        whole, loops = run()
        monkeypatch.setattr(net, "_GROUP_BYTES", 2 * 4 * 32 * 4)
        parts, more_loops = run()
    assert more_loops > loops
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
