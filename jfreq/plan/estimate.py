"""What a step would cost, read off its traced gradient in seconds: an order for what to compile.

The estimate knows no compiler. Every matrix product reads its operands and writes its result, sums
read what they add up, loops read and write what they are given and keep; all else counts as fused.
Memory is what is alive at one time in the order of the program. Bytes and FLOPs grow with the rows
of a device along a line through two traces.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from jfreq import param_paths, sharding
from jfreq.method import Streams
from jfreq.monitoring import flops
from jfreq.plan.roofline import Roofline
from jfreq.plan.topology import Topology
from jfreq.train.plan import StepPlan
from jfreq.types import PyTree

_PRODUCTS = frozenset({"dot_general", "conv_general_dilated", "pallas_call"})
_READ = frozenset({"reduce_sum", "reduce_max", "sort", "argsort", "cumsum", "fft"})
"""Operations that read their operands from memory, whatever comes before them."""
_MOVE = frozenset({"gather", "scatter", "scatter-add", "transpose", "concatenate"})
"""Operations that write a copy and read as much."""
_STREAM_DIMS = 3
"""A loop over blocks carries arrays of rows, tokens and width."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of the gradient on one device that holds all of the parameters."""

    work: float
    """FLOPs, in bfloat16 products."""
    traffic: float
    """Bytes to and from memory."""
    live: float
    """The most bytes that are alive at one time, beside parameters and batch."""
    stream: float
    """Bytes of the residual stream after every block, forward and backward."""

    def at(self, other: Cost, where: float) -> Cost:
        """On the line from this one, 0, through ``other``, 1."""
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other))
        return Cost(*(max(0.0, a + where * (b - a)) for a, b in pairs))


def gradient_cost(spec: StepPlan, passes: tuple[int, int]) -> Cost:
    """The cost of the gradient of a step that is planned for one device.

    ``passes``: see :func:`jfreq.monitoring.flops.count`.
    """
    method, rngs = spec.method, Streams(jax.random.key(0))

    def gradient(params, target, batch):
        def value(params):
            loss = method.loss(params, target, batch, rngs, 0)
            return loss.value, loss.metrics

        return jax.grad(value, has_aux=True)(params)

    state = spec.abstract
    jaxpr = jax.make_jaxpr(gradient)(state.params, state.target, spec.batch_spec).jaxpr
    return Cost(flops.count_in(jaxpr, passes), _traffic(jaxpr), _live(jaxpr), _stream(jaxpr))


def _bytes(variables: Any) -> int:
    avals = [v.aval for v in variables if not isinstance(v, Literal) and hasattr(v.aval, "shape")]
    return sum(math.prod(a.shape) * _itemsize(a.dtype) for a in avals)


def _itemsize(dtype: Any) -> int:
    return 8 if jnp.issubdtype(dtype, jax.dtypes.prng_key) else np.dtype(dtype).itemsize


def _inner(eqn: Any) -> list[Any]:
    """The programs that an operation runs, one branch of those that it chooses between."""
    if eqn.primitive.name == "cond":
        return [max(flops.branches(eqn), key=lambda j: len(j.eqns))]
    names = ("jaxpr", "call_jaxpr", "fun_jaxpr", "body_jaxpr")
    found = [eqn.params[name] for name in names if eqn.params.get(name) is not None]
    return [getattr(jaxpr, "jaxpr", jaxpr) for jaxpr in found]


def _traffic(jaxpr: Any) -> float:
    total = 0.0
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name in _PRODUCTS or name.startswith(flops.CUDNN_ATTENTION):
            total += _bytes(eqn.invars) + _bytes(eqn.outvars)
        elif name in _READ:
            total += _bytes(eqn.invars)
        elif name in _MOVE:
            total += 2 * _bytes(eqn.outvars)
        elif name == "scan":
            kept = eqn.outvars[eqn.params["num_carry"] :]
            given = eqn.invars[eqn.params["num_consts"] + eqn.params["num_carry"] :]
            total += eqn.params["length"] * sum(map(_traffic, _inner(eqn)))
            total += _bytes(kept) + _bytes(given)
        else:
            total += sum(map(_traffic, _inner(eqn)))
    return total


