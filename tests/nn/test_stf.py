"""STFNet layers: filters, convolution, pooling, sharing; properties T6 to T16."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jfreq import sharding, trees
from jfreq.nn.stf import STF, STFLayer
from jfreq.ops import stf
from jfreq.types import InputError, SignalSpec

SMALL = STF(windows=(8, 16, 32), pooled=(4, 8, 16), width=6, sensor_width=6, depth=2, taps=16,
            dropout=0.0)  # fmt: skip


@pytest.fixture
def x():
    return jnp.asarray(np.random.default_rng().normal(size=(2, 64, 2)), jnp.float32)


def operator(cfg, z, size, base, *, dilation=1):
    """The bare operator of a layer on a spectrum in natural order."""
    from jfreq.nn import stf as module

    kind = module._Filter if cfg.operator == "filter" else module._Convolution
    c = z.shape[-1]
    net = kind(cfg, c, c)
    bins = np.arange(size // 2 + 1)
    params = {"params": {"base": jnp.float32(base)}}
    return net.apply(params, z[:, :, 0], z[:, :, 1], bins, size, dilation)


def through(cfg, x, n, base, *, dilation=1):
    """A series ``[b t c]`` through blocks of ``n``, the operator, and back."""
    longest = 64
    z = stf.block_spectrum(stf.to_blocks(x, longest), n, np.arange(n // 2 + 1))
    z = operator(cfg, z, n, base, dilation=dilation)
    return np.asarray(stf.to_series(stf.synthesise(z, n, np.arange(n // 2 + 1))))


def diagonal(taps, channels):
    """Base filters ``[taps, c * c]`` that leave channels apart."""
    return np.einsum("n,ca->nca", taps, np.eye(channels)).reshape(len(taps), -1)


def circular(x, taps, n):
    """Each block of ``n`` samples convolved around with ``taps``, float64."""
    b, t, c = x.shape
    blocks = np.asarray(x, np.float64).reshape(b, t // n, n, c)
    response = np.fft.fft(taps, n).reshape(-1, 1)
    return np.fft.ifft(np.fft.fft(blocks, axis=2) * response, axis=2).real.reshape(x.shape)


@pytest.mark.parametrize("n", [8, 16, 32, 64])
def test_a_pulse_is_the_identity(n, x):
    """T7: a response of ones."""
    base = diagonal(np.eye(16)[0], 2)
    np.testing.assert_allclose(through(STF(taps=16), x, n, base), x, atol=1e-5)


@pytest.mark.parametrize("expansion", ["linear", "zero_pad"])
@pytest.mark.parametrize("n", [8, 16, 32, 64])
def test_real_taps_are_a_circular_convolution(n, expansion, x):
    """T7: aliased taps below their length; above, the taps themselves or, interpolated, the taps
    faded by a periodic sinc squared (P5)."""
    h = np.random.default_rng().normal(size=16)
    cfg = STF(taps=16, expansion=expansion)
    if n <= 16:
        taps = h.reshape(-1, n).sum(0)
    elif expansion == "zero_pad":
        taps = h
    else:
        ratio, at = n // 16, np.arange(n)
        with np.errstate(invalid="ignore"):
            fade = (np.sin(np.pi * at / 16) / (ratio * np.sin(np.pi * at / n))) ** 2
        taps = h[at % 16] * np.where(at == 0, 1.0, fade)
    found = through(cfg, x, n, diagonal(h, 2))
    np.testing.assert_allclose(found, circular(x, taps, n), atol=2e-4)


def test_bins_are_free_of_their_taps(x):
    cfg = STF(taps=16, filter_form="bins")
    h = np.random.default_rng().normal(size=16)
    spectrum = np.fft.rfft(h)
    base = np.stack([spectrum.real, spectrum.imag], 1)
    base = np.einsum("fz,ca->fzca", base, np.eye(2)).reshape(9, 2, -1)
    expected = through(STF(taps=16), x, 32, diagonal(h, 2))
    np.testing.assert_allclose(through(cfg, x, 32, base), expected, atol=1e-5)


@pytest.mark.parametrize(("n", "dilation"), [(8, 1), (16, 2), (32, 4), (64, 8)])
def test_the_same_kernel_is_the_same_window_at_every_resolution(n, dilation, x):
    """T6: [0, 1, 0] is the identity, [-1, 2, -1] / 4 multiplies by .5 - .5 cos(2 pi t / 8), and
    [conj c, a, c] by a + 2 Re(c exp(-2 pi j t / 8)), at all of them."""
    cfg, t = STF(operator="convolution", kernel=3), np.arange(64)
    c = complex(*np.random.default_rng().normal(size=2))
    for kernel, window in (
        ([0, 1, 0], np.ones(64)),
        ([-0.25, 0.5, -0.25], 0.5 - 0.5 * np.cos(2 * np.pi * t / 8)),
        ([np.conj(c), 0.3, c], 0.3 + 2 * np.real(c * np.exp(-2j * np.pi * t / 8))),
    ):
        k = np.array(kernel, complex)
        base = np.einsum("zt,ca->ztca", np.stack([k.real, k.imag]), np.eye(2))
        found = through(cfg, x, n, base, dilation=dilation)
        np.testing.assert_allclose(found, np.asarray(x) * window[:, None], atol=1e-4)


@functools.cache
def layer(cfg, width=6, channels=2, pool=False):
    net = STFLayer(cfg, width, pool=pool)
    longest = cfg.windows[-1]
    params = net.init(jax.random.key(0), jnp.zeros((longest, 1, 2, channels)))["params"]

    @jax.jit
    def run(params, x):
        return stf.to_series(net.apply({"params": params}, stf.to_blocks(x, longest)))

    return run, params


def test_a_layer_against_plain_complex_numpy(x):
    """Spectra, merge, norm, filter, activation in float64 loops with the layer's parameters."""
    cfg = SMALL
    run, params = layer(cfg)
    p = jax.tree.map(lambda v: np.asarray(v, np.float64), params)
    expected = np.concatenate([_numpy_branch(cfg, p, np.asarray(x, np.float64), j)
                               for j in range(3)], -1) + p["bias"]  # fmt: skip
    expected = np.where(expected > 0, expected, 0.2 * expected)
    np.testing.assert_allclose(run(params, x), expected, atol=5e-4)


