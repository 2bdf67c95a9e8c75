"""The mesh ``(data, fsdp, tensor)`` and how arrays are placed on it.

Batches are split over ``data`` and ``fsdp``. Parameters, optimiser moments and EMA copies follow
the rules of the experiment, ordered path patterns, so that ``opt/.../mu/trunk/...`` is placed like
``trunk/...``. What no pattern names is split greedily over ``fsdp`` when it is large, else
replicated. An axis that a rule asks for and that does not divide is left out, and :func:`dropped`
says so.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.mesh_utils import create_device_mesh
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jfreq import param_paths
from jfreq.config import TRANSFORMER_RULES, ShardingRules
from jfreq.ranges import shortlist
from jfreq.types import InputError, PyTree

AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")

MIN_SHARD_BYTES = 2**20


def make_mesh(
    sizes: Sequence[int], devices: Sequence[Any] | None = None, *, slices: int | None = None
) -> jax.sharding.Mesh:
    """The mesh over all devices.

    Args:
        sizes: Of ``data``, ``fsdp`` and ``tensor``; one may be -1 and takes what is left.
        devices: By default all that JAX has.
        slices: Groups of devices that a slower network joins: ``data`` is split over them, so that
            only sums of gradients cross it. None: the slices of a TPU that the devices name. Where
            they name none, a slice is a group of whole processes, or of devices of one process.

    Raises:
        InputError: The sizes do not multiply to the number of devices, or ``slices`` are not those
            of the devices or do not divide them and ``data``.
    """
    devices = list(devices if devices is not None else jax.devices())
    fixed = math.prod(s for s in sizes if s != -1)
    shape = tuple(len(devices) // fixed if s == -1 else s for s in sizes)
    if math.prod(shape) != len(devices):
        text = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes))
        raise InputError(f"mesh: {text} does not match the devices that JAX has: {len(devices)}")
    groups = _slices(devices, slices)
    if shape[0] % len(groups):
        raise InputError(
            f"mesh: data={shape[0]} cannot be split over {len(groups)} slices; make it a multiple, "
            "because only data runs over the network between slices"
        )
    inside = (shape[0] // len(groups), *shape[1:])
    placed = np.concatenate([_inside_slice(inside, group) for group in groups])
    return jax.sharding.Mesh(placed, AXES, axis_types=(AxisType.Auto,) * 3)


def _inside_slice(shape: tuple[int, ...], devices: list[Any]) -> np.ndarray:
    """The devices of a slice in the order that suits the links between them."""
    try:
        return create_device_mesh(shape, devices)
    except NotImplementedError:
        # No axis of the mesh is a product of axes of the torus: cut those in two.
        return create_device_mesh(shape, devices, allow_split_physical_axes=True)


def _slices(devices: list[Any], wanted: int | None) -> list[list[Any]]:
    """The devices of each slice."""
    named = sorted({getattr(device, "slice_index", 0) for device in devices})
    if len(named) > 1:
        if wanted not in (None, len(named)):
            raise InputError(
                f"mesh.slices: is {wanted}, but JAX reports {len(named)}; leave it out"
            )
        return [[d for d in devices if d.slice_index == index] for index in named]
    count = wanted or 1
    processes = len({device.process_index for device in devices})
    whole, things = (processes, "processes") if processes > 1 else (len(devices), "devices")
    if whole % count:
        raise InputError(
            f"mesh.slices: {whole} {things} cannot be divided into {count} slices of one size; "
            f"give a divisor of {whole}"
        )
    ordered = sorted(devices, key=lambda device: device.process_index)
    size = len(devices) // count
    return [ordered[start : start + size] for start in range(0, len(devices), size)]


def batch_ways(mesh: jax.sharding.Mesh) -> int:
    """How many parts a batch is cut into."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def spec_for(
    path: str, shape: tuple[int, ...], itemsize: int, sizes: Mapping[str, int], rules: ShardingRules
) -> P:
    """Placement of an array on a mesh of these axis sizes, without axes that do not divide it."""
    axes = _asked(path, len(shape), rules)
    if axes is not None:
        return P(
            *(
                axis if axis and size % sizes[axis] == 0 and sizes[axis] > 1 else None
                for axis, size in zip(axes, shape)
            )
        )
    fsdp = sizes["fsdp"]
    if fsdp == 1 or math.prod(shape) * itemsize < MIN_SHARD_BYTES:
        return P()
    free = [i for i, size in enumerate(shape) if size % fsdp == 0]
    if not free:
        return P()
    largest = max(free, key=lambda i: shape[i])
    return P(*(("fsdp" if i == largest else None) for i in range(len(shape))))


