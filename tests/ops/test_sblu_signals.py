"""What the unit does to signals: modulations of 100 frames per second, patches of 16 frames."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import TypeCheckError
from scipy.linalg import toeplitz
from scipy.ndimage import correlate1d
from scipy.signal import firwin, freqz

from jfreq.ops import fir, sblu
from jfreq.types import InputError

RATE, PATCH, TAPS = 100, 16, 49
FILTER = jax.jit(fir.filter_time)


def gains(h, hertz):
    at = np.asarray(hertz, float)
    return abs(freqz(h, worN=at, fs=RATE)[1])  # pyright: ignore[reportArgumentType]


def passed(x):
    """Clips ``[b t]`` under the high-pass at half the rate of patches."""
    h = fir.high_pass(97, 1 / (2 * PATCH))
    return np.asarray(FILTER(jnp.asarray(x, jnp.float32)[:, :, None, None], h))[:, :, 0, 0]


def magnitude(x, hertz, *, alpha, phase="hermitian"):
    """``|y| [b frames s]`` of clips ``[b t]`` for kernels at ``hertz [s]``, all alike in time."""
    x, beta = jnp.asarray(x), jnp.asarray(hertz, jnp.float32) / RATE
    return np.asarray(_magnitude(x, jnp.float32(alpha), beta, phase=phase))


@functools.partial(jax.jit, static_argnames="phase")
def _magnitude(x, alpha, beta, *, phase):
    x = jnp.broadcast_to(x[:, :, None], (*x.shape, len(beta)))
    u = sblu.windows(x, patch=PATCH, stride=PATCH, taps=TAPS)
    shape = (*u.shape[:2], len(beta))
    alpha, beta = jnp.broadcast_to(alpha, shape), jnp.broadcast_to(beta[None, None], shape)
    re, im = sblu.apply(u, alpha, beta, taps=TAPS, phase=phase)
    return jnp.hypot(re, im).reshape(len(x), -1, shape[-1])


@pytest.mark.parametrize(("taps", "window"), [(33, "hamming"), (97, "hamming"), (65, "hann")])
def test_high_pass_is_a_sample_less_scipys_low_pass(taps, window):
    h = fir.high_pass(taps, 1 / 32, window=window)
    low = firwin(taps, 1 / 32, window=window, fs=1.0)
    np.testing.assert_allclose(h, np.eye(taps)[taps // 2] - low, atol=1e-7)
    np.testing.assert_array_equal(h, h[::-1])


def test_high_pass_takes_the_constant_and_leaves_the_aliasing_band():
    h = fir.high_pass(97, 1 / 32)
    assert h.dtype == np.float32
    assert gains(h, [0])[0] < 1e-6
    assert gains(h, np.linspace(8, 50, 200)).min() >= 0.99
    np.testing.assert_allclose(gains(h, [1, 2, 3.125, 5]), [0.001, 0.061, 0.502, 1.002], atol=1e-3)
    short = gains(fir.high_pass(33, 1 / 32), [1, 2, 3.125, 5, 8])
    np.testing.assert_allclose(short, [0.050, 0.188, 0.405, 0.757, 0.993], atol=1e-3)


@pytest.mark.parametrize(("t", "taps"), [(300, 97), (128, 3), (49, 97), (1, 1)])
def test_filter_against_scipy(t, taps):
    rng = np.random.default_rng(0)
    x, h = rng.normal(size=(2, t, 3, 2)), rng.normal(size=taps)
    got = FILTER(jnp.asarray(x, jnp.float32), jnp.asarray(h, jnp.float32))
    np.testing.assert_allclose(got, correlate1d(x, h, axis=1, mode="mirror"), atol=2e-5)


def test_a_filter_of_few_bits_computes_in_many():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1, 40, 2, 1)), jnp.bfloat16)
    h = fir.high_pass(9, 1 / 8)
    got = FILTER(x, h)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, FILTER(x.astype(jnp.float32), h), atol=1e-7)


def test_cells_tile_the_aliasing_band():
    centres, halves = sblu.cells(16, 1 / 32, 1 / 2)
    listed = "3.41 4.05 4.82 5.73 6.82 8.11 9.64 11.5 13.6 16.2 19.3 22.9 27.3 32.4 38.6 45.9"
    assert [f"{c:.3g}" for c in RATE * centres] == listed.split()
    np.testing.assert_allclose(2 * halves.sum(), 1 / 2 - 1 / 32)
    ratio = 16 ** (1 / 16)
    np.testing.assert_allclose(halves[1:] / halves[:-1], ratio)
    np.testing.assert_allclose(2 * halves / centres, ratio**0.5 - ratio**-0.5)
    (centre,), (half,) = sblu.cells(1, 1 / 32, 1 / 2)
    np.testing.assert_allclose([centre, half], [1 / 8, 15 / 64])


def test_a_chirp_above_the_patches_nyquist_is_passed_and_tracked():
    """From 0.5 to 45 Hz; patches of 16 frames fold everything above 3.125 Hz."""
    n = np.arange(4096)
    hertz = 0.5 + 44.5 * n / len(n)
    x = np.cos(2 * np.pi / RATE * (0.5 * n + 44.5 * n**2 / (2 * len(n))))
    y = passed(x[None])
    for low, high, energy in ((1, 2, 0.001), (2, 3.125, 0.077), (3.125, 5, 0.73), (5, 44, 1.0)):
        inside = (hertz >= low) & (hertz < high)
        assert abs(2 * np.mean(y[0, inside] ** 2) - energy) < 0.01
    grid = np.arange(3, 46, 0.5)
    found = grid[magnitude(y, grid, alpha=0.15)[0].argmax(-1)]
    off = abs(found - hertz)[(hertz > 5) & (hertz < 44)]
    assert np.median(off) <= 0.20 and np.quantile(off, 0.95) <= 0.37


def test_shifts_within_a_patch_move_tokens_and_leave_the_magnitude():
    """Amplitude modulation, shifted by 1 to 15 frames; change relative to the unshifted clip."""
    n, most = np.arange(512 + 16), {5: 0.06, 10: 0.02, 20: 0.01, 35: 0.02}
    project = np.random.default_rng(2).normal(size=(PATCH, 64))
    inner = slice(4 * PATCH, -4 * PATCH)

    def change(rows):
        rows = rows.reshape(16, -1)
        return np.mean(np.linalg.norm(rows[1:] - rows[0], axis=1) / np.linalg.norm(rows[0]))

    for hertz, limit in most.items():
        tone = 1 + 0.5 * np.cos(2 * np.pi * hertz / RATE * n + 0.7)
        clips = np.stack([tone[s : s + 512] for s in range(16)])
        high = passed(clips)
        assert change(magnitude(high, [hertz], alpha=0.125)[:, inner]) <= limit
        assert change(magnitude(high, [hertz], alpha=0.125, phase="even")[:, inner]) > 0.4
        assert change(clips[:, inner].reshape(16, -1, PATCH) @ project) > 0.3


def test_modulation_below_the_patches_nyquist_stays_out():
    n, inner = np.arange(512), slice(4 * PATCH, -4 * PATCH)
    slow = np.stack([np.cos(2 * np.pi * f / RATE * n + 0.7) for f in (1.5, 2.0, 10.0)])
    heard = magnitude(passed(slow), [3.125, 10.0], alpha=0.125)[:, inner].mean(1)
    assert heard[:2, 0].max() <= 0.1 * heard[2, 1]


# ------------------------------------------------------------------ how far a gradient finds a tone


def _modulated(shape):
    shape, m = (shape / shape.sum()).astype(np.float32), np.arange(TAPS, dtype=np.float32) - 24
    return lambda omega: (shape * jnp.cos(omega * m), shape * jnp.sin(omega * m))


def _laplace(alpha, phase):
    return lambda omega: sblu.kernel(alpha, omega / (2 * np.pi), taps=TAPS, phase=phase)


def _search(kernel, start, lags):
    """Adam on the log power that a kernel takes from signals of given autocorrelations."""
    optimiser = optax.adam(0.02)

    def loss(omega, lags):
        return -jnp.log(sum(part @ lags @ part for part in kernel(omega)))

    def step(carry, _):
        omega, state, lags = carry
        change, state = optimiser.update(jax.grad(loss)(omega, lags), state)
        return (omega + change, state, lags), None

    def fit(omega, lags):
        carry = omega, optimiser.init(omega), lags
        return jax.lax.scan(step, carry, None, length=300)[0][0]

    found = jax.jit(jax.vmap(fit))(jnp.asarray(start, jnp.float32), jnp.asarray(lags, jnp.float32))
    return abs(np.mod(np.asarray(found) + np.pi, 2 * np.pi) - np.pi)


def _noisy_tones(rng, draws, nearest, farthest):
    """Frequencies, starts that far away from them, autocorrelations ``[draws taps taps]``."""
    omega, offset = rng.uniform(0.3, 2.8, draws), rng.uniform(nearest, farthest, draws)
    up, down = omega + offset < 3.0, omega - offset > 0.1
    sign = np.where(up & down, rng.choice([-1, 1], draws), np.where(up, 1, -1))
    kept = up | down
    angle = omega[:, None] * np.arange(4096) + rng.uniform(0, 2 * np.pi, (draws, 1))
    x = np.cos(angle) + 0.5 * rng.normal(size=angle.shape)
    lags = np.fft.irfft(abs(np.fft.rfft(x, 8192)) ** 2) / 4096
    tables = np.stack([toeplitz(row[:TAPS]) for row in lags])
    return omega[kept], (omega + sign * offset)[kept], tables[kept]


def test_two_sided_exponentials_find_tones_that_a_gaussian_does_not():
    """Windows of one half-power half-bandwidth, 0.25 rad per frame, starts 1.5 to 2.5 rad off."""
    rng = np.random.default_rng(3)
    far, near = _noisy_tones(rng, 64, 1.5, 2.5), _noisy_tones(rng, 24, 0, 1)
    omega, start, lags = (np.concatenate(pair) for pair in zip(far, near))
    m, count = np.arange(TAPS) - 24, len(far[0])
    two = jnp.float32(0.25 / np.sqrt(np.sqrt(2) - 1))
    kernels = {
        "gaussian": _modulated(np.exp(-((0.25 * m) ** 2) / (2 * np.log(2)))),
        "two-sided": _laplace(two, "hermitian"),
        "one-sided": _modulated(np.where(m >= 0, np.exp(-0.25 * abs(m)), 0)),
        "even": _laplace(two, "even"),
    }
    hits = {k: abs(_search(v, start, lags) - omega) < 0.1 for k, v in kernels.items()}
    away = {k: hit[:count].mean() for k, hit in hits.items()}
    close = {k: hit[count:].mean() for k, hit in hits.items()}
    assert away["gaussian"] <= 0.1
    assert abs(away["two-sided"] - 0.52) < 0.2 and abs(away["one-sided"] - 0.74) < 0.2
    assert away["two-sided"] < away["one-sided"] < away["even"] and away["even"] >= 0.95
    assert close.pop("gaussian") < 1 and min(close.values()) == 1


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="taps 8: must be odd"):
        fir.high_pass(8, 1 / 32)
    for taps, cutoff in ((1, 1 / 32), (9, 0.5), (9, 0.0)):
        with pytest.raises(InputError, match="use 3 taps or more and a cut-off"):
            fir.high_pass(taps, cutoff)
    with pytest.raises((InputError, TypeCheckError), match="kaiser"):
        fir.high_pass(9, 1 / 32, window="kaiser")  # pyright: ignore[reportArgumentType]
    x = jnp.ones((1, 8, 1, 1))
    with pytest.raises(InputError, match="clip of 8: use 15 taps or fewer"):
        fir.filter_time(x, fir.high_pass(17, 1 / 32))
    with pytest.raises(InputError, match="taps 4: must be odd"):
        fir.filter_time(x, jnp.ones(4))
    for band in ((0, 1 / 32, 1 / 2), (4, 0, 1 / 2), (4, 1 / 2, 1 / 2)):
        with pytest.raises(InputError, match="cells from"):
            sblu.cells(*band)
