"""Bytes of hand-written programs: what is sliced, updated in place, nested or on the chip."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from jfreq.plan import hlo, table, traffic
from jfreq.plan.traffic import Bytes

SLICED = """\
HloModule sliced

%take (w: f32[12,8,16], i: s32[]) -> f32[1,8,16] {
  %w = f32[12,8,16]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  %half = bf16[12,8,16]{2,1,0} convert(%w)
  ROOT %layer = bf16[1,8,16]{2,1,0} dynamic-slice(%half, %i, %zero, %zero), \
dynamic_slice_sizes={1,8,16}
}

%narrow (x: f32[12,8,16]) -> bf16[12,8,16] {
  %x = f32[12,8,16]{2,1,0} parameter(0)
  ROOT %y = bf16[12,8,16]{2,1,0} convert(%x)
}

%put (s: f32[12,4,16], u: f32[4,16], i.1: s32[]) -> f32[12,4,16] {
  %s = f32[12,4,16]{2,1,0} parameter(0)
  %u = f32[4,16]{1,0} parameter(1)
  %i.1 = s32[] parameter(2)
  %zero.1 = s32[] constant(0)
  %row = f32[1,4,16]{2,1,0} bitcast(%u)
  ROOT %new = f32[12,4,16]{2,1,0} dynamic-update-slice(%s, %row, %i.1, %zero.1, %zero.1)
}

%layer (a: f32[4,8], b: f32[12,8,16], c: s32[], d: f32[12,4,16]) -> (f32[4,16], f32[12,4,16]) {
  %a = f32[4,8]{1,0} parameter(0)
  %b = f32[12,8,16]{2,1,0} parameter(1)
  %c = s32[] parameter(2)
  %d = f32[12,4,16]{2,1,0} parameter(3)
  %taken = bf16[1,8,16]{2,1,0} fusion(%b, %c), kind=kLoop, calls=%take
  %flat = bf16[8,16]{1,0} bitcast(%taken)
  %y.1 = f32[4,16]{1,0} convolution(%a, %flat), dim_labels=bf_io->bf
  %stacked = f32[12,4,16]{2,1,0} fusion(%d, %y.1, %c), kind=kLoop, calls=%put
  ROOT %both = (f32[4,16]{1,0}, f32[12,4,16]{2,1,0}) tuple(%y.1, %stacked)
}

ENTRY %main (p0: f32[4,8], p1: f32[12,8,16], p2: s32[], p3: f32[12,4,16]) -> f32[4,16] {
  %p0 = f32[4,8]{1,0} parameter(0)
  %p1 = f32[12,8,16]{2,1,0} parameter(1)
  %p2 = s32[] parameter(2)
  %p3 = f32[12,4,16]{2,1,0} parameter(3)
  %f = (f32[4,16]{1,0}, f32[12,4,16]{2,1,0}) fusion(%p0, %p1, %p2, %p3), kind=kOutput, \
calls=%layer, metadata={op_name="jit(f)/transpose(jvp(net))/blocks/fc1/dot_general"}
  ROOT %out = f32[4,16]{1,0} get-tuple-element(%f), index=0
}
"""
SCALAR, X, Y, WEIGHT = 4, 4 * 4 * 8, 4 * 4 * 16, 4 * 8 * 16


def entry(text):
    """What the operations of the entry move, by name."""
    module = hlo.parse(text)
    body = module.computations[module.entry]
    return {n: traffic._bytes(module, body, i) for n, i in body.items() if i.op != "parameter"}


def test_fusions_in_fusions_take_slices_and_update_in_place():
    """A layer reads its slice of stacked weights and writes its row of the stacked results, where
    the slice and the update stand in fusions of their own."""
    assert entry(SLICED)["f"] == Bytes(X + WEIGHT + SCALAR, Y + Y)
    assert traffic.total(hlo.parse(SLICED)) == X + WEIGHT + SCALAR + 2 * Y
    (moved,) = traffic.by_part(hlo.parse(SLICED))
    assert (moved.part, moved.kind, moved.times) == ("backward blocks/fc1", "product", 1)
    assert moved.bytes == traffic.total(hlo.parse(SLICED))


def test_a_slice_of_what_a_fusion_converts():
    """The conversion of all weights, in a fusion of its own, costs the slice that is taken."""
    direct = "  %half = bf16[12,8,16]{2,1,0} convert(%w)\n"
    nested = "  %half = bf16[12,8,16]{2,1,0} fusion(%w), kind=kLoop, calls=%narrow\n"
    assert direct in SLICED
    assert entry(SLICED.replace(direct, nested))["f"] == entry(SLICED)["f"]


def test_what_is_needed_in_full_counts_in_full():
    """The stacked weights once more as a whole: a reduction, or as a result of the fusion."""
    whole = SLICED.replace(
        "  ROOT %both = (f32[4,16]{1,0}, f32[12,4,16]{2,1,0}) tuple(%y.1, %stacked)",
        "  %all = f32[4,16]{1,0} reduce(%b, %c), dimensions={0}, to_apply=%narrow\n"
        "  ROOT %both = (f32[4,16]{1,0}, f32[12,4,16]{2,1,0}) tuple(%all, %stacked)",
    )
    assert entry(whole)["f"] == Bytes(X + 12 * WEIGHT + SCALAR, Y + Y)


ON_CHIP = "{2,1,0:T(8,128)S(1)}"


@pytest.mark.parametrize(
    ("text", "read", "written"),
    [
        # A slice that stays on the chip is read all the same, one of what is there is not.
        (f"%s = f32[1,8,16]{ON_CHIP} dynamic-slice(%w, %i, %i, %i)", WEIGHT, 0),
        ("%s = f32[1,8,16]{2,1,0} dynamic-slice(%near, %i, %i, %i)", 0, WEIGHT),
        ("%s = f32[12,8,16]{2,1,0} dynamic-update-slice(%w, %one, %i, %i, %i)", WEIGHT, WEIGHT),
        (f"%s = f32[12,8,16]{ON_CHIP} dynamic-update-slice(%near, %one, %i, %i, %i)", WEIGHT, 0),
        ("%s = f32[12,8,16]{2,1,0} copy(%near)", 0, 12 * WEIGHT),
        ("%s = (f32[12,8,16]{2,1,0:S(1)}, f32[12,8,16]{2,1,0}, u32[]) copy-start(%w)",
         12 * WEIGHT, 0),
        ("%s = (f32[12,8,16]{2,1,0}, f32[12,8,16]{2,1,0:S(1)}, u32[]) copy-start(%near)",
         0, 12 * WEIGHT),
        ("%s = ((f32[12,8,16]{2,1,0}), f32[1,8,16]{2,1,0:S(1)}, u32[]) slice-start(%w)", WEIGHT, 0),
        ("%s = f32[12,8,16]{2,1,0} custom-call(%w, %near)", 12 * WEIGHT, 12 * WEIGHT),
    ],
)  # fmt: skip
def test_on_the_chip(text, read, written):
    program = f"""\
