"""Compiled HLO as text, read just far enough to count: computations, calls, how often they run.

XLA's own cost analysis counts a loop body once, so everything that depends on loops is counted
here. Grammar: ``xla/hlo/parser`` (openxla.org, HLO text format).
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

_BITS = ((4, "s4 u4"), (8, "pred s8 u8"), (16, "s16 u16 bf16 f16"), (32, "s32 u32 f32"))
ITEM_BITS = {
    name: bits
    for bits, names in (*_BITS, (64, "s64 u64 f64 c64"), (128, "c128"))
    for name in names.split()
}

_ARRAY = re.compile(r"([a-z]+\d*[a-z0-9]*)\[([\d,<=]*)\](?:\{([^{}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLS = re.compile(
    r"\b(calls|to_apply|body|condition|true_computation|false_computation|"
    r"branch_computations|called_computations)=(\{[^}]*\}|%[\w.\-]+)"
)
_FREE = frozenset(
    "parameter constant tuple get-tuple-element bitcast while conditional call after-all "
    "opt-barrier partition-id replica-id domain add-dependency".split()
)
"""Operations that move no data themselves."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """One array: ``space`` 0 is main memory, others are on-chip (TPU VMEM)."""

    dtype: str
    dims: tuple[int, ...]
    space: int = 0

    @property
    def bytes(self) -> int:
        return math.prod(self.dims) * ITEM_BITS.get(self.dtype, 8 if "8" in self.dtype else 0) // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """``name = shapes op(operands), attributes``."""

    name: str
    shapes: tuple[Shape, ...]
    op: str
    operands: tuple[str, ...]
    arguments: str
    """What stands between the parentheses: a constant's value, a parameter's number."""
    attributes: str
    root: bool

    @cached_property
    def calls(self) -> dict[str, tuple[str, ...]]:
        """Computations by role: ``calls``, ``body``, ``condition``, ``to_apply``, ..."""
        return {
            role: tuple(_NAME.findall(names)) for role, names in _CALLS.findall(self.attributes)
        }

    @property
    def runs(self) -> tuple[str, ...]:
        """Computations that it runs: neither those that its first half, ``-start``, has begun, nor
        the scalar function of a reduction."""
        if self.op.endswith(("-done", "-update")):
            return ()
        roles = self.calls.items()
        return tuple(
            name
            for role, names in roles
            if role != "to_apply" or self.op == "call"
            for name in names
        )


class Runs(NamedTuple):
    """How often computations run."""

    times: dict[str, float]
    """How often every computation runs; both branches of a conditional count."""
    fused: frozenset[str]
    """Computations inside fusions: their values never reach memory."""
    unknown_loops: tuple[str, ...]
    """Loops whose trip count the text does not give; their bodies count once."""


@dataclasses.dataclass(frozen=True)
class Module:
    """Computations by name, callees before callers, and how often each of them runs."""

    computations: dict[str, dict[str, Instruction]]
    entry: str

    @cached_property
    def runs(self) -> Runs:
        """Counted from the entry on: all callers of a computation come before it, in reverse."""
        times = dict.fromkeys(self.computations, 0.0) | {self.entry: 1.0}
        fused: set[str] = set()
        unknown: list[str] = []
        for caller in reversed(self.computations):
            for ins in self.computations[caller].values():
                trips = self.trips(ins) if ins.op == "while" else 1
                if trips is None:
                    unknown.append(ins.name)
                for called in ins.runs:
                    times[called] += times[caller] * (1 if trips is None else trips)
                    if ins.op == "fusion" or caller in fused:
                        fused.add(called)
        return Runs(times, frozenset(fused), tuple(unknown))

    def trips(self, loop: Instruction) -> int | None:
        """Trip count of a ``while``, or None where it depends on data."""
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
        if known:
            return int(known[1])
        condition = self.computations[loop.calls["condition"][0]]
        root = next(ins for ins in condition.values() if ins.root)
        inner = root.calls.get("calls")
        test = next(i for i in self.computations[inner[0]].values() if i.root) if inner else root
        limits = [ins for ins in condition.values() if ins.op == "constant"]
        if test.op != "compare" or "direction=LT" not in test.attributes or len(limits) != 1:
            return None
        return int(limits[0].arguments) if limits[0].arguments.isdigit() else None

    def walk(self) -> Iterator[tuple[str, Instruction, float]]:
        """``(computation, instruction, times)`` of all that runs."""
        for name, body in self.computations.items():
            for ins in body.values():
                if times := self.runs.times[name]:
                    yield name, ins, times

    def traffic(self) -> float:
        """Bytes that one step reads from and writes to a device's main memory.

        Operands and results of every operation that is not inside a fusion, as XLA's
        ``HloCostAnalysis`` counts them (a slice costs what it takes, not what it is taken from),
        times loop trips. Arrays that the compiler keeps on the chip do not count.
        """
        return sum(
            times * _bytes(self, self.computations[name], ins)
            for name, ins, times in self.walk()
            if name not in self.runs.fused and ins.op not in _FREE and not ins.op.endswith("-done")
        )


def parse(text: str) -> Module:
    """The module that a compiled program prints as."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, body = "", None
    for line in text.splitlines():
        if line.startswith((" ", "\t")):
            ins = _instruction(line) if body is not None and " = " in line else None
            if ins and body is not None:
                body[ins.name] = ins
        elif line.rstrip().endswith("{") and "->" in line:
            head = line.removeprefix("ENTRY ").lstrip("%")
            name = re.match(r"[\w.\-]+", head)
            assert name
            body = computations.setdefault(name[0], {})
            entry = name[0] if line.startswith("ENTRY") else entry
    return Module(computations, entry)