def _live(jaxpr: Any) -> float:
    """The most bytes of values that the program has made and still needs."""
    last: dict[Any, int] = {}
    for i, eqn in enumerate(jaxpr.eqns):
        last |= {v: i for v in eqn.invars if not isinstance(v, Literal)}
    last |= {v: len(jaxpr.eqns) for v in jaxpr.outvars if not isinstance(v, Literal)}
    made: dict[Any, int] = {}
    now = most = 0.0
    for i, eqn in enumerate(jaxpr.eqns):
        for v in eqn.outvars:
            made[v] = _bytes([v])
            now += made[v]
        inside = 0.0
        if eqn.primitive.name != "pallas_call":
            inside = max((_live(inner) for inner in _inner(eqn)), default=0.0)
            if eqn.primitive.name != "scan":  # what it returns is counted inside as well
                inside = max(0.0, inside - _bytes(eqn.outvars))
        most = max(most, now + inside)
        for v in {v for v in (*eqn.invars, *eqn.outvars) if not isinstance(v, Literal)}:
            if v in made and last.get(v, i) <= i:
                now -= made.pop(v)
    return most


def _stream(jaxpr: Any) -> float:
    total = 0.0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "scan":
            start = eqn.params["num_consts"]
            carried = eqn.invars[start : start + eqn.params["num_carry"]]
            total += eqn.params["length"] * _bytes(
                v for v in carried if len(v.aval.shape) >= _STREAM_DIMS
            )
        else:
            total += sum(map(_stream, _inner(eqn)))
    return total


# ------------------------------------------------------------------ on a mesh


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Of one device of a mesh."""

    memory: float
    roofline: Roofline


def state_bytes(spec: StepPlan, mesh: Mapping[str, int]) -> tuple[float, float]:
    """Bytes of parameters and of the whole state that a device of a mesh holds."""
    rules = spec.experiment.mesh.rules

    def part(tree: PyTree) -> float:
        total = 0.0
        for path, leaf in param_paths.flatten(tree).items():
            size = _itemsize(leaf.dtype)
            axes = sharding.spec_for(path, leaf.shape, size, mesh, rules)
            total += leaf.size * size / math.prod(mesh[a] for a in axes if a)
        return total

    return part(spec.abstract.params), part(spec.abstract)


def on_mesh(
    cost: Cost,
    fixed: Cost,
    *,
    spec: StepPlan,
    topology: Topology,
    mesh: Mapping[str, int],
    micro: int,
    weight_bytes: int,
) -> Estimate:
    """The step on a mesh.

    Args:
        cost: Of the rows that a device holds of one of ``micro`` micro-batches.
        fixed: Of no rows: what weights cost.
        spec: The step on one device.
        topology: The hardware.
        mesh: Sizes of the axes.
        micro: Micro-batches of a step.
        weight_bytes: Of a weight as blocks read it.

    Tensor parallelism splits all products; of the other bytes it is taken to split half, which the
    residual stream and norms make up.
    """
    hardware, tensor = topology.hardware, mesh["tensor"]
    assert hardware.peak
    params, state = state_bytes(spec, mesh)
    whole = 4.0 * param_paths.count(spec.abstract.params)
    split = whole / max(params, 1.0)
    share = (1 + 1 / tensor) / 2
    traffic = micro * (fixed.traffic / tensor + (cost.traffic - fixed.traffic) * share) + 3 * state
    memory = state + fixed.live / split + (cost.live - fixed.live) * share
    data, fsdp, slices = mesh["data"], mesh["fsdp"], topology.slices
    inside = data // slices
    sent = 2 * (inside - 1) / inside * params
    sent += micro * 3 * (fsdp - 1) / fsdp * whole * weight_bytes / 4 / tensor
    sent += micro * 2 * cost.stream * 2 * (tensor - 1) / tensor
    crossing = 2 * (slices - 1) / slices * params / inside
    return Estimate(
        memory,
        Roofline(
            compute=micro * cost.work / tensor / hardware.peak,
            memory=traffic / hardware.bandwidth,
            communication=sent / topology.sends,
            network=crossing / hardware.network if slices > 1 else 0.0,
        ),
    )
