"""An encoder as one flat list of operations, and what of it is known before any window is.

Nested programs (``jit``, custom derivatives, ``remat``) are put in place, loops are unrolled, and
of the forms of ``jax.lax.platform_dependent`` the one of a TPU is taken: a Fourier transform there
is a matrix product, and nothing is a kernel of a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import export
from jax.extend import core
from jax.interpreters import partial_eval

from jfreq.export.portable import Adapter, one_device, shapes
from jfreq.types import PyTree

PLATFORM = "tpu"
SMALL = 2**18
"""Bytes up to which a known array may grow when it is computed in advance."""
_NESTED = {
    "jit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr", "remat2": "jaxpr",
    "checkpoint": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr",
}  # fmt: skip
"""Primitives that stand for the program in this parameter."""
_SAME = {
    "copy", "copy_p", "name", "optimization_barrier", "reshard", "sharding_constraint",
    "stop_gradient",
}  # fmt: skip
"""Primitives that return their operands."""


class Flat(NamedTuple):
    """A program of operations that depend on the window.

    Variables are those of jax; an operand may also be a literal. Dimensions are integers or
    expressions in ``rows``, the open batch.
    """

    equations: Sequence[Any]
    known: dict[Any, np.ndarray]
    """Arrays by variable that do not depend on the window: weights, tables, and what follows from
    them."""
    trained: set[Any]
    """Those of them that are weights or follow from weights."""
    inputs: dict[str, Any]
    """Variables of the window by name."""
    outputs: dict[str, Any]
    rows: Any


def flatten(adapter: Adapter) -> Flat:
    """The program of ``adapter.encode``, traced for an open batch."""
    (rows,) = export.symbolic_shape("b")
    _, window = shapes(adapter, rows)
    with one_device():
        return flatten_function(adapter.encode, adapter.params, window, rows)


def flatten_function(
    function: Callable[..., dict[str, Any]], params: PyTree, window: PyTree, rows: Any
) -> Flat:
    """The program of ``function(params, window)``.

    Args:
      function: returns arrays by name.
      params: dict of arrays.
      window: dict of shapes, which may hold ``rows``.
      rows: the batch, a number or symbolic.
    """
    flat, returned = jax.make_jaxpr(inlined(function), return_shape=True)(params, window)
    jaxpr, _ = partial_eval.dce_jaxpr(flat.jaxpr, [True] * len(flat.jaxpr.outvars), True)
    leaves, names = jax.tree.leaves(params), len(params)
    tables, weights = dict(zip(jaxpr.constvars, flat.consts)), dict(zip(jaxpr.invars, leaves))
    equations, known, trained = _compute_known(jaxpr, tables, weights)
    inputs = dict(zip(sorted(window), jaxpr.invars[names:]))
    outputs = dict(zip(sorted(returned), jaxpr.outvars))
    return Flat(equations, known, trained, inputs, outputs, rows)


def inlined(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """The same function, traced without nested programs and loops, for one platform."""

    def run(*args: PyTree) -> PyTree:
        leaves = jax.tree.leaves(args)
        specs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), args)
        nested, returned = jax.make_jaxpr(function, return_shape=True)(*specs)
        out = _evaluate(nested.jaxpr, nested.consts, leaves)
        return jax.tree.unflatten(jax.tree.structure(returned), out)

    return run


def evaluate(flat: Flat, known: dict[Any, Any], window: dict[str, Any]) -> dict[str, Any]:
    """The outputs of a program, whose known arrays are given."""
    values = known | {var: window[name] for name, var in flat.inputs.items()}
    _run(flat.equations, values)
    return {name: _read(var, values) for name, var in flat.outputs.items()}


def is_open(shape: Sequence[Any]) -> bool:
    """Whether a dimension depends on the batch."""
    return not all(isinstance(size, int | np.integer) for size in shape)


# ------------------------------------------------------------------ nested programs


def _evaluate(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    """The outputs of a jaxpr under a trace that sees no nested programs."""
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args]))
    _run(jaxpr.eqns, values)
    return [_read(var, values) for var in jaxpr.outvars]


def _run(equations: Sequence[Any], values: dict[Any, Any]) -> None:
    """Adds the results of equations to ``values``."""
    for eqn in equations:
        args = [_read(var, values) for var in eqn.invars]
        values.update(zip(eqn.outvars, _apply(eqn, args)))


def _read(var: Any, values: dict[Any, Any]) -> Any:
    return var.val if isinstance(var, core.Literal) else values[var]


def _apply(eqn: Any, args: list[Any]) -> list[Any]:
    name = eqn.primitive.name
    if name in ("sinh", "cosh"):  # which TensorFlow's StableHLO does not know as jax writes them
        up, down = jax.lax.exp(args[0]), jax.lax.exp(jax.lax.neg(args[0]))
        return [(up - down) * 0.5 if name == "sinh" else (up + down) * 0.5]
    if name in _SAME:
        return args
    if name in _NESTED:
        return _call(eqn.params[_NESTED[name]], args)
    if name == "platform_index":
        return [_platform(eqn.params["platforms"])]
    if name == "cond" and isinstance(args[0], int | np.integer):
        return _call(eqn.params["branches"][int(args[0])], args[1:])
    if name == "scan" and isinstance(eqn.params["length"], int):
        return _unrolled(eqn.params, args)
    out = eqn.primitive.bind(*args, **eqn.params)
    return list(out) if eqn.primitive.multiple_results else [out]


def _call(program: Any, args: list[Any]) -> list[Any]:
    """``program`` is a jaxpr, closed over its constants or free of them."""
    if isinstance(program, core.ClosedJaxpr):
        return _evaluate(program.jaxpr, program.consts, args)
    return _evaluate(program, (), args)


def _platform(platforms: Sequence[Sequence[str] | None]) -> int:
    named = [i for i, names in enumerate(platforms) if names is not None and PLATFORM in names]
    return named[0] if named else platforms.index(None)


def _unrolled(params: Any, args: list[Any]) -> list[Any]:
    """A loop of ``scan``, round by round."""
    consts, carries, length = params["num_consts"], params["num_carry"], params["length"]
    fixed, carry, xs = args[:consts], args[consts : consts + carries], args[consts + carries :]
    rounds = reversed(range(length)) if params["reverse"] else range(length)
    stacks: dict[int, list[Any]] = {}
    for i in rounds:
        rows = [jax.lax.index_in_dim(x, i, 0, keepdims=False) for x in xs]
        out = _call(params["jaxpr"], [*fixed, *carry, *rows])
        carry, stacks[i] = out[:carries], out[carries:]
    columns = zip(*(stacks[i] for i in range(length)))
    return [*carry, *(_stacked(column) for column in columns)]


def _stacked(column: Sequence[Any]) -> Any:
    rows = [jax.lax.expand_dims(x, (0,)) for x in column]
    return jax.lax.concatenate(rows, 0) if len(rows) > 1 else rows[0]


# ------------------------------------------------------------------ what is known


def _compute_known(
    jaxpr: Any, tables: dict[Any, Any], weights: dict[Any, Any]
) -> tuple[list[Any], dict[Any, np.ndarray], set[Any]]:
    """The operations that depend on the window, the arrays that they read of the others, and which
    of these depend on weights."""
    given = tables | weights
    found, trained, first, second = set(given), set(weights), [], []
    for eqn in jaxpr.eqns:
        operands = [var for var in eqn.invars if not isinstance(var, core.Literal)]
        if not (found.issuperset(operands) and _stays_small(eqn)):
            second.append(eqn)
            continue
        first.append(eqn)
        found.update(eqn.outvars)
        trained.update(eqn.outvars if trained.intersection(operands) else ())
    read = [var for eqn in second for var in eqn.invars] + list(jaxpr.outvars)
    wanted = {var: None for var in read if not isinstance(var, core.Literal) and var in found}
    computed = [var for var in wanted if var not in given]

    def compute(arrays: list[Any]) -> list[Any]:
        values = dict(zip(given, arrays))
        _run(first, values)
        return [values[var] for var in computed]

    arrays = jax.jit(compute)(list(given.values())) if computed else ()
    results = dict(zip(computed, arrays))
    known = {var: np.asarray(results[var] if var in results else given[var]) for var in wanted}
    return second, known, trained


def _stays_small(eqn: Any) -> bool:
    """Whether the result of an operation on known arrays may be computed in advance."""
    if eqn.primitive.name == "dim_as_value" or any(is_open(var.aval.shape) for var in eqn.outvars):
        return False
    before = sum(_bytes(var.aval) for var in eqn.invars)
    return sum(_bytes(var.aval) for var in eqn.outvars) <= max(before, SMALL)


def _bytes(aval: Any) -> int:
    return int(np.prod(aval.shape, dtype=np.int64)) * np.dtype(aval.dtype).itemsize
