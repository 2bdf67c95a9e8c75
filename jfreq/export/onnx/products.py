"""Rules for products and sums: matrices, convolutions, reductions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jfreq.export.onnx.elementwise import Rule
from jfreq.export.onnx.graph import Graph, NoRule, Value, ints

Labels = tuple[Sequence[int], Sequence[int], Sequence[int]]
"""Axes of an operand of a product: shared with the other, only here, summed over."""


def _dot_general(graph: Graph, eqn: Any, a: Value, b: Value) -> Value:
    """One ``MatMul`` of ``[batch, free, sum]`` and ``[batch, sum, free]``."""
    (sum_a, sum_b), (batch_a, batch_b) = eqn.params["dimension_numbers"]
    shape_a, shape_b = (var.aval.shape for var in eqn.invars)
    free_a = [i for i in range(len(shape_a)) if i not in (*sum_a, *batch_a)]
    free_b = [i for i in range(len(shape_b)) if i not in (*sum_b, *batch_b)]
    dtype = eqn.outvars[0].aval.dtype
    if np.dtype(dtype).kind != "f":
        raise NoRule("products of integers")
    batch = [shape_a[i] for i in batch_a]
    # Without a common batch the free axes on the left may stay as they are.
    left = [shape_a[i] for i in free_a] if not batch and free_a else [_size(shape_a, free_a)]
    a = graph.transpose(_as(graph, a, eqn.invars[0], dtype), [*batch_a, *free_a, *sum_a])
    a = _shaped(graph, a, [shape_a[i] for i in (*batch_a, *free_a, *sum_a)],
                [*batch, *left, _size(shape_a, sum_a)])  # fmt: skip
    b = graph.transpose(_as(graph, b, eqn.invars[1], dtype), [*batch_b, *sum_b, *free_b])
    right = [*batch, _size(shape_b, sum_b), _size(shape_b, free_b)]
    b = _shaped(graph, b, [shape_b[i] for i in (*batch_b, *sum_b, *free_b)], right)
    y = graph.add("MatMul", a, b)
    return _shaped(graph, y, [*batch, *left, right[-1]], eqn.outvars[0].aval.shape)


def _as(graph: Graph, x: Value, var: Any, dtype: Any) -> Value:
    return x if var.aval.dtype == dtype else graph.cast(x, dtype)


def _size(shape: Sequence[Any], axes: Sequence[int]) -> Any:
    return math.prod(shape[axis] for axis in axes)


def _shaped(graph: Graph, x: Value, before: Sequence[Any], after: Sequence[Any]) -> Value:
    return x if tuple(before) == tuple(after) else graph.reshape(x, after)


def _conv(graph: Graph, eqn: Any, x: Value, kernel: Value) -> Value:
    params = eqn.params
    if set(params["lhs_dilation"]) - {1} or params["batch_group_count"] != 1:
        raise NoRule("transposed convolutions")
    numbers, padding = params["dimension_numbers"], np.array(params["padding"], np.int64)
    x = graph.transpose(x, numbers.lhs_spec)
    kernel = graph.transpose(kernel, numbers.rhs_spec)
    if (padding < 0).any():
        raise NoRule("convolutions with negative padding")
    y = graph.add(
        "Conv",
        x,
        kernel,
        strides=[int(n) for n in params["window_strides"]],
        pads=[int(n) for n in padding.T.reshape(-1)],
        dilations=[int(n) for n in params["rhs_dilation"]],
        group=int(params["feature_group_count"]),
    )
    return graph.transpose(y, np.argsort(numbers.out_spec).tolist())


def _reduced(graph: Graph, kind: str, x: Value, axes: Sequence[int]) -> Value:
    return graph.add(kind, x, ints(axes), keepdims=0) if axes else x


def _reduction(kind: str) -> Rule:
    return lambda graph, eqn, x: _reduced(graph, kind, x, eqn.params["axes"])


def _logical_reduction(kind: str) -> Rule:
    def rule(graph: Graph, eqn: Any, x: Value) -> Value:
        number = _reduced(graph, kind, graph.cast(x, np.int32), eqn.params["axes"])
        return graph.cast(number, np.bool_)

    return rule


def _extremum(kind: str) -> Rule:
    def rule(graph: Graph, eqn: Any, x: Value) -> Value:
        (axis,) = eqn.params["axes"]
        return graph.cast(graph.add(kind, x, axis=axis, keepdims=0), eqn.params["index_dtype"])

    return rule


def _cumsum(graph: Graph, eqn: Any, x: Value) -> Value:
    axis, reverse = eqn.params["axis"], int(eqn.params["reverse"])
    return graph.add("CumSum", x, np.array(axis, np.int64), reverse=reverse)


RULES: dict[str, Rule] = {
    "argmax": _extremum("ArgMax"),
    "argmin": _extremum("ArgMin"),
    "conv_general_dilated": _conv,
    "cumsum": _cumsum,
    "dot_general": _dot_general,
    "reduce_and": _logical_reduction("ReduceMin"),
    "reduce_max": _reduction("ReduceMax"),
    "reduce_min": _reduction("ReduceMin"),
    "reduce_or": _logical_reduction("ReduceMax"),
    "reduce_prod": _reduction("ReduceProd"),
    "reduce_sum": _reduction("ReduceSum"),
}