def _numpy_branch(cfg, p, x, j):
    windows, n = cfg.windows, cfg.windows[j]
    spectra = [np.fft.rfft(x.reshape(2, -1, w, 2), axis=2) for w in windows]
    z = spectra[j].copy()
    taken = np.zeros(z.shape[2], bool)
    for i in range(j):
        r = n // windows[i]
        merge = p[f"merge{windows[i]}_{n}"]
        weight = np.fft.fft(merge["kernel"], axis=1)[:, 1 : r + 1].T  # [p q]
        bias = merge["bias"][0] + 1j * merge["bias"][1]
        for k in range(0, z.shape[2], r):
            if not taken[k]:
                taken[k] = True
                part = spectra[i][:, :, k // r].reshape(2, -1, r, 2)
                score = np.abs(np.einsum("bmpc,pq->bmqc", part, weight) + bias[:, None])
                share = np.exp(score) / np.exp(score).sum(2, keepdims=True)
                z[:, :, k] = r * (share * part).sum(2)
    norm = p[f"norm{j}"]
    out = np.empty_like(z)
    for b in range(2):
        v = np.stack([z[b].real.ravel(), z[b].imag.ravel()])
        v = v - v.mean(1, keepdims=True)
        values, vectors = np.linalg.eigh(v @ v.T / v.shape[1] + cfg.eps * np.eye(2))
        re, im = (vectors @ np.diag(values**-0.5) @ vectors.T @ v).reshape(2, *z.shape[1:])
        out[b] = norm["scale_rr"] * re + norm["scale_ri"] * im + norm["shift"][0]
        out[b] += 1j * (norm["scale_ri"] * re + norm["scale_ii"] * im + norm["shift"][1])
    base = np.fft.rfft(p["operator"]["base"], axis=0)
    at, source = np.linspace(0, cfg.taps // 2, n // 2 + 1), np.arange(cfg.taps // 2 + 1)
    response = np.stack([np.interp(at, source, c.real) + 1j * np.interp(at, source, c.imag)
                         for c in base.T], 1).reshape(len(at), 2, 2)  # fmt: skip
    y = np.einsum("bmfc,fca->bmfa", out, response)
    return np.fft.irfft(y, n, axis=2).reshape(2, -1, 2)


def test_every_resolution_reads_the_one_base_filter(x):
    """T14 and T15: doubling it doubles all channel groups; a group is one window's, in order."""
    cfg = STF(**{**vars(SMALL), "activation": "frequency"})
    run, params = layer(cfg)
    base = run(params, x)
    double = jax.tree.map(jnp.array, params)
    double["operator"]["base"] = 2 * double["operator"]["base"]
    np.testing.assert_allclose(run(double, x), 2 * base, atol=1e-4)
    grad = jax.grad(lambda p: jnp.sum(run(p, x) ** 3))(params)
    assert np.abs(grad["operator"]["base"]).min() > 0
    quiet = jax.tree.map(jnp.array, params)
    quiet["norm0"] = jax.tree.map(jnp.zeros_like, quiet["norm0"])
    changed = np.abs(run(quiet, x) - base).max((0, 1)) > 1e-5
    np.testing.assert_array_equal(changed, [True] * 2 + [False] * 4)


@pytest.mark.parametrize("kind", ["filter", "convolution"])
def test_whole_network_shapes_parameters_and_dropout(kind):
    """T13: 512 to 384 samples, four tokens; dropout of whole channels, none outside training.
    T16: no sensor's level is seen, unless live merge weights look at it."""
    cfg = STF(operator=kind, width=4, sensor_width=4, depth=1, merge="zero")
    sensors = [jnp.asarray(np.random.default_rng().normal(size=(2, 512, 3)), jnp.float32)] * 2
    net = cfg.build()
    params = net.init(jax.random.key(0), sensors)["params"]
    run = jax.jit(lambda p, x: net.apply({"params": p}, x))
    out = run(params, sensors)
    assert out.shape == (2, 4, 4) and cfg.grid(512).hop == 128
    np.testing.assert_array_equal(run(params, sensors), out)
    train = [net.apply({"params": params}, sensors, train=True,
                       rngs={"dropout": jax.random.key(i)}) for i in (1, 2)]  # fmt: skip
    gone = np.asarray(train[0]) == 0
    np.testing.assert_array_equal(gone, np.broadcast_to(gone[:, :1], gone.shape))
    assert not np.allclose(train[0], train[1])
    loud = [5.0 * sensors[0], sensors[1]]
    np.testing.assert_allclose(run(params, loud), out, atol=2e-3)


def test_before_fusion_nothing_crosses_a_longest_block():
    """T12: the norm left out, one sample changes its own block; shifts by a block commute."""
    cfg = SMALL
    run, params = layer(cfg)
    x = jnp.asarray(np.random.default_rng().normal(size=(1, 128, 2)), jnp.float32)
    rolled = run(params, jnp.roll(x, 32, axis=1))
    np.testing.assert_allclose(rolled, jnp.roll(run(params, x), 32, axis=1), atol=1e-4)
    pooled, params = layer(cfg, pool=True)
    rolled = pooled(params, jnp.roll(x, 32, axis=1))
    np.testing.assert_allclose(rolled, jnp.roll(pooled(params, x), 16, axis=1), atol=1e-4)


def test_dead_parameters_are_counted_and_never_move(x):
    cfg = STF(**{**vars(SMALL), "merge": "zero", "dead_bias": True})
    run, params = layer(cfg)
    grad = trees.flatten(jax.grad(lambda p: jnp.sum(run(p, x) ** 3))(params))
    dead = [name for name in grad if "merge" in name or "unread" in name]
    assert len(dead) == 7 and not any(np.any(grad[name]) for name in dead)
    assert all(np.any(grad[name]) for name in grad if "base" in name or "scale_rr" in name)


def test_a_sharded_batch_stays_where_it_is(x):
    """Eight devices give what one gives, and exchange nothing."""
    sensors = [jnp.tile(x, (8, 1, 1))] * 2
    net = SMALL.build()
    params = net.init(jax.random.key(0), sensors)["params"]
    run = jax.jit(lambda x: net.apply({"params": params}, x))
    alone = run(sensors)
    mesh = sharding.make_mesh((8, 1, 1))
    with jax.set_mesh(mesh):
        spread = jax.device_put(sensors, NamedSharding(mesh, PartitionSpec("data")))
        compiled = run.lower(spread).compile()
        np.testing.assert_allclose(compiled(spread), alone, atol=1e-4)
    text = compiled.as_text()
    assert not any(f"{name}(" in text for name in ("all-gather", "all-reduce", "all-to-all"))


@pytest.mark.parametrize(
    "fields",
    [
        {"scaling": "ortho"},
        {"merge": "zero"},
        {"operator": "convolution", "activation": "frequency"},
    ],
)
def test_gradients_are_finite_on_silence(fields):
    run, params = layer(STF(**{**vars(SMALL), **fields}))
    grad = jax.grad(lambda p: jnp.sum(run(p, jnp.zeros((1, 64, 2))) ** 2))(params)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grad))


def test_the_merge_of_a_published_layer_runs():
    """A batch of 64 x 512 samples x 64 channels, which crashed XLA:CPU in another form."""
    s = jnp.ones((8, 9, 2, 64, 4, 64))
    out = jax.jit(lambda s: stf.merge_blocks(s, 2, jnp.ones((2, 2, 2)), jnp.ones((2, 2))))(s)
    np.testing.assert_allclose(out, 2.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: STF(width=30), "encoder.width: 30 channels do not divide over 4 windows"),
        (lambda: STF(kernel=4), "encoder.kernel: must be odd"),
        (lambda: STF(windows=(4, 8), pooled=None, operator="convolution", kernel=5),
         "5 taps reach beyond the 3 bins"),
        (lambda: STF(taps=7), "encoder.taps: must be even"),
        (lambda: STF(dropout=1.0), "encoder.dropout"),
        (lambda: STF().check([SignalSpec("a", 50, 128, 3)]), "128 samples pool to 96"),
        (lambda: STF().check([SignalSpec("a", 50, 500, 3)]), "500 samples are not a multiple"),
        (lambda: STF().check([SignalSpec("a", 50, 512, 3), SignalSpec("b", 100, 1024, 3)]),
         "sensors of one length"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
