"""Vector code: tiles of matrix products and rows of a softmax, written as LLVM instructions.

LLVM's own vectoriser takes 256 bits where a processor has 512, and keeps no tile of a product in
registers. Here a tile has as many rows and columns as fill the registers: 12 by 32 with AVX-512, 6
by 16 with AVX2. All addresses are integers, all lengths and strides count floats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import registry, types
from numba.extending import intrinsic

from jfreq.kernels.cpu.native.memory import F32, I32, I64

WIDE = "+avx512f" in registry.cpu_target.target_context.codegen().magic_tuple()[2]
LANES = 16 if WIDE else 8
ROWS, COLUMNS = (12 if WIDE else 6), 2 * LANES
"""Of a tile."""
_VECTOR, _INTS = ir.VectorType(F32, LANES), ir.VectorType(I32, LANES)
_ADDRESS = ir.IntType(8).as_pointer()
_LOG2E, _LN2_HIGH, _LN2_LOW = 1.44269504088896341, 0.693359375, -2.12194440e-4
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)
"""Polynomial for ``(e^r - 1 - r) / r^2``, ``|r| <= ln(2)/2``, from the highest power (S. Moshier,
Cephes, expf)."""


def _function(name: str, kinds: Sequence[ir.Type], result: ir.Type | None, body: Callable) -> Any:
    """A function of Numba with this body, which is built once in each module."""
    numba = {F32: types.float32, I64: types.intp, None: types.void}
    signature = numba[result](*[numba[kind] for kind in kinds])

    def codegen(context, builder, _, args):
        function = builder.module.globals.get(name)
        if function is None:
            kind = ir.FunctionType(result or ir.VoidType(), kinds)
            function = ir.Function(builder.module, kind, name)
            function.linkage = "internal"
            function.attributes.add("alwaysinline" if name == "jfreq_move" else "noinline")
            inside = ir.IRBuilder(function.append_basic_block())
            body(inside, *function.args)
        found = builder.call(function, args)
        return context.get_dummy_value() if result is None else found

    names = ", ".join(f"a{i}" for i in range(len(kinds)))
    # Numba reads the number of arguments off the signature of a Python function.
    made = eval(f"lambda typing, {names}: found", {"found": (signature, codegen)})
    made.__name__ = name
    return intrinsic(made)


def _constant(x: float) -> ir.Constant:
    return ir.Constant(_VECTOR, [x] * LANES)


def _splat(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    empty = ir.Constant(_VECTOR, ir.Undefined)
    return b.shuffle_vector(
        b.insert_element(empty, x, I32(0)), empty, ir.Constant(_INTS, [0] * LANES)
    )


def _at(b: ir.IRBuilder, base: ir.Value, index: ir.Value, kind: ir.Type) -> ir.Value:
    return b.bitcast(b.gep(base, [index], source_etype=F32), kind.as_pointer())


def _load(b: ir.IRBuilder, base: ir.Value, index: ir.Value) -> ir.Value:
    x = b.load(_at(b, base, index, _VECTOR), typ=_VECTOR)
    x.align = 4
    return x


def _store(b: ir.IRBuilder, x: ir.Value, base: ir.Value, index: ir.Value) -> None:
    b.store(x, _at(b, base, index, _VECTOR)).align = 4


def _fma(b: ir.IRBuilder, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
    """``x y + z``."""
    name = f"llvm.fma.v{LANES}f32"
    found = b.module.globals.get(name)
    if found is None:
        found = ir.Function(b.module, ir.FunctionType(_VECTOR, [_VECTOR] * 3), name)
    return b.call(found, [x, y, z])


def _loop(
    b: ir.IRBuilder, count: ir.Value, start: list[ir.Value], step: Callable
) -> list[ir.Value]:
    """``carried = step(i, carried)`` for ``i`` below ``count``, from ``start``."""
    before, body, after = b.block, b.append_basic_block(), b.append_basic_block()
    b.cbranch(b.icmp_signed(">", count, I64(0)), body, after)
    b.position_at_end(body)
    i, carried = b.phi(I64), [b.phi(x.type) for x in start]
    new = step(i, carried)
    following = b.add(i, I64(1))
    for phi, first, next_one in zip(
        (i, *carried), (I64(0), *start), (following, *new), strict=True
    ):
        phi.add_incoming(first, before)
        phi.add_incoming(next_one, body)
    b.cbranch(b.icmp_signed("<", following, count), body, after)
    b.position_at_end(after)
    out = [b.phi(x.type) for x in start]
    for phi, first, last in zip(out, start, new, strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(last, body)
    return out


def _tile(name: str, *, along_rows: bool, add: bool) -> Any:
    """``C (+)= A B`` for a tile of ``C``.

    ``B[k, j]`` is at ``b + k COLUMNS + j``, ``C[i, j]`` at ``c + i c_stride + j``, ``A[i, k]`` at
    ``a + i + k a_stride``, or at ``a + i a_stride + k`` where A lies ``along_rows``.
    """

    def body(b, a, a_stride, b_, c, c_stride, depth):
        a, b_, c = (b.inttoptr(x, _ADDRESS) for x in (a, b_, c))
        out = [b.gep(c, [b.mul(c_stride, I64(i))], source_etype=F32) for i in range(ROWS)]
        sums = [_load(b, row, I64(j)) if add else _constant(0.0) for row in out for j in (0, LANES)]
        # Four rows of A share an address, so that all of them fit into the registers.
        firsts = range(0, ROWS, 4) if along_rows else (0,)
        places = [b.gep(a, [b.mul(a_stride, I64(i))], source_etype=F32) for i in firsts]
        within = [b.mul(a_stride, I64(i)) for i in range(4)]

        def step(_, carried):
            sums, b_, *places = carried[: 2 * ROWS], *carried[2 * ROWS :]
            halves, new = [_load(b, b_, I64(j)) for j in (0, LANES)], []
            for i in range(ROWS):
                place = (places[i // 4], within[i % 4]) if along_rows else (places[0], I64(i))
                x = _splat(b, b.load(_at(b, *place, F32), typ=F32))
                pair = [_fma(b, x, y, z) for y, z in zip(halves, sums[2 * i : 2 * i + 2])]
                new += _in_order(b, pair) if along_rows else pair
            new.append(b.gep(b_, [I64(COLUMNS)], source_etype=F32))
            move = I64(1) if along_rows else a_stride
            return new + [b.gep(place, [move], source_etype=F32) for place in places]

        done = _loop(b, depth, [*sums, b_, *places], step)
        for i, row in enumerate(out):
            for j in range(2):
                _store(b, done[2 * i + j], row, I64(j * LANES))
        b.ret_void()

    return _function(name, [I64] * 6, None, body)


def _in_order(b: ir.IRBuilder, pair: list[ir.Value]) -> list[ir.Value]:
    """The same values, before which LLVM places no later load: it would load all rows first and run
    out of registers."""
    kind = ir.FunctionType(ir.LiteralStructType([_VECTOR] * 2), [_VECTOR] * 2)
    register = "v" if WIDE else "x"
    nothing = ir.InlineAsm(kind, "", f"={register},={register},0,1,~{{memory}}", side_effect=True)
    both = b.call(nothing, pair)
    return [b.extract_value(both, i) for i in range(2)]


multiply = _tile("jfreq_multiply", along_rows=False, add=False)
multiply_rows = _tile("jfreq_multiply_rows", along_rows=True, add=False)
add_product = _tile("jfreq_add_product", along_rows=False, add=True)


def _move_body(b, source, to):
    source, to = (b.inttoptr(x, _ADDRESS) for x in (source, to))
    for x, j in [(_load(b, source, I64(j)), j) for j in (0, LANES)]:
        _store(b, x, to, I64(j))
    b.ret_void()


move = _function("jfreq_move", [I64] * 2, None, _move_body)
"""Copies ``COLUMNS`` floats."""


def _exp(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """``e^x`` of ``x <= 0``, 0 below -86; of NaN it is NaN."""
    rounder = _constant(1.5 * 2**23)
    shifted = _fma(b, x, _constant(_LOG2E), rounder)
    power = b.fsub(shifted, rounder)
    r = _fma(b, power, _constant(-_LN2_HIGH), x)
    r = _fma(b, power, _constant(-_LN2_LOW), r)
    y = _constant(_EXP[0])
    for c in _EXP[1:]:
        y = _fma(b, y, r, _constant(c))
    y = _fma(b, y, b.fmul(r, r), b.fadd(r, _constant(1.0)))
    exponent = b.shl(b.bitcast(shifted, _INTS), ir.Constant(_INTS, [23] * LANES))
    y = b.bitcast(b.add(b.bitcast(y, _INTS), exponent), _VECTOR)
    return b.select(b.fcmp_ordered("<", x, _constant(-86.0)), _constant(0.0), y)


def _larger(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    return b.select(b.fcmp_ordered(">", x, y), x, y)


def _reduced(b: ir.IRBuilder, x: ir.Value, join: Callable) -> ir.Value:
    """All lanes joined to one number."""
    lanes = LANES
    while lanes > 1:
        lanes //= 2
        others = ir.Constant(_INTS, [(i + lanes) % LANES for i in range(LANES)])
        x = join(x, b.shuffle_vector(x, x, others))
    return b.extract_element(x, I32(0))


def _over_row(b: ir.IRBuilder, count: ir.Value, start: list[ir.Value], step: Callable) -> list:
    """A loop over ``count`` times two vectors, ``step`` of a position and what it carries."""

    def both(i, carried):
        first = b.mul(i, I64(COLUMNS))
        carried = carried or [None, None]
        new = [step(b.add(first, I64(j * LANES)), x) for j, x in enumerate(carried)]
        return new if start else []

    return _loop(b, count, start, both)


def _top_body(b, scores, mask, count):
    scores, mask = (b.inttoptr(x, _ADDRESS) for x in (scores, mask))

    def step(i, top):
        return _larger(b, b.fadd(_load(b, scores, i), _load(b, mask, i)), top)

    x, y = _over_row(b, count, [_constant(float("-inf"))] * 2, step)
    b.ret(_reduced(b, _larger(b, x, y), lambda x, y: _larger(b, x, y)))


def _weights_body(b, scores, mask, top, count):
    scores, mask = (b.inttoptr(x, _ADDRESS) for x in (scores, mask))
    top = _splat(b, top)

    def step(i, total):
        y = _exp(b, b.fsub(b.fadd(_load(b, scores, i), _load(b, mask, i)), top))
        _store(b, y, scores, i)
        return b.fadd(total, y)

    x, y = _over_row(b, count, [_constant(0.0)] * 2, step)
    b.ret(_reduced(b, b.fadd(x, y), b.fadd))


def _gradient_body(b, scores, gradient, mask, top, factor, mean, count):
    scores, gradient, mask = (b.inttoptr(x, _ADDRESS) for x in (scores, gradient, mask))
    top, factor, mean = (_splat(b, x) for x in (top, factor, mean))

    def step(i, _):
        y = _exp(b, b.fsub(b.fadd(_load(b, scores, i), _load(b, mask, i)), top))
        y = b.fmul(y, factor)
        _store(b, y, scores, i)
        _store(b, b.fmul(y, b.fsub(_load(b, gradient, i), mean)), gradient, i)

    _over_row(b, count, [], step)
    b.ret_void()


row_top = _function("jfreq_row_top", [I64] * 3, F32, _top_body)
"""The largest of ``scores + mask`` over ``count COLUMNS`` entries."""
row_weights = _function("jfreq_row_weights", [I64, I64, F32, I64], F32, _weights_body)
"""Scores become ``exp(scores + mask - top)``; their sum."""
row_gradient = _function("jfreq_row_gradient", [I64] * 3 + [F32] * 3 + [I64], None, _gradient_body)
"""Scores become weights ``p = exp(scores + mask - top) factor``, and gradients of the weights those
of the scores, ``p (gradient - mean)``."""
