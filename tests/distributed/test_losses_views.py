"""The loss over several views of a clip is the same on eight devices."""

import jax
import jax.numpy as jnp
import numpy as np

from ..test_losses_views import losses


def test_multi_view_over_devices_is_that_of_one():
    """The negatives are those of the global batch, values and gradients."""
    from jfreq.sharding import batch_sharding, make_mesh

    e = jnp.asarray(np.random.default_rng(2).normal(size=(8, 3, 4)), jnp.float32)
    valid = jnp.arange(8) != 5

    def run(e, valid):
        out, pull = jax.vjp(lambda e: losses.multi_view(e, valid=valid), e)
        return out, pull(jnp.arange(8.0))

    place = batch_sharding(make_mesh((4, 2, 1)))
    parts = jax.jit(run)(jax.device_put(e, place), jax.device_put(valid, place))
    for mine, whole in zip(parts, jax.jit(run)(e, valid)):
        np.testing.assert_allclose(mine, whole, rtol=1e-5, atol=1e-6)
