"""Rules for operations on each number by itself.

A rule is ``rule(graph, eqn, *values) -> value`` or a list of values; at least one of its operands
depends on the window. Broadcasting is ONNX's, which covers that of jax.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jfreq.export.onnx.graph import Graph, NoRule, Value

Rule = Callable[..., Value | list[Value]]

UNARY = {
    "abs": "Abs", "acos": "Acos", "acosh": "Acosh", "asin": "Asin", "asinh": "Asinh",
    "atan": "Atan", "atanh": "Atanh", "ceil": "Ceil", "cos": "Cos", "erf": "Erf",
    "exp": "Exp", "floor": "Floor", "log": "Log", "logistic": "Sigmoid", "neg": "Neg",
    "sign": "Sign", "sin": "Sin", "sqrt": "Sqrt", "tan": "Tan", "tanh": "Tanh",
}  # fmt: skip
BINARY = {
    "add": "Add", "add_any": "Add", "div": "Div", "eq": "Equal", "ge": "GreaterOrEqual",
    "gt": "Greater", "le": "LessOrEqual", "lt": "Less", "max": "Max", "min": "Min", "mul": "Mul",
    "pow": "Pow", "sub": "Sub",
}  # fmt: skip
LOGICAL = {"and": "And", "or": "Or", "xor": "Xor", "not": "Not"}


def _operator(kind: str) -> Rule:
    return lambda graph, eqn, *values: graph.add(kind, *values)


def _logical(kind: str) -> Rule:
    def rule(graph: Graph, eqn: Any, *values: Value) -> Value:
        if eqn.invars[0].aval.dtype != np.bool_:
            raise NoRule(f"{eqn.primitive.name} of integers")
        return graph.add(kind, *values)

    return rule


def _constant(number: float) -> np.ndarray:
    return np.asarray(number, np.float32)


def _equal_not(graph: Graph, eqn: Any, a: Value, b: Value) -> Value:
    return graph.add("Not", graph.add("Equal", a, b))


def _square(graph: Graph, eqn: Any, x: Value) -> Value:
    return graph.add("Mul", x, x)


def _integer_pow(graph: Graph, eqn: Any, x: Value) -> Value:
    return graph.add("Pow", x, np.asarray(eqn.params["y"], eqn.invars[0].aval.dtype))


def _rsqrt(graph: Graph, eqn: Any, x: Value) -> Value:
    return graph.add("Reciprocal", graph.add("Sqrt", x))


def _erfc(graph: Graph, eqn: Any, x: Value) -> Value:
    return graph.add("Sub", _constant(1), graph.add("Erf", x))


def _exp2(graph: Graph, eqn: Any, x: Value) -> Value:
    return graph.add("Pow", _constant(2), x)


def _expm1(graph: Graph, eqn: Any, x: Value) -> Value:
    """``tanh(x/2) (exp(x) + 1)``, which is exact for small ``x``."""
    half = graph.add("Tanh", graph.add("Mul", x, _constant(0.5)))
    grown = graph.add("Add", graph.add("Exp", x), _constant(1))
    return graph.add("Mul", half, grown)


def _log1p(graph: Graph, eqn: Any, x: Value) -> Value:
    """``x log(u) / (u - 1)`` with ``u = 1 + x`` rounded (Goldberg, 1991, theorem 4)."""
    u = graph.add("Add", x, _constant(1))
    below = graph.add("Sub", u, _constant(1))
    exact = graph.add("Div", graph.add("Mul", x, graph.add("Log", u)), below)
    tiny = graph.add("Equal", below, _constant(0))
    huge = graph.add("Equal", x, _constant(np.inf))
    return graph.add("Where", graph.add("Or", tiny, huge), x, exact)


def _is_finite(graph: Graph, eqn: Any, x: Value) -> Value:
    return graph.add("Not", graph.add("Or", graph.add("IsNaN", x), graph.add("IsInf", x)))


def _atan2(graph: Graph, eqn: Any, y: Value, x: Value) -> Value:
    """The angle in all four quadrants; a zero has the sign that it carries."""
    zero = _constant(0)

    def negative(v: Value) -> Value:
        below = graph.add("Less", v, zero)
        signed = graph.add("Less", graph.add("Reciprocal", v), zero)
        return graph.add("Or", below, signed)

    angle = graph.add("Atan", graph.add("Div", y, x))
    none = graph.add("Equal", y, zero)
    angle = graph.add("Where", none, zero, angle)
    half_turn = graph.add("Where", negative(y), _constant(-np.pi), _constant(np.pi))
    turned = graph.add("Add", angle, half_turn)
    return graph.add("Where", negative(x), turned, angle)


def _rem(graph: Graph, eqn: Any, a: Value, b: Value) -> Value:
    return graph.add("Mod", a, b, fmod=1)


def _round(graph: Graph, eqn: Any, x: Value) -> Value:
    if eqn.params["rounding_method"].name == "TO_NEAREST_EVEN":
        return graph.add("Round", x)
    away = graph.add("Floor", graph.add("Add", graph.add("Abs", x), _constant(0.5)))
    return graph.add("Mul", graph.add("Sign", x), away)


def _clamp(graph: Graph, eqn: Any, low: Value, x: Value, high: Value) -> Value:
    return graph.add("Min", graph.add("Max", x, low), high)


def _select(graph: Graph, eqn: Any, which: Value, *cases: Value) -> Value:
    if len(cases) != 2 or eqn.invars[0].aval.dtype != np.bool_:
        raise NoRule("select_n among more than two arrays")
    return where(graph, which, cases[1], cases[0], eqn.invars[1].aval.dtype)


def where(graph: Graph, which: Value, yes: Value, no: Value, dtype: Any) -> Value:
    """``yes`` where ``which`` is true, else ``no``; onnxruntime has no ``Where`` for flags."""
    if dtype != np.bool_:
        return graph.add("Where", which, yes, no)
    chosen = graph.add("And", which, yes), graph.add("And", graph.add("Not", which), no)
    return graph.add("Or", *chosen)


def _convert(graph: Graph, eqn: Any, x: Value) -> Value:
    return graph.cast(x, eqn.params["new_dtype"])


RULES: dict[str, Rule] = {
    **{name: _operator(kind) for name, kind in (UNARY | BINARY).items()},
    **{name: _logical(kind) for name, kind in LOGICAL.items()},
    "atan2": _atan2,
    "clamp": _clamp,
    "convert_element_type": _convert,
    "erfc": _erfc,
    "exp2": _exp2,
    "expm1": _expm1,
    "integer_pow": _integer_pow,
    "is_finite": _is_finite,
    "log1p": _log1p,
    "ne": _equal_not,
    "rem": _rem,
    "round": _round,
    "rsqrt": _rsqrt,
    "select_n": _select,
    "square": _square,
}
BROADCASTS = frozenset(RULES) - {"convert_element_type", "select_n"}
"""Operations whose operands need not have the shape of the result."""
