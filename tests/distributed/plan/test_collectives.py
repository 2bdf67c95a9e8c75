"""Collectives: those that were asked for are found, with size, axes and how often."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jfreq import sharding
from jfreq.plan import collectives, hlo, traffic

MESH = {"data": 2, "fsdp": 2, "tensor": 2}
AXES = tuple(MESH)
WHOLE, ROWS = P(), P(AXES)
SUBSETS = [axes for n in (1, 2, 3) for axes in itertools.combinations(AXES, n)]


def found_in(fn, shape, out=WHOLE, slices=1):
    """Collectives of ``fn`` run on every device's part of a row-sharded array."""
    mesh = sharding.make_mesh(tuple(MESH.values()))
    local = jax.shard_map(fn, mesh=mesh, in_specs=ROWS, out_specs=out, check_vma=False)
    program = jax.jit(local).lower(jax.ShapeDtypeStruct(shape, jnp.float32)).compile()
    return collectives.find(hlo.parse(program.as_text() or ""), MESH, slices)


@pytest.mark.parametrize("axes", SUBSETS)
@pytest.mark.parametrize(
    ("kind", "fn", "whole", "factor"),
    [
        ("all-reduce", jax.lax.psum, lambda g: 6 * 16, 2.0),
        ("all-gather", functools.partial(jax.lax.all_gather, tiled=True), lambda g: 6 * 16 * g, 1),
    ],
)
def test_what_is_asked_for_is_found(kind, fn, whole, factor, axes):
    group = math.prod(MESH[a] for a in axes)
    (found,) = found_in(lambda x: fn(x, axes).sum(), (48, 16))
    assert (found.kind, found.axes, found.group, found.times) == (kind, axes, group, 1)
    assert found.bytes == 4 * whole(group)
    assert found.sent == pytest.approx(factor * (group - 1) / group * found.bytes)


def test_scattered_sum_counts_the_whole_array():
    scatter = functools.partial(jax.lax.psum_scatter, tiled=True)
    (found,) = found_in(lambda x: scatter(x, "fsdp"), (48, 16), ROWS)
    # XLA:CPU may write it as an all-reduce and a slice; both name the same 6 x 16 array.
    assert found.kind in ("reduce-scatter", "all-reduce")
    assert (found.axes, found.bytes) == (("fsdp",), 4 * 6 * 16)


def test_permutation():
    swap = functools.partial(jax.lax.ppermute, axis_name="tensor", perm=[(0, 1), (1, 0)])
    (found,) = found_in(swap, (48, 16), ROWS)
    assert (found.kind, found.axes) == ("collective-permute", ("tensor",))
    assert found.bytes == found.sent == 4 * 6 * 16


def test_in_a_loop():
    def fn(x):
        return jax.lax.scan(lambda c, _: (jax.lax.psum(jnp.sin(c), "data"), None), x, length=9)[0]

    (found,) = found_in(fn, (48, 16), ROWS)
    assert (found.kind, found.axes, found.times) == ("all-reduce", ("data",), 9)
    assert found.sent == 9 * 4 * 6 * 16


@pytest.mark.parametrize("axes", SUBSETS)
@pytest.mark.parametrize(
    ("kind", "fn"),
    [
        ("all-reduce", jax.lax.psum),
        ("all-gather", functools.partial(jax.lax.all_gather, tiled=True)),
    ],
)
def test_what_crosses_slices(kind, fn, axes):
    """Two slices of four devices: only groups over ``data`` cross. Scattered inside, the part of
    each device crosses once, or twice where it is summed; the rest is as inside one slice."""
    (found,) = found_in(lambda x: fn(x, axes).sum(), (48, 16), slices=2)
    inside = math.prod(MESH[a] for a in axes if a != "data")
    twice = 2 if kind == "all-reduce" else 1
    assert found.slices == (2 if "data" in axes else 1)
    assert found.sent == pytest.approx(twice * found.bytes * (inside - 1) / inside)
    crossing = twice * found.bytes / 2 / inside if "data" in axes else 0
    assert found.crossing == pytest.approx(crossing)


@pytest.mark.parametrize("kind", ["all-reduce", "all-gather", "reduce-scatter", "all-to-all"])
@pytest.mark.parametrize(("group", "slices"), [(8, 2), (8, 4), (16, 2), (6, 3)])
def test_bytes_in_and_between_slices(kind, group, slices):
    """Against what each device has to send: with one device a slice all crosses as on a ring of
    slices, with one slice nothing does, and an exchange sends the same in all."""

    def of(slices):
        return collectives.Collective(kind, (), 720, ("data",), group, 3.0, "", slices)

    flat, found, apart = of(1), of(slices), of(group)
    assert flat.crossing == 0 and apart.sent == 0
    assert apart.crossing == pytest.approx(flat.sent)
    assert found.crossing > 0 and found.sent > 0
    assert found.sent + found.crossing == pytest.approx(flat.sent)


