"""Bytes that a compiled step moves to and from main memory: in all, and by part of the network.

Operands and results of every operation that is not inside a fusion, as XLA's ``HloCostAnalysis``
counts them, times loop trips. A slice costs what it takes, not what it is taken from, and an update
in place what it writes, in fusions inside fusions too. Arrays that the compiler keeps on the chip
do not count.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from jfreq.plan.hlo import Instruction, Module, Shape

_FREE = frozenset(
    "parameter constant tuple get-tuple-element bitcast while conditional call after-all "
    "opt-barrier partition-id replica-id domain add-dependency async-start".split()
)
"""Operations that move no data themselves; the computations that they run count."""
_NAMED = frozenset(
    "AllocateBuffer ConcatBitcast AssumeGatherIndicesInBound GatherScatterIndicesBitpacked".split()
)
"""Targets of custom calls of XLA:TPU that only name, join or describe buffers."""
_ALIKE = frozenset(
    "bitcast convert negate exponential log rsqrt sqrt tanh logistic erf abs floor ceil not".split()
)
"""Operations of one operand whose every value is made of the value at the same place."""
_SLICES = frozenset(("dynamic-slice", "slice", "gather"))

Body = dict[str, Instruction]


class Bytes(NamedTuple):
    """Bytes of main memory."""

    read: float
    written: float


@dataclasses.dataclass(frozen=True)
class Moved:
    """What the operations of one kind move in a step for one part of the network."""

    part: str
    """Pass and names of the modules: ``backward blocks/fc1``."""
    kind: str
    """``product`` (of matrices, or a convolution), ``elementwise``, ``copy``, ``kernel``, or the
    name of the operation."""
    read: float
    written: float
    times: float
    """How often such an operation runs."""

    @property
    def bytes(self) -> float:
        return self.read + self.written


def total(module: Module) -> float:
    """Bytes that one step reads from and writes to a device's main memory."""
    return sum(times * sum(size) for _, times, size in _operations(module))


def by_part(module: Module) -> list[Moved]:
    """The bytes of :func:`total` by part of the network and kind of operation, most first."""
    found: dict[tuple[str, str], tuple[float, float, float]] = {}
    for ins, times, size in _operations(module):
        if not sum(size):
            continue
        key = part(ins), _kind(module, ins)
        read, written, count = found.get(key, (0.0, 0.0, 0.0))
        found[key] = read + times * size.read, written + times * size.written, count + times
    moved = [Moved(*key, *value) for key, value in found.items()]
    return sorted(moved, key=lambda m: (-m.bytes, m.part, m.kind))


def part(ins: Instruction) -> str:
    """Pass and last names of the modules that an operation was made for; where nothing is said, its
    own name."""
    name = re.search(r'op_name="([^":]*)', ins.attributes)
    path = name[1].split("/") if name else []
    words = [w for w in path[:-1] if not _STEP.fullmatch(w)]
    if not words:
        return path[-1] if path else f"({re.sub(r'[.0-9]+$', '', ins.name)})"
    side = "backward " if name and "transpose(" in name[1] else ""
    side = "recomputed " if "rematted_computation" in path else side
    return side + "/".join(words[-2:])


def _operations(module: Module) -> Iterator[tuple[Instruction, float, Bytes]]:
    """``(instruction, times, bytes of one execution)`` of all that moves data."""
    for name, ins, times in module.walk():
        if name not in module.runs.fused and not _is_free(ins):
            yield ins, times, _bytes(module, module.computations[name], ins)


def _is_free(ins: Instruction) -> bool:
    target = re.search(r'custom_call_target="(\w+)"', ins.attributes)
    named = target is not None and target[1] in _NAMED
    return named or ins.op in _FREE or ins.op.endswith("-done")


def _kind(module: Module, ins: Instruction) -> str:
    if ins.op == "custom-call":
        return "kernel"
    inside = [ins, *_inside(module, ins)] if ins.op == "fusion" else [ins]
    ops = {i.op for i in inside}
    if ops & {"convolution", "dot"}:
        return "product"
    if ins.op.startswith("copy") or (ins.op == "fusion" and ops <= _MOVES):
        return "copy"
    return "elementwise" if ins.op == "fusion" else ins.op.removesuffix("-start")


_STEP = re.compile(
    r".*[(.].*|while|body|closed_call|checkpoint|rematted_computation|shard_map|cond|branch_\d+_fun"
)
"""Words of the path of an operation that name no module."""
_MOVES = frozenset(
    "parameter constant bitcast copy transpose reshape slice dynamic-slice dynamic-update-slice "
    "concatenate pad tuple get-tuple-element fusion broadcast".split()
)
"""What a fusion that only puts values elsewhere is made of."""


def _inside(module: Module, ins: Instruction) -> Iterator[Instruction]:
    """The instructions of a fusion, those of fusions inside it too."""
    for inner in module.computations[ins.calls["calls"][0]].values():
        yield inner
        if inner.op == "fusion":
            yield from _inside(module, inner)


# ------------------------------------------------------------------ one operation


def _size(arrays: Iterable[Shape]) -> int:
    return sum(array.bytes for array in arrays if array.space == 0)


