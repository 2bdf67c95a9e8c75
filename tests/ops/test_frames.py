from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
import scipy.signal.windows
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from jfreq.ops import frames
from jfreq.types import InputError

lengths = st.tuples(st.integers(1, 60), st.integers(1, 12), st.integers(1, 14))


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (0, 0),
        (399, 0),
        (400, 1),
        (16000, 98),
        (80000, 498),
        (160000, 998),
        (160400, 1001),
        (163840, 1022),
    ],
)
def test_length_law(samples, expected):
    """T1."""
    assert frames.num_frames(samples, 400, 160) == expected
    assert frames.num_frames(jnp.asarray([samples]), 400, 160)[0] == expected


@settings(deadline=None, max_examples=12)
@given(lengths)
def test_frame_is_every_complete_slice(sizes):
    t, length, hop = sizes
    x = jnp.arange(2 * t).reshape(2, t)
    out = jax.jit(lambda x: frames.frame(x, frame_length=length, hop_length=hop))(x)
    starts = [s for s in range(0, t, hop) if s + length <= t]
    expected = np.zeros((2, 0, length), int)
    if starts:
        expected = np.stack([np.asarray(x)[:, s : s + length] for s in starts], axis=1)
    np.testing.assert_array_equal(out, expected)


@settings(deadline=None, max_examples=12)
@given(lengths)
def test_frame_sums_are_sums_of_frames(sizes):
    t, length, hop = sizes
    x = jnp.arange(3 * t).reshape(3, t) ** 2
    options = {"frame_length": length, "hop_length": hop}
    out, cut = (jax.jit(partial(f, **options))(x) for f in (frames.frame_sums, frames.frame))
    np.testing.assert_array_equal(out, np.asarray(cut).sum(-1))


def test_frame_matches_numpy_without_gather():
    x = np.random.default_rng(0).normal(size=(3, 2, 4000)).astype(np.float32)
    cut = jax.jit(lambda x: frames.frame(x, frame_length=400, hop_length=160))
    expected = np.lib.stride_tricks.sliding_window_view(x, 400, axis=-1)[..., ::160, :]
    np.testing.assert_array_equal(cut(x), expected)
    text = cut.lower(x).compile().as_text() or " gather("
    assert " gather(" not in text


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("length", [1, 2, 7, 400])
@pytest.mark.parametrize("name", ["hann", "hamming", "rectangular"])
def test_windows_match_scipy(name, length, periodic):
    out = frames.window(name, length, periodic=periodic)
    assert out.dtype == np.float64
    scipy_name = {"rectangular": "boxcar"}.get(name, name)
    expected = scipy.signal.get_window(scipy_name, length, fftbins=periodic)
    np.testing.assert_allclose(out, expected, atol=1e-15)


def test_symmetric_windows_of_kaldi():
    """Sums of the 400-sample Hann window of the AST front end; Povey is its power."""
    hann = frames.window("hann", 400, periodic=False)
    np.testing.assert_allclose([hann.sum(), np.square(hann).sum()], [199.5, 149.625], rtol=1e-12)
    povey = frames.window("povey", 400, periodic=False)
    expected = scipy.signal.windows.hann(400) ** 0.85
    np.testing.assert_allclose(povey, expected, atol=1e-15)


def test_bad_arguments():
    with pytest.raises((InputError, TypeCheckError), match="blackmann"):
        frames.window("blackmann", 8, periodic=True)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="hop_length 0"):
        frames.frame(jnp.zeros(8), frame_length=4, hop_length=0)
