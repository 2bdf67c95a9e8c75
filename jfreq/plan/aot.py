"""The step that trains, compiled for a topology; memory, arithmetic and collectives of it."""

from __future__ import annotations

import dataclasses
import functools
import re
import time
from collections.abc import Callable
from typing import Any

import jax

from jfreq import methods, param_paths, sharding
from jfreq.config import Experiment, replace
from jfreq.data.loading.pipeline import batch_spec
from jfreq.data.shards.metadata import ShardsInfo
from jfreq.monitoring import flops, throughput
from jfreq.plan import collectives, cuda, hlo, traffic
from jfreq.plan import topology as places
from jfreq.plan.collectives import Collective
from jfreq.plan.topology import Topology
from jfreq.train import plan, step
from jfreq.types import InputError, SignalSpec

_TOO_LARGE = (
    r"Used ([\d.]+\w) of ([\d.]+\w) hbm",
    r"\(([\d.]+\w)\) exceeds available HBM \((.+?)\)",
)
"""Messages of the TPU compiler for a memory that is too small."""


_OPTIONS = {"gpu": {"xla_gpu_enable_triton_gemm": False}}
"""Of the compiler: without a GPU to time them on, its own matrix kernels are not tried."""


class DoesNotFit(InputError):
    """The compiler found no way to fit the step into the memory of a device."""


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device: ``arguments`` are state and batch (the state is updated in place),
    ``temporaries`` are reserved for the step, ``peak`` is the most that is in use at one time."""

    arguments: int
    temporaries: int
    peak: int


@dataclasses.dataclass(frozen=True)
class Compiled:
    """Facts of the compiled step; sizes and counts are of one device where nothing else is said."""

    topology: Topology
    compiler: str
    """``tpu``, ``gpu``, or ``cpu`` where XLA:CPU stands in for it."""
    mesh: dict[str, int]
    batch: int
    unit: int
    """Batches are multiples of it."""
    signal: SignalSpec
    """What an example is, and how long."""
    parameters: int
    replicated: float
    """Fraction of the parameters that every device holds in full."""
    memory: Memory
    flops: float
    """Of the matrix products of a step, all devices together; loops counted."""
    work: float
    """The same in bfloat16 products: float32 ones count as often as the hardware needs passes."""
    model_flops: float
    """Of an update without what is recomputed, all devices together: what MFU is measured by."""
    traffic: float
    """Bytes to and from main memory; loops counted."""
    moved: tuple[traffic.Moved, ...]
    """The same by part of the network and kind of operation, most first."""
    xla_flops: float
    xla_bytes: float
    """XLA's own figures, which count loop bodies once; 0 where it gives none."""
    collectives: tuple[Collective, ...]
    gathers: tuple[Collective, ...]
    """Collectives that bring rows of the batch together."""
    dropped: str
    """Which parameters are not split as the rules say."""
    unknown_loops: int
    compile_s: float

    @property
    def how(self) -> str:
        """Which compiler was asked."""
        if self.compiler == "tpu":
            return "XLA:TPU (libtpu), the program that the slice would run"
        if self.compiler == "gpu":
            return (
                "XLA:GPU (the CUDA plugin of JAX), the program that the GPUs would run but for the "
                "choice of some kernels, which only a GPU can time"
            )
        missing = ""
        if self.topology.hardware.platform == "gpu":
            missing = f"; for those of XLA:GPU `pip install {cuda.PLUGIN}`, which needs no GPU"
        return (
            f"XLA's partitioner on {self.topology.devices} forced CPU devices: sharding and "
            f"collectives as on the target, kernels and memory those of XLA:CPU{missing}"
        )


def plan_step(experiment: Experiment, data: ShardsInfo, topology: Topology) -> plan.StepPlan:
    """The step of a bound experiment on rows as ``data`` describes them; nothing is compiled."""
    places.check_mesh(topology, experiment.mesh)
    experiment = replace(experiment, method=for_hardware(experiment.method, topology))
    mesh = sharding.make_mesh(
        experiment.mesh.sizes, places.devices(topology), slices=topology.slices
    )
    return plan.plan_step(experiment, batch_spec(data, experiment.batch), mesh)


def for_hardware(cfg: Any, topology: Topology) -> Any:
    """A config whose attention is what the hardware would run.

    Where XLA:CPU stands in for a GPU ``auto`` becomes ``xla``. Raises
    ``InputError`` for kernels that only the hardware itself can compile.
    """
    if not dataclasses.is_dataclass(cfg) or isinstance(cfg, type):
        return cfg
    parts = {f.name: for_hardware(getattr(cfg, f.name), topology) for f in dataclasses.fields(cfg)}
    kind, compiler = parts.get("attention"), places.compiler(topology)
    needed = {"cudnn": "gpu", "splash": "tpu", "whole": "tpu"}
    if needed.get(kind, compiler) != compiler:
        raise InputError(
            f"encoder.attention: {kind} cannot be compiled here for {topology.text}; plan with "
            "attention xla, which shards alike and takes more memory"
        )
    if kind == "cudnn" and not cuda.has_cudnn():
        raise InputError(f"encoder.attention: cudnn needs its library: `pip install {cuda.CUDNN}`")
    if kind == "auto" and compiler == "cpu" and topology.hardware.platform == "gpu":
        parts["attention"] = "xla"
    return dataclasses.replace(cfg, **parts)


def compile_for(experiment: Experiment, data: ShardsInfo, topology: Topology) -> Compiled:
    """Compiles the step that would train ``experiment`` on rows like ``data``.

    Raises ``InputError`` for a mesh or batch that does not go with the topology, ``DoesNotFit``
    where memory is too small.
    """
    experiment = methods.bind(experiment, data.spec)
    return examine(plan_step(experiment, data, topology), topology, data.spec.signal())


