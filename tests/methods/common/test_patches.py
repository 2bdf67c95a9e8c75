import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jfreq import masks
from jfreq.frontends.log_spectrogram import LogSpectrogram
from jfreq.methods.common.patches import PatchMethod
from jfreq.nn.aape import zero_masked
from jfreq.types import DataSpec, SignalSpec

SIGNAL = DataSpec((SignalSpec("acc", 100, 400, 2),))
FRONT = LogSpectrogram(rate=100.0, n_fft=32, hop_length=8)
orders = st.sampled_from(["freq_major", "time_major"])


def bound(**changes):
    return PatchMethod(frontend=FRONT, **changes).bind(SIGNAL)


@settings(deadline=None, max_examples=12)
@given(st.integers(1, 9), st.integers(1, 7), st.integers(1, 9), st.integers(1, 7), orders)
def test_a_grid_has_as_many_tokens_as_steps_fit(frames, bins, along, across, order):
    """Patches and strides that are no squares, against a count by hand; time comes first."""
    method = bound(frames=40, patch=(frames, bins), stride=(along, across), order=order)
    grid = method.grid
    assert grid.time == len(range(0, 41 - frames, along))
    assert grid.freq == len(range(0, FRONT.bins + 1 - bins, across))
    assert grid.hop == along * FRONT.hop_length
    assert grid.first == FRONT.win_length / 2 + (frames - 1) / 2 * FRONT.hop_length
    assert method.geometry.patch_size == frames * bins * 2


@settings(deadline=None, max_examples=10)
@given(st.integers(1, 9), st.integers(1, 7), orders, st.integers(0, 99))
def test_masked_cells_are_those_of_masked_patches(frames, bins, order, seed):
    """Cell by cell, for patches that are no squares and leave a rest on both axes."""
    method = bound(frames=40, patch=(frames, bins), order=order)
    grid = method.grid
    mask = masks.random(jax.random.key(seed), 2, grid, max(1, grid.size // 3))
    masked = np.asarray(mask.is_masked)
    expected = np.zeros((2, 40, FRONT.bins), bool)
    for t, f in np.ndindex(grid.time * frames, grid.freq * bins):
        i, j = t // frames, f // bins
        token = j * grid.time + i if order == "freq_major" else i * grid.freq + j
        expected[:, t, f] = masked[:, token]
    np.testing.assert_array_equal(method.masked_cells(mask), expected)
    spec = jnp.ones((2, 40, FRONT.bins, 1))
    patch = method.geometry.patch
    left = zero_masked(spec, mask.is_masked, patch, patch, grid)[..., 0]
    np.testing.assert_array_equal(left > 0, expected)


def test_an_open_patch_of_a_sensor_is_two_frames_of_an_eighth_of_the_bins():
    method = bound(patch=None)
    assert method.geometry.patch == (2, FRONT.bins // 8)
    assert method.geometry.frames % 2 == 0
