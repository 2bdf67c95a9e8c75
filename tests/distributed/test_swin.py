"""Shifted windows of sharded rows need no collective."""

import re
from typing import Any

import jax
import numpy as np

from jfreq import sharding
from jfreq.nn.swin import Swin
from jfreq.testing import made, noise


def test_sharded_rows_need_no_collective():
    """Dropout too, and the draws are those of one device."""
    mesh = sharding.make_mesh((4, 2, 1))
    cfg = Swin(width=8, depths=(2, 1), heads=2, window=(3, 3), shift=(1, 1))
    plane = (12, 6)
    valid = np.zeros(plane, bool)
    valid[:10, :5] = True
    x = noise(16, *plane, 8)
    encoder, decoder = cfg.build(), cfg.decoder(3)
    params = made(encoder, x), made(decoder, noise(16, 6, 3, 16))

    def both(params, x, key):
        how: Any = {"valid": valid, "train": True, "rngs": {"dropout": key}}
        y = encoder.apply({"params": params[0]}, x, **how)
        return decoder.apply({"params": params[1]}, y, **how)

    args = params, x, jax.random.key(2)
    whole = jax.jit(both)(*args)
    with jax.set_mesh(mesh):
        rows = jax.device_put(x, sharding.batch_sharding(mesh))
        whole_copy = jax.sharding.NamedSharding(mesh, jax.P())
        program = jax.jit(both).lower(params, rows, jax.random.key(2)).compile()
        parts: Any = program(jax.device_put(params, whole_copy), rows, args[2])
    text = program.as_text() or "all-gather"
    assert not re.findall(r"(all-gather|all-to-all|all-reduce|collective-permute)", text)
    assert parts.sharding.spec[0] == ("data", "fsdp")
    np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-4)
