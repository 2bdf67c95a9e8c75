"""Collectives of a compiled step: kind, size, mesh axes, how often, and what they send."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from jfreq.plan.hlo import Instruction, Module, Shape

KINDS = frozenset(
    "all-gather all-reduce reduce-scatter all-to-all ragged-all-to-all collective-permute "
    "collective-broadcast".split()
)


_EXCHANGES = ("all-to-all", "ragged-all-to-all")


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind, shape and group that a step runs ``times`` times."""

    kind: str
    shapes: tuple[str, ...]
    """The whole arrays, as every device of a group together holds them: ``f32[768,3072]``."""
    bytes: int
    """Of those arrays, once."""
    axes: tuple[str, ...]
    """Mesh axes that a group runs over."""
    group: int
    """Devices of a group."""
    times: float
    source: str
    """The operation it was made for."""
    slices: int = 1
    """Slices that a group runs over, with as many of its devices in each."""

    @property
    def sent(self) -> float:
        """Bytes that a device sends to others of its slice in a step, on a ring (Patarasuk and Yuan
        2009). Over several slices a sum is scattered inside, summed across and gathered inside."""
        inside = self.group // self.slices
        whole = self.group if self.kind in _EXCHANGES else inside
        factor = (inside - 1) / whole
        if self.kind == "all-reduce":
            factor = 2 * factor
        elif self.kind == "collective-permute":
            factor = float(self.slices == 1)
        return self.times * self.bytes * factor

    @property
    def crossing(self) -> float:
        """Bytes that a device sends to other slices in a step: its part of the arrays, on a ring of
        slices."""
        part = 1 if self.kind in _EXCHANGES else self.group // self.slices
        factor = (self.slices - 1) / self.slices / part
        if self.kind == "all-reduce":
            factor = 2 * factor
        elif self.kind == "collective-permute":
            factor = float(self.slices > 1)
        return self.times * self.bytes * factor


