import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jfreq.data.prepare.resampling import common_grid


def test_jittered_times_are_interpolated_linearly(rng):
    t = np.sort(rng.uniform(0, 20, 2000))
    t[0], t[-1] = 0, 20
    x = np.stack([3 * t - 1, 0.5 * t], 1)
    grid = common_grid([(t, x)], rate=50.0)
    u = np.arange(len(grid.x)) / 50
    assert len(grid.x) == 1001 and grid.rate == 50 and grid.breaks == ()
    inner = slice(100, -100)
    np.testing.assert_allclose(grid.x[inner], np.stack([3 * u - 1, 0.5 * u], 1)[inner], atol=0.02)
    slow = common_grid([(t[::4], x[::4])], rate=50.0)
    np.testing.assert_allclose(slow.x, np.stack([3 * u - 1, 0.5 * u], 1)[: len(slow.x)], atol=1e-5)


def test_what_the_lower_rate_cannot_hold_is_filtered_out(rng):
    """40 Hz at 200 Hz: at 50 Hz it would come back as 10 Hz."""
    t = np.arange(4000) / 200 + rng.uniform(-2e-4, 2e-4, 4000)
    keep, alias = np.sin(2 * np.pi * 5 * t), np.sin(2 * np.pi * 40 * t)
    grid = common_grid([(t, np.stack([keep, alias], 1))], rate=50.0)
    inner = grid.x[100:-100]
    u = t[0] + np.arange(len(grid.x))[100:-100] / 50
    np.testing.assert_allclose(inner[:, 0], np.sin(2 * np.pi * 5 * u), atol=0.02)
    assert np.sqrt(np.mean(inner[:, 1] ** 2)) < 0.01
    naive = np.interp(u, t, alias)
    assert np.sqrt(np.mean(naive**2)) > 0.5, "without a filter it would be there"


def test_two_sensors_share_times_and_stop_together():
    fast, slow = np.arange(0, 30, 0.01), np.arange(1.0, 29, 0.02)
    slow = slow[(slow < 10) | (slow > 13)]
    grid = common_grid([(fast, fast[:, None]), (slow, slow[:, None])], rate=100.0)
    np.testing.assert_allclose(grid.x[:, 0], grid.x[:, 1], atol=1e-4)
    (stop,) = grid.breaks
    first, second = grid.x[:stop, 1], grid.x[stop:, 1]
    assert first[0] == pytest.approx(1.0, abs=1e-5) and first[-1] == pytest.approx(9.98, abs=1e-4)
    assert second[0] == pytest.approx(13.01, abs=0.02)
    np.testing.assert_allclose(np.diff(first), 0.01, atol=1e-4)


def test_neighbours_as_far_apart_as_the_gap_are_interpolated_between():
    fast, slow = np.arange(3, 4, 0.01), np.array([0.0, 8.0])
    grid = common_grid([(fast, fast[:, None]), (slow, 10 * slow[:, None])], rate=50.0, gap=10.0)
    np.testing.assert_allclose(grid.x[:, 1], 10 * (3 + np.arange(len(grid.x)) / 50), atol=1e-4)


def test_order_repeats_and_missing_samples_do_not_matter(rng):
    t = np.arange(500) / 100
    x = np.stack([t, t**2], 1)
    order = rng.permutation(500)
    doubled = np.concatenate([t[order], t[:50]])
    values = np.concatenate([x[order], x[:50]])
    expected = common_grid([(t, x)], rate=100.0).x
    np.testing.assert_array_equal(common_grid([(doubled, values)], rate=100.0).x, expected)
    holed = x.copy()
    holed[100] = np.nan
    np.testing.assert_allclose(common_grid([(t, holed)], rate=100.0).x, expected, atol=2e-4)


def test_sensors_that_never_speak_together_give_nothing():
    t = np.arange(100) / 100
    assert len(common_grid([(t, t[:, None]), (t + 50, t[:, None])], rate=100.0).x) == 0
    assert len(common_grid([(t, t[:, None]), (t[:0], t[:0, None])], rate=100.0).x) == 0


@given(st.lists(st.floats(0.001, 5.0), min_size=1, max_size=30), st.floats(5, 60))
def test_the_grid_covers_what_has_no_long_gap_and_nothing_else(steps, rate):
    t = np.cumsum([0.0, *steps])
    grid = common_grid([(t, t[:, None])], rate=rate, gap=2.0)
    edges = np.split(t, np.flatnonzero(np.diff(t) > 2.0) + 1)
    spans = [(s[0], s[-1]) for s in edges if len(s) > 1]
    parts = np.split(grid.x[:, 0], grid.breaks)
    assert len(parts) == max(1, len(spans))
    assert len(grid.x) == sum(int((b - a) * rate + 1e-6) + 1 for a, b in spans)
