"""Rules for reading and writing at positions: gather, dynamic slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jfreq.export.onnx.elementwise import Rule, where
from jfreq.export.onnx.graph import Graph, Value, ints
from jfreq.export.onnx.layouts import END, squeeze, unsqueeze


def _dynamic_slice(graph: Graph, eqn: Any, x: Value, *starts: Value) -> Value:
    shape, sizes = eqn.invars[0].aval.shape, eqn.params["slice_sizes"]
    axes = [axis for axis, (size, n) in enumerate(zip(sizes, shape)) if size != n]
    start = _vector(graph, [starts[axis] for axis in axes]) if axes else ints([])
    return _block(graph, x, start, axes, sizes, shape)


def _block(graph: Graph, x: Value, start: Value, axes: Sequence[int], sizes: Any, shape: Any):
    """``x`` from ``start`` ``[len(axes)]`` on, as far inside as ``sizes`` asks for."""
    if not axes:
        return x
    lengths = ints([sizes[axis] for axis in axes])
    most = _most(graph, shape, sizes, axes)
    start = _clip(graph, start, most)
    return graph.add("Slice", x, start, _sum(graph, start, lengths), ints(axes))


def _dynamic_update_slice(graph: Graph, eqn: Any, x: Value, y: Value, *starts: Value) -> Value:
    """Axis by axis: what lies before, the block with the update in it, what lies behind."""
    shape, sizes = (var.aval.shape for var in eqn.invars[:2])
    axes = [axis for axis, (size, n) in enumerate(zip(sizes, shape)) if size != n]

    def put(x: Value, axes: Sequence[int]) -> Value:
        if not axes:
            return y
        axis, *others = axes
        place = ints([axis])
        start = _vector(graph, [starts[axis]])
        start = _clip(graph, start, _most(graph, shape, sizes, [axis]))
        end = _sum(graph, start, ints([sizes[axis]]))
        inner = graph.add("Slice", x, start, end, place) if others else x
        before = graph.add("Slice", x, ints([0]), start, place)
        behind = graph.add("Slice", x, end, ints([END]), place)
        return graph.add("Concat", before, put(inner, others), behind, axis=axis)

    return put(x, axes)


def _gather(graph: Graph, eqn: Any, x: Value, ids: Value) -> Value:
    """Blocks of ``x`` at positions; a single position without a batch is a slice."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape, mapped = eqn.invars[0].aval.shape, numbers.start_index_map
    ids = graph.cast(ids, np.int64)
    if len(eqn.invars[1].aval.shape) == 1 and not _drops(eqn):
        order = sorted(range(len(mapped)), key=lambda i: mapped[i])
        start = _take(graph, ids, order)
        block = _block(graph, x, start, [mapped[i] for i in order], sizes, shape)
        return squeeze(graph, block, numbers.collapsed_slice_dims)
    most = _most(graph, shape, sizes, mapped)
    y = _picked(graph, eqn, x, _clip(graph, ids, most))
    if not _drops(eqn):
        return y
    inside = unsqueeze(graph, _inside(graph, ids, most), numbers.offset_dims)
    return where(graph, inside, y, _fill(eqn), eqn.outvars[0].aval.dtype)


