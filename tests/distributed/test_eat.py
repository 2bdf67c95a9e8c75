"""EAT on eight devices gives the loss and gradients of one."""

import jax
import numpy as np

from jfreq import sharding
from jfreq.method import Streams
from jfreq.testing import CLIP, fake_batch

from ..methods.test_eat import built


def test_eight_devices_agree_with_one():
    """The contrast of a batch that lies on eight devices is over all of it."""
    _, method, params, target, loss = built("aasp")
    batch, rngs = fake_batch(CLIP, 8), Streams(jax.random.key(2))
    value = loss(params, target, batch, rngs, 0).value
    mesh = sharding.make_mesh((8, 1, 1))
    with jax.set_mesh(mesh):
        spread = jax.device_put(batch, sharding.batch_sharding(mesh))
        other = jax.jit(method.loss)(params, target, spread, rngs, 0).value
    np.testing.assert_allclose(value, other, rtol=1e-4)
