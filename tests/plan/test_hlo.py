"""Reading compiled HLO: against XLA's own count, against known loops, and what TPU prints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq.plan import hlo, traffic


def compiled(fn, *shapes):
    return jax.jit(fn).lower(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes)).compile()


def module_of(program) -> hlo.Module:
    return hlo.parse(program.as_text())


def xla_bytes(program) -> float:
    return program.cost_analysis()["bytes accessed"]


@pytest.mark.parametrize(
    ("fn", "shapes"),
    [
        (lambda x, y: x @ y, [(64, 32), (32, 128)]),
        (lambda x, y: jax.nn.gelu(x @ y).sum(0), [(64, 32), (32, 128)]),
        (lambda x: jax.nn.softmax(x, axis=-1), [(128, 257)]),
        (lambda x: jax.lax.dynamic_slice(x, (3, 0), (2, 50)) * 2, [(100, 50)]),
        (lambda x, y: jax.lax.dynamic_update_slice(x, y * 2, (1, 0)).T.sum(), [(100, 50), (3, 50)]),
        (lambda x: x.T.reshape(-1)[::3] + 1, [(30, 40)]),
        (jax.grad(lambda x, y: jnp.tanh(x @ y).sum()), [(16, 8), (8, 8)]),
    ],
)
def test_traffic_is_what_xla_counts(fn, shapes):
    """Without loops, XLA's own cost analysis is the reference."""
    program = compiled(fn, *shapes)
    assert traffic.total(module_of(program)) == pytest.approx(xla_bytes(program), rel=0.02)


def looped(n):
    def fn(x, w):
        return jax.lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, w, length=n)[0]

    return fn


@pytest.mark.parametrize("n", [3, 17])
def test_loops_count_as_often_as_they_run(n):
    """A scan of n layers moves about what n layers written out move; XLA's count does not grow."""

    def written_out(x, w):
        for i in range(n):
            x = jnp.tanh(x @ w[i])
        return x

    shapes = (64, 96), (n, 96, 96)
    scan, flat = compiled(looped(n), *shapes), compiled(written_out, *shapes)
    module = module_of(scan)
    assert module.runs.unknown_loops == ()
    assert max(module.runs.times.values()) == n
    assert traffic.total(module) == pytest.approx(traffic.total(module_of(flat)), rel=0.35)
    assert xla_bytes(scan) < 0.8 * traffic.total(module)


def test_loops_in_loops_multiply():
    def fn(x):
        def outer(c, _):
            return jax.lax.scan(lambda c, _: (jnp.sin(c @ c), None), c, length=5)[0], None

        return jax.lax.scan(outer, x, length=7)[0]

    module = module_of(compiled(fn, (32, 32)))
    assert max(module.runs.times.values()) == 35


def test_a_loop_that_depends_on_data_is_named():
    fn = lambda x: jax.lax.while_loop(lambda c: c.sum() < 9.0, lambda c: c * 2 + 1, x)  # noqa: E731
    module = module_of(compiled(fn, (8,)))
    assert len(module.runs.unknown_loops) == 1
    assert max(module.runs.times.values()) == 1


def test_shapes():
    text = "(f32[32,3]{1,0:T(8,128)S(1)}, bf16[4]{0:T(256)(128)(2,1)}, /*index=2*/pred[], s4[8])"
    found = hlo.shapes(text)
    assert [(s.dtype, s.dims, s.space) for s in found] == [
        ("f32", (32, 3), 1), ("bf16", (4,), 0), ("pred", (), 0), ("s4", (8,), 0),
    ]  # fmt: skip
    assert [s.bytes for s in found] == [384, 8, 1, 4]


TPU = """\
HloModule jit_update

%body (p: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %p = (s32[]{:T(128)}, f32[4,8]{1,0:T(4,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %x = f32[4,8]{1,0:T(4,128)} get-tuple-element(%p), index=1
  %one = s32[]{:T(128)} constant(1)
  %j = s32[]{:T(128)S(1)} add(%i, %one)
  %near = f32[4,8]{1,0:T(4,128)S(1)} copy(%x), backend_config={"flag":"a = b(c)"}
  %y = f32[4,8]{1,0:T(4,128)} negate(%near)
  ROOT %t = (s32[]{:T(128)}, f32[4,8]{1,0:T(4,128)}) tuple(%j, %y)
}

%cond (p.1: (s32[], f32[4,8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(12)
  %p.1 = (s32[]{:T(128)}, f32[4,8]{1,0:T(4,128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  ROOT %lt = pred[]{:T(512)S(1)} compare(%i.1, %limit), direction=LT
}

ENTRY %main (a: f32[4,8]) -> f32[4,8] {
  %a = f32[4,8]{1,0:T(4,128)} parameter(0)
  %zero = s32[]{:T(128)} constant(0)
  %start = (s32[]{:T(128)}, f32[4,8]{1,0:T(4,128)}) tuple(%zero, %a)
  %loop = (s32[]{:T(128)}, /*index=1*/f32[4,8]{1,0}) while(%start), condition=%cond, body=%body
  ROOT %out = f32[4,8]{1,0:T(4,128)} get-tuple-element(%loop), index=1
}
"""


def test_tpu_text():
    """No trip count is written there: it stands in the condition. VMEM, ``S(1)``, is no traffic."""
    module = hlo.parse(TPU)
    assert module.entry == "main"
    assert module.runs.times == {"body": 12, "cond": 12, "main": 1}
    array, scalar = 4 * 8 * 4, 4
    body = (2 * scalar) + array + array  # add reads two scalars, copy reads, negate writes
    condition = 2 * scalar
    assert traffic.total(module) == 12 * (body + condition)


def test_loop_with_two_limits_is_unknown():
    text = TPU.replace("  %limit =", "  %other = s32[] constant(7)\n  %limit =")
    assert hlo.parse(text).runs.unknown_loops == ("loop",)


def test_a_loop_of_no_rounds_counts_none():
    assert hlo.parse(TPU.replace("constant(12)", "constant(0)")).runs.times["body"] == 0


def test_every_operation_of_a_real_program_is_read():
    program = compiled(jax.grad(lambda x, w: looped(3)(x, w).sum()), (8, 16), (3, 16, 16))
    text = program.as_text() or ""
    module = hlo.parse(text)
    lines = [line for line in text.splitlines() if line.startswith("  ") and " = " in line]
    assert sum(map(len, module.computations.values())) == len(lines) > 20
    names = {ins.name for body in module.computations.values() for ins in body.values()}
    assert all(
        name in names
        for body in module.computations.values()
        for ins in body.values()
        for name in ins.operands
    )
    assert np.isfinite(traffic.total(module))
