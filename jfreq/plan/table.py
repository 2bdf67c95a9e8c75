"""A plan as a page for people and as JSON for programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from jfreq.plan.aot import Compiled, Largest
from jfreq.plan.collectives import Collective
from jfreq.plan.roofline import assumptions, per_day, roofline

SMALL = 2**16
"""Collectives that send fewer bytes in a step share one line."""


def to_dict(found: Compiled, largest: Largest | None = None) -> dict[str, Any]:
    """JSON values: counts as compiled, and the roofline derived from them."""
    times = roofline(found)
    value = dataclasses.asdict(found)
    value["topology"] = found.topology.text
    value |= {"devices": found.topology.devices, "how": found.how, "jax": jax.__version__}
    if times:
        examples, hours = per_day(found, times.best)
        value["roofline"] = {
            **dataclasses.asdict(times),
            "best": times.best,
            "worst": times.worst,
            "bound": times.bound,
            "examples_per_day": examples,
            "hours_per_day": hours,
            "assumptions": assumptions(found),
        }
    for name in ("collectives", "gathers"):
        value[name] = [{**dataclasses.asdict(c), "sent": c.sent} for c in getattr(found, name)]
    if largest:
        value["largest"] = dataclasses.asdict(largest)
    return value


def to_markdown(name: str, found: Compiled, largest: Largest | None = None) -> str:
    """The page that ``jfreq plan`` prints."""
    place = found.topology
    mesh = " ".join(f"{axis}={size}" for axis, size in found.mesh.items())
    rows = _memory(found) + _work(found) + _times(found)
    if largest:
        rows.append(("largest batch that fits", _largest(largest)))
    return "\n".join(
        [
            f"{name} on {place.text}: {place.devices} devices, mesh {mesh}, batch {found.batch} of "
            f"{found.signal.seconds:g} s.",
            "",
            f"Compiled by {found.how}; {found.compile_s:.0f} s, jax {jax.__version__}.",
            "",
            *_lines(["", "of one device"], rows),
            "",
            *_collectives(found),
            "",
            *([found.dropped, ""] if found.dropped else []),
            *assumptions(found),
        ]
    )


def _memory(found: Compiled) -> list[tuple[str, str]]:
    memory = found.memory
    room = found.topology.hardware.memory
    used = f", {memory.peak / room:.1%} of {_size(room)}" if room else ""
    return [
        (
            "parameters",
            f"{found.parameters:,}, {found.replicated:.2%} of them whole on every device",
        ),
        ("memory: state and batch", _size(memory.arguments)),
        ("memory: reserved for the step", _size(memory.temporaries)),
        ("memory: most in use", _size(memory.peak) + used),
    ]


def _work(found: Compiled) -> list[tuple[str, str]]:
    loops = f"; {found.unknown_loops} loops of unknown length" if found.unknown_loops else ""
    return [
        ("arithmetic", f"{found.flops / found.topology.devices / 1e12:.4g} TFLOP a step"),
        ("memory traffic", f"{found.traffic / 1e9:.4g} GB a step{loops}"),
        (
            "XLA's own count, loop bodies once",
            f"{found.xla_flops / 1e12:.4g} TFLOP, {found.xla_bytes / 1e9:.4g} GB",
        ),
        ("sent in collectives", f"{sum(c.sent for c in found.collectives) / 1e9:.4g} GB a step"),
    ]


def _times(found: Compiled) -> list[tuple[str, str]]:
    times = roofline(found)
    if times is None:
        return []
    best, worst = per_day(found, times.best), per_day(found, times.worst)
    return [
        ("roofline: matrix products", _ms(times.compute)),
        ("roofline: main memory", _ms(times.memory)),
        ("roofline: collectives", _ms(times.communication)),
        (
            "step time",
            f"{_ms(times.best)} where all overlap ({times.bound} bound), "
            f"{_ms(times.worst)} where nothing does",
        ),
        ("examples a day", f"{worst[0] / 1e6:.4g} to {best[0] / 1e6:.4g} million"),
        (f"hours of {found.signal.name} a day", f"{worst[1]:,.0f} to {best[1]:,.0f}"),
    ]


def _largest(found: Largest) -> str:
    if not found.batch:
        return f"none, not even {found.refused}"
    limit = f"{found.refused} does not" if found.refused else "no limit was met"
    return f"{found.batch} ({_size(found.peak)}; {limit}), {found.compiles} more compilations"


def _collectives(found: Compiled) -> list[str]:
    shown = [c for c in found.collectives if c.times * c.bytes >= SMALL]
    small = [c for c in found.collectives if c.times * c.bytes < SMALL]
    if not found.collectives:
        return ["No collectives."]
    head = ["collective", "over", "array", "size", "times", "sent", "for"]
    lines = _lines(head, [_row(c) for c in shown]) if shown else []
    if small:
        size = sum(c.sent for c in small)
        count = sum(c.times for c in small)
        lines += ["", f"And {count:.0f} small ones, {_size(size)} sent together."]
    if found.gathers:
        kinds = ", ".join(sorted({f"{c.kind} of {_arrays(c)}" for c in found.gathers}))
        lines += ["", f"Rows of the batch are brought together by: {kinds}."]
    else:
        lines += ["", "No collective brings rows of the batch together."]
    return lines


def _row(c: Collective) -> tuple[str, ...]:
    return (
        c.kind,
        "+".join(c.axes),
        _arrays(c),
        _size(c.bytes),
        f"{c.times:g}",
        _size(c.sent),
        c.source,
    )


def _arrays(c: Collective) -> str:
    first, *others = c.shapes
    return f"{first} and {len(others)} more" if others else first


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table whose columns line up."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    text = ["| " + " | ".join(f"{x:{w}}" for x, w in zip(row, widths)) + " |" for row in rows]
    first = "| " + " | ".join(f"{x:{w}}" for x, w in zip(head, widths)) + " |"
    return [first, "|" + "|".join("-" * (w + 2) for w in widths) + "|", *text]


def _size(count: float) -> str:
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= scale:
            return f"{count / scale:.4g} {unit}"
    return f"{count:.0f} B"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.4g} ms"
