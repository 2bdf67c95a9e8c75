"""From the operations of an encoder to the operators of ONNX, and to a file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.extend import core

from jfreq.export.flat import Flat, flatten
from jfreq.export.onnx import elementwise, indexing, layouts, products
from jfreq.export.onnx.graph import Graph, NoRule, Value, onnx_type
from jfreq.export.portable import Adapter
from jfreq.types import InputError

OPSET, IR_VERSION = 18, 8
"""Of ONNX 1.13, which every onnxruntime since 1.14 reads."""
RULES = {**elementwise.RULES, **layouts.RULES, **indexing.RULES, **products.RULES}
"""By name of the primitive of jax."""
LARGEST = 2**31 - 2**24
"""Bytes of weights that fit in one file of protocol buffers, beside the operators."""


def serialise(adapter: Adapter, metadata: Mapping[str, str]) -> bytes:
    """The encoder as the bytes of an ONNX file, checked by ``onnx.checker``.

    Raises:
      InputError: for an operation without a rule, weights beyond 2 GiB, and signals that are named
        as outputs are.
    """
    total = sum(np.asarray(leaf).nbytes for leaf in adapter.params.values())
    if total > LARGEST:
        raise InputError(
            f"onnx: the weights take {total / 2**30:.1f} GiB and a file holds 2 at most; export "
            "StableHLO (--format stablehlo), which keeps the weights beside the program"
        )
    flat = flatten(adapter)
    twice = sorted(set(flat.inputs) & set(flat.outputs))
    if twice:
        raise InputError(f"onnx: {twice[0]!r} is the name of a signal and of an output")
    return write(flat, metadata)


def write(flat: Flat, metadata: Mapping[str, str]) -> bytes:
    """A program as the bytes of an ONNX file."""
    graph, outputs = _lowered(flat)
    from onnx import checker, helper, numpy_helper

    def info(name: str, var: Any) -> Any:
        shape = [size if isinstance(size, int) else str(size) for size in var.aval.shape]
        return helper.make_tensor_value_info(name, onnx_type(var.aval.dtype), shape)

    nodes = [helper.make_node(n.kind, n.inputs, n.outputs, **n.attributes) for n in graph.nodes]
    nodes += [helper.make_node("Identity", [graph.name(outputs[k])], [k]) for k in outputs]
    read = {name for node in nodes for name in node.input}
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "encoder",
            [info(*item) for item in flat.inputs.items()],
            [info(*item) for item in flat.outputs.items()],
            [numpy_helper.from_array(x, k) for k, x in graph.arrays.items() if k in read],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="jfreq",
    )
    helper.set_model_props(model, dict(metadata))
    checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _lowered(flat: Flat) -> tuple[Graph, dict[str, Value]]:
    """The graph, and its outputs by name."""
    graph = Graph(flat.rows, next(iter(flat.inputs)))
    values: dict[Any, Value] = dict(flat.known)
    values.update({var: name for name, var in flat.inputs.items()})
    unexpanded = _unexpanded(flat)

    def read(var: Any) -> Value:
        is_literal = isinstance(var, core.Literal)
        return np.asarray(var.val, np.dtype(var.aval.dtype)) if is_literal else values[var]  # type: ignore[reportAttributeAccessIssue]

    for eqn in flat.equations:
        operands = [read(var) for var in eqn.invars]
        try:
            rule = layouts.aligned if eqn.outvars[0] in unexpanded else _rule(eqn)
            out = rule(graph, eqn, *operands)
        except NoRule as error:
            raise InputError(
                f"onnx: has no form of {error} (primitive {eqn.primitive.name}); export StableHLO "
                "(--format stablehlo), which has every operation of jax"
            ) from None
        values.update(zip(eqn.outvars, out if isinstance(out, list) else [out]))
    return graph, {name: read(var) for name, var in flat.outputs.items()}


def _rule(eqn: Any) -> elementwise.Rule:
    name = eqn.primitive.name
    if name not in RULES:
        shapes = ", ".join(str(var.aval) for var in eqn.invars)
        raise NoRule(f"{name}({shapes})")
    return RULES[name]


def _unexpanded(flat: Flat) -> set[Any]:
    """Results of ``broadcast_in_dim`` that only meet arrays of the full shape, one by one."""
    names = [(eqn.primitive.name, eqn.outvars[0]) for eqn in flat.equations]
    broadcast = {var for name, var in names if name == "broadcast_in_dim"}
    readers = defaultdict(list)
    for eqn in flat.equations:
        for var in eqn.invars:
            if not isinstance(var, core.Literal):
                readers[var].append(eqn)
    returned = set(flat.outputs.values())

    def meets_full(var: Any, eqn: Any) -> bool:
        others = [v for v in eqn.invars if v is not var and not isinstance(v, core.Literal)]
        full = [v for v in others if v not in broadcast and v.aval.shape == var.aval.shape]
        return eqn.primitive.name in elementwise.BROADCASTS and bool(full)

    found = broadcast - returned
    return {var for var in found if all(meets_full(var, eqn) for eqn in readers[var])}
