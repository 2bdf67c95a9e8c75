"""Sub-sequences of FOCAL on eight devices."""

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jfreq import sharding
from jfreq.method import Streams
from jfreq.testing import fake_batch, loss_and_grad

from ..methods.test_focal import SENSORS, small


def test_sub_sequences_on_eight_devices(key):
    """Each device holds one sub-sequence; its negatives are those of all others."""
    method, params = small()
    batch = fake_batch(SENSORS, 16)
    alone = loss_and_grad(method, params, batch, key)[0].value
    mesh = sharding.make_mesh((8, 1, 1))
    with jax.set_mesh(mesh):
        rows = NamedSharding(mesh, PartitionSpec("data"))
        spread = {k: jax.device_put(v, rows) for k, v in batch.items()}
        found = jax.jit(method.loss)(params, {}, spread, Streams(key), 0)
        np.testing.assert_allclose(found.value, alone, rtol=1e-3)
