"""Scalograms are augmented where their rows are."""

import functools

import jax
import jax.numpy as jnp

from ..augment.test_scalogram import CHANGES


def test_sharded_batches_need_no_collective():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.P("data"))
    x = jax.ShapeDtypeStruct((16, 20, 8, 2), jnp.float32, sharding=rows)
    for fn in CHANGES:
        text = jax.jit(functools.partial(fn, jax.random.key(0))).lower(x).compile().as_text() or ""
        assert text
        for name in ("all-gather", "all-to-all", "collective-permute"):
            assert name not in text, fn.__name__
