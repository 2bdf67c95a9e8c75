"""Operations are counted over all devices."""

import contextlib

import jax
import jax.numpy as jnp
import pytest

from jfreq.monitoring import flops


@pytest.mark.parametrize("meshed", [False, True])
def test_fused_kernels_count_all_instances_and_devices(meshed):
    """Splash on tokens padded to 640: scores and values, whether or not devices share the work."""
    from jfreq import sharding
    from jfreq.nn.attention import attention

    q = jax.ShapeDtypeStruct((8, 514, 4, 64), jnp.bfloat16)
    mesh = sharding.make_mesh((2, 2, 2))
    with jax.set_mesh(mesh) if meshed else contextlib.nullcontext():
        found = flops.count(lambda *qkv: attention(*qkv, kind="splash"), q, q, q)
    assert found == 2 * 2 * 8 * 4 * 640**2 * 64
