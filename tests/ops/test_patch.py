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
def test_round_trip(time, freq, pt, pf, c, order):
    x = jnp.arange(2.0 * time * pt * freq * pf * c).reshape(2, time * pt, freq * pf, c)

    @jax.jit
    def there_and_back(x):
        tokens = patch.patchify(x, patch=(pt, pf), order=order)
        return tokens, patch.unpatchify(tokens, grid=(time, freq), patch=(pt, pf), order=order)

    tokens, back = there_and_back(x)
    assert tokens.shape == (2, time * freq, pt * pf * c)
    np.testing.assert_array_equal(back, x)


@pytest.mark.parametrize("order", ORDERS)
def test_layout(order):
    """T5: token and place inside the token of every value, one by one."""
    (pt, pf), (time, freq), c = (3, 2), (5, 4), 2
    x = np.asarray(noise(1, time * pt, freq * pf, c))
    tokens = np.asarray(patch.patchify(jnp.asarray(x), patch=(pt, pf), order=order))
    for f, t, i, j, k in np.ndindex(freq, time, pf, pt, c):
        n, place = token(order, f, t, freq, time), (i * pt + j) * c + k
        assert tokens[0, n, place] == x[0, t * pt + j, f * pf + i, k]


@pytest.mark.parametrize(
    ("frames", "bins", "size", "stride", "expected"),
    [(1024, 128, (16, 16), (10, 10), (101, 12)), (1024, 128, (16, 16), (16, 16), (64, 8)),
     (512, 128, (16, 16), (10, 10), (50, 12)), (128, 128, (16, 16), (10, 10), (12, 12)),
     (100, 128, (16, 16), (10, 10), (9, 12)), (1024, 128, (2, 128), (2, 128), (512, 1)),
     (1024, 128, (2, 128), (1, 128), (1023, 1)), (100, 128, (2, 128), (1, 128), (99, 1))],
)  # fmt: skip
def test_grid_shapes_of_the_papers(frames, bins, size, stride, expected):
    assert patch.grid_shape(frames, bins, patch=size, stride=stride) == expected


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("stride", [(3, 4), (3, 2), (1, 3), (4, 5)])
def test_embedding_is_a_linear_map_of_every_patch(stride, order):
    """Against a loop over patches in float64; the last frames and bins fit no whole patch."""
    size, c, d = (3, 4), 2, 5
    x, kernel = noise(2, 17, 18, c), noise(3 * 4 * c, d, seed=1)
    embed = jax.jit(patch.embed_patches, static_argnames=("patch", "stride", "order"))
    out = np.asarray(embed(x, kernel, patch=size, stride=stride, order=order))
    time, freq = patch.grid_shape(17, 18, patch=size, stride=stride)
    assert out.shape == (2, time * freq, d)
    x64, k64 = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    for f, t in np.ndindex(freq, time):
        first, low = t * stride[0], f * stride[1]
        cell = x64[:, first : first + 3, low : low + 4].transpose(0, 2, 1, 3).reshape(2, -1)
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
    with pytest.raises(InputError, match="do not tile 8 frames x 6 bins"):
        patch.patchify(noise(1, 8, 6, 1), patch=(4, 4))
    with pytest.raises(InputError, match="fits 3 frames x 6 bins"):
        patch.grid_shape(3, 6, patch=(4, 4), stride=(4, 4))
    for grid in ((3, 3), (2, 2)):
        with pytest.raises(InputError, match="do not fill"):
            patch.unpatchify(noise(1, 4, 15), grid=grid, patch=(4, 4))
