import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jfreq.ops import gather


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
