"""Hermitian-safe changes F1 to F6: real results, exact identities, scipy's Hilbert transform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from jfreq.augment import frequency_domain as functions
from jfreq.testing import Compiled

frequency_domain = Compiled(functions)

ALL = [
    frequency_domain.perturb_amplitude,
    frequency_domain.perturb_phase,
    frequency_domain.shift_phase,
    frequency_domain.mask_band,
    frequency_domain.low_pass,
    frequency_domain.remove_add,
]


@pytest.fixture(params=[64, 65])
def x(request):
    return jnp.asarray(np.random.default_rng().normal(2, 1, (request.param, 3)), jnp.float32)


@pytest.fixture
def key():
    return jax.random.key(np.random.default_rng().integers(2**31))


def rfft(x):
    return np.fft.rfft(np.asarray(x, np.float64), axis=0)


def interior(x):
    """DC and, for an even length, Nyquist left out."""
    return slice(1, -1 if len(x) % 2 == 0 else None)


@pytest.mark.parametrize("change", ALL)
def test_result_is_real_of_the_same_shape_with_the_same_mean(change, x, key):
    """U3."""
    out = change(key, x)
    assert out.shape == x.shape and out.dtype == x.dtype
    np.testing.assert_allclose(out.mean(0), x.mean(0), atol=1e-5)
    others = [change(jax.random.key(seed), x) for seed in range(5)]
    assert any(not np.allclose(other, x, atol=1e-3) for other in others)
    if len(x) % 2 == 0 and change.__name__ != "low_pass":
        np.testing.assert_allclose(rfft(out)[-1], rfft(x)[-1], atol=1e-3)


def test_global_phase_shift_is_cos_minus_sin_hilbert(x, key):
    """U1: by scipy's Hilbert transform of what is neither mean nor Nyquist; energy stays."""
    theta = float(jax.random.uniform(key, (), minval=-np.pi, maxval=np.pi))
    spec = rfft(x)
    inner = np.zeros_like(spec)
    inner[interior(x)] = spec[interior(x)]
    part = np.fft.irfft(inner, len(x), axis=0)
    rest = np.asarray(x) - part
    hilbert = np.imag(np.array(scipy.signal.hilbert(part, axis=0)))
    out = frequency_domain.shift_phase(key, x)
    np.testing.assert_allclose(out, rest + np.cos(theta) * part - np.sin(theta) * hilbert,
                               atol=2e-5)  # fmt: skip


def test_long_windows_turn_block_by_block(key):
    """Two blocks of 3000 samples, each as it would turn alone; a prime length in one piece."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6000, 1)), jnp.float32)
    out = jax.jit(frequency_domain.shift_phase)(key, x)
    for block in (slice(0, 3000), slice(3000, 6000)):
        alone = frequency_domain.shift_phase(key, x[block])
        np.testing.assert_allclose(out[block], alone, atol=1e-4)
    assert jax.eval_shape(frequency_domain.shift_phase, key, x[:4099]).shape == (4099, 1)


@pytest.mark.parametrize("change", [frequency_domain.perturb_phase, frequency_domain.shift_phase])
def test_phase_changes_keep_every_magnitude(change, x, key):
    """U2, bin by bin."""
    out = change(key, x)
    np.testing.assert_allclose(np.abs(rfft(out)), np.abs(rfft(x)), atol=5e-4)


def test_phase_is_turned_alike_on_all_axes(x, key):
    turn = np.angle(rfft(frequency_domain.perturb_phase(key, x)) / rfft(x))[interior(x)]
    np.testing.assert_allclose(np.exp(1j * turn[:, 0]), np.exp(1j * turn[:, 1]), atol=2e-2)
    turned = np.abs(turn).max(1) > 1e-3
    assert np.abs(turn).max() <= np.pi / 4 + 1e-2
    assert np.diff(np.flatnonzero(turned)).max() <= 3, "one band"
    assert 0.3 <= turned.mean() <= 0.6


def test_nothing_to_change_is_identity(x, key):
    """U4 and U5."""
    for out in (
        frequency_domain.perturb_amplitude(key, x, sigma=0.0),
        frequency_domain.perturb_phase(key, x, angle=0.0),
        frequency_domain.mask_band(key, x, widest=0.0),
        frequency_domain.low_pass(key, x, lowest=1.0),
        frequency_domain.remove_add(key, x, prob=0.0),
    ):
        np.testing.assert_allclose(out, x, atol=2e-5)


@pytest.mark.parametrize("change", [frequency_domain.low_pass, frequency_domain.mask_band])
def test_twice_is_once(change, x, key):
    """U5."""
    once = change(key, x)
    np.testing.assert_allclose(change(key, once), once, atol=2e-5)


def test_masks_are_one_band_and_low_pass_one_edge(x):
    widths, edges = set(), set()
    for seed in range(40):
        key = jax.random.key(seed)
        gone = np.flatnonzero(np.abs(rfft(frequency_domain.mask_band(key, x))).max(1) < 1e-4)
        assert gone.size and gone[0] >= 1 and np.all(np.diff(gone) == 1)
        widths.add(gone.size)
        gone = np.abs(rfft(frequency_domain.low_pass(key, x))).max(1) < 1e-4
        assert np.all(np.diff(gone.astype(int)) >= 0), "everything above the edge, nothing below"
        edges.add(int(gone.sum()))
    assert max(widths) <= 0.3 * 33 and len(widths) > 5
    assert max(edges) <= 0.7 * 33 + 1 and len(edges) > 10


def test_removed_and_added_bins_have_their_shares():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2048, 3)), jnp.float32)
    before, after = rfft(x), rfft(frequency_domain.remove_add(jax.random.key(1), x))
    top = np.abs(before).max()
    changed = np.abs(after - before) > 1e-2
    assert changed[1:-1].mean() == pytest.approx(0.19, abs=0.03)
    grown = np.abs(after) - np.abs(before)
    assert grown.max() <= 0.1 * top + 1e-2
