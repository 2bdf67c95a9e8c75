"""Arithmetic of a traced function, counted on its jaxpr: what MFU is measured against."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.extend.core import Literal

PEAK_TFLOPS = {
    "H200": 989.0, "H100": 989.0, "A100": 312.0, "L4": 121.0, "V100": 125.0,
    "TPU v4": 275.0, "TPU v5 lite": 197.0, "TPU v5e": 197.0, "TPU v5p": 459.0, "TPU v5": 459.0,
    "TPU v6 lite": 918.0, "TPU v6e": 918.0,
}  # fmt: skip
"""Dense bfloat16 peak of one device by a part of its name (vendors' data sheets)."""


def peak_tflops(kind: str) -> float | None:
    """Peak in TFLOP/s of a ``device_kind``, or None where it is not known (CPUs)."""
    return next((peak for name, peak in PEAK_TFLOPS.items() if name in kind), None)


def count(fn: Callable[..., Any], *args: Any, passes: tuple[int, int] = (1, 1)) -> int:
    """FLOPs of the matrix products and convolutions in ``fn(*args)``; loop bodies count as often
    as they run. ``args`` may be ``ShapeDtypeStruct``.

    ``passes``: how often float32 products count at default and at highest precision, which some
    hardware makes of several bfloat16 ones.
    """
    return count_in(jax.make_jaxpr(fn)(*args).jaxpr, passes)


def training(loss: Callable[..., Any], params: Any, *args: Any) -> int:
    """FLOPs of an update with ``loss(params, *args)``: what depends on ``params`` counts three
    times, forward and two products backward; the rest, such as a teacher, once. Recomputation in
    the backward pass is not work done for the model and does not count."""
    jaxpr = jax.make_jaxpr(loss)(params, *args).jaxpr
    reached = set(jaxpr.invars[: len(jax.tree.leaves(params))])
    total = 0
    for eqn in jaxpr.eqns:
        depends = any(not isinstance(v, Literal) and v in reached for v in eqn.invars)
        if depends:
            reached.update(eqn.outvars)
        total += (3 if depends else 1) * _of(eqn, (1, 1))
    return total


def count_in(jaxpr: Any, passes: tuple[int, int]) -> int:
    """:func:`count` of a function that is traced already."""
    return sum(_of(eqn, passes) for eqn in jaxpr.eqns)


def _of(eqn: Any, passes: tuple[int, int]) -> int:
    name = eqn.primitive.name
    if name == "dot_general":
        (contract, _), _ = eqn.params["dimension_numbers"]
        depth = math.prod(eqn.invars[0].aval.shape[i] for i in contract)
        return 2 * depth * eqn.outvars[0].aval.size * _passes(eqn, passes)
    if name == "conv_general_dilated":
        rhs = eqn.invars[1].aval
        features = rhs.shape[eqn.params["dimension_numbers"].rhs_spec[0]]
        size = eqn.outvars[0].aval.size * (rhs.size // features)
        return 2 * size * _passes(eqn, passes)
    if name.startswith(CUDNN_ATTENTION):
        return _cudnn_attention(eqn)
    if name == "cond":
        return max(count_in(branch, passes) for branch in branches(eqn))
    inner = (v for key, v in eqn.params.items() if key in ("jaxpr", "call_jaxpr", "fun_jaxpr"))
    return _times(name, eqn.params) * sum(count_in(getattr(j, "jaxpr", j), passes) for j in inner)


def branches(eqn: Any) -> list[Any]:
    """The programs that a ``cond`` chooses between when it runs. Where the platform chooses before,
    the one for platforms that have none of their own, which are accelerators as a rule."""
    found = [branch.jaxpr for branch in eqn.params["branches"]]
    by_platform = eqn.params.get("branches_platforms") or ()
    return [j for j, platforms in zip(found, by_platform) if platforms is None] or found


CUDNN_ATTENTION = "dot_product_attention_"
"""How the names of cuDNN's attention begin, which is no program of JAX."""


def _cudnn_attention(eqn: Any) -> int:
    """Scores and sums; backward these scores again, and the gradients of all that they come
    from."""
    (b, n, h, k), m = eqn.invars[0].aval.shape, eqn.invars[1].aval.shape[1]
    if eqn.params["layout"]:  # heads before tokens
        n, h, m = h, n, eqn.invars[1].aval.shape[2]
    products = 5 if "_bwd" in eqn.primitive.name else 2
    return products * 2 * b * h * n * m * k


def _times(name: str, params: Mapping[str, Any]) -> int:
    """How often an inner program runs: loop trips, kernel instances, devices."""
    if name == "scan":
        return params["length"]
    if name == "pallas_call":
        return math.prod(n for n in params["grid_mapping"].grid if isinstance(n, int))
    if name == "shard_map":  # its arrays are one device's parts
        mesh = params["mesh"]
        axes = params.get("newly_manual_axes", params.get("manual_axes", mesh.axis_names))
        return math.prod(mesh.shape[axis] for axis in axes)
    return 1


def _passes(eqn: Any, passes: tuple[int, int]) -> int:
    if eqn.invars[0].aval.dtype != "float32":
        return 1
    given = eqn.params["precision"]
    both = given if isinstance(given, tuple) else (given, given)
    return passes[jax.lax.Precision.HIGHEST in both]