HloModule near

ENTRY %main (w: f32[12,8,16], i: s32[], one: f32[1,8,16]) -> f32[1,8,16] {{
  %w = f32[12,8,16]{{2,1,0}} parameter(0)
  %i = s32[]{{:S(1)}} parameter(1)
  %one = f32[1,8,16]{{2,1,0}} parameter(2)
  %near = f32[12,8,16]{ON_CHIP} parameter(3)
  {text}
}}
"""
    assert entry(program)["s"] == Bytes(read, written)


def test_parts_of_the_network():
    names = {
        "jit(update)/jvp(_Net)/_Net.predict/trunk/encoder/while/body/closed_call/blocks.body/blocks/"
        "blocks._attention/qkv/dot_general": "blocks/qkv",
        "jit(update)/transpose(jvp(_Net))/while/body/checkpoint/blocks/fc2/mul":
            "backward blocks/fc2",
        "jit(update)/transpose(jvp(_Net))/while/body/checkpoint/rematted_computation/blocks/norm1/"
        "add": "recomputed blocks/norm1",
        "jit(update)/optimizer/add": "optimizer",
        "jit(update)/add": "add",
    }  # fmt: skip
    for name, part in names.items():
        line = f'  %x = f32[2]{{0}} negate(%y), metadata={{op_name="{name}"}}'
        ins = hlo._instruction(line)
        assert ins and traffic.part(ins) == part
    bare = hlo._instruction("  %copy.12 = f32[2]{0} copy(%y)")
    assert bare and traffic.part(bare) == "(copy)"


def test_a_buffer_that_is_only_named_moves_nothing():
    """And a kernel that takes an array twice, for two of its parts, reads it once."""
    text = """\
ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %new = f32[12,8]{1,0} custom-call(), custom_call_target="AllocateBuffer"
  %joined = f32[16]{0} custom-call(%a, %a), custom_call_target="ConcatBitcast"
  ROOT %run = f32[8]{0} custom-call(%a, %a), custom_call_target="tpu_custom_call"
}
"""
    assert traffic.total(hlo.parse(text)) == 64
    (moved,) = traffic.by_part(hlo.parse(text))
    assert moved.kind == "kernel"


def test_the_table_shows_the_most_first():
    moved = traffic.by_part(hlo.parse(SLICED))
    small = traffic.Moved("head", "copy", 4.0, 0.0, 2.0)
    found = SimpleNamespace(moved=(*moved, small, small), traffic=moved[0].bytes + 8)
    head, _, first, second, _, rest = table.by_op(cast(Any, found), most=2).splitlines()
    assert head.split()[1:6:2] == ["part", "operation", "times"]
    assert "backward blocks/fc1" in first and "99.3%" in first
    assert "head" in second
    assert rest.startswith("1 more move 4e-09 GB")