def _bytes(module: Module, body: Body, ins: Instruction) -> Bytes:
    """Bytes of main memory that one execution touches."""
    operands = [body[name].shapes for name in ins.operands if name in body]
    off_chip = [any(shape.space == 0 for shape in shapes) for shapes in operands]
    written = _size(ins.shapes)
    if ins.op in _SLICES:
        taken = sum(shape.bytes for shape in ins.shapes)
        return Bytes(
            taken * off_chip[0] + _size(operands[1] if ins.op == "gather" else ()), written
        )
    if ins.op == "dynamic-update-slice":
        update = sum(shape.bytes for shape in operands[1])
        return Bytes(_size(operands[1]), update * off_chip[0])
    if ins.op == "scatter":
        return Bytes(2 * _size(operands[-1]), _size(operands[-1]))
    if ins.op in ("send", "recv"):  # (array, context, token)
        size = _size(ins.shapes[:1])
        return Bytes(size, 0) if ins.op == "send" else Bytes(0, size)
    if ins.op == "copy-start":  # (to, from, token)
        return Bytes(_size(ins.shapes[1:2]), _size(ins.shapes[:1]))
    if ins.op.endswith("slice-start"):  # (from..., to, tokens)
        taken = next(s for s in reversed(ins.shapes) if s.dims)
        return Bytes(taken.bytes * any(off_chip), _size((taken,)))
    if ins.op.endswith("-start"):
        return Bytes(_size(ins.shapes) / 2, _size(ins.shapes) / 2)
    if ins.op == "fusion":
        called = ins.calls["calls"][0]
        return Bytes(_fusion_reads(module, called, operands), _fusion_writes(module, called, ins))
    if ins.op == "custom-call":  # a kernel that takes an array several times reads parts of it
        operands = [body[name].shapes for name in dict.fromkeys(ins.operands) if name in body]
    return Bytes(sum(map(_size, operands)), written)


def _fusion_reads(module: Module, called: str, operands: list[tuple[Shape, ...]]) -> float:
    """An operand that is only sliced, or only updated in place, is not read in full."""
    total = 0.0
    for number, shapes in enumerate(operands):
        if whole := _size(shapes):
            values = sum(shape.size for shape in shapes)
            taken = _taken(module, called, _parameter(module, called, number))
            total += whole * (1.0 if taken is None else min(1.0, taken / values))
    return total


def _parameter(module: Module, called: str, number: int) -> str:
    return next(
        ins.name
        for ins in module.computations[called].values()
        if ins.op == "parameter" and ins.arguments == str(number)
    )


def _taken(module: Module, called: str, name: str) -> float | None:
    """How many values of ``name`` the computation ``called`` takes; None: all of them."""
    body, total = module.computations[called], 0.0
    if body[name].root:
        return None
    for user in body.values():
        for position, operand in enumerate(user.operands):
            if operand == name:
                taken = _taken_by(module, called, user, position)
                if taken is None:
                    return None
                total += taken
    return total


def _taken_by(module: Module, called: str, user: Instruction, position: int) -> float | None:
    """How many values of an operand a user takes; None: all of them."""
    if user.op in _SLICES and position == 0:
        return sum(shape.size for shape in user.shapes)
    if user.op == "dynamic-update-slice" and position == 0:
        return 0
    if user.op == "fusion":
        inner = user.calls["calls"][0]
        taken = _taken(module, inner, _parameter(module, inner, position))
        if taken is not None:
            return taken
        return _root_taken(module, called, user, inner, position)
    if user.op in _ALIKE:
        return _taken(module, called, user.name)
    return None


def _root_taken(
    module: Module, called: str, user: Instruction, inner: str, position: int
) -> float | None:
    """What is taken of an operand of a fusion that only rewrites it, value by value: what is taken
    of the result."""
    name, body = _parameter(module, inner, position), module.computations[inner]
    while not body[name].root:
        users = [ins for ins in body.values() if name in ins.operands]
        if len(users) != 1 or users[0].op not in _ALIKE:
            return None
        name = users[0].name
    return _taken(module, called, user.name)


def _fusion_writes(module: Module, called: str, ins: Instruction) -> float:
    """What an update in place writes is the update."""
    body = module.computations[called]
    root = _root(body)
    parts = [body[name] for name in root.operands] if root.op == "tuple" else [root]
    if len(parts) != len(ins.shapes):
        return _size(ins.shapes)
    return sum(
        shape.bytes if (share := _updated(module, called, part)) is None else share
        for part, shape in zip(parts, ins.shapes)
        if shape.space == 0
    )


def _root(body: Body) -> Instruction:
    return next(ins for ins in body.values() if ins.root)


def _updated(module: Module, called: str, part: Instruction) -> float | None:
    """Bytes of the update where ``part`` is one in place; None where it is not."""
    body = module.computations[called]
    while part.op in ("bitcast", "convert", "copy") and part.operands[0] in body:
        part = body[part.operands[0]]
    if part.op == "dynamic-update-slice":
        return sum(shape.bytes for shape in body[part.operands[1]].shapes)
    if part.op == "fusion":
        inner = part.calls["calls"][0]
        return _updated(
            module, inner, next(i for i in module.computations[inner].values() if i.root)
        )
    return None
