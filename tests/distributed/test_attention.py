"""Splash attention where devices share rows and heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq import sharding
from jfreq.nn.attention import attention
from jfreq.types import InputError

from ..nn.test_attention import reference, splash


def test_splash_runs_on_its_own_rows_and_heads():
    rng = np.random.default_rng(0)
    mesh = sharding.make_mesh((2, 2, 2))
    b, n, h, k = 4, 7, 2, 8
    q, k, v = (jnp.asarray(rng.normal(size=(b, n, h, k)), jnp.float32) for _ in range(3))
    with jax.set_mesh(mesh):
        out = jax.jit(splash)(q, k, v)
    assert out.sharding.spec[0] == sharding.BATCH
    np.testing.assert_allclose(out, reference(q, k, v, None), rtol=1e-5, atol=2e-6)


def test_fused_kernels_refuse_heads_that_do_not_divide():
    q = jax.ShapeDtypeStruct((8, 128, 3, 64), jnp.float32)
    mesh = sharding.make_mesh((4, 1, 2))
    with jax.set_mesh(mesh), pytest.raises(InputError, match="does not divide 3"):
        jax.eval_shape(lambda q: attention(q, q, q, kind="splash"), q)
