"""What a search found as a page for people."""

from __future__ import annotations

from collections.abc import Sequence

from jfreq.plan.candidates import Candidate
from jfreq.plan.search import Found, Row
from jfreq.plan.table import lines, milliseconds, size
from jfreq.plan.topology import Topology

SHOWN = 12
"""Candidates that were only estimated are listed up to this number."""


def to_markdown(
    name: str, found: Found, topology: Topology, seconds: float, commands: Sequence[str]
) -> str:
    """The page that ``jfreq plan --search`` prints.

    Args:
        name: Of the experiment.
        found: By the search.
        topology: The hardware.
        seconds: Of a clip.
        commands: Command lines that use the best.
    """
    parts = [
        f"{name} on {topology.text}, clips of {seconds:g} s. Candidates that were compiled: "
        f"{len(found.compiled)}, refused: {len(found.refused)}, only estimated: "
        f"{len(found.waiting)}.",
        "",
        *_compiled(found.compiled),
        *_refused(found.refused),
        *_waiting(found.waiting, topology.hardware.memory),
        *_left_out(found),
    ]
    if found.compiled:
        best, row = found.compiled[0]
        parts += [
            "",
            f"Best by its roofline: {best}; {milliseconds(row.step)} a step where all overlaps "
            f"({row.bound} bound), an MFU of at most {row.mfu:.1%}, "
            f"{row.examples / 1e6:.4g} million examples a day.",
            "",
            "```sh",
            *commands,
            "```",
        ]
    return "\n".join(parts)


def _how(candidate: Candidate) -> tuple[str, ...]:
    """Mesh, batch, and what else it changes."""
    mesh = "x".join(map(str, candidate.mesh))
    rest = ", ".join(f"{path.removeprefix('method.')} {value}" for path, value in candidate.variant)
    return mesh, str(candidate.batch), rest


_HOW = ("data x fsdp x tensor", "batch", "with")


def _compiled(pairs: Sequence[tuple[Candidate, Row]]) -> list[str]:
    if not pairs:
        return ["No candidate that was compiled fits."]
    head = (*_HOW, "memory", "step", "bound by", "MFU at most", "million examples a day")
    rows = [
        (
            *_how(candidate),
            size(row.memory),
            milliseconds(row.step),
            row.bound,
            f"{row.mfu:.1%}",
            f"{row.examples / 1e6:.4g}",
        )
        for candidate, row in pairs
    ]
    return lines(head, rows)


def _refused(pairs: Sequence[tuple[Candidate, Row]]) -> list[str]:
    if not pairs:
        return []
    rows = [(*_how(candidate), row.said) for candidate, row in pairs]
    return ["", "Refused by the compiler:", "", *lines((*_HOW, "why"), rows)]


def _waiting(candidates: Sequence[Candidate], memory: float) -> list[str]:
    if not candidates:
        return []
    rows = [
        (
            *_how(c),
            f"{c.estimate.memory / memory:.0%}",
            milliseconds(c.estimate.roofline.best),
            c.estimate.roofline.bound,
            f"{86.4e-3 / c.seconds:.3g}",
        )
        for c in candidates[:SHOWN]
    ]
    head = (*_HOW, "of the memory", "step", "bound by", "million examples a day")
    more = len(candidates) - len(rows)
    return [
        "",
        "Not compiled, because by the estimate, which is rough, others come first. The next are:",
        "",
        *lines(head, rows),
        *(["", f"And {more} more."] if more else []),
    ]


def _left_out(found: Found) -> list[str]:
    if not found.left_out:
        return []
    reasons = [f"- {count}: {reason}" for reason, count in found.left_out.most_common()]
    return ["", "Left out without compiling:", "", *reasons]
