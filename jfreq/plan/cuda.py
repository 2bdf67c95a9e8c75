"""XLA:GPU for GPUs that are not here: what its compiler has to know of one.

The CUDA plugin of JAX compiles without a GPU and without a driver, given a description of the GPU
(openxla.org, ``GpuTargetConfigProto``). Nothing can be timed then, so its autotuner takes the
kernels that its own estimates prefer.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import Any

PLUGIN = "jax-cuda12-plugin==0.10.2 jax-cuda12-pjrt==0.10.2 nvidia-cuda-nvcc-cu12"
"""The compiler for GPUs that goes with jax 0.10.2."""
CUDNN = "nvidia-cudnn-cu12==9.10.2.21 nvidia-cublas-cu12"
"""What the attention of cuDNN needs beside it."""


@dataclasses.dataclass(frozen=True)
class Die:
    """What a compiler asks of a GPU; sizes in bytes."""

    name: str
    capability: tuple[int, int]
    cores: int
    """Streaming multiprocessors."""
    lanes: int
    """Float32 units of each."""
    shared: int
    """Shared memory of each; a block may have 1 KiB less."""
    cache: int
    """The second level."""
    clock: float
    """GHz, at most."""


DIES = {
    "a100": Die("NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 164 * 2**10, 40 * 2**20, 1.41),
    "h100": Die("NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 228 * 2**10, 50 * 2**20, 1.98),
    "h200": Die("NVIDIA H200", (9, 0), 132, 128, 228 * 2**10, 50 * 2**20, 1.98),
}
"""NVIDIA's architecture papers (A100 2020, table 4; H100 2022, tables 2 and 3) and the table of
compute capabilities in the CUDA C++ Programming Guide."""


def installed() -> bool:
    """Whether the plugin is there."""
    return importlib.util.find_spec("jax_cuda12_plugin") is not None


def has_cudnn() -> bool:
    """Whether the library of its attention is there."""
    return importlib.util.find_spec("nvidia") is not None and (
        importlib.util.find_spec("nvidia.cudnn") is not None
    )


def devices(name: str, counts: tuple[int, int, int], memory: float, bandwidth: float) -> list[Any]:
    """GPUs to compile for; they can run nothing.

    Args:
        name: Of :data:`DIES`.
        counts: Slices, hosts of a slice, GPUs of a host.
        memory: Bytes of a GPU.
        bandwidth: Of that memory, bytes/s.
    """
    from jax.experimental import topologies

    found = topologies.get_topology_desc(
        name,
        "cuda",
        target_config=_target(DIES[name], memory, bandwidth),
        topology="x".join(map(str, counts)),
    )
    return list(found.devices)


def _target(die: Die, memory: float, bandwidth: float) -> str:
    """A ``GpuTargetConfigProto`` as text; limits of threads and registers are those of all since
    Volta."""
    return f"""
gpu_device_info {{
  cuda_compute_capability {{ major: {die.capability[0]} minor: {die.capability[1]} }}
  core_count: {die.cores}
  fpus_per_core: {die.lanes}
  clock_rate_ghz: {die.clock}
  device_memory_size: {int(memory)}
  memory_bandwidth: {int(bandwidth)}
  l2_cache_size: {die.cache}
  shared_memory_per_core: {die.shared}
  shared_memory_per_block_optin: {die.shared - 1024}
  shared_memory_per_block: {48 * 1024}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: {2**31 - 1}
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: 12 minor: 8 }}
device_description_str: "{die.name}"
"""