def _asked(path: str, ndim: int, rules: ShardingRules) -> tuple[str | None, ...] | None:
    """The axis of each dimension by the first rule that names ``path``; None where none does, or
    it has more dimensions."""
    hit = param_paths.first_match(path, [pattern for pattern, _ in rules])
    if hit is None or len(rules[hit][1]) > ndim:
        return None
    return (None,) * (ndim - len(rules[hit][1])) + rules[hit][1]


def shardings(tree: PyTree, mesh: jax.sharding.Mesh, rules: ShardingRules) -> PyTree:
    """A ``NamedSharding`` for every leaf (arrays or ``ShapeDtypeStruct``)."""

    def place(path, leaf):
        return NamedSharding(mesh, spec_for(path, leaf.shape, itemsize(leaf), mesh.shape, rules))

    return param_paths.map_paths(place, tree)


def itemsize(leaf: Any) -> int:
    """Bytes of one element of an array, or of its shape and dtype."""
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return 8 if is_key else np.dtype(leaf.dtype).itemsize


def check_rules(rules: ShardingRules, params: PyTree) -> None:
    """Raises ``InputError`` for a rule of the user whose pattern matches no parameter; the default
    rules, which are for transformers, may match none."""
    patterns = [pattern for pattern, axes in rules if (pattern, axes) not in TRANSFORMER_RULES]
    param_paths.check_patterns("mesh.rules", patterns, params)


def dropped(params: PyTree, sizes: Mapping[str, int], rules: ShardingRules) -> str:
    """Which parameters are not split as the rules say, over which axis, and why: one line, empty
    where all are."""
    by_reason: dict[str, list[str]] = {}
    for path, leaf in param_paths.flatten(params).items():
        for reason in _refusals(path, leaf, sizes, rules):
            by_reason.setdefault(reason, []).append(path)
    parts = [f"{reason} ({shortlist(paths, 2)})" for reason, paths in by_reason.items()]
    return f"not sharded as asked: {'; '.join(parts)}" if parts else ""


def _refusals(
    path: str, leaf: Any, sizes: Mapping[str, int], rules: ShardingRules
) -> Iterator[str]:
    axes = _asked(path, leaf.ndim, rules)
    if axes is not None:
        for axis, size in zip(axes, leaf.shape):
            if axis and size % sizes[axis]:
                yield f"{axis} {sizes[axis]} does not divide {size}"
        return
    hit = param_paths.first_match(path, [pattern for pattern, _ in rules])
    if hit is not None and any(axis and sizes[axis] > 1 for axis in rules[hit][1]):
        yield f"rule {rules[hit][0]!r} is for {len(rules[hit][1])} dimensions, not {leaf.ndim}"
    large = leaf.size * itemsize(leaf) >= MIN_SHARD_BYTES
    if large and all(size % sizes["fsdp"] for size in leaf.shape):
        yield f"fsdp {sizes['fsdp']} divides no dimension"


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Rows over ``data`` and ``fsdp``."""
    return NamedSharding(mesh, P(BATCH))


@functools.lru_cache(maxsize=8)
def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The whole of an array on every device."""
    return NamedSharding(mesh, P())


def process_shard(mesh: jax.sharding.Mesh) -> tuple[int, int]:
    """Which shard of every global batch this process feeds, and how many shards there are.

    Processes that hold the same rows (``tensor`` crosses hosts) feed the same shard. Raises
    ``InputError`` for a mesh on which the shards overlap.
    """
    ways = batch_ways(mesh)
    rows: dict[int, set[int]] = {}
    for device, index in batch_sharding(mesh).devices_indices_map((ways,)).items():
        rows.setdefault(device.process_index, set()).update(range(ways)[index[0]])
    parts = sorted({tuple(sorted(part)) for part in rows.values()})
    if sum(map(len, parts)) != ways or len({len(part) for part in parts}) != 1:
        raise InputError(
            "mesh: the rows of a batch cannot be split evenly over the processes; make data x fsdp "
            "a multiple of their number, or 1"
        )
    return parts.index(tuple(sorted(rows[jax.process_index()]))), len(parts)


def to_global(batch: Mapping[str, np.ndarray], mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
    """This process's rows as part of the global batch, on the devices."""
    place, (_, parts) = batch_sharding(mesh), process_shard(mesh)
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


def axis_size(axis: str) -> int:
    """Size of an axis of the mesh that is set; 1 where there is none."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape.get(axis, 1)


def devices() -> int:
    """On how many devices the program being traced runs: those of the mesh, where one is set."""
    mesh = jax.sharding.get_abstract_mesh()
    return jax.device_count() if mesh.empty else mesh.size
