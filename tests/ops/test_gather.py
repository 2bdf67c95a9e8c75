import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jfreq.ops import gather

COLLECTIVES = re.compile(r"all-gather|all-to-all|collective-permute|all-reduce|reduce-scatter")


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


def masked_round_trip(x, scores):
    """What a masked autoencoder does: keep 25 %, fill up with zeros, restore the order."""
    order, restore = random_ids(scores)
    kept = gather.take_tokens(x, order[:, :4])
    full = jnp.concatenate([kept, jnp.zeros((x.shape[0], 12, x.shape[2]))], axis=1)
    return gather.restore_tokens(full, restore)


def loss(x, scores):
    return jnp.square(masked_round_trip(x, scores)).sum(axis=(1, 2))


def row_gradient(x, scores):
    return jax.vjp(lambda x: loss(x, scores), x)[1](jnp.ones(x.shape[0]))[0]


@pytest.mark.dist
@pytest.mark.parametrize("run", [masked_round_trip, row_gradient])
def test_batch_sharded_gathers_need_no_collective(run):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.P("data"))
    x, scores = noise(16, 16, 3), noise(16, 16, seed=1)
    compiled = jax.jit(run).lower(jax.device_put(x, rows), jax.device_put(scores, rows)).compile()
    text = compiled.as_text() or "all-gather"
    assert not COLLECTIVES.findall(text)
    out = compiled(jax.device_put(x, rows), jax.device_put(scores, rows))
    np.testing.assert_array_equal(out, run(x, scores))


@pytest.mark.dist
def test_the_guard_sees_a_collective():
    """The same check on the indexing this module replaces."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.P("data"))
    x = jax.device_put(noise(16, 16, 3), rows)
    ids = jax.device_put(jnp.zeros((16, 4), int), rows)
    text = jax.jit(lambda x, i: x[jnp.arange(16)[:, None], i]).lower(x, ids).compile().as_text()
    assert COLLECTIVES.findall(text or "")
