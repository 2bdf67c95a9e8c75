"""LTFC gathers embeddings and nothing larger."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from jfreq.testing import loss_and_grad

from ..methods.test_ltfc import SMALL, data, setup


def test_a_sharded_batch_gathers_embeddings_only():
    """NT-Xent needs all embeddings, 8 wide here; neither series nor scalograms travel."""
    method, params = setup(SMALL, data()[0])
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.P("data"))
    acc = jax.ShapeDtypeStruct((16, 160, 3), jnp.float32, sharding=rows)
    with jax.set_mesh(mesh):
        program = loss_and_grad.lower(method, params, {"acc": acc}, jax.random.key(0))
        text = program.compile().as_text() or ""
    found = re.findall(r"= (.*) (?:all-gather|all-to-all|collective-permute)(?:-start)?\(", text)
    moved = [
        int(np.prod([int(n) for n in size.split(",")]))
        for line in found
        for size in re.findall(r"f32\[([0-9,]+)", line)
    ]
    # 3 cells of 32 views; one scalogram alone is 40 x 16 x 3.
    assert 32 * 8 <= max(moved) <= 3 * 32 * 8
