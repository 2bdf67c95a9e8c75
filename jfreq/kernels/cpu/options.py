"""Options of XLA:CPU with which programs run faster."""

from __future__ import annotations

import functools

import jax

_OPTIONS = {
    # Products by oneDNN inside Eigen, which XLA by itself leaves to YNNPACK.
    "xla_cpu_experimental_ynn_fusion_type": "",
    # 512 bits where the processor has them; XLA takes 256 by itself.
    "xla_cpu_prefer_vector_width": "512",
}


def compiler_options() -> dict[str, str] | None:
    """What ``jax.jit`` and ``compile`` take as ``compiler_options``; None where the default devices
    are no CPUs."""
    if jax.default_backend() != "cpu":
        return None
    return {name: value for name, value in _OPTIONS.items() if _known(name, value)}


@functools.cache
def _known(name: str, value: str) -> bool:
    """Whether this XLA has the option: options come and go with its versions."""
    program = jax.jit(lambda: 0).lower()
    try:
        program.compile(compiler_options={name: value})
    except jax.errors.JaxRuntimeError:
        return False
    return True
