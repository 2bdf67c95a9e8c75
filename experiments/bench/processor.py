"""The processor that a bench runs on: instruction set, caches, what its products reach.

One machine can speak for two classes: restricted to AVX2, all contenders run the instructions that
processors without AVX-512 have. XLA and Numba (jfreq's kernels) compile for it, and oneDNN (products of
jfreq and of PyTorch), MKL and ATen (PyTorch) take their kernels for it.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from jfreq.types import InputError

Isa = Literal["native", "avx2"]
"""``native``: all that the processor has."""
PEAK = "GFLOP/s of a product"
SIDE = 2048
"""Of the square matrices whose product is the peak."""
_RESTRICTED = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
}
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def restrict(isa: Isa) -> None:
    """Restricts all contenders, before any of them has started. Raises ``InputError`` for an
    instruction set that the processor lacks."""
    if isa == "native":
        return
    if "avx2" not in flags():
        raise InputError(f"isa: this processor has no {isa} instructions; leave isa native")
    os.environ.update(_RESTRICTED)
    given = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{given} --xla_cpu_max_isa=AVX2".strip()
    os.environ["NUMBA_CPU_FEATURES"] = _features_of_avx2()


def _features_of_avx2() -> str:
    """This processor's features for LLVM, those beyond AVX2 off."""
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    for name in features:
        if name.startswith(("avx512", "avx10", "amx")):
            features[name] = False
    return features.flatten()


def flags() -> set[str]:
    """The features that Linux names; empty elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    found = [line.partition(":")[2].split() for line in lines if line.startswith("flags")]
    return set(found[0]) if found else set()


def facts(isa: Isa) -> dict[str, Any]:
    """Instruction set, caches and peak, for the sentence about the machine."""
    widest = next((name for name in ("avx512f", "avx2", "avx") if name in flags()), "unknown")
    names = {"avx512f": "AVX-512", "avx2": "AVX2", "avx": "AVX"}
    shown = names.get(widest, widest) if isa == "native" else f"restricted to {names[isa]}"
    return {"instruction set": shown, "caches": caches(), PEAK: round(peak())}


def caches() -> str:
    """Sizes of the caches of the first core."""
    found = []
    for index in sorted(_CACHES.glob("index*")):
        kind, level, size = (
            (index / name).read_text().strip() for name in ("type", "level", "size")
        )
        if kind != "Instruction":
            found.append(f"L{level} {size}")
    return " / ".join(found) or "unknown"


def peak(rounds: int = 7) -> float:
    """GFLOP/s of a float32 product of :data:`SIDE`, by the faster of jax and PyTorch."""
    import importlib.util

    calls = [_jax_product()]
    if importlib.util.find_spec("torch") is not None:
        calls.append(_torch_product())
    seconds = []
    for call in calls:
        call()
        times = []
        for _ in range(rounds):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
        seconds.append(statistics.median(times))
    return 2 * SIDE**3 / min(seconds) / 1e9


def share(flops: float, seconds: float, facts: Mapping[str, Any]) -> float:
    """Part of the peak that an operation of ``flops`` reaches."""
    return flops / seconds / (1e9 * facts[PEAK])


def _jax_product() -> Callable[[], Any]:
    import jax
    import jax.numpy as jnp

    from jfreq.kernels import cpu

    x = jnp.ones((SIDE, SIDE))
    product = jax.jit(lambda x: x @ x, compiler_options=cpu.compiler_options())
    return lambda: jax.block_until_ready(product(x))


def _torch_product() -> Callable[[], Any]:
    import torch

    x = torch.ones(SIDE, SIDE)
    return lambda: x @ x
