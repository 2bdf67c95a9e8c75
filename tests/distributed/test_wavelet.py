"""Scalograms of a sharded batch need no collective and stay equal."""

import functools

import jax
import numpy as np

from jfreq.ops import wavelet

from ..ops.test_wavelet import RATE, ROWS, noise


def test_sharded_batch_needs_no_collective_and_changes_nothing():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.P("data"))
    run = jax.jit(functools.partial(wavelet.scalogram, frequencies=ROWS, rate=RATE))
    x = noise(16, 400, 3)
    given = jax.device_put(x, rows)
    text = run.lower(given).compile().as_text() or ""
    assert "fft" not in text
    for name in ("all-gather", "all-to-all", "collective-permute", "all-reduce"):
        assert name not in text
    out = run(given)
    assert out.sharding.is_equivalent_to(rows, out.ndim)
    np.testing.assert_allclose(out, run(jax.device_put(x, jax.devices()[0])), atol=1e-6)
