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


@dataclasses.dataclass(frozen=True)
class Shape:
    """One array: ``space`` 0 is main memory, others are on-chip (TPU VMEM)."""

    dtype: str
    dims: tuple[int, ...]
    space: int = 0

    @property
    def size(self) -> int:
        """Number of its values."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        return self.size * ITEM_BITS.get(self.dtype, 8 if "8" in self.dtype else 0) // 8


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
