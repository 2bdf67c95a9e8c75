import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jfreq.ops import patch
from jfreq.types import InputError

ORDERS = ("freq_major", "time_major")
small = st.integers(1, 4)


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def token(order, f, t, freq, time):
    return f * time + t if order == "freq_major" else t * freq + f


@settings(deadline=None, max_examples=10)
@given(small, small, small, small, st.integers(1, 3), st.sampled_from(ORDERS))
def test_round_trip(freq, time, pf, pt, c, order):
    x = jnp.arange(2.0 * time * pt * freq * pf * c).reshape(2, time * pt, freq * pf, c)

    @jax.jit
    def there_and_back(x):
        tokens = patch.patchify(x, patch=(pf, pt), order=order)
        return tokens, patch.unpatchify(tokens, grid=(freq, time), patch=(pf, pt), order=order)

    tokens, back = there_and_back(x)
    assert tokens.shape == (2, freq * time, pf * pt * c)
    np.testing.assert_array_equal(back, x)


@pytest.mark.parametrize("order", ORDERS)
def test_layout(order):
    """T5: token and place inside the token of every value, one by one."""
    (pf, pt), (freq, time), c = (2, 3), (4, 5), 2
    x = np.asarray(noise(1, time * pt, freq * pf, c))
    tokens = np.asarray(patch.patchify(jnp.asarray(x), patch=(pf, pt), order=order))
    for f, t, i, j, k in np.ndindex(freq, time, pf, pt, c):
        n, place = token(order, f, t, freq, time), (i * pt + j) * c + k
        assert tokens[0, n, place] == x[0, t * pt + j, f * pf + i, k]


@pytest.mark.parametrize(
    ("frames", "bins", "size", "stride", "expected"),
    [(1024, 128, (16, 16), (10, 10), (12, 101)), (1024, 128, (16, 16), (16, 16), (8, 64)),
     (512, 128, (16, 16), (10, 10), (12, 50)), (128, 128, (16, 16), (10, 10), (12, 12)),
     (100, 128, (16, 16), (10, 10), (12, 9)), (1024, 128, (128, 2), (128, 2), (1, 512)),
     (1024, 128, (128, 2), (128, 1), (1, 1023)), (100, 128, (128, 2), (128, 1), (1, 99))],
)  # fmt: skip
def test_grid_shapes_of_the_papers(frames, bins, size, stride, expected):
    assert patch.grid_shape(frames, bins, patch=size, stride=stride) == expected


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("stride", [(4, 3), (2, 3), (3, 1), (5, 4)])
def test_embedding_is_a_linear_map_of_every_patch(stride, order):
    """Against a loop over patches in float64; the last frames and bins fit no whole patch."""
    size, c, d = (4, 3), 2, 5
    x, kernel = noise(2, 17, 18, c), noise(4 * 3 * c, d, seed=1)
    embed = jax.jit(patch.embed_patches, static_argnames=("patch", "stride", "order"))
    out = np.asarray(embed(x, kernel, patch=size, stride=stride, order=order))
    freq, time = patch.grid_shape(17, 18, patch=size, stride=stride)
    assert out.shape == (2, freq * time, d)
    x64, k64 = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    for f, t in np.ndindex(freq, time):
        top, left = f * stride[0], t * stride[1]
        cell = x64[:, left : left + 3, top : top + 4].transpose(0, 2, 1, 3).reshape(2, -1)
        np.testing.assert_allclose(out[:, token(order, f, t, freq, time)], cell @ k64, atol=1e-5)
    eager = patch.embed_patches(x, kernel, patch=size, stride=stride, order=order)
    np.testing.assert_allclose(eager, out, atol=1e-5)


def test_overlapping_tokens_contain_the_touching_ones():
    """Stride 2 visits every place of stride 4: fine-tuning sees the pretraining tokens again."""
    x, kernel = noise(1, 16, 16, 1), noise(16, 3, seed=1)
    touching = patch.embed_patches(x, kernel, patch=(4, 4), stride=(4, 4)).reshape(4, 4, 3)
    overlapping = patch.embed_patches(x, kernel, patch=(4, 4), stride=(2, 2)).reshape(7, 7, 3)
    np.testing.assert_allclose(overlapping[::2, ::2], touching, atol=1e-5)


def test_bad_shapes():
    with pytest.raises(InputError, match="do not tile 6 bins x 8 frames"):
        patch.patchify(noise(1, 8, 6, 1), patch=(4, 4))
    with pytest.raises(InputError, match="fits 6 bins x 3 frames"):
        patch.grid_shape(3, 6, patch=(4, 4), stride=(4, 4))
    for grid in ((3, 3), (2, 2)):
        with pytest.raises(InputError, match="do not fill"):
            patch.unpatchify(noise(1, 4, 15), grid=grid, patch=(4, 4))