def examine(spec: plan.StepPlan, topology: Topology, signal: SignalSpec) -> Compiled:
    """Compiles a step over a mesh of ``topology`` and reads what came out; ``signal`` tells how
    long an example is."""
    experiment, params = spec.experiment, spec.abstract.params
    needed = throughput.step_flops(spec)
    began = time.perf_counter()
    with jax.set_mesh(spec.mesh):
        update = step.make_step(spec)
        args = spec.abstract, spec.batch_spec, spec.key_spec
        count = functools.partial(flops.count, update, *args)
        arithmetic, work = count(), count(passes=topology.hardware.passes)
        program = _compile(spec, topology)
    took = time.perf_counter() - began
    text, memory, cost = program.as_text(), program.memory_analysis(), program.cost_analysis()
    assert text and memory
    cost = cost or {}  # XLA:GPU has none without a GPU
    module, mesh = hlo.parse(text), dict(spec.mesh.shape)
    sent = collectives.find(module, mesh, topology.slices)
    return Compiled(
        topology=topology,
        compiler=places.compiler(topology),
        mesh=mesh,
        batch=experiment.batch,
        unit=sharding.batch_ways(spec.mesh) * experiment.accumulate,
        signal=signal,
        parameters=param_paths.count(params),
        replicated=replicated_fraction(params),
        memory=_memory(memory, topology),
        flops=arithmetic,
        work=work,
        model_flops=needed,
        traffic=traffic.total(module),
        moved=tuple(traffic.by_part(module)),
        xla_flops=float(cost.get("flops", 0.0)),
        xla_bytes=float(cost.get("bytes accessed", 0.0)),
        collectives=tuple(sent),
        gathers=tuple(collectives.of_the_batch(sent, experiment.batch, _sizes(params))),
        dropped=sharding.dropped(params, mesh, experiment.mesh.rules),
        unknown_loops=len(module.runs.unknown_loops),
        compile_s=took,
    )


def _compile(spec: plan.StepPlan, topology: Topology) -> jax.stages.Compiled:
    try:
        return step.lower_step(spec).compile(_OPTIONS.get(places.compiler(topology)))
    except jax.errors.JaxRuntimeError as error:
        sizes = next(filter(None, (re.search(form, str(error)) for form in _TOO_LARGE)), None)
        if "RESOURCE_EXHAUSTED" not in str(error) or not sizes:
            raise
        raise DoesNotFit(
            f"batch: {spec.experiment.batch} rows on {topology.text} need {sizes[1]} of {sizes[2]} "
            "memory a device; take a smaller batch, --method.encoder.remat full, more --mesh.fsdp, "
            "or fewer --method.clones where there are clones"
        ) from None


def _memory(stats: Any, topology: Topology) -> Memory:
    arguments, temporaries = step.memory_of(stats)
    # The TPU compiler spreads buffers out while there is room; what it needs is the peak.
    peak = stats.peak_memory_in_bytes if topology.tpu else 0
    return Memory(arguments, temporaries, peak or arguments + temporaries)


def replicated_fraction(params) -> float:
    """Fraction of the scalars that no mesh axis splits."""
    leaves = jax.tree.leaves(params)
    whole = sum(leaf.size for leaf in leaves if leaf.sharding.is_fully_replicated)
    return whole / sum(leaf.size for leaf in leaves)


def _sizes(params) -> frozenset[int]:
    return frozenset(n for leaf in jax.tree.leaves(params) for n in leaf.shape)


# ------------------------------------------------------------------ the largest batch


@dataclasses.dataclass(frozen=True)
class Largest:
    """The largest batch that was tried and fits; ``refused`` the smallest that does not, if any."""

    batch: int
    refused: int | None
    peak: int
    compiles: int


def largest_batch(
    first: Compiled, again: Callable[[int], Compiled], *, unit: int, tries: int = 6
) -> Largest:
    """The largest multiple of ``unit`` rows whose step fits; ``first`` is one that compiled.

    Memory grows about linearly with the batch from what the state takes, until the compiler
    begins to recompute. So the line through the two largest known points gives a guess and
    compiling decides; it ends when the refused and the fitting batch are within 5 %, or after
    ``tries`` compilations.
    """
    capacity = first.topology.hardware.memory
    fits, refused = {0: first.memory.arguments}, None
    if first.memory.peak <= capacity:
        fits[first.batch] = first.memory.peak
    else:
        refused = first.batch
    done, back = 0, 1
    while done < tries:
        low = max(fits)
        step = max(unit, int(0.05 * low) // unit * unit)
        if refused is not None and refused - low <= step:
            break
        if refused is None:
            guess = _on_the_line(fits, capacity)
        else:  # near the line first, then halfway
            guess, back = max((low + refused) // 2, refused - back * step), 2 * back
        guess = max(guess // unit * unit, low + step)
        peak = _peak(again, guess)
        done += 1
        if peak is not None and peak <= capacity:
            fits[guess] = peak
        else:
            refused = guess
    return Largest(max(fits), refused, fits[max(fits)], done)


def _on_the_line(fits: dict[int, int], capacity: float) -> int:
    """Where the line through the two largest batches meets the capacity."""
    before, low = sorted(fits)[-2:]
    slope = (fits[low] - fits[before]) / (low - before)
    return 2 * low if slope <= 0 else min(4 * low, int(low + (capacity - fits[low]) / slope))


def _peak(again: Callable[[int], Compiled], batch: int) -> int | None:
    try:
        return again(batch).memory.peak
    except DoesNotFit:
        return None
