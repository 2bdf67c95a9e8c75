"""Block spectra against numpy in float64; T1 to T10 of STFNets' properties where they are pure."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq.ops import stf
from jfreq.types import InputError

WINDOWS, POOLED = (16, 32, 64, 128), (12, 24, 48, 96)


@pytest.fixture
def x():
    return jnp.asarray(np.random.default_rng().normal(size=(2, 256, 3)), jnp.float32)


def rfft(x, n, size=None):
    """Float64 ``[b m f c]`` of the blocks of ``n`` samples, the lowest ``size // 2 + 1`` bins."""
    b, t, c = x.shape
    blocks = np.asarray(x, np.float64).reshape(b, t // n, n, c)
    return np.fft.rfft(blocks, axis=2)[:, :, : (size or n) // 2 + 1]


def natural(spectrum, bins):
    """``[p k 2 b m c]`` in owner order as complex ``[b m*p f c]``."""
    z = np.asarray(spectrum)[:, np.argsort(bins)]
    z = z[:, :, 0] + 1j * z[:, :, 1]
    p, f, b, m, c = z.shape
    return z.transpose(2, 3, 0, 1, 4).reshape(b, m * p, f, c)


def interleaved(x, windows, sizes, j, weights=None):
    """All bins of window ``j`` in owner order, merged with ``weights[i]``."""
    native = stf.hologram(stf.to_blocks(x, windows[-1]), windows, sizes)
    parts = [stf.merge_blocks(native[i], windows[j] // windows[i], *(weights or {}).get(i, ()))
             for i in range(j)]  # fmt: skip
    return jnp.concatenate([*parts, native[j]], axis=1)


@pytest.mark.parametrize("n", WINDOWS)
def test_there_and_back_is_exact(n, x):
    """T1, in any order of bins."""
    bins = np.random.default_rng().permutation(n // 2 + 1)
    spectrum = stf.block_spectrum(stf.to_blocks(x, 128), n, bins)
    np.testing.assert_allclose(natural(spectrum, bins), rfft(x, n), atol=2e-4)
    back = stf.to_series(stf.synthesise(spectrum, n, bins))
    np.testing.assert_allclose(back, x, atol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "counts"),
    [(WINDOWS, [[9], [9, 8], [9, 8, 16], [9, 8, 16, 32]]),
     (POOLED, [[7], [7, 6], [7, 6, 12], [7, 6, 12, 24]])],
)  # fmt: skip
def test_every_bin_has_one_owner(sizes, counts):
    """T2, the table of the released masks; the lowest bin and Nyquist come from the shortest."""
    native = stf.native_bins(WINDOWS, sizes)
    for j, expected in enumerate(counts):
        assert [len(native[i]) for i in range(j + 1)] == expected
        order = stf.bin_order(WINDOWS, sizes, j)
        assert sorted(order) == list(range(sizes[j] // 2 + 1))
        assert {0, sizes[j] // 2} <= set(order[: expected[0]])


@pytest.mark.parametrize("windows", [WINDOWS, (4, 12, 24)])
def test_uniform_interleaving_is_the_native_spectrum(windows, x):
    """T3, whole and pooled, for any divisor chain."""
    x = x[:, : 256 // windows[-1] * windows[-1]]
    for sizes in (windows, tuple(n // 2 for n in windows)):
        for j, n in enumerate(windows):
            for weights in (None, {i: (jnp.zeros((2, n // m, n // m)), jnp.zeros((2, n // m)))
                                   for i, m in enumerate(windows[:j])}):  # fmt: skip
                z = interleaved(x, windows, sizes, j, weights)
                found = natural(z, stf.bin_order(windows, sizes, j))
                np.testing.assert_allclose(found, rfft(x, n, sizes[j]), atol=5e-4)


@pytest.mark.parametrize("ratio", [2, 4, 8])
def test_merged_bins_by_the_definition(ratio):
    """One complex softmax at a time, float64."""
    rng = np.random.default_rng()
    s = rng.normal(size=(ratio, 5, 2, 2, 1, 3))
    w, b = rng.normal(size=(2, ratio, ratio)), rng.normal(size=(2, ratio))
    z, w_c, b_c = s[:, :, 0] + 1j * s[:, :, 1], w[0] + 1j * w[1], b[0] + 1j * b[1]
    score = np.abs(np.einsum("pkbmc,pq->qkbmc", z, w_c) + b_c.reshape(-1, 1, 1, 1, 1))
    share = np.exp(score) / np.exp(score).sum(0)
    expected = ratio * (share * z).sum(0)
    found = stf.merge_blocks(*map(jnp.float32, (s,)), ratio, jnp.float32(w), jnp.float32(b))[0]
    np.testing.assert_allclose(found[:, 0] + 1j * found[:, 1], expected, atol=1e-4)


def test_weights_that_start_at_zero_stay_there(x):
    """T4: the released default has exactly no gradient; a small bias has one, and none is NaN."""

    def loss(bias, weight):
        z = interleaved(x, (16, 32), (16, 32), 1, {0: (weight, bias)})
        return jnp.sum(z[:, :, 0] ** 3)

    zero, weight = jnp.zeros((2, 2)), jnp.zeros((2, 2, 2))
    for grad in jax.grad(loss, argnums=(0, 1))(zero, weight):
        assert not grad.any()
    live = jax.grad(loss)(zero.at[0].set(jnp.array([1e-3, 2e-3])), weight)
    assert np.isfinite(live).all() and np.abs(live).max() > 0


@pytest.mark.parametrize(("n", "width"), [(16, 1), (64, 4), (128, 8)])
def test_padding_is_the_whole_periodic_spectrum(n, width, x):
    """T5."""
    z = stf.block_spectrum(stf.to_blocks(x, 128), n, np.arange(n // 2 + 1))
    real, imag = stf.pad_bins(z[:, :, 0], z[:, :, 1], width)
    b, t, c = x.shape
    full = np.fft.fft(np.asarray(x, np.float64).reshape(b, t // n, n, c), axis=2)
    at = np.arange(-width, n // 2 + width + 1)
    padded = jnp.stack([real, imag], axis=2)
    np.testing.assert_allclose(natural(padded, np.arange(len(at))), full[:, :, at % n], atol=2e-4)


def test_whitened_spectra_are_white_and_only_turn_with_their_input():
    """T9: zero mean, unit variances, no covariance; scale vanishes, a phase turns; blocks may be
    permuted; silence stays finite."""
    rng = np.random.default_rng()
    mix = rng.normal(size=(2, 2))
    z = jnp.float32(np.einsum("ij,pkjbmc->pkibmc", mix, rng.normal(size=(4, 9, 2, 3, 2, 5))) + 0.7)
    real, imag = stf.whiten(z, eps=0)
    for row in range(3):
        parts = np.stack([np.asarray(v)[:, :, row].ravel() for v in (real, imag)])
        np.testing.assert_allclose(parts.mean(1), 0, atol=1e-4)
        np.testing.assert_allclose(np.cov(parts, bias=True), np.eye(2), atol=1e-3)
    angle, gain = 0.8, 37.0
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned = gain * jnp.einsum("ij,pkjbmc->pkibmc", jnp.float32(turn), z)
    found = stf.whiten(turned, eps=0)
    expected = (np.cos(angle) * real - np.sin(angle) * imag,
                np.sin(angle) * real + np.cos(angle) * imag)  # fmt: skip
    for a, b in zip(found, expected):
        np.testing.assert_allclose(a, b, atol=2e-3)
    for a, b in zip(stf.whiten(z[::-1]), stf.whiten(z)):
        np.testing.assert_allclose(a[::-1], b, atol=1e-4)
    silent = jax.grad(lambda z: sum(v.sum() for v in stf.whiten(z)))(jnp.zeros_like(z))
    assert np.isfinite(silent).all()


def test_synthesis_does_not_look_at_what_a_real_signal_cannot_have(x):
    """T10."""
    z = stf.block_spectrum(stf.to_blocks(x, 128), 32, np.arange(17))
    wild = z.at[:, jnp.array([0, 16]), 1].set(9.0)
    bins = np.arange(17)
    np.testing.assert_array_equal(stf.synthesise(wild, 32, bins), stf.synthesise(z, 32, bins))


@pytest.mark.parametrize(("k", "gain"), [(3, 4 / 3), (5, 4 / 3), (7, 0.0), (8, 0.0)])
def test_keeping_low_bins_keeps_tones_below_the_new_nyquist(k, gain):
    """T8 at 16 samples pooled to 12: the same physical tone, 4 / 3 as large, or nothing."""
    t = np.arange(128)
    x = jnp.float32(np.cos(2 * np.pi * k * t / 16 + 0.4))[None, :, None]
    z = stf.block_spectrum(stf.to_blocks(x, 128), 16, np.arange(7))
    out = stf.to_series(stf.synthesise(z, 12, np.arange(7)))[0, :, 0]
    expected = gain * np.cos(2 * np.pi * k * np.arange(96) / 12 + 0.4)
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_the_new_nyquist_bin_keeps_its_cosine():
    """T8: k = 6 of 16 becomes (2 / 3) cos(phase) (-1)^t."""
    x = jnp.float32(np.cos(2 * np.pi * 6 * np.arange(128) / 16 + 0.4))[None, :, None]
    z = stf.block_spectrum(stf.to_blocks(x, 128), 16, np.arange(7))
    out = stf.to_series(stf.synthesise(z, 12, np.arange(7)))[0, :, 0]
    np.testing.assert_allclose(out, 2 / 3 * np.cos(0.4) * (-1.0) ** np.arange(96), atol=1e-5)


@pytest.mark.parametrize(("target", "source"), [(9, 17), (33, 17), (65, 17), (7, 17), (13, 17)])
def test_resizing_keeps_both_ends(target, source):
    """T11: rows sum to 1, ends are kept, numpy's interpolation; not what jax.image.resize does."""
    table = stf.align_corners(target, source)
    np.testing.assert_allclose(table.sum(1), 1)
    values = np.random.default_rng().normal(size=source)
    expected = np.interp(np.linspace(0, source - 1, target), np.arange(source), values)
    np.testing.assert_allclose(table @ values, expected)
    ramp = np.arange(source) ** 2.0
    other = jax.image.resize(jnp.float32(ramp), (target,), "linear")
    assert np.abs(other - table @ ramp).max() > 0.1
    if target == 9:
        np.testing.assert_array_equal(table @ values, values[::2])


@pytest.mark.parametrize(
    ("windows", "sizes", "samples", "message"),
    [
        ((16, 24), (16, 24), None, "not a chain of even lengths"),
        ((3, 6), (3, 6), None, "not a chain of even lengths"),
        ((16, 32), (12, 16), None, "shrink the windows"),
        ((16, 32), (10, 20, 40), None, "shrink the windows"),
        ((16, 32), (16, 32), 80, "80 samples are not a multiple of the longest window 32"),
    ],
)
def test_windows_that_do_not_fit_are_refused(windows, sizes, samples, message):
    with pytest.raises(InputError, match=message):
        stf.check_windows(windows, sizes, samples)
