"""Grouped convolutions leave a sharded batch where it is."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq.ops import conv
from jfreq.sharding import batch_sharding, make_mesh

from ..ops.test_conv import sample


@pytest.mark.parametrize("form", [conv.grouped_conv, conv._conv_of_rows])
def test_a_sharded_batch_is_not_gathered(form):
    """As products, on CPU, and as a convolution of the rows of a device, elsewhere."""
    mesh = make_mesh((4, 2, 1))
    x, kernel = sample((8, 5, 4, 6), (3, 3, 3, 4))

    def run(x, kernel, fn=form):
        out, pull = jax.vjp(fn, x, kernel)
        return out, pull(jnp.ones_like(out))

    with jax.set_mesh(mesh):
        rows = jax.device_put(x, batch_sharding(mesh))
        program = jax.jit(run).lower(rows, kernel).compile()
        found = program(rows, jax.device_put(kernel, jax.sharding.NamedSharding(mesh, jax.P())))
    text = program.as_text() or "all-gather"
    assert not re.findall(r"all-gather|all-to-all|collective-permute", text)
    plain = jax.jit(run, static_argnums=2)(x, kernel, conv.grouped_conv)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(plain)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
