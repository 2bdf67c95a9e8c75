"""Grouped convolutions leave a sharded batch where it is."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from jfreq.ops import conv
from jfreq.sharding import batch_sharding, make_mesh

from ..ops.test_conv import sample


def test_a_sharded_batch_is_not_gathered():
    mesh = make_mesh((4, 2, 1))
    x, kernel = sample((8, 5, 4, 6), (3, 3, 3, 4))

    def run(x, kernel):
        out, pull = jax.vjp(conv.grouped_conv, x, kernel)
        return out, pull(jnp.ones_like(out))

    with jax.set_mesh(mesh):
        rows = jax.device_put(x, batch_sharding(mesh))
        program = jax.jit(run).lower(rows, kernel).compile()
        found = program(rows, jax.device_put(kernel, jax.sharding.NamedSharding(mesh, jax.P())))
    text = program.as_text() or "all-gather"
    assert not re.findall(r"all-gather|all-to-all|collective-permute", text)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(jax.jit(run)(x, kernel))):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
