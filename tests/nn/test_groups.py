import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq.nn import groups
from jfreq.testing import alone


def run(batch):
    """``[b 2]`` and ``[b]`` to ``[b 2]``; every row by itself."""
    x, gain = batch
    return jnp.sin(x) * gain[:, None]


@pytest.mark.parametrize(("total", "rows"), [(6, 2), (7, 3), (5, 4), (3, 3), (2, 1)])
def test_values_and_gradients_are_those_of_the_batch(total, rows):
    batch = jnp.arange(2.0 * total).reshape(total, 2), jnp.arange(1.0, total + 1)

    def both(f):
        return jax.jit(jax.value_and_grad(lambda b: jnp.cos(f(b)).sum()))(batch)

    with alone():
        found = both(lambda b: groups.in_groups(run, b, rows))
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(both(run))):
            np.testing.assert_allclose(a, b, rtol=1e-5)


def test_groups_need_one_cpu():
    x = jnp.arange(6.0)[:, None]

    def text(platforms):
        traced = jax.jit(lambda x: groups.in_groups(lambda x: x**2, x, 2)).trace(x)
        return traced.lower(lowering_platforms=platforms).as_text()

    assert "while" in text(("cpu",)) and "while" not in text(("cuda",))
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((8,), ("data",))):
        assert "while" not in text(("cpu",))
