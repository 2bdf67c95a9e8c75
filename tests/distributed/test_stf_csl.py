"""Negatives of STF-CSL come from all devices."""

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jfreq import sharding
from jfreq.method import Streams
from jfreq.testing import fake_batch

from ..methods.test_stf_csl import MOTION, made


def test_negatives_come_from_all_devices(key):
    """Eight devices with two rows each give what one gives with sixteen."""
    method, params = made()
    batch = fake_batch(MOTION, 16)
    loss = jax.jit(lambda p, b, k: method.loss(p, {}, b, Streams(k), 0).value)
    alone = loss(params, batch, key)
    mesh = sharding.make_mesh((8, 1, 1))
    with jax.set_mesh(mesh):
        rows = NamedSharding(mesh, PartitionSpec("data"))
        spread = {k: jax.device_put(v, rows) for k, v in batch.items()}
        np.testing.assert_allclose(loss(params, spread, key), alone, rtol=1e-3)
