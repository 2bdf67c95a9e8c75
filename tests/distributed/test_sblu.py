"""Sums over a sharded batch need no collective."""

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jfreq.ops import fir, sblu


def test_devices_that_share_a_batch_do_not_talk():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded = NamedSharding(mesh, PartitionSpec("data"))
    h = fir.high_pass(9, 1 / 8)

    def slopes(x, alpha, beta):
        def power(x, alpha, beta):
            y = fir.filter_time(x[..., None], h)[..., 0]
            u = sblu.windows(y, patch=4, stride=4, taps=5)
            return sum(jnp.sum(part**2) for part in sblu.apply(u, alpha, beta, taps=5))

        return jax.grad(power, argnums=(0, 1, 2))(x, alpha, beta)

    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((8, 16, 3), (8, 4, 3), (8, 4, 3))]
    step = jax.jit(slopes, in_shardings=sharded, out_shardings=sharded)
    text = step.lower(*shapes).compile().as_text()
    assert text and not any(word in text for word in ("all-gather", "all-reduce", "all-to-all"))