@pytest.mark.parametrize(("slices", "crosses"), [(1, False), (2, True)])
def test_a_permutation_crosses_or_not(slices, crosses):
    swap = functools.partial(jax.lax.ppermute, axis_name="data", perm=[(0, 1), (1, 0)])
    (found,) = found_in(swap, (48, 16), ROWS, slices)
    assert found.bytes == 4 * 6 * 16
    assert (found.sent, found.crossing) == ((0, found.bytes) if crosses else (found.bytes, 0))


MEGASCALE = """%a.1 = token[] after-all()
  %s = (f32[{sent},8]{{1,0:T(8,128)}}, u32[], token[]) send(%a, %a.1), channel_id=2, \
is_host_transfer=true, frontend_attributes={{_xla_host_transfer_rendezvous="r_0",\
_xla_megascale_target={target},_xla_megascale_transfer_type="{kind}"}}
  %r = (f32[{got},8]{{1,0:T(8,128)}}, u32[], token[]) recv(%a.1), channel_id=1, \
is_host_transfer=true, frontend_attributes={{_xla_host_transfer_rendezvous="r_0",\
_xla_megascale_target={target},_xla_megascale_transfer_type="{kind}"}}
  %sd = token[] send-done(%s), channel_id=2
  ROOT %rd = (f32[{got},8]{{1,0}}, token[]) recv-done(%r), channel_id=1"""
OVER_FOUR = '"{1,2,3,4}x{0:3}"'
OVER_ALL = "{{100000,100002,200000,200002},{100001,100003,200001,200003}}"
OVER_PAIRS = "{{100000->200000},{200000->100000}}"


@pytest.mark.parametrize(
    ("kind", "target", "sent", "got", "name", "inside", "crossing"),
    [
        ("ALL_REDUCE", OVER_FOUR, 4, 4, "all-reduce", 0, 2 * 3 / 4 * 128),
        ("ALL_GATHER", OVER_FOUR, 4, 16, "all-gather", 0, 3 * 128),
        ("REDUCE_SCATTER", OVER_FOUR, 16, 4, "reduce-scatter", 0, 3 * 128),
        ("ALL_TO_ALL", OVER_ALL, 4, 4, "all-to-all", 128 / 4, 128 / 2),
        ("ONE_TO_ONE", OVER_PAIRS, 4, 4, "collective-permute", 0, 128),
    ],
)
def test_tpu_slices_talk_through_their_hosts(kind, target, sent, got, name, inside, crossing):
    """A send and a receive of one name are the part of a collective between slices, counted once,
    and take their arrays from main memory and back."""
    module = text(MEGASCALE.format(sent=sent, got=got, kind=kind, target=target))
    (found,) = collectives.find(module, MESH, 4)
    assert (found.kind, found.axes, found.times) == (name, ("data",), 1)
    assert (found.sent, found.crossing) == (inside, crossing)
    assert traffic.total(module) == 4 * 8 * (sent + got)


def test_unknown_ways_between_slices_are_refused():
    module = text(MEGASCALE.format(sent=4, got=4, kind="SOME_TO_SOME", target=OVER_FOUR))
    with pytest.raises(ValueError, match="no collective between slices is known as 'SOME_TO_SOME'"):
        collectives.find(module, MESH, 4)


def text(line: str, *, name="main", more="") -> hlo.Module:
    return hlo.parse(
        f"{more}ENTRY %{name} (a: f32[4,8]) -> f32[4,8] {{\n"
        f"  %a = f32[4,8]{{1,0}} parameter(0)\n  {line}\n}}\n"
    )


def test_start_and_done_count_once():
    module = text(
        "%s = ((f32[4,8]{1,0}, f32[2]{0}), (f32[8,8]{1,0}, f32[4]{0})) all-gather-start(%a, %a), "
        "replica_groups=[4,2]<=[8], dimensions={0}\n"
        "  ROOT %d = (f32[8,8]{1,0}, f32[4]{0}) all-gather-done(%s)"
    )
    (found,) = collectives.find(module, MESH)
    assert found.shapes == ("f32[8,8]", "f32[4]")
    assert (found.bytes, found.axes, found.times) == (4 * (64 + 4), ("tensor",), 1)


