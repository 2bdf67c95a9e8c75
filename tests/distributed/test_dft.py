"""Fourier transforms of a sharded batch need no collective."""

import jax
import jax.numpy as jnp

from ..ops.test_dft import spectra


def test_sharded_matmul_needs_no_collective():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.P("data"))
    x = jax.ShapeDtypeStruct((16, 1000), jnp.float32, sharding=rows)
    run = jax.jit(spectra)
    text = run.lower(x).compile().as_text() or ""
    assert text
    for name in ("all-gather", "all-to-all", "collective-permute", "all-reduce"):
        assert name not in text
