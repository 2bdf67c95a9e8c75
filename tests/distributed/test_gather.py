"""Gathers of a sharded batch need no collective."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq.ops import gather
from jfreq.types import Mask

from ..ops.test_gather import noise, random_ids

COLLECTIVES = re.compile(r"all-gather|all-to-all|collective-permute|all-reduce|reduce-scatter")


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


def of_masks(x, scores):
    """The gradient of visible and of masked tokens."""
    order, restore = random_ids(scores)
    mask = Mask(order[:, :4], order[:, 4:], restore)

    def loss(x):
        parts = gather.visible_tokens(x, mask), gather.masked_tokens(x, mask)
        return sum(jnp.square(part).sum(axis=(1, 2)) for part in parts)

    return jax.vjp(loss, x)[1](jnp.ones(x.shape[0]))[0]


@pytest.mark.parametrize("run", [masked_round_trip, row_gradient, of_masks])
def test_batch_sharded_gathers_need_no_collective(run):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.P("data"))
    x, scores = noise(16, 16, 3), noise(16, 16, seed=1)
    compiled = jax.jit(run).lower(jax.device_put(x, rows), jax.device_put(scores, rows)).compile()
    text = compiled.as_text() or "all-gather"
    assert not COLLECTIVES.findall(text)
    out = compiled(jax.device_put(x, rows), jax.device_put(scores, rows))
    np.testing.assert_array_equal(out, run(x, scores))


def test_the_guard_sees_a_collective():
    """The same check on the indexing this module replaces."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.P("data"))
    x = jax.device_put(noise(16, 16, 3), rows)
    ids = jax.device_put(jnp.zeros((16, 4), int), rows)
    text = jax.jit(lambda x, i: x[jnp.arange(16)[:, None], i]).lower(x, ids).compile().as_text()
    assert COLLECTIVES.findall(text or "")
