import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jfreq.ops import gather
from jfreq.types import Mask


def random_ids(scores):
    """Ids by rising score, and the inverse permutation."""
    order = jnp.argsort(scores, axis=1)
    return order, jnp.argsort(order, axis=1)


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@settings(deadline=None, max_examples=8)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(0, 999))
def test_order_and_restore(b, n, seed):
    scores = noise(b, n, seed=seed)
    x = noise(b, n, 2, seed=seed + 1)
    order, restore = random_ids(scores)
    expected = np.asarray(order)
    shuffled = gather.take_tokens(x, order)
    for row in range(b):
        np.testing.assert_array_equal(shuffled[row], np.asarray(x)[row, expected[row]])
    np.testing.assert_array_equal(gather.restore_tokens(shuffled, restore), x)


def test_ids_are_clamped():
    x = noise(1, 4, 3)
    out = gather.take_tokens(x, jnp.asarray([[7, 0, 7]]))
    np.testing.assert_array_equal(out[0], np.asarray(x)[0, [3, 0, 3]])


def test_gradient_counts_uses():
    x, ids = noise(2, 4, 3), jnp.asarray([[0, 0, 3], [1, 2, 1]])
    grad = jax.grad(lambda x: gather.take_tokens(x, ids).sum())(x)
    uses = np.array([[2, 0, 0, 1], [0, 2, 1, 0]])
    np.testing.assert_array_equal(grad, np.broadcast_to(uses[:, :, None], (2, 4, 3)))


def parts_of(visible: int, *, rows: int = 3, n: int = 7) -> Mask:
    """A random mask of ``n`` tokens."""
    order, restore = random_ids(noise(rows, n, seed=visible))
    return Mask(order[:, :visible], order[:, visible:], restore)


@pytest.mark.parametrize("visible", [1, 3, 6])
def test_parts_of_a_mask_have_the_gradient_of_the_plain_formula(visible):
    mask, x = parts_of(visible), noise(3, 7, 2)

    def squares(pick):
        return lambda x: jnp.sum(jnp.square(pick(x)) * noise(1, 1, 2, seed=9))

    forms = (
        (lambda x: gather.visible_tokens(x, mask), lambda x: gather.take_tokens(x, mask.visible)),
        (lambda x: gather.masked_tokens(x, mask), lambda x: gather.take_tokens(x, mask.masked)),
        (
            lambda x: gather.restore_tokens(x, mask.restore),
            lambda x: gather.take_tokens(x, mask.restore),
        ),
    )
    for ours, plain in forms:
        np.testing.assert_array_equal(ours(x), plain(x))
        found, wanted = (jax.grad(squares(pick))(x) for pick in (ours, plain))
        np.testing.assert_array_equal(found, wanted)


def test_gradients_of_parts_scatter_nothing():
    mask, x = parts_of(3), noise(3, 7, 2)

    def loss(x):
        parts = [gather.visible_tokens(x, mask), gather.masked_tokens(x, mask)]
        return jnp.sum(jnp.square(gather.restore_tokens(jnp.concatenate(parts, 1), mask.restore)))

    assert "scatter" not in str(jax.make_jaxpr(jax.grad(loss))(x))
