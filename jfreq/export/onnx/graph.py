"""An ONNX graph under construction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

Value = str | np.ndarray
"""The name of an array that depends on the window, or an array that is known."""


class Node(NamedTuple):
    """An operator of ONNX."""

    kind: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]


class Graph:
    """Operators and known arrays, each stored once.

    Attributes:
      nodes: the operators in order.
      arrays: known arrays by name.
    """

    def __init__(self, rows: Any, rows_of: str):
        """``rows`` is the symbolic batch, the first dimension of the input ``rows_of``."""
        self.nodes: list[Node] = []
        self.arrays: dict[str, np.ndarray] = {}
        self._names: dict[tuple[Any, ...], str] = {}
        self._rows, self._rows_of, self._batch = rows, rows_of, ""

    def name(self, value: Value) -> str:
        """The name of a value, under which a known array is stored."""
        if isinstance(value, str):
            return value
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._names:
            self._names[key] = f"c/{len(self.arrays)}"
            self.arrays[self._names[key]] = value
        return self._names[key]

    def add(self, kind: str, *inputs: Value, **attributes: Any) -> str:
        """Adds an operator with one output and returns its name."""
        return self.add_many(kind, 1, *inputs, **attributes)[0]

    def add_many(self, kind: str, count: int, *inputs: Value, **attributes: Any) -> list[str]:
        """Adds an operator and returns the names of its outputs."""
        # No signal has a slash in its name.
        outputs = [f"t/{len(self.nodes)}/{i}" for i in range(count)]
        names = [self.name(value) for value in inputs]
        self.nodes.append(Node(kind, names, outputs, attributes))
        return outputs

    def cast(self, value: Value, dtype: Any) -> Value:
        """The value as another dtype."""
        if isinstance(value, np.ndarray):
            return value.astype(dtype)
        return self.add("Cast", value, to=onnx_type(dtype))

    def transpose(self, value: Value, order: Sequence[int]) -> Value:
        """The value with its axes in this order."""
        order = [int(axis) for axis in order]
        if order == sorted(order):
            return value
        if isinstance(value, np.ndarray):
            return np.ascontiguousarray(value.transpose(order))
        return self.add("Transpose", value, perm=order)

    def reshape(self, value: Value, shape: Sequence[Any]) -> Value:
        """The value in this shape, of which one dimension may be open."""
        if isinstance(value, np.ndarray):
            return value.reshape(shape)
        sizes = [int(size) if isinstance(size, int | np.integer) else -1 for size in shape]
        if sizes.count(-1) > 1:
            return self.add("Reshape", value, self.sizes(shape))
        zero = 0 in sizes and -1 not in sizes  # a zero would otherwise stand for "as before"
        return self.add("Reshape", value, ints(sizes), **({"allowzero": 1} if zero else {}))

    def sizes(self, shape: Sequence[Any]) -> Value:
        """The shape as a vector that is known when the batch is."""
        parts = [self._size(size) for size in shape]
        if all(isinstance(part, np.ndarray) for part in parts):
            return np.concatenate([ints([]), *parts]) if parts else ints([])
        return self.add("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]

    def _size(self, size: Any) -> Value:
        """A dimension as a vector of one integer."""
        if isinstance(size, int | np.integer):
            return ints([size])
        times = size // self._rows
        if not isinstance(times, int) or times * self._rows != size:
            raise NoRule(f"a dimension of {size} for a batch of {self._rows}")
        self._batch = self._batch or self.add("Shape", self._rows_of, start=0, end=1)
        return self._batch if times == 1 else self.add("Mul", self._batch, ints([times]))


class NoRule(Exception):
    """ONNX has no form of this part of the program, or it is not written down here."""


def ints(values: Sequence[Any] | np.ndarray) -> np.ndarray:
    """A vector of int64, as ONNX takes shapes, axes and bounds."""
    unknown = [value for value in values if not isinstance(value, int | np.integer)]
    if unknown:
        raise NoRule(f"a position that depends on the batch, {unknown[0]}")
    return np.array([int(value) for value in values], np.int64)


def onnx_type(dtype: Any) -> int:
    """The number of a dtype in ONNX."""
    numbers = {
        "float32": 1, "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "int32": 6, "int64": 7,
        "bool": 9, "float16": 10, "float64": 11, "uint32": 12, "uint64": 13,
    }  # fmt: skip
    name = np.dtype(dtype).name
    if name not in numbers:
        raise NoRule(f"arrays of {name}")
    return numbers[name]
