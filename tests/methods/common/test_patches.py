import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jfreq import masks
from jfreq.config import replace
from jfreq.frontends.fbank import Fbank
from jfreq.frontends.frontend import up_to
from jfreq.frontends.log_spectrogram import LogSpectrogram
from jfreq.method import Streams
from jfreq.methods.common.patches import PatchMethod
from jfreq.nn.aape import zero_masked
from jfreq.nn.vit import ViT
from jfreq.testing import compiled
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
    grid, size = method.grid, method.geometry.patch

    @jax.jit
    def shown(key):
        mask = masks.random(key, 2, grid, max(1, grid.size // 3))
        spec = jnp.ones((2, 40, FRONT.bins, 1))
        left = zero_masked(spec, mask.is_masked, size, size, grid)[..., 0]
        return mask.is_masked, method.masked_cells(mask), left

    masked, cells, left = jax.device_get(shown(jax.random.key(seed)))
    expected = np.zeros((2, 40, FRONT.bins), bool)
    for t, f in np.ndindex(grid.time * frames, grid.freq * bins):
        i, j = t // frames, f // bins
        token = j * grid.time + i if order == "freq_major" else i * grid.freq + j
        expected[:, t, f] = masked[:, token]
    np.testing.assert_array_equal(cells, expected)
    np.testing.assert_array_equal(left > 0, expected)


def test_an_open_patch_of_a_sensor_is_two_frames_of_an_eighth_of_the_bins():
    method = bound(patch=None)
    assert method.geometry.patch == (2, FRONT.bins // 8)
    assert method.geometry.frames % 2 == 0


# ------------------------------------------------------------------ padding

TEN_SECONDS = DataSpec((SignalSpec("audio", 16000, 160000),))


@pytest.mark.parametrize(
    ("patch", "stride", "rows"),
    [
        # Frames of the signal, and columns of patches that hold one of them: 1024 frames have 64.
        ((16, 16), None, {998: 63, 1008: 63, 1009: 64, 498: 32, 496: 31, 98: 7, 1: 1, 0: 1}),
        ((16, 16), (10, 10), {998: 100, 1001: 101, 991: 100, 990: 99, 98: 10, 0: 1}),
        ((2, 128), None, {998: 499, 997: 499, 98: 49, 1: 1}),
    ],
)
@pytest.mark.parametrize("order", ["freq_major", "time_major"])
def test_a_column_with_a_frame_of_the_signal_is_attended_to(patch, stride, rows, order):
    """Counts by hand; a 10 s clip has 998 frames, of which the 63rd column holds six."""
    method = PatchMethod(frontend=Fbank(), patch=patch, stride=stride, order=order)
    method = method.bind(TEN_SECONDS)
    batch = {"valid_frames": up_to(jnp.asarray(list(rows)), 1024)}
    found = method.attended_tokens(batch)
    assert found is not None
    plane = np.asarray(found).reshape(len(rows), *method.grid.shape)
    plane = plane.swapaxes(1, 2) if order == "freq_major" else plane
    expected = np.arange(method.grid.time)[None] < np.asarray(list(rows.values()))[:, None]
    np.testing.assert_array_equal(plane, np.repeat(expected[..., None], method.grid.freq, 2))
    assert replace(method, padding="attended").attended_tokens(batch) is None


SIX_COLUMNS = bound(
    frames=48, patch=(8, 4), encoder=ViT(width=8, depth=2, heads=2), special_tokens=1
)
"""47 frames of the signal, in six columns of eight."""


@functools.cache
def encoded(padding, pool):
    """``batch -> Features`` by ``encode`` and by ``forward``, compiled."""
    method = replace(SIX_COLUMNS, padding=padding, pool=pool)
    params = compiled(SIX_COLUMNS, "init")(jax.random.key(0))
    encode = jax.jit(lambda batch: method.encode(params, batch))
    forward = jax.jit(lambda batch: method.forward(params, batch, Streams(jax.random.key(1))))
    return encode, forward


def waves(*lengths):
    wave = jax.random.normal(jax.random.key(2), (len(lengths), 400, 2))
    length = jnp.asarray(lengths)
    inside = jnp.arange(400)[None] < length[:, None]
    return {"acc": wave * inside[..., None], "length": length}


@pytest.mark.parametrize("pool", ["mean", "special"])
def test_padding_makes_no_difference_to_clips_that_fill_the_window(pool):
    full, short = waves(400, 399), waves(200, 90)
    for masked, attended in zip(encoded("masked", pool), encoded("attended", pool)):
        for a, b in zip(jax.tree.leaves(masked(full)), jax.tree.leaves(attended(full))):
            np.testing.assert_allclose(a, b, atol=1e-5)
        assert np.abs(masked(short).clip - attended(short).clip).min(1).max() > 1e-3


@pytest.mark.parametrize("pool", ["mean", "special"])
def test_attended_padding_is_read_like_signal(pool):
    """The spectrogram alone, of which nothing says where the clip ends, gives the same; masked, the
    values of the padding change nothing."""
    batch = compiled(SIX_COLUMNS, "with_spectrogram")(waves(200, 90))
    spec, valid = batch["spectrogram"], batch["valid_frames"]
    assert valid.sum(1).tolist() == [22, 8]
    for attended, masked in zip(encoded("attended", pool), encoded("masked", pool)):
        found, alone = attended(batch), attended({"spectrogram": spec})
        np.testing.assert_allclose(found.clip, alone.clip, atol=1e-5)
        np.testing.assert_allclose(found.tokens, alone.tokens, atol=1e-5)
        if pool == "mean":
            np.testing.assert_allclose(found.clip, found.tokens.mean(1), atol=1e-5)
        # Frames 22 and 23 lie in a column with signal.
        noisy = spec.at[0, 24:].set(3.0).at[1, 8:].set(-3.0)
        one, two = masked(batch), masked({**batch, "spectrogram": noisy})
        np.testing.assert_allclose(one.clip, two.clip, atol=1e-5)
        assert np.abs(attended({**batch, "spectrogram": noisy}).clip - found.clip).max() > 1e-2