def _instruction(line: str) -> Instruction | None:
    left, _, right = line.strip().partition(" = ")
    end = _close(right, 0) if right.startswith("(") else right.find(" ")
    head = re.match(r"\s*([\w\-]+)\(", right[end:])
    if head is None:
        return None
    opening = end + head.end() - 1
    closing = _close(right, opening)
    arguments = right[opening + 1 : closing - 1]
    return Instruction(
        name=left.removeprefix("ROOT ").lstrip("%"),
        shapes=shapes(right[:end]),
        op=head[1],
        operands=tuple(_NAME.findall(arguments)),
        arguments=arguments,
        attributes=right[closing:],
        root=left.startswith("ROOT "),
    )


def _close(text: str, opening: int) -> int:
    """Position after the parenthesis that closes the one at ``opening``."""
    depth = 0
    for i in range(opening, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i + 1
    return len(text)


def shapes(text: str) -> tuple[Shape, ...]:
    """The arrays of a type, tuples flattened."""
    arrays = []
    for dtype, dims, layout in _ARRAY.findall(text):
        space = re.search(r"S\((\d+)\)", layout)
        sizes = tuple(int(n.removeprefix("<=")) for n in dims.split(",") if n)
        arrays.append(Shape(dtype, sizes, int(space[1]) if space else 0))
    return tuple(arrays)


# ------------------------------------------------------------------ memory traffic


def _size(arrays: tuple[Shape, ...]) -> int:
    return sum(array.bytes for array in arrays if array.space == 0)


def _bytes(module: Module, body: dict[str, Instruction], ins: Instruction) -> float:
    """Bytes of main memory that one execution touches."""
    operands = [body[name].shapes for name in ins.operands if name in body]
    if ins.op in ("dynamic-slice", "slice", "gather"):
        return 2 * _size(ins.shapes)
    if ins.op == "dynamic-update-slice":
        return 2 * _size(operands[1])
    if ins.op == "scatter":
        return 3 * _size(operands[-1])
    if ins.op in ("send", "recv"):  # (array, context, token)
        return _size(ins.shapes[:1])
    if ins.op == "copy-start":  # (to, from, token)
        return _size(ins.shapes[:2])
    if ins.op.endswith("slice-start"):  # (from..., to, tokens)
        taken = next(s for s in reversed(ins.shapes) if s.dims)
        return taken.bytes * any(map(_size, operands)) + _size((taken,))
    if ins.op.endswith("-start"):
        return _size(ins.shapes)
    if ins.op == "fusion":
        inner = module.computations[ins.calls["calls"][0]]
        return _fusion_reads(inner, operands) + _fusion_writes(inner, ins)
    return _size(ins.shapes) + sum(map(_size, operands))


def _fusion_reads(inner: dict[str, Instruction], operands: list[tuple[Shape, ...]]) -> float:
    """An operand that is only sliced, or only updated in place, is not read in full."""
    total = 0.0
    for parameter in inner.values():
        if parameter.op != "parameter" or not parameter.arguments.isdigit():
            continue
        number = int(parameter.arguments)
        if number >= len(operands) or not _size(operands[number]):
            continue
        users = list(_users(inner, parameter.name))
        parts = [_part(inner, user, name) for user, name in users]
        whole = _size(operands[number])
        total += whole if None in parts or not parts else min(whole, sum(p or 0 for p in parts))
    return total


def _users(inner: dict[str, Instruction], name: str) -> Iterator[tuple[Instruction, str]]:
    """Instructions that read a value, directly or after bitcasts, and the name that they read."""
    for ins in inner.values():
        if name in ins.operands:
            if ins.op == "bitcast":
                yield from _users(inner, ins.name)
            else:
                yield ins, name


def _part(inner: dict[str, Instruction], user: Instruction, name: str) -> int | None:
    """Bytes of operand ``name`` that ``user`` touches; None for all of it."""
    if user.operands[0] == name and name not in user.operands[1:]:
        if user.op in ("dynamic-slice", "slice", "gather"):
            return sum(shape.bytes for shape in user.shapes)
        if user.op == "dynamic-update-slice":
            return 0
    return None


def _fusion_writes(inner: dict[str, Instruction], ins: Instruction) -> float:
    """What an update in place writes is the update."""
    root = next(i for i in inner.values() if i.root)
    parts = [inner[name] for name in root.operands] if root.op == "tuple" else [root]
    if len(parts) != len(ins.shapes):
        return _size(ins.shapes)
    total = 0
    for part, shape in zip(parts, ins.shapes):
        while part.op in ("bitcast", "convert", "copy") and part.operands[0] in inner:
            part = inner[part.operands[0]]
        if shape.space == 0 and part.op == "dynamic-update-slice":
            total += sum(s.bytes for s in inner[part.operands[1]].shapes)
        else:
            total += _size((shape,))
    return total