def find(module: Module, mesh: Mapping[str, int], slices: int = 1) -> list[Collective]:
    """All collectives of a step over ``mesh`` (axis sizes in order), the largest traffic first.

    A pair of start and done counts once, and so does a collective that TPU spreads over several
    fusions. ``slices`` cut the devices into blocks of one size, in the order of the mesh. Raises
    ``ValueError`` for a form of groups that is not known.
    """
    counts: dict[Collective, float] = {}
    devices = math.prod(mesh.values())
    callers = {
        target: ins
        for _, ins, _ in module.walk()
        if ins.op == "fusion"
        for target in ins.calls["calls"]
    }
    for name, ins, times in module.walk():
        if ins.op == "send" and "_xla_megascale_transfer_type" in ins.attributes:
            between = _between_slices(ins, module.computations[name])
            counts[between] = counts.get(between, 0.0) + times
            continue
        kind = ins.op.removesuffix("-start")
        if kind not in KINDS or _continued(module, name, ins):
            continue
        # TPU writes a reduce-scatter as a fusion of an all-reduce and a slice.
        if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
            kind = "reduce-scatter"
        groups = device_groups(ins.attributes, devices)
        if max(map(len, groups)) < 2:
            continue
        size = 2 if kind == "collective-permute" else len(groups[0])
        arrays = _whole(ins, kind, size)
        collective = Collective(
            kind,
            tuple(map(_shown, arrays)),
            sum(s.bytes for s in arrays),
            _axes(groups, mesh),
            len(groups[0]),
            0.0,
            _source(ins, callers.get(name)),
            max(len({device * slices // devices for device in group}) for group in groups),
        )
        counts[collective] = counts.get(collective, 0.0) + times
    counted = [dataclasses.replace(c, times=times) for c, times in counts.items()]
    return sorted(counted, key=lambda c: (-c.sent, -c.crossing, c.kind, c.shapes))


def of_the_batch(
    collectives: Sequence[Collective], rows: int, known: frozenset[int] = frozenset()
) -> list[Collective]:
    """Those that bring the rows of other devices together: a gather or an exchange of an array
    with the global batch ``rows`` (or its double, two passes) as a dimension.

    ``known`` sizes, of parameters, do not count. A data-parallel step should have none.
    """
    sizes = {rows, 2 * rows} - known
    return [
        c
        for c in collectives
        if c.kind in ("all-gather", "all-to-all", "ragged-all-to-all")
        and any(sizes & set(map(int, re.findall(r"\d+", s.partition("[")[2]))) for s in c.shapes)
    ]


_MEGASCALE = {
    "ALL_REDUCE": "all-reduce",
    "ALL_GATHER": "all-gather",
    "REDUCE_SCATTER": "reduce-scatter",
    "ALL_TO_ALL": "all-to-all",
    "ONE_TO_ONE": "collective-permute",
}
"""What TPU calls the collectives between slices, which leave a chip through its host."""


def _between_slices(send: Instruction, body: Mapping[str, Instruction]) -> Collective:
    """The part of a collective that runs over the network between TPU slices.

    Its two ends are a send and a receive of one name; ``data`` alone runs over slices. Devices are
    written ``{1,2}x{0:3}``, slices 1 and 2 and chips 0 to 3 of each, or, for exchanges between all
    devices, in groups as ``200003``, chip 3 of slice 2.
    """

    def attribute(ins: Instruction, name: str) -> str:
        found = re.search(rf'_xla_{name}="?([^"=]*)"?', ins.attributes)
        return found[1] if found else ""

    kind, meeting = attribute(send, "megascale_transfer_type"), "host_transfer_rendezvous"
    if kind not in _MEGASCALE:
        raise ValueError(f"no collective between slices is known as {kind!r}")
    ends = [
        ins
        for ins in body.values()
        if ins.op in ("send", "recv") and attribute(ins, meeting) == attribute(send, meeting)
    ]
    whole = max((ins.shapes[0] for ins in ends), key=lambda shape: shape.bytes)
    named = re.search(r"\{([\d,]+)\}", attribute(send, "megascale_target"))
    group = _numbers(named[1]) if named else ()
    slices = len({n // 100_000 for n in group}) if max(group, default=0) >= 100_000 else len(group)
    return Collective(
        _MEGASCALE[kind],
        (_shown(whole),),
        whole.bytes,
        ("data",),
        max(len(group), 2),
        0.0,
        _source(*ends),
        max(slices, 2),
    )


def _shown(shape: Shape) -> str:
    return f"{shape.dtype}{list(shape.dims)}".replace(" ", "")


def _continued(module: Module, name: str, ins: Instruction) -> bool:
    """Whether this is not where the collective starts but where a fusion carries it on."""
    return "chain_id" in ins.attributes and not any(
        '"AsyncCollectiveStart"' in other.attributes for other in module.computations[name].values()
    )


def _whole(ins: Instruction, kind: str, size: int) -> tuple[Shape, ...]:
    """The arrays as a group holds them together."""
    arrays = ins.shapes
    if ins.op in ("all-gather-start", "collective-permute-start"):  # (from, to, contexts)
        arrays = [s for s in arrays if s.dims or len(arrays) == 2]
        arrays = tuple(arrays[len(arrays) // 2 :])
    if kind == "reduce-scatter" and ins.op.startswith("reduce-scatter"):
        return tuple(dataclasses.replace(s, dims=(size * s.dims[0], *s.dims[1:])) for s in arrays)
    return tuple(arrays)


def _source(*candidates: Instruction | None) -> str:
    """Forward or backward pass and the last names of the path of the first that has one."""
    for ins in candidates:
        name = ins and re.search(r'op_name="([^":]*)', ins.attributes)
        if not name:
            continue
        skip = {"while", "body", "closed_call", "checkpoint", "rematted_computation"}
        words = [w.rstrip(")") for w in name[1].split("/") if w not in skip and "(" not in w]
        side = "backward " if "transpose(" in name[1] else ""
        return side + "/".join(words[-3:])
    return ""


# ------------------------------------------------------------------ groups


def device_groups(attributes: str, devices: int) -> list[tuple[int, ...]]:
    """Groups of partition numbers, from any of the forms that XLA prints."""
    pairs = re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", attributes)
    if pairs:
        numbers = re.findall(r"\{(\d+),(\d+)\}", pairs[1])
        return [(int(a), int(b)) for a, b in numbers if a != b] or [(0,)]
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\](.*)", attributes)
    if mesh:
        return _mesh_groups(mesh[1], mesh[2])
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes)
    if iota:
        return _rows(_iota(iota[2], iota[3]).reshape(_numbers(iota[1])))
    lists = re.search(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}", attributes)
    if not lists:
        raise ValueError(f"no groups found in {attributes[:200]!r}")
    groups = [_numbers(group) for group in re.findall(r"\{([\d,]+)\}", lists[1])]
    return groups or [tuple(range(devices))]


def _mesh_groups(axes: str, rest: str) -> list[tuple[int, ...]]:
    """Groups that run over some axes of a mesh of devices.

    ``mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}`` is four groups of two devices that differ
    in ``a`` alone.

    Args:
      axes: sizes by name, ``'a'=2,'b'=4``.
      rest: what follows the brackets: the order of the devices where it is not 0, 1, 2, ..., and
        the axes of a group where they are not all.
    """
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    order = re.match(r",?\s*device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\)", rest)
    ids = _iota(order[1], order[2]) if order else np.arange(math.prod(sizes.values()))
    named = re.search(r"\{('[^}]*)\}", rest)
    inside = re.findall(r"'([^']+)'(?!:\()", named[1]) if named else list(sizes)
    outside = [name for name in sizes if name not in inside]
    # One row per group: the axes inside a group come last and become the columns.
    axis = {name: i for i, name in enumerate(sizes)}
    by_axis = ids.reshape(tuple(sizes.values())).transpose([axis[n] for n in outside + inside])
    return _rows(by_axis.reshape(math.prod(sizes[name] for name in outside), -1))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split(",") if n)


def _iota(shape: str, order: str | None) -> np.ndarray:
    sizes = _numbers(shape)
    ids = np.arange(math.prod(sizes)).reshape(sizes)
    return (ids.transpose(_numbers(order)) if order else ids).reshape(-1)


def _rows(ids: np.ndarray) -> list[tuple[int, ...]]:
    return [tuple(int(i) for i in row) for row in ids]


def _axes(groups: Sequence[tuple[int, ...]], mesh: Mapping[str, int]) -> tuple[str, ...]:
    """Mesh axes along which the devices of a group differ."""
    places = np.array(list(itertools.product(*map(range, mesh.values()))))
    moving = np.any([np.ptp(places[list(group)], axis=0) > 0 for group in groups], axis=0)
    return tuple(name for name, moves in zip(mesh, moving) if moves)
