import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jfreq.ops import posemb
from jfreq.types import InputError, TokenGrid


def table(f, t, d=3, seed=0):
    return np.random.default_rng(seed).normal(size=(f, t, d)).astype(np.float32)


def torch_bilinear(x, shape):
    """torch's upsample_bilinear2d with align_corners=False, output pixel by pixel, in float64."""

    def source(i, old, new):
        at = max(0.0, (i + 0.5) * (old / new) - 0.5)
        first = min(int(at), old - 1)
        return first, min(first + 1, old - 1), at - first

    out = np.zeros((*shape, x.shape[2]))
    for i, j in np.ndindex(shape):
        h0, h1, a = source(i, x.shape[0], shape[0])
        w0, w1, b = source(j, x.shape[1], shape[1])
        top = (1 - b) * x[h0, w0].astype(np.float64) + b * x[h0, w1]
        bottom = (1 - b) * x[h1, w0].astype(np.float64) + b * x[h1, w1]
        out[i, j] = (1 - a) * top + a * bottom
    return out


def test_sincos_1d_closed_form():
    out = posemb.sincos_1d(7, 6)
    for i, k in np.ndindex(7, 3):
        angle = i / 10000 ** (k / 3)
        np.testing.assert_allclose(out[i, [k, k + 3]], [np.sin(angle), np.cos(angle)], atol=1e-7)


def test_sincos_2d_closed_form():
    """Width 8: sin and cos of frequency in the first four, of time in the last four."""
    out = posemb.sincos_2d(5, 3, 8)
    assert out.shape == (5, 3, 8)
    assert out.dtype == np.float32
    for f, t, k in np.ndindex(3, 5, 2):
        omega = 10000 ** (-k / 2)
        expected = [np.sin(f * omega), np.cos(f * omega), np.sin(t * omega), np.cos(t * omega)]
        np.testing.assert_allclose(out[t, f, [k, k + 2, k + 4, k + 6]], expected, atol=1e-7)


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 12), st.integers(0, 12))
def test_longer_tables_are_torchs_bilinear(f, t, more_f, more_t):
    x, shape = table(f, t), (f + more_f, t + more_t)
    out = jax.jit(posemb.resize_positions, static_argnums=1)(x, shape)
    np.testing.assert_allclose(out, torch_bilinear(x, shape), atol=1e-5)


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_positions_identity_crop_and_enlarge(kind):
    x = kind(table(8, 64))
    same = posemb.resize_positions(x, (8, 64))
    np.testing.assert_array_equal(same, x)
    np.testing.assert_array_equal(posemb.resize_positions(x, (8, 50)), x[:, 32 - 25 : 57])
    np.testing.assert_array_equal(posemb.resize_positions(x, (8, 9)), x[:, 32 - 4 : 37])
    np.testing.assert_array_equal(posemb.resize_positions(x, (5, 64)), x[4 - 2 : 7])
    np.testing.assert_array_equal(posemb.resize_positions(x, (3, 7)), x[4 - 1 : 6, 32 - 3 : 36])


def test_positions_of_the_papers():
    """SSAST's table of 64 times and 8 rows, frequency first, to stride 10: 101 and 12 up, 12 and 12
    crops time and grows frequency."""
    x = table(8, 64)
    up = posemb.resize_positions(x, (12, 101))
    expected = torch_bilinear(torch_bilinear(x, (8, 101)), (12, 101))
    np.testing.assert_allclose(up, expected, atol=1e-5)
    mixed = posemb.resize_positions(x, (12, 12))
    np.testing.assert_allclose(mixed, torch_bilinear(x[:, 26:38], (12, 12)), atol=1e-5)
    frame = posemb.resize_positions(table(1, 512), (1, 1023))
    np.testing.assert_allclose(frame, torch_bilinear(table(1, 512), (1, 1023)), atol=1e-4)


def test_positions_keep_constants_and_pass_gradients():
    """Interpolation weights sum to 1, and a learned table is still learned after resizing."""
    np.testing.assert_allclose(
        posemb.resize_positions(np.ones((5, 7, 2), np.float32), (9, 13)), 1, atol=1e-6
    )
    resize = jax.jit(posemb.resize_positions, static_argnums=1)
    grad = jax.grad(lambda x: resize(x, (12, 20)).sum())(jnp.asarray(table(8, 16)))
    np.testing.assert_allclose(grad.sum(), 12 * 20 * 3, rtol=1e-5)
    assert (grad > 0).all()


@pytest.mark.parametrize("order", ["freq_major", "time_major"])
def test_tokens_have_the_sines_of_their_place(order):
    grid, cells = TokenGrid(time=5, freq=3, order=order), posemb.sincos_2d(5, 3, 8)
    flat = posemb.sincos_tokens(grid, 8)
    for f in range(3):
        for t in range(5):
            at = f * 5 + t if order == "freq_major" else t * 3 + f
            np.testing.assert_array_equal(flat[at], cells[t, f])


def test_bad_widths():
    with pytest.raises(InputError, match="even"):
        posemb.sincos_1d(4, 5)
    with pytest.raises(InputError, match="multiple of 4"):
        posemb.sincos_2d(4, 4, 6)
