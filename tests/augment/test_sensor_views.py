"""Random views: independent rows, sensors that belong together, keys that decide everything."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq.augment import Views
from jfreq.types import InputError, SignalSpec


@pytest.fixture
def sensors():
    rng = np.random.default_rng()
    return [jnp.asarray(rng.normal(size=(48, 64, 3)), jnp.float32) for _ in range(2)]


def changed(out, x):
    return np.abs(np.asarray(out) - np.asarray(x)).reshape(len(x), -1).max(1) > 1e-4


def test_a_key_decides_the_view(sensors):
    """U11."""
    views = jax.jit(Views())
    once, again = (views(jax.random.key(3), sensors) for _ in range(2))
    for a, b in zip(once, again):
        np.testing.assert_array_equal(a, b)
    other = views(jax.random.key(4), sensors)
    assert changed(once[0], other[0]).mean() > 0.5


def test_rows_are_changed_with_the_probability_of_the_policy(sensors):
    for prob, share in ((0.0, 0.0), (1.0, 1.0), (0.5, 0.75)):
        out = jax.jit(Views(prob=prob))(jax.random.key(1), sensors)
        assert changed(out[0], sensors[0]).mean() == pytest.approx(share, abs=0.25 * (prob == 0.5))


def test_rows_of_the_same_window_get_different_views(sensors):
    same = [jnp.broadcast_to(x[:1], x.shape) for x in sensors]
    out = jax.jit(Views(prob=1.0, time=("jitter",), frequency=()))(jax.random.key(1), same)[0]
    assert len({row.tobytes() for row in np.asarray(out)}) == len(out)


@pytest.mark.parametrize("name", ["rotate", "flip", "permute", "warp_time", "shuffle", "negate"])
def test_what_moves_the_device_moves_all_its_sensors_alike(name, sensors):
    """Shared rotations for the triads of one device; one clock for all of them."""
    twins = [sensors[0], sensors[0]]
    a, b = jax.jit(Views(prob=1.0, time=(name,), frequency=()))(jax.random.key(5), twins)
    np.testing.assert_array_equal(a, b)
    assert changed(a, sensors[0]).mean() > 0.9


def test_noise_is_its_own_in_every_sensor(sensors):
    a, b = jax.jit(Views(prob=1.0, time=("jitter",), frequency=()))(
        jax.random.key(5), [sensors[0]] * 2
    )
    assert changed(a, b).all()


def test_one_clock_for_sensors_of_different_rate():
    """A permutation cuts both at the same times."""
    slow = jnp.tile(jnp.arange(64.0)[None, :, None], (8, 1, 1)) / 64
    fast = jnp.tile(jnp.arange(128.0)[None, :, None], (8, 1, 1)) / 128
    a, b = jax.jit(Views(prob=1.0, time=("permute",), frequency=()))(
        jax.random.key(2), [slow, fast]
    )
    assert np.median(np.abs(b[:, ::2] - a)) < 1 / 32


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prob": 1.5}, "Views.prob: must be between 0 and 1"),
        ({"mask": -0.1}, "Views.mask: must be between 0 and 1"),
        ({"segments": 0}, "Views.segments: must be 1 or more"),
    ],
)
def test_bad_policies_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        Views(**fields)


def test_rotation_of_other_than_triads_is_refused():
    with pytest.raises(InputError, match="'x' has 4 channels; leave it out"):
        Views().check([SignalSpec("x", 50.0, 64, 4)])
    Views(time=("jitter",)).check([SignalSpec("x", 50.0, 64, 4)])
