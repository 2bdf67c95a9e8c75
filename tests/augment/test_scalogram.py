"""Changes of scalograms against what they claim to do to the signal."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq.augment import scalogram as change
from jfreq.ops import wavelet

CHANGES = [change.scale_amplitude, change.shift_frequency, change.random_crop]
ROWS = wavelet.log_frequencies(0.5, 20.0, 32)


def levels(x, pool=4):
    run = functools.partial(wavelet.scalogram, frequencies=ROWS, rate=50.0, pool=pool)
    return np.asarray(jax.jit(run)(jnp.asarray(x)))


@pytest.fixture(scope="module")
def spec():
    x = np.random.default_rng(0).normal(size=(4, 160, 2)).astype(np.float32)
    return jnp.asarray(levels(x))


@pytest.mark.parametrize("fn", CHANGES, ids=lambda f: f.__name__)
def test_contract(fn, spec):
    """Same shape, a pure function of the key, each clip sampled by itself, jit changes nothing."""
    key = jax.random.key(1)
    run = jax.jit(fn)
    out = run(key, spec)
    assert out.shape == spec.shape and out.dtype == spec.dtype
    np.testing.assert_array_equal(out, run(key, spec))
    np.testing.assert_allclose(out, fn(key, spec), atol=1e-5)
    assert np.abs(out - run(jax.random.key(2), spec)).max() > 1e-2
    same = run(key, jnp.broadcast_to(spec[:1], spec.shape))
    assert np.abs(same[0] - same[1]).max() > 1e-2


def test_amplitude_is_that_of_the_signal():
    """A gain of exactly 3 gives the scalogram of three times the signal; nearly so where frames
    are averages of logarithms."""
    x = np.random.default_rng(0).normal(size=(1, 160, 1)).astype(np.float32)
    for pool, atol in ((1, 1e-5), (4, 0.1)):
        spec = jnp.asarray(levels(x, pool))
        louder = change.scale_amplitude(jax.random.key(0), spec, gain=(3.0, 3.0))
        np.testing.assert_allclose(louder, levels(3 * x, pool), atol=atol)


def test_gain_is_sampled_for_every_channel_within_its_range(spec):
    wide = jnp.broadcast_to(spec[:1], (400, *spec.shape[1:]))[:, :3]
    out = change.scale_amplitude(jax.random.key(3), wide, gain=(0.5, 2.0))
    ratio = np.expm1(np.asarray(out)) / np.expm1(np.asarray(wide))
    gain = ratio.mean((1, 2))
    np.testing.assert_allclose(ratio, np.broadcast_to(gain[:, None, None], ratio.shape), rtol=1e-3)
    assert 0.5 <= gain.min() < 0.55 < 1.8 < gain.max() <= 2.0
    assert abs(np.corrcoef(gain.T)[0, 1]) < 0.2


def test_shift_moves_a_ramp_by_up_to_so_many_rows():
    ramp = jnp.broadcast_to(jnp.arange(32.0)[None, None, :, None], (300, 2, 32, 1))
    out = np.asarray(change.shift_frequency(jax.random.key(0), ramp, rows=3.0))
    by = out[:, 0, 16, 0] - 16
    assert -3 <= by.min() < -2.7 < 2.7 < by.max() <= 3
    expected = np.clip(np.arange(32) + by[:, None], 0, 31)
    np.testing.assert_allclose(out[:, 0, :, 0], expected, atol=1e-4)
    np.testing.assert_allclose(out[:, 0], out[:, 1], atol=1e-5)


def test_a_faster_motion_is_a_shift(spec):
    """Half an octave up moves the ridge of a tone by half an octave of rows."""
    t = np.arange(160) / 50
    slow, fast = (np.cos(2 * np.pi * f * t)[None, :, None].astype("f4") for f in (4, 4 * 2**0.5))
    rows = 0.5 * np.log(2) / np.log(ROWS[1] / ROWS[0])
    ridge = [int(levels(x)[0, 10:30, :, 0].mean(0).argmax()) for x in (slow, fast)]
    assert abs(ridge[1] - ridge[0] - rows) <= 1


def test_no_change_where_there_is_nothing_to_draw(spec):
    key = jax.random.key(0)
    np.testing.assert_allclose(change.scale_amplitude(key, spec, gain=(1, 1)), spec, atol=1e-6)
    np.testing.assert_allclose(change.shift_frequency(key, spec, rows=0), spec, atol=1e-6)
    whole = change.random_crop(key, spec, area=(1.0, 1.0), aspect=(1.0, 1.0))
    np.testing.assert_allclose(whole, spec, atol=1e-4)


def test_crops_have_the_area_and_lie_inside():
    """On a plane whose values are its coordinates, a crop shows its own corners."""
    t, f = 60, 40
    plane = np.stack(np.meshgrid(np.arange(t), np.arange(f), indexing="ij"), -1).astype(np.float32)
    many = jnp.asarray(np.broadcast_to(plane, (500, t, f, 2)))
    out = np.asarray(jax.jit(change.random_crop)(jax.random.key(0), many))
    spans = []
    for axis, size in ((0, t), (1, f)):
        at = out[:, :, 0, 0] if axis == 0 else out[:, 0, :, 1]
        step = at[:, size // 2] - at[:, size // 2 - 1]
        spans.append(step)
        first = at[:, size // 2] - step * (size // 2)
        assert (first - step / 2 >= -0.5 - 1e-2).all()
        assert (first + step * (size - 0.5) <= size - 0.5 + 1e-2).all()
        # Straight lines, held at the ends.
        line = np.clip(first[:, None] + step[:, None] * np.arange(size), 0, size - 1)
        np.testing.assert_allclose(at, line, atol=2e-2)
    area = spans[0] * spans[1]
    assert 0.3 - 1e-2 <= area.min() < 0.32 < 0.68 < area.max() <= 0.7 + 1e-2
    ratio = spans[0] / spans[1]
    assert 0.5 - 1e-2 <= ratio.min() < 0.55 < 1.8 < ratio.max() <= 2 + 1e-2
