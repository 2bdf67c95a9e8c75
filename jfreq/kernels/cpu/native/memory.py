"""Raw memory in code that Numba compiles: reads and writes by address, counters, C functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit
from numba.core import types
from numba.extending import intrinsic

options: dict[str, Any] = {"error_model": "numpy", "nogil": True}
"""Of what Numba compiles for a kernel."""
F32, I32, I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_NUMBA = {F32: types.float32, I32: types.int32, I64: types.intp}

allocate = types.ExternalFunction("malloc", types.intp(types.intp))
release = types.ExternalFunction("free", types.void(types.intp))


def _reader(kind: ir.Type) -> Any:
    def read(typing, address):
        def codegen(context, builder, signature, args):
            return builder.load(builder.inttoptr(args[0], kind.as_pointer()), typ=kind)

        return _NUMBA[kind](types.intp), codegen

    return intrinsic(read)


def _writer(kind: ir.Type) -> Any:
    def write(typing, address, value):
        def codegen(context, builder, signature, args):
            builder.store(args[1], builder.inttoptr(args[0], kind.as_pointer()))
            return context.get_dummy_value()

        return types.void(types.intp, _NUMBA[kind]), codegen

    return intrinsic(write)


read_float, read_int, read_long = _reader(F32), _reader(I32), _reader(I64)
write_float, write_int, write_long = _writer(F32), _writer(I32), _writer(I64)


@njit(**options)
def round_up(x, to):
    return (x + to - 1) // to * to


@njit(**options)
def fill(out, count, value):
    """``count`` floats of one value."""
    for i in range(count):
        write_float(out + 4 * i, value)


@intrinsic
def fetch_add(typing, address, value):
    """Adds to a counter that threads share; what it was before."""

    def codegen(context, builder, signature, args):
        place = builder.inttoptr(args[0], I64.as_pointer())
        return builder.atomic_rmw("add", place, args[1], "seq_cst")

    return types.intp(types.intp, types.intp), codegen


@intrinsic
def call(typing, function, argument):
    """Calls a C function ``intp f(void *)`` by its address."""

    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(I64, [I64])
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), [args[1]])

    return types.intp(types.intp, types.intp), codegen


def address_of(function: Callable[[int], int]) -> Any:
    """A function of Numba that returns the address of ``function`` as C function
    ``intp f(void *)``."""

    def address(typing):
        def codegen(context, builder, signature, args):
            inner = types.intp(types.intp)
            compiled = context.compile_subroutine(builder, function, inner)
            name = f"jfreq_{function.__module__}_{function.__name__}"
            if name not in builder.module.globals:
                entry = ir.Function(builder.module, ir.FunctionType(I64, [I64]), name)
                entry.linkage = "internal"
                inside = ir.IRBuilder(entry.append_basic_block())
                _, result = context.call_internal_no_propagate(
                    inside, compiled.fndesc, inner, [entry.args[0]]
                )
                inside.ret(result)
            return builder.ptrtoint(builder.module.globals[name], I64)

        return types.intp(), codegen

    return intrinsic(address)