def test_tpu_fusions_carry_one_collective():
    """TPU repeats a collective in every fusion that it overlaps with; it starts in one of them."""
    gather = (
        "all-gather(%q), channel_id=7, replica_groups={{0,2},{1,3},{4,6},{5,7}}, dimensions={0}, "
        'frontend_attributes={chain_id="3"}'
    )
    parts = []
    for i, target in enumerate(("AsyncCollectiveStart", "Other", "AsyncCollectiveDone")):
        parts.append(
            f"%fused.{i} (q: f32[4,8]) -> f32[8,8] {{\n  %q = f32[4,8]{{1,0}} parameter(0)\n"
            f"  %g.{i} = f32[8,8]{{1,0:T(8,128)S(1)}} {gather}\n"
            f"  ROOT %r.{i} = f32[8,8]{{1,0}} custom-call(%g.{i}), "
            f'custom_call_target="{target}"\n}}\n\n'
        )
    calls = "\n  ".join(
        f"%f.{i} = f32[8,8]{{1,0}} fusion(%a), kind=kCustom, calls=%fused.{i}" for i in range(3)
    )
    (found,) = collectives.find(text(calls, more="".join(parts)), MESH)
    assert (found.kind, found.axes, found.times, found.bytes) == ("all-gather", ("fsdp",), 1, 256)


def test_tpu_reduce_scatter_is_a_fusion():
    fused = (
        "%all-reduce-scatter.2 (q: f32[4,8]) -> f32[2,8] {\n  %q = f32[4,8]{1,0} parameter(0)\n"
        "  %r = f32[4,8]{1,0} all-reduce(%q), replica_groups=[4,2]<=[8], to_apply=%add\n"
        "  ROOT %s = f32[2,8]{1,0} dynamic-slice(%r)\n}\n\n"
    )
    call = (
        "ROOT %f = f32[2,8]{1,0} fusion(%a), kind=kCustom, calls=%all-reduce-scatter.2, "
        'metadata={op_name="jit(update)/transpose(jvp(net))/while/body/fc1/dot_general"}'
    )
    (found,) = collectives.find(text(call, more=fused), MESH)
    assert (found.kind, found.bytes, found.sent) == ("reduce-scatter", 128, 64)
    assert found.source == "backward fc1/dot_general"


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ("replica_groups={{0,2},{1,3}}", [(0, 2), (1, 3)]),
        ("replica_groups={}", [(0, 1, 2, 3)]),
        ("replica_groups=[2,2]<=[4]", [(0, 1), (2, 3)]),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", [(0, 2), (1, 3)]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}", [(0, 2), (1, 3)]),
        ("replica_groups=mesh['a'=2,'b'=2] {'b'}", [(0, 1), (2, 3)]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}", [(0, 1, 2, 3)]),
        (
            "replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}, use=true",
            [(0, 2), (1, 3)],
        ),
        ("source_target_pairs={{0,0},{1,2},{2,1}}", [(1, 2), (2, 1)]),
    ],
)
def test_forms_of_groups(attributes, expected):
    assert collectives.device_groups(f"x=1, {attributes}, y=2", 4) == expected


@pytest.mark.parametrize("seed", range(5))
def test_turned_groups_are_numpys(seed):
    """The compact form is a reshape and a transpose of an iota."""
    rng = np.random.default_rng(seed)
    shape, turn = (2, 3, 4), tuple(rng.permutation(3))
    expected = np.arange(24).reshape(shape).transpose(turn).reshape(6, 4)
    written = f"replica_groups=[6,4]<=[2,3,4]T({','.join(map(str, turn))})"
    assert collectives.device_groups(written, 24) == [tuple(row) for row in expected.tolist()]


def test_unknown_groups_are_refused():
    with pytest.raises(ValueError, match="no groups"):
        collectives.device_groups("replica_groups=@new_form", 4)


def test_a_gather_of_the_batch_is_seen():
    gather = functools.partial(jax.lax.all_gather, axis_name=AXES, tiled=True)
    found = found_in(lambda x: gather(x).sum(), (48, 16))
    assert collectives.of_the_batch(found, 48) == found
    assert collectives.of_the_batch(found, 24) == found, "two passes"
    assert not collectives.of_the_batch(found, 48, known=frozenset({48}))
    assert not collectives.of_the_batch(found, 40)
    summed = found_in(lambda x: jax.lax.psum(x, AXES), (48, 16))
    assert not collectives.of_the_batch(summed, 6)
