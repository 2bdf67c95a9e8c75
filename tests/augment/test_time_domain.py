"""Changes in the time domain: what each of them keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from jfreq.augment import time_domain as functions
from jfreq.testing import Compiled
from jfreq.types import InputError

time_domain = Compiled(functions)


@pytest.fixture
def x():
    return jnp.asarray(np.random.default_rng().normal(size=(96, 6)), jnp.float32)


@pytest.fixture
def keys():
    return jax.random.split(jax.random.key(np.random.default_rng().integers(2**31)), 64)


def test_rotation_keeps_the_length_of_every_triad_and_turns_all_alike(x, keys):
    """U10: norms and the angle between acc and gyro stay; a turn is no reflection."""
    for key in keys[:5]:
        out = time_domain.rotate(key, x)
        before, after = x.reshape(96, 2, 3), out.reshape(96, 2, 3)
        np.testing.assert_allclose(
            jnp.linalg.norm(after, axis=2), jnp.linalg.norm(before, axis=2), rtol=1e-5
        )
        inner = [np.einsum("ti,ti->t", *np.moveaxis(np.asarray(v), 1, 0)) for v in (before, after)]
        np.testing.assert_allclose(inner[1], inner[0], atol=2e-5)
        turn = np.linalg.lstsq(before[:, 0], after[:, 0], rcond=None)[0]
        assert np.linalg.det(turn) == pytest.approx(1, abs=1e-4)
    assert not np.allclose(out, x, atol=0.1)


def test_rotation_wants_triads(keys):
    with pytest.raises(InputError, match="triads of axes, got 4 channels"):
        time_domain.rotate(keys[0], jnp.zeros((8, 4)))


@pytest.mark.parametrize("change", [time_domain.negate, time_domain.flip])
def test_twice_is_identity(change, x, keys):
    """U10."""
    once = change(keys[0], x)
    assert not np.allclose(once, x)
    np.testing.assert_array_equal(change(keys[1], once), x)


def test_permutation_keeps_the_samples_and_cuts_into_segments(x, keys):
    """U10: the multiset of samples stays; at most ``segments - 1`` seams."""
    moved = 0
    for key in keys:
        out = np.asarray(time_domain.permute(key, x, segments=4))
        order = [int(np.flatnonzero((np.asarray(x) == row).all(1))[0]) for row in out]
        assert sorted(order) == list(range(96))
        assert np.sum(np.diff(order) != 1) <= 3
        moved += order != list(range(96))
    assert moved > len(keys) // 2


def test_channels_change_their_order_within_triads_and_never_stay(x, keys):
    orders = set()
    for key in keys:
        out = np.asarray(time_domain.shuffle_channels(key, x))
        order = [int(np.flatnonzero(np.asarray(x[0]) == v)[0]) for v in out[0]]
        assert sorted(order[:3]) == [0, 1, 2] and [i + 3 for i in order[:3]] == order[3:]
        orders.add(tuple(order[:3]))
    assert (0, 1, 2) not in orders and len(orders) == 5


def test_time_warp_keeps_both_ends_and_the_order_of_events(keys):
    """U10: a ramp stays monotonic between the same ends."""
    ramp = jnp.linspace(-1, 2, 80)[:, None]
    outs = np.stack([time_domain.warp_time(key, ramp) for key in keys[:20]])
    np.testing.assert_allclose(outs[:, [0, -1], 0], [[-1, 2]] * 20, atol=1e-5)
    assert (np.diff(outs[..., 0], axis=1) > -1e-6).all()
    assert np.ptp(outs[:, 40, 0]) > 0.05


def test_smooth_curves_are_scipys_cubic_splines(keys):
    """The constant table gives what scipy draws through the same values."""
    ones = jnp.ones((50, 2))
    out = time_domain.warp_magnitude(keys[0], ones, sigma=0.3, knots=3)
    values = 1 + 0.3 * np.asarray(jax.random.normal(keys[0], (5, 2)))
    curve = CubicSpline(np.linspace(0, 1, 5), values)(np.linspace(0, 1, 50))
    np.testing.assert_allclose(out, curve, atol=1e-5)


def test_noise_and_scale_have_their_strength(keys):
    zeros, ones = jnp.zeros((400, 3)), jnp.ones((4, 3))
    noise = np.stack([time_domain.jitter(key, zeros, sigma=0.05) for key in keys])
    assert noise.std() == pytest.approx(0.05, rel=0.02)
    factors = np.stack([time_domain.scale(key, ones, sigma=0.1) for key in keys])
    assert np.ptp(factors, axis=1).max() == 0, "one factor for all samples of a channel"
    assert factors[:, 0].std() == pytest.approx(0.1, rel=0.25)
    assert np.ptp(factors[0, 0]) > 0, "channels have their own"
