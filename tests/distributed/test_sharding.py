"""Meshes over eight devices, and real placements on them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jfreq import param_paths, sharding
from jfreq.config import TRANSFORMER_RULES, Optim
from jfreq.methods.ssast import SSAST
from jfreq.train import optimizer
from jfreq.types import DataSpec, InputError, SignalSpec


def test_moments_live_with_their_parameters():
    method = SSAST().bind(DataSpec((SignalSpec("audio", 16000, 160000),)))
    base = jax.eval_shape(method.init, jax.random.key(0))
    mesh = sharding.make_mesh((1, 4, 2))
    optimiser = optimizer.make(Optim(weight_decay=0.1, clip=1.0), steps=9, params=base)
    state = {"params": base, "opt": jax.eval_shape(optimiser.init, base)}
    places = param_paths.flatten(sharding.shardings(state, mesh, TRANSFORMER_RULES))
    for path in param_paths.flatten(base):
        mine = places[f"params/{path}"].spec
        others = [p for p in places if p.startswith("opt/") and p.endswith(f"/{path}")]
        assert len(others) == 2, "mu and nu"
        assert all(places[other].spec == mine for other in others), path
    counters = [p for p in places if p.endswith("/count")]
    assert counters and all(places[p].spec == P() for p in counters)


def test_shards_on_devices():
    """Each device holds its rank-coded part, keys and scalars a copy."""
    mesh = sharding.make_mesh((2, 2, 2))
    values = np.arange(2 * 4 * 6, dtype=np.float32).reshape(2, 4, 6)
    tree = {"blocks": {"fc1": {"kernel": values}}, "step": np.int32(3), "key": jax.random.key(0)}
    placed = jax.device_put(tree, sharding.shardings(tree, mesh, TRANSFORMER_RULES))
    kernel = placed["blocks"]["fc1"]["kernel"]
    for shard in kernel.addressable_shards:
        _, fsdp, tensor = np.argwhere(mesh.devices == shard.device)[0]
        expected = values[:, 2 * fsdp : 2 * fsdp + 2, 3 * tensor : 3 * tensor + 3]
        np.testing.assert_array_equal(shard.data, expected)
    assert placed["step"].sharding.is_fully_replicated
    assert placed["key"].sharding.is_fully_replicated


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [((-1, 1, 1), (8, 1, 1)), ((2, -1, 2), (2, 2, 2)), ((1, 4, 2), (1, 4, 2))],
)
def test_make_mesh(sizes, shape):
    mesh = sharding.make_mesh(sizes)
    assert mesh.axis_names == ("data", "fsdp", "tensor")
    assert tuple(mesh.shape.values()) == shape
    assert sharding.batch_ways(mesh) == shape[0] * shape[1]
    assert all(kind == jax.sharding.AxisType.Auto for kind in mesh.axis_types)


@pytest.mark.parametrize("sizes", [(3, 1, 1), (-1, 3, 1), (-1, 16, 1), (2, 2, 1), (4, 4, 4)])
def test_sizes_that_do_not_fit_the_devices(sizes):
    said = "mesh: data={}, fsdp={}, tensor={} does not match the devices that JAX has: 8"
    with pytest.raises(InputError, match=said.format(*sizes)):
        sharding.make_mesh(sizes)


def test_a_mesh_that_cuts_axes_of_a_torus(monkeypatch):
    """JAX refuses (4, 8, 2) on a TPU of 4 x 4 x 4; its axes are cut then."""
    place = sharding.create_device_mesh

    def refuse(*args, allow_split_physical_axes=False):
        if not allow_split_physical_axes:
            raise NotImplementedError
        return place(*args)

    monkeypatch.setattr(sharding, "create_device_mesh", refuse)
    mesh = sharding.make_mesh((2, -1, 2))
    assert mesh.axis_names == sharding.AXES and mesh.devices.shape == (2, 2, 2)
    assert len({device.id for device in mesh.devices.flat}) == 8
    assert all(kind == jax.sharding.AxisType.Auto for kind in mesh.axis_types)


def test_batches_are_split_by_rows():
    mesh = sharding.make_mesh((2, 2, 2))
    rows = {"audio": np.arange(8 * 5, dtype=np.int16).reshape(8, 5, 1), "label": np.arange(8)}
    batch = sharding.to_global(rows, mesh)
    for name, value in rows.items():
        np.testing.assert_array_equal(batch[name], value)
        for shard in batch[name].addressable_shards:
            data, fsdp, _ = np.argwhere(mesh.devices == shard.device)[0]
            first = 2 * (2 * data + fsdp)
            np.testing.assert_array_equal(shard.data, value[first : first + 2])


def test_constrain():
    """Where a mesh is set the batch axis stays split; without one, or for odd rows, a no-op."""
    x = jnp.arange(24.0).reshape(8, 3)
    assert sharding.constrain(x) is x
    assert "sharding_constraint" not in str(jax.make_jaxpr(sharding.constrain)(x))
    mesh = sharding.make_mesh((2, 2, 2))
    with jax.set_mesh(mesh):
        out = jax.jit(lambda x: sharding.constrain(2 * x))(x)
        assert out.sharding.spec[0] == ("data", "fsdp")
        odd = jax.make_jaxpr(sharding.constrain)(x[:3])
    assert "sharding_constraint" not in str(odd)
    np.testing.assert_array_equal(out, 2 * x)
    other = jax.make_mesh((8,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(other):
        assert "sharding_constraint" not in str(jax.make_jaxpr(sharding.constrain)(x))
