"""Hardware by name, ``v5e:4x4`` or ``h100:8``, and meshes over it."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import os
import re
from typing import Any

import jax

from jfreq import sharding
from jfreq.config import Mesh, close_match
from jfreq.monitoring import flops
from jfreq.plan import cuda
from jfreq.types import InputError

SLICES = 256
"""More slices are not planned for."""

LIBTPU = "libtpu==0.0.42.1"
"""The compiler for TPU that goes with jax 0.10.2."""


@dataclasses.dataclass(frozen=True)
class Hardware:
    """One kind of chip; rates per second, sizes in bytes."""

    name: str
    platform: str
    kind: str = ""
    """What :data:`jfreq.monitoring.flops.PEAK_TFLOPS` calls it."""
    memory: float = 0.0
    bandwidth: float = 0.0
    """Of that memory, bytes/s."""
    link: float = 0.0
    """Bytes/s a chip sends one way: over one link of a TPU, over NVLink of a GPU."""
    network: float = 0.0
    """Bytes/s a chip sends out of its slice (TPU) or its host (GPU) over the data centre's
    network."""
    passes: tuple[int, int] = (1, 1)
    """Time of a float32 matrix product in that of a bfloat16 one: at default and at highest
    precision."""
    shapes: tuple[str, ...] = ()
    """TPU: slices that are offered."""
    cores: str = "default"
    """TPU: the chip's configuration; ``megacore`` makes one device of its two cores."""

    @property
    def peak(self) -> float | None:
        """Dense bfloat16 FLOP/s of a chip."""
        tflops = flops.peak_tflops(self.kind) if self.kind else None
        return tflops * 1e12 if tflops else None


_2D = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_3D = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16")
_TPU, _GPU = (1, 6), (2, 15)
GB = 1e9

