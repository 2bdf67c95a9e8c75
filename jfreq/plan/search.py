"""The mesh, recomputation, attention and batch under which a step is fastest by its roofline.

All candidates are estimated (:mod:`jfreq.plan.estimate`), the best are compiled.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jfreq.config import Experiment, check
from jfreq.config_json import fingerprint
from jfreq.data.shards.metadata import ShardsInfo
from jfreq.files import read_json, write_json
from jfreq.monitoring import provenance
from jfreq.plan import aot
from jfreq.plan import topology as places
from jfreq.plan.candidates import Candidate, Changes, candidates
from jfreq.plan.roofline import mfu, per_day, roofline
from jfreq.plan.topology import Topology
from jfreq.types import InputError

NEARLY = 0.02
"""The smallest batch wins among those that are as fast up to this fraction."""


@dataclasses.dataclass(frozen=True)
class Row:
    """What the compiler made of a candidate; without ``step`` it ``said`` why it cannot be."""

    memory: int = 0
    step: float = 0.0
    bound: str = ""
    mfu: float = 0.0
    examples: float = 0.0
    """In a day."""
    compile_s: float = 0.0
    said: str = ""


@dataclasses.dataclass(frozen=True)
class Found:
    """Candidates that were compiled, the best first; those that were not, in the order in which
    they would be; and how many were left out for which reason."""

    compiled: tuple[tuple[Candidate, Row], ...]
    refused: tuple[tuple[Candidate, Row], ...]
    waiting: tuple[Candidate, ...]
    left_out: Counter[str]


def search(
    experiment: Experiment,
    data: ShardsInfo,
    topology: Topology,
    *,
    held: Collection[str] = (),
    compilations: int = 3,
    keep: Path | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Found:
    """Estimates all candidates and compiles the best.

    Args:
        experiment: As it is given; what is tried replaces fields of it.
        data: What training would read.
        topology: The hardware.
        held: Paths of fields that keep their value, ``batch`` or ``mesh.tensor``.
        compilations: Candidates to compile that fit.
        keep: A folder of compiled candidates: what is there is not compiled again.
        note: Is told what happens.

    Raises:
        InputError: For hardware without known rates, and where nothing can be tried or fits.
    """
    check(
        topology.hardware.peak is not None,
        "search",
        f"the rates of {topology.text} are not known; name a TPU or GPU",
    )
    left_out: Counter[str] = Counter()
    everything = list(candidates(experiment, data, topology, held, left_out, note))
    if not everything:
        reasons = "; ".join(left_out) or "no mesh, batch and attention go together"
        raise InputError(f"search: nothing can be compiled for {topology.text}: {reasons}")
    waiting = _in_order(everything, topology.hardware.memory)
    compiled: list[tuple[Candidate, Row]] = []
    refused: list[tuple[Candidate, Row]] = []
    while waiting and len(compiled) < compilations and len(refused) < 3 + 3 * compilations:
        candidate = waiting.pop(0)
        note(
            f"compiling {len(compiled) + 1} of {compilations} for {topology.text}: {candidate} ..."
        )
        row = _row(candidate.of(experiment), data, topology, keep)
        (refused if row.said else compiled).append((candidate, row))
        if row.said:
            note(f"refused: {row.said}")
            waiting = _after(candidate, waiting, everything)
    compiled.sort(key=lambda pair: -pair[1].examples)
    return Found(tuple(compiled), tuple(refused), tuple(waiting), left_out)


# ------------------------------------------------------------------ in which order


def _in_order(candidates: Sequence[Candidate], memory: float) -> list[Candidate]:
    """One batch for each mesh and variant, the fastest that should fit; the best mesh of every
    variant first, because a mesh is estimated more closely than recomputation and attention."""
    kinds: dict[Any, list[Candidate]] = {}
    for candidate in candidates:
        kinds.setdefault((candidate.mesh, candidate.variant), []).append(candidate)
    chosen = []
    for group in kinds.values():
        fitting = [c for c in group if c.estimate.memory <= memory] or [
            min(group, key=lambda c: c.estimate.memory)
        ]
        best = min(c.seconds for c in fitting)
        near = [c for c in fitting if c.seconds <= (1 + NEARLY) * best]
        chosen.append(min(near, key=lambda c: c.batch))

    def speed(c: Candidate) -> tuple[float, float]:
        return float(f"{c.seconds:.3g}"), c.estimate.roofline.worst / c.batch

    chosen.sort(key=speed)
    seen: Counter[Changes] = Counter()
    rounds = []
    for candidate in chosen:
        rounds.append(seen[candidate.variant])
        seen[candidate.variant] += 1
    return [c for _, c in sorted(zip(rounds, chosen), key=lambda pair: pair[0])]


def _after(
    refused: Candidate, waiting: Sequence[Candidate], everything: Sequence[Candidate]
) -> list[Candidate]:
    """What waits after a refusal: the same with a smaller batch first, and no candidate of this
    variant that the estimate calls as large as the one that was refused."""
    limit = refused.estimate.memory

    def smaller(candidate: Candidate) -> list[Candidate]:
        if candidate.variant != refused.variant or candidate.estimate.memory < limit:
            return [candidate]
        alike = [
            c
            for c in everything
            if (c.mesh, c.variant) == (candidate.mesh, candidate.variant)
            and c.batch < candidate.batch
            and c.estimate.memory < limit
        ]
        return [max(alike, key=lambda c: c.batch)] if alike else []

    return [c for candidate in (refused, *waiting) for c in smaller(candidate)]


# ------------------------------------------------------------------ compiling


PACKAGES = ("jfreq", "jax", "jaxlib", "libtpu", "jax-cuda12-plugin")
"""What is kept is of these versions."""
FAILED = "the compiler failed"


def _row(experiment: Experiment, data: ShardsInfo, topology: Topology, keep: Path | None) -> Row:
    """What the compiler makes of an experiment, now or, where it is kept, before."""
    what = {
        "experiment": experiment,
        "signals": [dataclasses.asdict(s) for s in data.signals],
        "topology": topology.text,
        "compiler": places.compiler(topology),
        "made by": [provenance.commit(), *map(provenance.version, PACKAGES)],
    }
    path = keep and keep / f"{fingerprint(what)}.json"
    if path and path.exists():
        return Row(**read_json(path, "a compiled candidate"))
    row = _compiled(experiment, data, topology)
    if path and not row.said.startswith(FAILED):  # it may have lacked memory
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, dataclasses.asdict(row))
    return row


def _compiled(experiment: Experiment, data: ShardsInfo, topology: Topology) -> Row:
    try:
        found = aot.compile_for(experiment, data, topology)
    except InputError as error:
        return Row(said=str(error))
    except jax.errors.JaxRuntimeError as error:
        return Row(said=f"{FAILED}: {str(error).splitlines()[0][:200]}")
    times, memory = roofline(found), topology.hardware.memory
    assert times
    if found.memory.peak > memory:
        return Row(said=f"needs {found.memory.peak / 2**30:.4g} of {memory / 2**30:.4g} GiB")
    return Row(
        memory=found.memory.peak,
        step=times.best,
        bound=times.bound,
        mfu=mfu(found) or 0.0,
        examples=per_day(found, times.best)[0],
        compile_s=found.compile_s,
    )


def to_dict(found: Found) -> dict[str, Any]:
    """JSON values of what was compiled, refused, and left out."""

    def one(candidate: Candidate, row: Row | None) -> Mapping[str, Any]:
        estimate = dataclasses.asdict(candidate.estimate)
        value = {"changes": dict(candidate.changes), "estimate": estimate}
        return value | (dataclasses.asdict(row) if row else {})

    return {
        "compiled": [one(*pair) for pair in found.compiled],
        "refused": [one(*pair) for pair in found.refused],
        "waiting": [one(candidate, None) for candidate in found.waiting],
        "left_out": dict(found.left_out),
    }
