"""Primitives of JAX whose code Numba compiles for the processor that a program is lowered for.

A kernel in :mod:`jfreq.kernels.cpu.native` stands behind each; importing Numba and compiling take
seconds, once for a machine, and wait until a program needs it. An exported program holds a plain
form in its place, so that it runs where jfreq is not installed.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import platform
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jaxtyping import Array

Shapes = Sequence[tuple[int, ...]]


def fits(*arrays: Array) -> bool:
    """Whether kernels can take these: numbers of float32, known sizes, on one device that has Numba
    and AVX2."""
    mesh = jax.sharding.get_abstract_mesh()
    return (
        all(x.dtype == jnp.float32 and x.size for x in arrays)
        and all(isinstance(size, int) for x in arrays for size in x.shape)
        and (mesh.empty or mesh.size == 1)
        and _available()
    )


@functools.cache
def _available() -> bool:
    if platform.machine() not in ("x86_64", "AMD64") or importlib.util.find_spec("numba") is None:
        return False
    if os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
        return False
    from llvmlite import binding

    has = binding.get_host_cpu_features()
    return all(has.get(feature) for feature in ("avx2", "fma"))


def primitive(
    name: str,
    kernel: str,
    shapes: Callable[..., Shapes],
    plain: Callable[..., Sequence[Array]],
    *,
    all_rows: bool,
) -> Primitive:
    """A primitive that programs for CPUs run by a kernel, and exported ones by a plain form.

    Args:
        name: Of the primitive.
        kernel: Module of :mod:`jfreq.kernels.cpu.native`.
        shapes: Shapes of the results, float32, for the arguments.
        plain: What the kernel computes, without it.
        all_rows: The first axis of all arguments and results is that of rows, so that rows of all
            batches of ``jax.vmap`` are computed as one; else they are one after the other.
    """
    made = Primitive(name)
    made.multiple_results = True
    target = f"jfreq_{kernel}"

    def abstract(*args):
        return [jax.core.ShapedArray(shape, jnp.float32) for shape in shapes(*args)]

    def lower(context, *args):
        if context.module_context.lowering_parameters.for_export:
            return mlir.lower_fun(plain, multiple_results=True)(context, *args)
        importlib.import_module(f"jfreq.kernels.cpu.native.{kernel}").register(target)
        return jax.ffi.ffi_lowering(target)(context, *args)

    def batch(args, axes):
        count = next(x.shape[axis] for x, axis in zip(args, axes) if axis is not None)
        args = [
            jnp.broadcast_to(x, (count, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
            for x, axis in zip(args, axes)
        ]
        if not all_rows:
            found = jax.lax.map(lambda one: made.bind(*one), args)
            return found, [0] * len(found)
        found = made.bind(*(x.reshape(-1, *x.shape[2:]) for x in args))
        return [x.reshape(count, -1, *x.shape[1:]) for x in found], [0] * len(found)

    made.def_abstract_eval(abstract)
    made.def_impl(jax.jit(made.bind))
    mlir.register_lowering(made, lower, platform="cpu")
    batching.primitive_batchers[made] = batch
    return made
