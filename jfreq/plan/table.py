"""A plan as a page for people and as JSON for programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from jfreq.plan.aot import Compiled, Largest
from jfreq.plan.collectives import Collective
from jfreq.plan.roofline import assumptions, crossing, mfu, per_day, roofline
from jfreq.plan.topology import Topology

SMALL = 2**16
"""Collectives that send fewer bytes in a step are added up in one line."""


def to_dict(compiled: Compiled, largest: Largest | None = None) -> dict[str, Any]:
    """JSON values: counts as compiled, and the roofline derived from them."""
    times = roofline(compiled)
    value = dataclasses.asdict(compiled)
    value["topology"] = compiled.topology.text
    value |= {"devices": compiled.topology.devices, "how": compiled.how, "jax": jax.__version__}
    if times:
        examples, hours = per_day(compiled, times.best)
        value["roofline"] = {
            **dataclasses.asdict(times),
            "best": times.best,
            "worst": times.worst,
            "bound": times.bound,
            "mfu": mfu(compiled),
            "examples_per_day": examples,
            "hours_per_day": hours,
            "assumptions": assumptions(compiled),
        }
    for name in ("collectives", "gathers"):
        value[name] = [
            {**dataclasses.asdict(c), "sent": c.sent, "crossing": c.crossing}
            for c in getattr(compiled, name)
        ]
    if largest:
        value["largest"] = dataclasses.asdict(largest)
    return value


def to_markdown(name: str, compiled: Compiled, largest: Largest | None = None) -> str:
    """The page that ``jfreq plan`` prints."""
    place = compiled.topology
    mesh = " ".join(f"{axis}={size}" for axis, size in compiled.mesh.items())
    rows = _memory(compiled) + _work(compiled) + _times(compiled)
    if largest:
        rows.append(("largest batch that fits", _largest(largest)))
    return "\n".join(
        [
            f"{name} on {place.text}: {_devices(place)}, mesh {mesh}, "
            f"batch {compiled.batch} of {compiled.signal.seconds:g} s.",
            "",
            f"Compiled by {compiled.how}; {compiled.compile_s:.0f} s, jax {jax.__version__}.",
            "",
            *lines(["", "of one device"], rows),
            "",
            *_collectives(compiled),
            "",
            *([compiled.dropped, ""] if compiled.dropped else []),
            *assumptions(compiled),
        ]
    )


def _devices(place: Topology) -> str:
    if place.slices == 1:
        return f"{place.devices} devices"
    return f"{place.slices} slices of {place.devices // place.slices} devices"


def by_op(compiled: Compiled, most: int = 30) -> str:
    """The parts of the network and kinds of operation that move the most bytes, as a table."""
    rows = [
        (
            m.part,
            m.kind,
            f"{m.times:g}",
            f"{m.read / 1e9:.3f}",
            f"{m.written / 1e9:.3f}",
            f"{m.bytes / compiled.traffic:.1%}",
        )
        for m in compiled.moved[:most]
    ]
    rest = sum(m.bytes for m in compiled.moved[most:])
    head = ["part", "operation", "times", "GB read", "GB written", "of all"]
    return "\n".join(
        [
            *lines(head, rows),
            "",
            f"{len(compiled.moved[most:])} more move {rest / 1e9:.3g} GB. Copies in the chip's own "
            "memory do not count.",
        ]
    )


def _memory(compiled: Compiled) -> list[tuple[str, str]]:
    memory = compiled.memory
    capacity = compiled.topology.hardware.memory
    used = f", {memory.peak / capacity:.1%} of {size(capacity)}" if capacity else ""
    return [
        (
            "parameters",
            f"{compiled.parameters:,}, {compiled.replicated:.2%} of them whole on every device",
        ),
        ("memory: state and batch", size(memory.arguments)),
        ("memory: reserved for the step", size(memory.temporaries)),
        ("memory: most in use", size(memory.peak) + used),
    ]


def _work(compiled: Compiled) -> list[tuple[str, str]]:
    loops = f"; {compiled.unknown_loops} loops of unknown length" if compiled.unknown_loops else ""
    return [
        ("arithmetic", f"{compiled.flops / compiled.topology.devices / 1e12:.4g} TFLOP a step"),
        ("memory traffic", f"{compiled.traffic / 1e9:.4g} GB a step{loops}"),
        *_own_count(compiled),
        ("sent in collectives", f"{sum(c.sent for c in compiled.collectives) / 1e9:.4g} GB a step"),
        *_between(compiled, "sent between slices", f"{crossing(compiled) / 1e9:.4g} GB a step"),
    ]


def _own_count(compiled: Compiled) -> list[tuple[str, str]]:
    """What XLA itself counts, which its compiler for GPUs does not without one."""
    if not compiled.xla_bytes:
        return []
    counted = f"{compiled.xla_flops / 1e12:.4g} TFLOP, {compiled.xla_bytes / 1e9:.4g} GB"
    return [("XLA's own count, loop bodies once", counted)]


def _between(compiled: Compiled, name: str, value: str) -> list[tuple[str, str]]:
    """A row of what only several slices have."""
    return [(name, value)] if compiled.topology.slices > 1 else []


def _times(compiled: Compiled) -> list[tuple[str, str]]:
    times = roofline(compiled)
    if times is None:
        return []
    best, worst = per_day(compiled, times.best), per_day(compiled, times.worst)
    return [
        ("roofline: matrix products", milliseconds(times.compute)),
        ("roofline: main memory", milliseconds(times.memory)),
        ("roofline: collectives", milliseconds(times.communication)),
        *_between(compiled, "roofline: network between slices", milliseconds(times.network)),
        (
            "step time",
            f"{milliseconds(times.best)} where all overlap ({times.bound} bound), "
            f"{milliseconds(times.worst)} where nothing does",
        ),
        ("MFU, at most", f"{mfu(compiled):.1%} where all overlaps"),
        ("examples a day", f"{worst[0] / 1e6:.4g} to {best[0] / 1e6:.4g} million"),
        (f"hours of {compiled.signal.name} a day", f"{worst[1]:,.0f} to {best[1]:,.0f}"),
    ]


def _largest(largest: Largest) -> str:
    if not largest.batch:
        return f"none, not even {largest.refused}"
    limit = f"{largest.refused} does not" if largest.refused else "no limit was met"
    return f"{largest.batch} ({size(largest.peak)}; {limit}), {largest.compiles} more compilations"


def _collectives(compiled: Compiled) -> list[str]:
    shown = [c for c in compiled.collectives if c.times * c.bytes >= SMALL]
    small = [c for c in compiled.collectives if c.times * c.bytes < SMALL]
    if not compiled.collectives:
        return ["No collectives."]
    several = compiled.topology.slices > 1
    head = ["collective", "over", "array", "size", "times", "sent", "for"]
    head[6:6] = ["between slices"] * several
    text = lines(head, [_row(c, several) for c in shown]) if shown else []
    if small:
        total = sum(c.sent + c.crossing for c in small)
        count = sum(c.times for c in small)
        text += ["", f"And {count:.0f} small ones, {size(total)} sent together."]
    if compiled.gathers:
        kinds = ", ".join(sorted({f"{c.kind} of {_arrays(c)}" for c in compiled.gathers}))
        text += ["", f"Rows of the batch are brought together by: {kinds}."]
    else:
        text += ["", "No collective brings rows of the batch together."]
    return text


def _row(c: Collective, several: bool) -> tuple[str, ...]:
    return (
        c.kind,
        "+".join(c.axes),
        _arrays(c),
        size(c.bytes),
        f"{c.times:g}",
        size(c.sent),
        *([size(c.crossing)] * several),
        c.source,
    )


def _arrays(c: Collective) -> str:
    first, *others = c.shapes
    return f"{first} and {len(others)} more" if others else first


def lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table whose columns line up."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    text = ["| " + " | ".join(f"{x:{w}}" for x, w in zip(row, widths)) + " |" for row in rows]
    first = "| " + " | ".join(f"{x:{w}}" for x, w in zip(head, widths)) + " |"
    return [first, "|" + "|".join("-" * (w + 2) for w in widths) + "|", *text]


def size(count: float) -> str:
    """Bytes for people."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= scale:
            return f"{count / scale:.4g} {unit}"
    return f"{count:.0f} B"


def milliseconds(seconds: float) -> str:
    """Seconds for people."""
    return f"{seconds * 1e3:.4g} ms"
