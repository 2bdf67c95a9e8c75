"""Rules for operations that move numbers: shapes, slices, padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jfreq.export.onnx.elementwise import Rule
from jfreq.export.onnx.graph import Graph, NoRule, Value, ints

END = 2**31 - 1
"""A bound beyond every dimension."""


def _shape(eqn: Any) -> tuple[Any, ...]:
    return eqn.outvars[0].aval.shape


def _reshape(graph: Graph, eqn: Any, x: Value, *sizes: Value) -> Value:
    if eqn.params.get("dimensions") is not None:
        raise NoRule("reshape with reordered dimensions")
    return graph.reshape(x, _shape(eqn))


def _squeeze(graph: Graph, eqn: Any, x: Value) -> Value:
    return squeeze(graph, x, eqn.params["dimensions"])


def squeeze(graph: Graph, x: Value, axes: Sequence[int]) -> Value:
    """``x`` without these axes of one entry."""
    return graph.add("Squeeze", x, ints(axes)) if axes else x


def unsqueeze(graph: Graph, x: Value, axes: Sequence[int]) -> Value:
    """``x`` with new axes of one entry, which are these of the result."""
    if isinstance(x, np.ndarray):
        return np.expand_dims(x, tuple(axes))
    return graph.add("Unsqueeze", x, ints(axes)) if axes else x


def _transpose(graph: Graph, eqn: Any, x: Value) -> Value:
    return graph.transpose(x, eqn.params["permutation"])


def aligned(graph: Graph, eqn: Any, x: Value) -> Value:
    """The operand of ``broadcast_in_dim`` with the rank of its result, not yet repeated."""
    placed = eqn.params["broadcast_dimensions"]
    return unsqueeze(graph, x, [i for i in range(len(_shape(eqn))) if i not in placed])


def _broadcast(graph: Graph, eqn: Any, x: Value, *sizes: Value) -> Value:
    before = eqn.invars[0].aval.shape
    after = _shape(eqn)
    placed = eqn.params["broadcast_dimensions"]
    x = aligned(graph, eqn, x)
    grows = len(before) < len(after) and any(
        size != 1 for axis, size in enumerate(after) if axis not in placed
    )
    if not grows and all(a == after[axis] for a, axis in zip(before, placed)):
        return x
    return graph.add("Expand", x, graph.sizes(after))


def _iota(graph: Graph, eqn: Any) -> Value:
    shape, axis = _shape(eqn), eqn.params["dimension"]
    count = squeeze(graph, graph.add("Identity", graph.sizes(shape[axis : axis + 1])), (0,))
    line = graph.add("Range", np.array(0, np.int64), count, np.array(1, np.int64))
    line = graph.cast(line, eqn.params["dtype"])
    column = [shape[axis] if i == axis else 1 for i in range(len(shape))]
    x = graph.reshape(line, column)
    return x if len(shape) == 1 else graph.add("Expand", x, graph.sizes(shape))


def _dim_as_value(graph: Graph, eqn: Any) -> Value:
    size = squeeze(graph, graph.sizes([eqn.params["dim"]]), (0,))
    return graph.cast(size, eqn.outvars[0].aval.dtype)


def _empty(graph: Graph, eqn: Any) -> Value:
    aval = eqn.outvars[0].aval
    zero = np.zeros((1,) * len(aval.shape), aval.dtype)
    return graph.add("Expand", zero, graph.sizes(aval.shape))


def _concatenate(graph: Graph, eqn: Any, *parts: Value) -> Value:
    return graph.add("Concat", *parts, axis=eqn.params["dimension"])


def _stack(graph: Graph, eqn: Any, *parts: Value) -> Value:
    axis = eqn.params["axis"]
    return graph.add("Concat", *(unsqueeze(graph, x, [axis]) for x in parts), axis=axis)


def _split(graph: Graph, eqn: Any, x: Value) -> list[Value]:
    sizes = ints(eqn.params["sizes"])
    return [*graph.add_many("Split", len(sizes), x, sizes, axis=eqn.params["axis"])]


def _tile(graph: Graph, eqn: Any, x: Value) -> Value:
    return graph.add("Tile", x, ints(eqn.params["reps"]))


def _slice(graph: Graph, eqn: Any, x: Value) -> Value:
    shape, params = eqn.invars[0].aval.shape, eqn.params
    strides = params["strides"] or (1,) * len(shape)
    starts, limits = params["start_indices"], params["limit_indices"]
    axes = [i for i, n in enumerate(shape) if (starts[i], limits[i], strides[i]) != (0, n, 1)]
    if not axes:
        return x
    ends = [END if limits[i] == shape[i] else limits[i] for i in axes]
    bounds = ints([starts[i] for i in axes]), ints(ends)
    return graph.add("Slice", x, *bounds, ints(axes), ints([strides[i] for i in axes]))


def _rev(graph: Graph, eqn: Any, x: Value) -> Value:
    axes = ints(eqn.params["dimensions"])
    return graph.add("Slice", x, axes * 0 - 1, axes * 0 - 2**62, axes, axes * 0 - 1)


def _pad(graph: Graph, eqn: Any, x: Value, fill: Value) -> Value:
    """Negative padding cuts; it is done first, as ONNX leaves both at once to each runtime."""
    low, high, inner = zip(*eqn.params["padding_config"])
    if any(inner):
        raise NoRule("pad between entries")
    cut = [axis for axis, (a, b) in enumerate(zip(low, high)) if a < 0 or b < 0]
    if cut:
        starts = ints([max(0, -low[axis]) for axis in cut])
        ends = ints([high[axis] if high[axis] < 0 else END for axis in cut])
        x = graph.add("Slice", x, starts, ends, ints(cut))
    pads = np.maximum(ints([*low, *high]), 0)
    return graph.add("Pad", x, pads, fill) if pads.any() else x


RULES: dict[str, Rule] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "dim_as_value": _dim_as_value,
    "empty": _empty,
    "empty2": _empty,
    "iota": _iota,
    "pad": _pad,
    "reshape": _reshape,
    "rev": _rev,
    "slice": _slice,
    "split": _split,
    "squeeze": _squeeze,
    "stack": _stack,
    "tile": _tile,
    "transpose": _transpose,
}
