"""A lower and an upper bound of the step time from counts and data sheets; nothing is measured."""

from __future__ import annotations

import dataclasses
import math

from jfreq.plan.aot import Compiled

DAY = 86_400


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of a step, were only one thing slow: matrix products at the bfloat16 peak, main
    memory at its full rate, collectives at the full rate of the links (Williams, Waterman and
    Patterson 2009, with communication as a third roof), and of the network between slices as a
    fourth."""

    compute: float
    memory: float
    communication: float
    network: float = 0.0

    @property
    def best(self) -> float:
        """All overlap perfectly."""
        return max(dataclasses.astuple(self))

    @property
    def worst(self) -> float:
        """Nothing overlaps; still at full rates."""
        return sum(dataclasses.astuple(self))

    @property
    def bound(self) -> str:
        """What the best case waits for."""
        return max((f.name for f in dataclasses.fields(self)), key=lambda name: getattr(self, name))


def roofline(compiled: Compiled) -> Roofline | None:
    """Bounds of a compiled step, or None where the hardware's rates are not known."""
    place = compiled.topology
    hardware = place.hardware
    if hardware.peak is None:
        return None
    return Roofline(
        compute=compiled.work / place.devices / hardware.peak,
        memory=compiled.traffic / hardware.bandwidth,
        communication=sum(c.sent for c in compiled.collectives) / place.sends,
        network=crossing(compiled) / hardware.network if place.slices > 1 else 0.0,
    )


def crossing(compiled: Compiled) -> float:
    """Bytes that a device sends to other slices in a step."""
    return sum(c.crossing for c in compiled.collectives)


def mfu(compiled: Compiled) -> float | None:
    """The most that model FLOP/s can be of the peak, were the step as fast as its best case;
    recomputation is no work done for the model. None where the hardware's rates are not known."""
    times, peak = roofline(compiled), compiled.topology.hardware.peak
    if times is None or peak is None:
        return None
    return compiled.model_flops / compiled.topology.devices / peak / times.best


def per_day(compiled: Compiled, seconds: float) -> tuple[float, float]:
    """Examples and hours of signal in a day of steps of ``seconds``."""
    examples = compiled.batch * DAY / seconds
    return examples, examples * compiled.signal.seconds / 3600


def assumptions(compiled: Compiled) -> list[str]:
    """What the times rest on, as sentences."""
    place = compiled.topology
    hardware = place.hardware
    if hardware.peak is None:
        return ["No roofline: the rates of this hardware are not known."]
    default, highest = hardware.passes
    if place.tpu:
        ways = "both ways round a ring" if place.closed else "one way, the slice closes to no ring"
        link = f"{hardware.link / 1e9:g} GB/s a link and direction, one torus axis, {ways}"
    elif math.prod(place.shape) <= 8:
        link = f"NVLink, {hardware.link / 1e9:g} GB/s one way"
    else:
        link = f"network, {hardware.network / 1e9:g} GB/s a GPU, for all collectives"
    if place.slices > 1:
        link += f"; between slices {hardware.network / 1e9:g} GB/s a device and direction"
    return [
        f"A device: {hardware.peak / 1e12:g} TFLOP/s in bfloat16, {hardware.bandwidth / 1e9:,.0f} "
        f"GB/s memory, {link}.",
        f"A float32 product takes {default} times a bfloat16 one, {highest} times at highest "
        "precision (the front end).",
        "Everything runs at its full rate: no launch gaps, no padding of tiles, no waiting for "
        "data. Collectives send what a ring algorithm sends. Real steps are slower.",
    ]
