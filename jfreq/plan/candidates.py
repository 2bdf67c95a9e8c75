"""Ways to run a step: meshes, recomputation, attention and batches, each with an estimate."""

from __future__ import annotations

import dataclasses
import itertools
import math
import typing
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import jax

from jfreq import methods, sharding
from jfreq.config import Experiment, replace
from jfreq.data.loading.pipeline import batch_spec
from jfreq.data.shards.metadata import ShardsInfo
from jfreq.nn import attention, vit
from jfreq.plan import aot
from jfreq.plan.estimate import Cost, Estimate, gradient_cost, on_mesh
from jfreq.plan.topology import Topology
from jfreq.train import plan
from jfreq.types import InputError

ROWS = (8, 16, 32, 64, 128, 256, 512)
"""Rows of a micro-batch on a device that are tried."""
SURE = 1.5
"""An estimate of so many times the memory is believed: the candidate is not compiled."""

Changes = tuple[tuple[str, Any], ...]
"""Fields of an experiment by their path, ``method.encoder.remat``, and their values."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One way to run a step; ``variant`` is what it changes beside mesh and batch."""

    mesh: tuple[int, int, int]
    batch: int
    variant: Changes
    estimate: Estimate

    @property
    def changes(self) -> Changes:
        """All that it changes."""
        sizes = ((f"mesh.{axis}", size) for axis, size in zip(sharding.AXES, self.mesh))
        return (*sizes, ("batch", self.batch), *self.variant)

    @property
    def seconds(self) -> float:
        """Estimated for an example."""
        return self.estimate.roofline.best / self.batch

    def __str__(self) -> str:
        """Its changes as words, as far as they are not 1."""
        return ", ".join(
            f"{path.removeprefix('method.')} {value}"
            for path, value in self.changes
            if not (path.startswith("mesh.") and value == 1)
        )

    def of(self, experiment: Experiment) -> Experiment:
        """The experiment with its changes."""
        return replace(experiment, **{k.replace(".", "__"): v for k, v in self.changes})


def candidates(
    experiment: Experiment,
    data: ShardsInfo,
    topology: Topology,
    held: Collection[str],
    left_out: Counter[str],
    note: Callable[[str], None],
) -> Iterator[Candidate]:
    """All that may fit; what is left out is counted with the reason."""
    for variant in _variants(experiment, topology, held, left_out):
        changed = replace(experiment, **{k.replace(".", "__"): v for k, v in variant})
        note(f"estimating {', '.join(f'{k} {v}' for k, v in variant) or 'the step'} ...")
        try:
            line = _Line(changed, data, topology)
        except InputError as error:
            left_out[str(error)] += 1
            continue
        for mesh, batch in _places(line.spec.experiment, topology, held, line.spec, left_out):
            estimate = line.on(mesh, batch)
            if estimate.memory > SURE * topology.hardware.memory:
                left_out[
                    f"by the estimate more than {SURE:g} times the memory of {topology.text}"
                ] += 1
                continue
            yield Candidate(mesh, batch, variant, estimate)


def _variants(
    experiment: Experiment, topology: Topology, held: Collection[str], left_out: Counter[str]
) -> Iterator[Changes]:
    """Recomputation and attention, wherever the method has such fields."""

    def free(name: str) -> list[str]:
        return [p for p in _paths(experiment.method, name, "method") if p not in held]

    remats = typing.get_args(vit.Remat) if free("remat") else (None,)
    kinds: dict[str, list[str]] = {}
    for kind in typing.get_args(attention.Kind) if free("attention") else ():
        accepted, reason = _accepted(experiment, free("attention"), kind, topology)
        if reason:
            left_out[reason] += 1
        elif kind != "xla":  # what auto is, away from CPUs
            kinds[kind] = accepted
    for remat, kind in itertools.product(remats, kinds or [""]):
        yield tuple(
            {
                **dict.fromkeys(free("remat"), remat),
                **dict.fromkeys(kinds.get(kind, ()), kind),
            }.items()
        )


