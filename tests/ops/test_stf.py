"""Block spectra against numpy's FFT in float64: tests T1 to T11 of the method's properties."""

import functools
import itertools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jfreq.ops import stf
from jfreq.types import InputError

WINDOWS, POOLED = (16, 32, 64, 128), (12, 24, 48, 96)
CHAINS = [(WINDOWS, WINDOWS), (WINDOWS, POOLED), ((4, 12, 36), (4, 12, 36)), ((8, 16), (4, 8))]
chains = pytest.mark.parametrize(("windows", "sizes"), CHAINS)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def blocked(x, windows=WINDOWS):
    return stf.to_blocks(jnp.asarray(x), windows[-1])


def spectra(x, n):
    """float64 ``[b blocks k c]`` of ``[b t c]``."""
    b, t, c = x.shape
    return np.fft.rfft(x.astype(np.float64).reshape(b, t // n, n, c), axis=2)


def as_complex(spectrum):
    """``[p 2 k b m c]`` to ``[b blocks k c]``: parts of one long block follow each other."""
    real, imag = np.moveaxis(np.asarray(spectrum, np.float64), 1, 0)
    z = (real + 1j * imag).transpose(2, 3, 0, 1, 4)
    return z.reshape(z.shape[0], -1, *z.shape[3:])


def from_complex(z, longest_blocks):
    """The inverse of :func:`as_complex`."""
    b, _, k, c = z.shape
    z = z.reshape(b, longest_blocks, -1, k, c).transpose(2, 3, 0, 1, 4)
    return jnp.asarray(np.stack([z.real, z.imag], axis=1), jnp.float32)


hologram = jax.jit(stf.hologram, static_argnums=(1, 2))
merge = jax.jit(stf.merge_blocks, static_argnums=1)
whiten = jax.jit(stf.whiten, static_argnums=1)
whiten_released = jax.jit(functools.partial(stf.whiten, eps_in_covariance=True), static_argnums=1)


def relative(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("n", [4, 6, 16, 96, 128])
def test_spectra_match_numpy_and_blocks_come_back(n):
    x = noise(2, 3 * n, 2)
    order = np.random.default_rng(1).permutation(n // 2 + 1)
    spectrum = stf.block_spectrum(blocked(x, (n,)), n, order)
    assert relative(as_complex(spectrum), spectra(x, n)[:, :, order]) < 1e-6
    back = stf.to_series(stf.synthesise(spectrum, n, order))
    np.testing.assert_allclose(back, x, atol=1e-5)


@chains
def test_hologram_holds_native_bins_of_every_window(windows, sizes):
    x = noise(2, 2 * windows[-1], 3)
    found = hologram(blocked(x, windows), windows, sizes)
    for part, n, bins in zip(found, windows, stf.native_bins(windows, sizes)):
        assert relative(as_complex(part), spectra(x, n)[:, :, bins]) < 1e-6


def test_counts_of_native_bins():
    def counts(windows, sizes):
        native = stf.native_bins(windows, sizes)
        return [[len(native[i]) for i in range(j + 1)] for j in range(len(windows))]

    assert counts(WINDOWS, WINDOWS) == [[9], [9, 8], [9, 8, 16], [9, 8, 16, 32]]
    assert counts(WINDOWS, POOLED) == [[7], [7, 6], [7, 6, 12], [7, 6, 12, 24]]


@chains
def test_every_bin_is_native_to_the_shortest_window_that_has_it(windows, sizes):
    native = stf.native_bins(windows, sizes)
    for j, size in enumerate(sizes):
        order = stf.bin_order(windows, sizes, j)
        assert sorted(order) == list(range(size // 2 + 1))
        owners = np.repeat(range(j + 1), [len(native[i]) for i in range(j + 1)])
        for k, owner in zip(order, owners):
            donors = [i for i in range(j + 1) if k % (windows[j] // windows[i]) == 0]
            assert owner == min(donors)


@chains
def test_uniform_merges_give_every_long_spectrum(windows, sizes):
    x = noise(2, 2 * windows[-1], 2)
    native = hologram(blocked(x, windows), windows, sizes)
    for j, n in enumerate(windows):
        order, at = stf.bin_order(windows, sizes, j), 0
        for i, part in enumerate(native[: j + 1]):
            r = n // windows[i]
            bins = order[at : (at := at + part.shape[2])]
            zeros = jnp.zeros((2, r, r)), jnp.zeros((2, r))
            for weights in ((), zeros) if i < j else ((),):
                merged = merge(part, r, *weights)
                assert relative(as_complex(merged), spectra(x, n)[:, :, bins]) < 1e-6


@settings(deadline=None, max_examples=5)
@given(st.sampled_from([2, 3, 4]), st.integers(1, 2), st.integers(0, 99))
def test_merge_matches_complex_numbers(r, longest_blocks, seed):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(2, longest_blocks * 2 * r, 3, 2, 2)) @ [1, 1j]
    w, beta = (rng.normal(size=(*s, 2)) @ [1, 1j] for s in ((r, r), (r,)))
    parts = z.reshape(2, -1, r, 3, 2)
    size = np.abs(np.einsum("bmpkc,pq->bmqkc", parts, w) + beta[:, None, None])
    share = np.exp(size) / np.exp(size).sum(2, keepdims=True)
    expected = r * (share * parts).sum(2)
    pair = (jnp.asarray(np.stack([v.real, v.imag]), jnp.float32) for v in (w, beta))
    found = merge(from_complex(z, longest_blocks), r, *pair)
    assert relative(as_complex(found), expected) < 1e-5


def plain_merge(parts, table, bias):
    """What the hand-written gradient is held to."""
    ratio = bias.size // 2
    scores = jnp.einsum("uv,jv...->ju...", table, parts) + bias.reshape(1, -1, 1, 1, 1, 1)
    share = jax.nn.softmax(stf.modulus(scores[:, :ratio], scores[:, ratio:]), axis=1)
    parts = parts.reshape(-1, ratio, 2, *parts.shape[2:])
    return ratio * (parts * share[:, :, None]).sum(1)


@pytest.mark.parametrize("r", [2, 3])
def test_gradient_of_merge(r):
    shapes = [(2, 2 * r, 3, 2, 1, 2), (2 * r, 2 * r), (2 * r,)]
    args = [jnp.asarray(noise(*s, seed=i)) for i, s in enumerate(shapes)]
    probe = jnp.asarray(noise(2, 2, 3, 2, 1, 2, seed=9))

    def grads(f) -> tuple:
        return jax.jit(jax.grad(lambda *a: (f(*a) * probe).sum(), argnums=(0, 1, 2)))(*args)

    for found, expected in zip(grads(stf._merge), grads(plain_merge)):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_weights_of_zero_get_no_gradient_and_a_bias_wakes_them():
    z, probe = jnp.asarray(noise(4, 2, 3, 2, 1, 2)), noise(1, 2, 3, 2, 1, 2, seed=1)

    def grads(bias):
        def f(w, b):
            return (stf.merge_blocks(z, 4, w, b) * probe).sum()

        return jax.grad(f, argnums=(0, 1))(jnp.zeros((2, 4, 4)), jnp.full((2, 4), bias))

    run = jax.jit(grads)
    for asleep, awake in zip(run(0.0), run(1e-3)):
        np.testing.assert_array_equal(asleep, 0)
        assert np.isfinite(awake).all() and np.any(awake != 0)


def test_large_scores_do_not_overflow():
    z = 1e4 * jnp.asarray(noise(2, 2, 3, 2, 1, 2))
    merged = merge(z, 2, jnp.ones((2, 2, 2)), jnp.asarray(noise(2, 2)))
    assert np.isfinite(merged).all()


BIG = """
import jax, jax.numpy as jnp
from jfreq.ops import stf
s = jax.random.normal(jax.random.key(0), (8, 2, 9, 64, 4, 64))
w = jax.random.normal(jax.random.key(1), (2, 8, 8))
f = lambda s, w: jnp.square(stf.merge_blocks(s, 8, w, w[0, :2])).sum()
assert all(bool(jnp.isfinite(g).all()) for g in jax.jit(jax.grad(f, argnums=(0, 1)))(s, w))
"""


def test_merge_of_a_large_batch_runs():
    """XLA:CPU crashed on a sum over the merged axis at this size, one device, full optimisation."""
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    run = subprocess.run([sys.executable, "-c", BIG], env=env, capture_output=True, timeout=300)
    assert run.returncode == 0, run.stderr.decode()[-2000:]


@pytest.mark.parametrize("width", [1, 2, 8])
def test_padding_is_a_slice_of_the_whole_spectrum(width):
    x = noise(1, 16, 1)[0, :, 0]
    whole = np.fft.fft(x.astype(np.float64))
    half = np.fft.rfft(x)[None, :, None, None, None].astype(np.complex64)
    real, imag = stf.pad_bins(jnp.asarray(half.real), jnp.asarray(half.imag), width)
    expected = whole[np.arange(-width, 8 + width + 1) % 16]
    np.testing.assert_allclose(real.ravel() + 1j * imag.ravel(), expected, atol=1e-5)


@pytest.mark.parametrize(("n", "size"), [(16, 12), (32, 24)])
def test_pooling_keeps_tones_below_the_new_end(n, size):
    t, t2, phase = np.arange(4 * n), np.arange(4 * size), 0.7
    gain = n / size
    for k in range(1, n // 2):
        x = np.cos(2 * np.pi * k * t / n + phase)[None, :, None]
        spectrum = stf.block_spectrum(blocked(x, (n,)), n, np.arange(size // 2 + 1))
        y = stf.to_series(stf.synthesise(spectrum, size, range(size // 2 + 1)))[0, :, 0]
        if k < size // 2:
            expected = gain * np.cos(2 * np.pi * k * t2 / size + phase)
        else:
            edge = k == size // 2
            expected = edge * gain / 2 * np.cos(phase) * (-1.0) ** t2
        np.testing.assert_allclose(y, expected, atol=1e-5)


def whitened(z):
    """``[p 2 k b m c]`` by eigenvectors in float64, without eps: ``z -> V ** -0.5 (z - mean)``."""
    out = np.empty(z.shape)
    for row in range(z.shape[3]):
        flat = np.moveaxis(z[:, :, :, row], 1, 0).reshape(2, -1).astype(np.float64)
        flat = flat - flat.mean(1, keepdims=True)
        values, vectors = np.linalg.eigh(flat @ flat.T / flat.shape[1])
        flat = vectors @ np.diag(values**-0.5) @ vectors.T @ flat
        shape = np.moveaxis(z[:, :, :, row], 1, 0).shape
        out[:, :, :, row] = np.moveaxis(flat.reshape(shape), 0, 1)
    return out


def correlated(*shape):
    z = noise(*shape)
    z[:, 1] = 3 * z[:, 1] + 2 * z[:, 0] - 1
    return z


def test_whiten_is_the_inverse_root_of_the_covariance():
    z = correlated(4, 2, 5, 3, 2, 6)
    real, imag = whiten(jnp.asarray(z), 0.0)
    found = np.stack([real, imag], axis=1)
    np.testing.assert_allclose(found, whitened(z), atol=1e-5)
    flat = np.moveaxis(found, (1, 3), (0, 1)).reshape(2, 3, -1)
    for row in range(3):
        np.testing.assert_allclose(np.cov(flat[:, row], bias=True), np.eye(2), atol=1e-5)
        np.testing.assert_allclose(flat[:, row].mean(1), 0, atol=1e-5)


def test_whiten_follows_rotation_and_order_of_blocks_and_forgets_scale():
    z = correlated(4, 2, 5, 3, 2, 6)
    angle = 0.9
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    def run(z):
        return np.stack(whiten(jnp.asarray(z, jnp.float32), 0.0), axis=1)

    turned = 7.0 * np.einsum("yz,pz...->py...", turn, z)
    expected = np.einsum("yz,pz...->py...", turn, run(z))
    np.testing.assert_allclose(run(turned), expected, atol=1e-4)
    np.testing.assert_allclose(run(z[::-1, :, :, :, ::-1]), run(z)[::-1, :, :, :, ::-1], atol=1e-5)


@functools.partial(jax.jit, static_argnums=1)
def whitened_series(x, eps_in_covariance):
    """Whitened bins ``[2 p k b m c]`` of ``x`` ``[b t c]``, and the gradient of a function of
    them."""

    def f(x):
        z = stf.block_spectrum(blocked(x), WINDOWS[-1], np.arange(65))
        pair = jnp.stack(stf.whiten(z, eps_in_covariance=eps_in_covariance))
        return jnp.sum(pair**3), (pair, z)

    (_, (pair, z)), grad = jax.value_and_grad(f, has_aux=True)(x)
    return pair, z, grad


@settings(deadline=None, max_examples=60)
@given(
    level=st.floats(-6, 9),
    phase=st.floats(-np.pi, np.pi),
    bin_=st.integers(0, 64),
    gain=st.sampled_from([-1.0, 0.0, 1e-3, 1.0]),
    eps_in_covariance=st.booleans(),
)
@example(level=1.0, phase=0.7, bin_=8, gain=1.0, eps_in_covariance=False)
@example(level=0.5 * np.log10(2), phase=0.7, bin_=8, gain=1.0, eps_in_covariance=False)
@example(level=2.0, phase=0.625, bin_=1, gain=0.0, eps_in_covariance=False)
def test_clean_tones_whiten_to_unit_power(level, phase, bin_, gain, eps_in_covariance):
    """Channels in phase, whose spectra all lie on one line of the complex plane."""
    tone = np.cos(2 * np.pi * bin_ * np.arange(256) / 128 + phase)
    x = (10**level * tone[:, None] * [1, gain])[None].astype(np.float32)
    pair, z, grad = whitened_series(jnp.asarray(x), eps_in_covariance)
    assert np.isfinite(pair).all() and np.isfinite(grad).all()
    assert np.square(pair).sum(0).mean() < 2.01
    if not eps_in_covariance:
        z = np.asarray(z, np.float64)
        power = z.var((0, 2, 3, 4, 5)).sum()
        expected = power / (power + 1e-4)
        np.testing.assert_allclose(np.square(pair).sum(0).mean(), expected, atol=2e-3)


@pytest.mark.parametrize("eps_in_covariance", [False, True])
@pytest.mark.parametrize("level", [0.0, 1e-30, 3.0])
def test_silence_and_constants_whiten_to_finite_values(level, eps_in_covariance):
    pair, _, grad = whitened_series(jnp.full((1, 256, 2), level), eps_in_covariance)
    assert np.isfinite(pair).all() and np.isfinite(grad).all()
    if level == 0:
        assert not np.any(pair)


def test_eps_in_the_covariance_is_as_released():
    """What the released code computes, in float64."""
    z = correlated(4, 2, 5, 3, 2, 6)
    found = np.stack(whiten_released(jnp.asarray(z), 0.3), axis=1)
    real, imag = (x - x.mean((0, 1, 3, 4), keepdims=True) for x in (z[:, 0], z[:, 1]))

    def mean(x):
        return x.astype(np.float64).mean((0, 1, 3, 4), keepdims=True) + 0.3

    vrr, vii, vri = mean(real**2), mean(imag**2), mean(real * imag)
    s = np.sqrt(vrr * vii - vri**2)
    scale = 1 / (s * np.sqrt(vrr + vii + 2 * s))
    expected = [(vii + s) * real - vri * imag, (vrr + s) * imag - vri * real]
    np.testing.assert_allclose(found, scale[:, None] * np.stack(expected, axis=1), atol=1e-5)
    assert np.abs(found - np.stack(whiten(jnp.asarray(z), 0.3), axis=1)).max() > 0.01


def test_silence_has_finite_gradients():
    def f(x):
        native = stf.hologram(x, (8, 16), (8, 16))
        merged = stf.merge_blocks(native[0], 2, jnp.ones((2, 2, 2)), jnp.zeros((2, 2)))
        real, imag = stf.whiten(merged)
        return jnp.sum(real**3) + jnp.sum(imag**3)

    value, grad = jax.jit(jax.value_and_grad(f))(jnp.zeros((16, 2, 1, 3)))
    assert np.isfinite(value) and np.isfinite(grad).all()


def test_synthesis_ignores_imaginary_parts_of_the_ends():
    z = noise(2, 2, 9, 1, 2, 3)
    other = z.copy()
    other[:, 1, [0, 8]] = 99.0
    run = [np.asarray(stf.synthesise(jnp.asarray(v), 16, range(9))) for v in (z, other)]
    np.testing.assert_allclose(run[0], run[1], atol=1e-6)


@pytest.mark.parametrize(("target", "source"), [(9, 17), (33, 17), (7, 17), (17, 17), (1, 5)])
def test_align_corners_is_linear_interpolation_on_a_ramp(target, source):
    table = stf.align_corners(target, source)
    values = np.arange(source) ** 2.0
    expected = np.interp(np.linspace(0, source - 1, target), np.arange(source), values)
    if target > 1:
        np.testing.assert_allclose(table @ values, expected)
        other = jax.image.resize(values, (target,), "linear", antialias=False)
        assert target == source or np.abs(other - expected).max() > 1
    np.testing.assert_allclose(table.sum(1), 1)
    np.testing.assert_array_equal(table[0], np.eye(source)[0])
    if (target, source) == (9, 17):
        np.testing.assert_array_equal(table, np.eye(17)[::2])


def test_tap_response_matches_numpy():
    taps = np.eye(8)
    linear = stf.tap_response(8, 16, zero_pad=False) @ taps
    own = np.fft.rfft(taps, axis=0)
    expected = stf.align_corners(9, 5) @ own
    np.testing.assert_allclose(linear[:, 0] + 1j * linear[:, 1], expected, atol=1e-6)
    padded = stf.tap_response(8, 16, zero_pad=True) @ taps
    np.testing.assert_allclose(
        padded[:, 0] + 1j * padded[:, 1], np.fft.rfft(taps, 16, axis=0), atol=1e-6
    )


def test_merge_weights_are_inner_bins_of_a_dft():
    v = noise(3, 8)
    basis = stf.merge_basis(3)
    found = np.einsum("pn,qn->pq", basis[:, 0] + 1j * basis[:, 1], v)
    np.testing.assert_allclose(found, np.fft.rfft(v, axis=1)[:, 1:4].T, atol=1e-5)


@pytest.mark.parametrize(
    ("windows", "sizes", "samples", "message"),
    [
        ((), (), None, "not a chain"),
        ((16, 24), (16, 24), None, "not a chain"),
        ((15, 30), (15, 30), None, "not a chain"),
        ((2, 4), (2, 4), None, "not a chain"),
        ((16, 32), (12, 20), None, "by one factor"),
        ((16, 32), (32, 64), None, "by one factor"),
        ((16, 32), (12,), None, "by one factor"),
        ((16, 32), (16, 32), 100, "100 samples are not a multiple of the longest window 32"),
    ],
)
def test_bad_windows_are_named(windows, sizes, samples, message):
    with pytest.raises(InputError, match=message):
        stf.check_windows(windows, sizes, samples)


def test_good_windows_pass():
    for (windows, sizes), blocks in itertools.product(CHAINS, (1, 3)):
        stf.check_windows(windows, sizes, blocks * windows[-1])