def _picked(graph: Graph, eqn: Any, x: Value, ids: Value) -> Value:
    """Entries by ``GatherND``: a block of several entries is as many positions."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    mapped, batched = numbers.start_index_map, numbers.operand_batching_dims
    blocks = [axis for axis in mapped if axis not in numbers.collapsed_slice_dims]
    whole = [axis for axis in range(len(sizes)) if axis not in (*batched, *mapped)]
    places = list(numbers.start_indices_batching_dims)
    free = [axis for axis in range(len(eqn.invars[1].aval.shape) - 1) if axis not in places]
    rows = [*places, *free]
    ids = graph.transpose(ids, [*rows, len(rows)])
    ids = unsqueeze(graph, ids, [len(rows) + i for i in range(len(blocks))])
    steps = np.zeros((*ints([sizes[axis] for axis in blocks]), len(mapped)), np.int64)
    for i, axis in enumerate(blocks):
        along = [-1 if j == i else 1 for j in range(len(blocks))]
        steps[..., mapped.index(axis)] = np.arange(sizes[axis]).reshape(along)
    ids = _sum(graph, ids, steps) if steps.any() else ids
    x = graph.transpose(x, [*batched, *mapped, *whole])
    y = graph.add("GatherND", x, ids, batch_dims=len(places))
    # The axes of y are rows, blocks and whole; the result has its rows in the order of ids.
    after = range(len(eqn.outvars[0].aval.shape))
    sources = [axis for axis in after if axis not in numbers.offset_dims]
    offsets = dict(zip(numbers.offset_dims, _offset_axes(eqn)))
    found = [sources[row] for row in rows]
    at = {source: axis for axis, source in offsets.items()}
    found += [at[source] for source in (*blocks, *whole)]
    return graph.transpose(y, np.argsort(found).tolist())


def _offset_axes(eqn: Any) -> list[int]:
    """Axes of the operand that are axes of the result, in order."""
    numbers = eqn.params["dimension_numbers"]
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    return [axis for axis in range(len(eqn.invars[0].aval.shape)) if axis not in gone]


def _drops(eqn: Any) -> bool:
    """Whether what lies outside is replaced by a value."""
    return eqn.params["mode"].name == "FILL_OR_DROP"


def _fill(eqn: Any) -> np.ndarray:
    dtype = np.dtype(eqn.outvars[0].aval.dtype)
    value = eqn.params["fill_value"]
    if value is None:
        value = np.nan if dtype.kind == "f" else np.iinfo(dtype).min if dtype.kind == "i" else 0
        value = True if dtype.kind == "b" else np.iinfo(dtype).max if dtype.kind == "u" else value
    return np.asarray(value, dtype)


def _most(graph: Graph, shape: Sequence[Any], sizes: Sequence[Any], axes: Sequence[int]) -> Value:
    """The last position ``[k]`` from which a block of these sizes lies inside."""
    lengths = graph.sizes([shape[axis] for axis in axes])
    taken = ints([sizes[axis] for axis in axes])
    return lengths - taken if isinstance(lengths, np.ndarray) else graph.add("Sub", lengths, taken)


def _inside(graph: Graph, ids: Value, most: Value) -> Value:
    """Whether all coordinates ``[... k]`` lie in the array, ``[...]``."""
    if isinstance(ids, np.ndarray) and isinstance(most, np.ndarray):
        return np.asarray(((ids >= 0) & (ids <= most)).all(-1))
    above = graph.add("GreaterOrEqual", ids, np.array(0, np.int64))
    both = graph.add("And", above, graph.add("LessOrEqual", ids, most))
    flags = graph.add("ReduceMin", graph.cast(both, np.int32), ints([-1]), keepdims=0)
    return graph.cast(flags, np.bool_)


def _clip(graph: Graph, ids: Value, most: Value) -> Value:
    """Positions ``[... k]`` in ``[0, most]``."""
    if isinstance(ids, np.ndarray) and isinstance(most, np.ndarray):
        return np.clip(ids, 0, most)
    return graph.add("Min", graph.add("Max", ids, np.array(0, np.int64)), most)


def _sum(graph: Graph, a: Value, b: np.ndarray) -> Value:
    return a + b if isinstance(a, np.ndarray) else graph.add("Add", a, b)


def _take(graph: Graph, x: Value, order: Sequence[int]) -> Value:
    if isinstance(x, np.ndarray):
        return x[list(order)]
    return x if list(order) == sorted(order) else graph.add("Gather", x, ints(order), axis=0)


def _vector(graph: Graph, numbers: Sequence[Value]) -> Value:
    """Scalars as a vector of int64."""
    parts = [graph.reshape(graph.cast(number, np.int64), (1,)) for number in numbers]
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate([ints([]), *parts])
    return graph.add("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]


RULES: dict[str, Rule] = {
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "gather": _gather,
}