def _paths(cfg: Any, name: str, at: str) -> Iterator[str]:
    """Paths of the fields called ``name`` in the configs of a config."""
    for field in dataclasses.fields(cfg):
        value, path = getattr(cfg, field.name), f"{at}.{field.name}"
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from _paths(value, name, path)
        elif field.name == name and isinstance(value, str):
            yield path


def _accepted(
    experiment: Experiment, paths: Sequence[str], kind: str, topology: Topology
) -> tuple[list[str], str]:
    """The paths that can be set to a kind of attention, or why none can."""
    accepted, reason = [], ""
    for path in paths:
        try:
            changed = replace(experiment, **{path.replace(".", "__"): kind})
            aot.for_hardware(changed.method, topology)
            accepted.append(path)
        except InputError as error:
            reason = reason or str(error)
    return accepted, "" if accepted else reason


def _places(
    experiment: Experiment,
    topology: Topology,
    held: Collection[str],
    spec: plan.StepPlan,
    left_out: Counter[str],
) -> Iterator[tuple[tuple[int, int, int], int]]:
    """Meshes that divide devices and parameters, and batches on them."""
    total, given = topology.devices, experiment.mesh
    sizes = [n for n in range(1, total + 1) if total % n == 0]
    for mesh in itertools.product(sizes, repeat=3):
        named = dict(zip(sharding.AXES, mesh))
        if math.prod(mesh) != total or mesh[0] % topology.slices:
            continue
        if any(f"mesh.{a}" in held and getattr(given, a) not in (-1, n) for a, n in named.items()):
            continue
        dropped = sharding.dropped(spec.abstract.params, named, given.rules)
        if dropped:
            left_out[dropped] += 1
            continue
        unit = mesh[0] * mesh[1] * experiment.accumulate
        batches = [experiment.batch] if "batch" in held else [unit * rows for rows in ROWS]
        for batch in batches:
            if batch % math.lcm(unit, experiment.accumulate * experiment.data.sequence):
                left_out["the batch does not divide over the mesh"] += 1
                continue
            yield mesh, batch


class _Line:
    """What a variant costs by the rows of a device: a line through two traces."""

    def __init__(self, experiment: Experiment, data: ShardsInfo, topology: Topology):
        self._topology = topology
        self._unit = 2 * experiment.data.sequence
        one = sharding.make_mesh((1, 1, 1), jax.devices("cpu")[:1])

        def traced(rows: int) -> tuple[plan.StepPlan, Cost]:
            # On one device; Mosaic kernels are traced as they are, platforms chosen beforehand.
            method = aot.for_hardware(_without_auto(experiment.method), topology)
            alone = replace(experiment, method=method, batch=rows, accumulate=1)
            bound = methods.bind(alone, data.spec)
            spec = plan.plan_step(bound, batch_spec(data, rows), one)
            return spec, gradient_cost(spec, topology.hardware.passes)

        spec, self._low = traced(self._unit)
        _, self._high = traced(2 * self._unit)
        self._micro = experiment.accumulate
        whole = replace(spec.experiment, batch=experiment.batch, accumulate=experiment.accumulate)
        self.spec = dataclasses.replace(spec, experiment=whole)
        types = [_value(experiment, path) for path in _paths(experiment.method, "dtype", "method")]
        self._weight_bytes = 2 if "bfloat16" in types else 4

    def on(self, mesh: tuple[int, int, int], batch: int) -> Estimate:
        """The estimate on a mesh."""
        rows = batch / (mesh[0] * mesh[1] * self._micro)
        return on_mesh(
            self._low.at(self._high, rows / self._unit - 1),
            self._low.at(self._high, -1),
            spec=self.spec,
            topology=self._topology,
            mesh=dict(zip(sharding.AXES, mesh)),
            micro=self._micro,
            weight_bytes=self._weight_bytes,
        )


def _without_auto(method: Any) -> Any:
    """A method whose attention is not that of the CPU on which it is traced."""
    auto = [p for p in _paths(method, "attention", "") if _value(method, p) == "auto"]
    return replace(method, **{p.strip(".").replace(".", "__"): "xla" for p in auto})


def _value(cfg: Any, path: str) -> Any:
    for name in path.strip(".").split("."):
        cfg = getattr(cfg, name)
    return cfg
