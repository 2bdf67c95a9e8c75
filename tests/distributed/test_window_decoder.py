"""Audio-MAE on eight devices: its windows need no collective, and its loss is that of one."""

import re
from typing import Any

import jax
import numpy as np

from jfreq import sharding
from jfreq.method import Streams
from jfreq.nn.window_decoder import WindowDecoder
from jfreq.testing import CLIP, fake_batch, noise
from jfreq.types import TokenGrid

from ..methods.test_audiomae import METHODS, params_of


def test_sharded_rows_need_no_collective():
    """Shifts, padding and dropout, which draws as on one device."""
    mesh = sharding.make_mesh((4, 2, 1))
    grid = TokenGrid(10, 6, "time_major")
    net = WindowDecoder(width=8, depth=2, heads=2, bias_width=8).build()
    x = noise(16, grid.size, 8)
    params = jax.jit(lambda key: net.init(key, x, grid=grid))(jax.random.key(0))

    def run(params, x, key):
        return net.apply(params, x, grid=grid, train=True, rngs={"dropout": key})

    whole = jax.jit(run)(params, x, jax.random.key(2))
    with jax.set_mesh(mesh):
        rows = jax.device_put(x, sharding.batch_sharding(mesh))
        copies = jax.device_put(params, jax.sharding.NamedSharding(mesh, jax.P()))
        program = jax.jit(run).lower(copies, rows, jax.random.key(2)).compile()
        parts: Any = program(copies, rows, jax.random.key(2))
    text = program.as_text() or "all-gather"
    assert not re.findall(r"(all-gather|all-to-all|all-reduce|collective-permute)", text)
    assert parts.sharding.spec[0] == ("data", "fsdp")
    np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-4)


def test_eight_devices_agree_with_one():
    """Parameters split over two devices by hidden units and heads, and over two by rows."""
    method, params = METHODS["local"], params_of("local")
    batch, rngs = fake_batch(CLIP, 8), Streams(jax.random.key(2))
    value = jax.jit(method.loss)(params, {}, batch, rngs, 0).value
    mesh = sharding.make_mesh((2, 2, 2))
    with jax.set_mesh(mesh):
        spread = jax.device_put(batch, sharding.batch_sharding(mesh))
        placed = jax.device_put(
            params, sharding.shardings(params, mesh, sharding.TRANSFORMER_RULES)
        )
        other = jax.jit(method.loss)(placed, {}, spread, rngs, 0).value
    np.testing.assert_allclose(value, other, rtol=1e-4)
