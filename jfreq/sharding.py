"""The mesh ``(data, fsdp, tensor)`` and who lives where on it.

Batches are split over ``data`` and ``fsdp``. Parameters, optimiser moments and EMA copies follow
one ordered table of path patterns, so that ``opt/.../mu/trunk/...`` is placed like ``trunk/...``.
What no pattern names is split greedily over ``fsdp`` when it is large, else replicated.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.mesh_utils import create_device_mesh
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jfreq import trees
from jfreq.types import InputError, PyTree

AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")

RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"blocks/qkv/kernel", ("fsdp", None, "tensor", None)),
    (r"blocks/qkv/bias", (None, "tensor", None)),
    (r"blocks/q/kernel", ("fsdp", "tensor", None)),
    (r"blocks/kv/kernel", ("fsdp", None, "tensor", None)),
    (r"blocks/proj/kernel", ("tensor", None, "fsdp")),
    (r"blocks/fc1/kernel", ("fsdp", "tensor")),
    (r"blocks/fc1/bias", ("tensor",)),
    (r"blocks/fc2/kernel", ("tensor", "fsdp")),
)
"""Path ending, and the mesh axis of each trailing dimension."""

MIN_SHARD_BYTES = 2**20


def make_mesh(sizes: Sequence[int], devices: Sequence[Any] | None = None) -> jax.sharding.Mesh:
    """The mesh over all devices; one of the three ``sizes`` may be -1.

    Raises ``InputError`` when the sizes do not multiply to the number of devices.
    """
    devices = list(devices if devices is not None else jax.devices())
    fixed = math.prod(s for s in sizes if s != -1)
    shape = tuple(len(devices) // fixed if s == -1 else s for s in sizes)
    if math.prod(shape) != len(devices):
        text = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes))
        raise InputError(f"mesh: {text} does not match {len(devices)} devices")
    kinds = (AxisType.Auto,) * 3
    try:
        return jax.make_mesh(shape, AXES, axis_types=kinds, devices=devices)
    except NotImplementedError:
        # No axis of the mesh is a product of axes of the torus: cut those in two.
        found = create_device_mesh(shape, devices, allow_split_physical_axes=True)
        return jax.sharding.Mesh(found, AXES, axis_types=kinds)


def batch_ways(mesh: jax.sharding.Mesh) -> int:
    """How many parts a batch is cut into."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def spec_for(path: str, shape: tuple[int, ...], itemsize: int, sizes: Mapping[str, int]) -> P:
    """Placement of one array on a mesh of these axis sizes; an axis that does not divide drops."""
    hit = trees.first_match(path, [pattern for pattern, _ in RULES])
    if hit is not None and len(shape) >= len(RULES[hit][1]):
        names = (None,) * (len(shape) - len(RULES[hit][1])) + RULES[hit][1]
        return P(*(
            name if name and size % sizes[name] == 0 and sizes[name] > 1 else None
            for name, size in zip(names, shape)
        ))  # fmt: skip
    fsdp = sizes["fsdp"]
    if fsdp == 1 or math.prod(shape) * itemsize < MIN_SHARD_BYTES:
        return P()
    free = [i for i, size in enumerate(shape) if size % fsdp == 0]
    if not free:
        return P()
    largest = max(free, key=lambda i: shape[i])
    return P(*(("fsdp" if i == largest else None) for i in range(len(shape))))


def shardings(tree: PyTree, mesh: jax.sharding.Mesh) -> PyTree:
    """A ``NamedSharding`` for every leaf (arrays or ``ShapeDtypeStruct``)."""

    def place(path, leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        itemsize = 8 if is_key else np.dtype(leaf.dtype).itemsize
        return NamedSharding(mesh, spec_for(path, leaf.shape, itemsize, mesh.shape))

    return trees.map_paths(place, tree)


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Rows over ``data`` and ``fsdp``."""
    return NamedSharding(mesh, P(BATCH))


@functools.lru_cache(maxsize=8)
def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The whole of an array on every device."""
    return NamedSharding(mesh, P())


def batch_share(mesh: jax.sharding.Mesh) -> tuple[int, int]:
    """Which part of every global batch this process feeds, and into how many parts it is cut.

    Processes that hold the same rows (``tensor`` crosses hosts) feed the same part. Raises
    ``InputError`` for a mesh on which the parts overlap.
    """
    ways = batch_ways(mesh)
    rows: dict[int, set[int]] = {}
    for device, index in batch_sharding(mesh).devices_indices_map((ways,)).items():
        rows.setdefault(device.process_index, set()).update(range(ways)[index[0]])
    parts = sorted({tuple(sorted(part)) for part in rows.values()})
    if sum(map(len, parts)) != ways or len({len(part) for part in parts}) != 1:
        raise InputError(
            "mesh: the rows of a batch cannot be shared evenly by the processes; make data x fsdp "
            "a multiple of their number, or 1"
        )
    return parts.index(tuple(sorted(rows[jax.process_index()]))), len(parts)


def to_global(batch: Mapping[str, np.ndarray], mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
    """This process's rows as part of the global batch, on the devices."""
    place, (_, parts) = batch_sharding(mesh), batch_share(mesh)
    return {
        k: jax.make_array_from_process_local_data(place, v, (len(v) * parts, *v.shape[1:]))
        for k, v in batch.items()
    }


def constrain(x: jax.Array) -> jax.Array:
    """Keeps activations split by batch where a mesh is set; elsewhere a no-op."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not set(BATCH) <= set(mesh.axis_names):
        return x
    if x.shape[0] % (mesh.shape["data"] * mesh.shape["fsdp"]):
        return x
    return jax.lax.with_sharding_constraint(x, P(BATCH, *[None] * (x.ndim - 1)))


def devices() -> int:
    """On how many devices the program being traced runs: those of the mesh, where one is set."""
    mesh = jax.sharding.get_abstract_mesh()
    return jax.device_count() if mesh.empty else mesh.size