HARDWARE = {
    h.name: h
    for h in (
        Hardware("v4", "tpu", "TPU v4", 32 * 2**30, 1228 * GB, 45 * GB, 0.0, _TPU, _3D, "megacore"),
        Hardware("v5e", "tpu", "TPU v5e", 16 * 2**30, 819 * GB, 45 * GB, 3.125 * GB, _TPU, _2D),
        Hardware("v5p", "tpu", "TPU v5p", 95 * 2**30, 2765 * GB, 90 * GB, 6.25 * GB, _TPU, _3D),
        Hardware("v6e", "tpu", "TPU v6e", 32 * 2**30, 1638 * GB, 90 * GB, 12.5 * GB, _TPU, _2D),
        Hardware("a100", "gpu", "A100", 80 * GB, 2039 * GB, 300 * GB, 25 * GB, _GPU),
        Hardware("h100", "gpu", "H100", 80 * GB, 3350 * GB, 450 * GB, 50 * GB, _GPU),
        Hardware("h200", "gpu", "H200", 141 * GB, 4800 * GB, 450 * GB, 50 * GB, _GPU),
        Hardware("cpu", "cpu"),
    )
}
"""Memory and its bandwidth: cloud.google.com/tpu/docs (system architecture of each version) and
NVIDIA's data sheets (A100 80 GB SXM, H100 SXM, H200 SXM). TPU links one way: Austin et al. 2025,
"How to Scale Your Model", chapter 2. Network between TPU slices: the data centre bandwidth of a pod
over its 256 chips, 6.4 Tb/s on v5e, 25.6 Tb/s on v6e, and 50 Gb/s a chip on v5p (pages as above),
none is published for v4. GPU links: half of NVLink's 600 and 900 GB/s; network: one 200 (A100) or
400 Gb/s (H100, H200) adapter for each GPU, as in DGX systems. Float32 products: one
bfloat16 pass on TPU, six at ``Precision.HIGHEST``; TF32 and plain float32 units on GPU."""


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips of one kind, each of them a device of JAX; ``text`` as typed.

    ``shape`` is that of each of the ``slices``, which the network of the data centre joins.
    """

    text: str
    hardware: Hardware
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def devices(self) -> int:
        return self.slices * math.prod(self.shape)

    @property
    def tpu(self) -> bool:
        return self.hardware.platform == "tpu"

    @property
    def closed(self) -> bool:
        """Whether the links of a TPU slice close to rings: every axis of v4 and v5p a multiple
        of 4, both axes of v5e and v6e 16."""
        if len(self.shape) == 2:
            return self.shape == (16, 16)
        return all(size % 4 == 0 for size in self.shape)

    @property
    def sends(self) -> float:
        """Bytes/s that a device can send in a collective: both ways round a ring of a TPU, one
        way where the ring is open; NVLink up to 8 GPUs of a slice, else the network."""
        hardware = self.hardware
        if self.tpu:
            return hardware.link * (2 if self.closed else 1)
        return hardware.link if math.prod(self.shape) <= 8 else hardware.network


def parse(text: str) -> Topology:
    """The hardware that ``KIND:SHAPE`` names, or several slices of it, ``2xv5e:4x4``.

    Raises ``InputError`` for an unknown kind or shape, with those that are known, and for a number
    of slices that cannot be.
    """
    several = re.match(r"(-?\d+)x(?=[a-z])", text)
    slices = int(several[1]) if several else 1
    name, _, size = text[several.end() if several else 0 :].partition(":")
    hardware = HARDWARE.get(name)
    if hardware is None:
        raise InputError(
            f"topology: no hardware {name!r}{close_match(name, HARDWARE)}; there is: "
            + ", ".join(f"{h.name}:{h.shapes[3] if h.shapes else 8}" for h in HARDWARE.values())
        )
    if not 1 <= slices <= SLICES:
        raise InputError(
            f"topology: {text!r}: give the number of slices from 1 to {SLICES}, for instance "
            f"2x{name}:{size}"
        )
    if slices > 1 and hardware.peak and not hardware.network:
        raise InputError(
            f"topology: {text!r}: the rate of the network between slices of {name} is not "
            "published; plan for one slice, or for v5e, v5p or v6e"
        )
    if hardware.shapes:
        if size not in hardware.shapes:
            raise InputError(
                f"topology: no slice {size!r} of {name}{close_match(size, hardware.shapes)}; "
                f"there are: {', '.join(hardware.shapes)}"
            )
        return Topology(text, hardware, tuple(map(int, size.split("x"))), slices)
    if not size.isdigit() or not 1 <= slices * int(size) <= 4096:
        raise InputError(
            f"topology: {text!r}: give the number of devices from 1 to 4096, for instance {name}:8"
        )
    return Topology(text, hardware, (int(size),), slices)


def host(topology: Topology) -> None:
    """Makes this process one that compiles for ``topology`` on its CPU.

    Sets variables that libtpu reads when it loads and the number of CPU devices; call it before
    JAX starts a backend. Raises ``InputError`` where libtpu is missing.
    """
    jax.config.update("jax_platforms", "cpu")
    if topology.tpu:
        import importlib.util

        if importlib.util.find_spec("libtpu") is None:
            raise InputError(
                f"topology: {topology.text} needs the TPU compiler, which runs on CPU; install it "
                f"with `pip install {LIBTPU}` (the extra tpu-plan, 684 MB)"
            )
        # A compile-only client: no metadata server to ask, no lock between two of them.
        os.environ |= {
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_ACCELERATOR_TYPE": "v5litepod-8",
            "TPU_WORKER_ID": "0",
            "TPU_WORKER_HOSTNAMES": "localhost",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        }
        return
    if compiler(topology) == "gpu":
        return
    with contextlib.suppress(RuntimeError):  # a backend runs; `devices` says if it is too small
        jax.config.update("jax_num_cpu_devices", topology.devices)


def compiler(topology: Topology) -> str:
    """Which of XLA's compilers is asked, ``tpu``, ``gpu`` or ``cpu``: that of the hardware, but
    XLA:CPU for a GPU where the CUDA plugin is not installed."""
    platform = topology.hardware.platform
    return "cpu" if platform == "gpu" and not cuda.installed() else platform


def devices(topology: Topology) -> list[Any]:
    """Devices to compile for; they can run nothing. Call :func:`host` first."""
    if topology.tpu:
        from jax.experimental import topologies

        options: dict[str, Any] = {"chip_config_name": topology.hardware.cores}
        if math.prod(topology.shape) == 1:
            options["chips_per_host_bounds"] = (1, 1, 1)
        if topology.slices > 1:
            options["num_slices"] = topology.slices
        name = f"{topology.hardware.name}:{'x'.join(map(str, topology.shape))}"
        return list(topologies.get_topology_desc(name, "tpu", **options).devices)
    if compiler(topology) == "gpu":
        size = math.prod(topology.shape)
        hosts = size // 8 if size % 8 == 0 else 1
        hardware = topology.hardware
        return cuda.devices(
            hardware.name,
            (topology.slices, hosts, size // hosts),
            hardware.memory,
            hardware.bandwidth,
        )
    cpus = jax.devices("cpu")
    if len(cpus) < topology.devices:
        raise InputError(
            f"topology: {topology.text} needs {topology.devices} CPU devices, but JAX runs with "
            f"{len(cpus)} in this process; plan in a new one"
        )
    return cpus[: topology.devices]


def check_mesh(topology: Topology, mesh: Mesh) -> None:
    """Raises ``InputError`` with the nearest meshes that fit, unless ``mesh`` does, and unless its
    slices are those of the topology."""
    wanted, total = mesh.sizes, topology.devices
    if mesh.slices not in (None, topology.slices):
        one = topology.text.partition("x")[2] if topology.slices > 1 else topology.text
        raise InputError(
            f"mesh.slices: is {mesh.slices}, but {topology.text} is {topology.slices} "
            f"slice{'s' * (topology.slices > 1)}; leave it out, or plan for "
            f"--topology {f'{mesh.slices}x' * (mesh.slices > 1)}{one}"
        )
    fixed = math.prod(size for size in wanted if size != -1)
    if fixed == total or (-1 in wanted and total % fixed == 0):
        return
    divisors = [n for n in range(1, total + 1) if total % n == 0]
    shapes = [
        s
        for s in itertools.product(divisors, repeat=3)
        if math.prod(s) == total and s[0] % topology.slices == 0
    ]

    def distance(shape: tuple[int, ...]) -> float:
        return sum(abs(math.log2(a / b)) for a, b in zip(shape, wanted) if b != -1)

    def text(shape: tuple[int, ...]) -> str:
        return " ".join(f"{axis}={size}" for axis, size in zip(sharding.AXES, shape))

    fitting = "; ".join(map(text, sorted(shapes, key=distance)[:6]))
    raise InputError(
        f"mesh: {text(wanted)} does not fit the {total} devices of {topology.text}; "
        f"these would: {fitting}"
    )
