"""STFNet layers leave a sharded batch where it is."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq.nn import stf as net

from ..nn.test_stf import SMALL, noise


@pytest.mark.parametrize("operator", ["filter", "convolution"])
def test_sharded_batch_stays_where_it_is(operator):
    cfg = dataclasses.replace(SMALL, operator=operator)
    module, x = net.STFLayer(cfg, 4), jnp.asarray(noise(16, 16, 3, 2))
    params = jax.jit(module.init)(jax.random.key(0), x)
    mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
    split = jax.NamedSharding(mesh, jax.P(None, "data"))

    def loss(params, x):
        y: Any = module.apply(params, x)
        return (y**2).sum()

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    one = run(params, x)
    compiled = run.lower(params, jax.device_put(x, split)).compile()
    moved = re.findall(r" (all-gather|all-to-all|collective-permute)\(", compiled.as_text() or "")
    assert not moved
    many = compiled(params, jax.device_put(x, split))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
