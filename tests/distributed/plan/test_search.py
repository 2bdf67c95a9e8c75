"""``jfreq plan --search``: what is tried, in which order, what is kept, and what is printed."""

import dataclasses
import importlib
import json
import math
import re
import shlex
from collections import Counter

import pytest

from jfreq import cli, recipes, sharding
from jfreq.config import Mesh, replace
from jfreq.nn.vit import ViT
from jfreq.plan import aot, candidates, estimate, search, topology
from jfreq.plan.candidates import Candidate
from jfreq.plan.estimate import Estimate
from jfreq.plan.roofline import Roofline
from jfreq.types import InputError

from .test_aot import SHORT

EIGHT = topology.parse("h100:8")
plan_command = importlib.import_module("jfreq.cli.plan")


@pytest.fixture(scope="module")
def experiment():
    encoder = ViT(width=64, depth=2, heads=4)
    return replace(recipes.load("ssast_nano"), method__encoder=encoder, method__passes=1)


def all_of(experiment, place=EIGHT, held=()):
    left_out: Counter[str] = Counter()
    return list(candidates.candidates(experiment, SHORT, place, held, left_out, print)), left_out


@pytest.fixture(scope="module")
def everything(experiment):
    return all_of(experiment)


def test_every_mesh_that_divides_is_tried(everything):
    found, left_out = everything
    meshes = {c.mesh for c in found}
    assert meshes == {
        (d, f, t) for d in (1, 2, 4, 8) for f in (1, 2, 4, 8) for t in (1, 2, 4) if d * f * t == 8
    }
    assert any("tensor 8 does not divide 4" in reason for reason in left_out)
    assert any(reason.startswith("encoder.attention: splash cannot") for reason in left_out)
    remats = {dict(c.variant)["method.encoder.remat"] for c in found}
    assert remats == {"none", "dots", "full"}
    for c in found:
        assert c.batch % (c.mesh[0] * c.mesh[1]) == 0
        assert c.batch // (c.mesh[0] * c.mesh[1]) in candidates.ROWS


def test_what_is_given_is_kept(experiment):
    given = replace(experiment, mesh=Mesh(-1, 2, 1), batch=64, method__encoder__remat="dots")
    held = {"mesh.fsdp", "batch", "method.encoder.remat"}
    found, _ = all_of(given, held=held)
    assert {(c.mesh, c.batch) for c in found} == {((4, 2, 1), 64), ((2, 2, 2), 64), ((1, 2, 4), 64)}
    assert all("method.encoder.remat" not in dict(c.variant) for c in found)


def test_slices_take_data_only(experiment):
    found, _ = all_of(experiment, topology.parse("2xh100:4"), held={"method.encoder.remat"})
    assert {c.mesh[0] % 2 for c in found} == {0}
    one, _ = all_of(experiment, EIGHT, held={"method.encoder.remat"})
    crossing = {c.mesh: c.estimate.roofline.network for c in found}
    assert min(crossing.values()) > 0 and {c.estimate.roofline.network for c in one} == {0}
    assert crossing[8, 1, 1] < crossing[2, 1, 4] * 2, "scattered inside a slice before it crosses"


def test_estimates_follow_the_hardware(everything):
    """More recomputation: more work, less memory; more rows: more of both; fsdp: less state."""
    found = {(c.mesh, c.batch, dict(c.variant)["method.encoder.remat"]): c for c in everything[0]}

    def of(mesh=(8, 1, 1), rows=64, remat="none"):
        return found[mesh, rows * mesh[0] * mesh[1], remat].estimate

    assert of(remat="full").roofline.compute > of().roofline.compute
    assert of(remat="full").memory < of().memory
    assert of(rows=128).memory > 1.5 * of().memory
    assert of(rows=128).roofline.compute == pytest.approx(2 * of().roofline.compute, rel=0.1)
    assert of(mesh=(2, 2, 2)).roofline.communication > of().roofline.communication


def test_state_is_what_shardings_hold(experiment):
    """Bytes of the state of a device on a mesh, against real placements."""
    one = candidates._Line(experiment, SHORT, EIGHT).spec
    wide = replace(experiment, mesh=Mesh(1, 8, 1), batch=64)
    spec = aot.plan_step(replace(wide, method=one.method), SHORT, topology.parse("cpu:8"))
    whole = sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in [*_leaves(spec.abstract.params), *_leaves(spec.abstract.opt)]
    )
    mesh = dict(zip(sharding.AXES, (1, 8, 1)))
    assert estimate.state_bytes(one, mesh)[1] == pytest.approx(whole, rel=1e-3)


def _leaves(tree):
    import jax

    return jax.tree.leaves(tree)


# ------------------------------------------------------------------ the order


def candidate(mesh=(8, 1, 1), batch=64, remat="none", *, seconds=1.0, memory=0.5, sent=0.0):
    roof = Roofline(seconds, 0.0, min(sent, seconds))
    found = Estimate(memory * EIGHT.hardware.memory, roof)
    return Candidate(mesh, batch, (("method.encoder.remat", remat),), found)


def test_the_smallest_batch_that_is_as_fast_comes_first():
    slow = candidate(batch=64, seconds=1.0)
    fast = candidate(batch=128, seconds=1.2)
    larger = candidate(batch=256, seconds=2.4)
    too_large = candidate(batch=512, seconds=1.0, memory=1.2)
    (first,) = search._in_order([slow, fast, larger, too_large], EIGHT.hardware.memory)
    assert first is fast


def test_after_a_refusal_nothing_as_large_is_compiled():
    a, b = candidate(batch=64, memory=0.2), candidate(batch=128, memory=0.4)
    c, d = candidate((4, 2, 1), 64, memory=0.3), candidate((4, 2, 1), 128, memory=0.5)
    other = candidate(batch=128, remat="full", memory=0.9)
    everything = [a, b, c, d, other]
    assert search._after(b, [d, other], everything) == [a, c, other]
    assert search._after(a, [c], everything) == [], "nothing smaller is left"


def test_the_best_mesh_of_every_variant_comes_before_second_bests():
    a, b = candidate(seconds=1.0), candidate((4, 2, 1), seconds=1.1)
    c, d = candidate(remat="full", seconds=3.0), candidate((4, 2, 1), remat="full", seconds=2.0)
    assert search._in_order([a, b, c, d], EIGHT.hardware.memory) == [a, d, b, c]


def test_of_equally_fast_meshes_the_one_that_sends_less():
    a, b = candidate(sent=0.9), candidate((4, 2, 1), sent=0.2)
    assert search._in_order([a, b], EIGHT.hardware.memory) == [b, a]


class Compiler:
    """Stands for the compiler: fits up to a batch, faster with more rows and without remat."""

    def __init__(self, monkeypatch, most):
        self.asked, self.most = [], most
        monkeypatch.setattr(search, "_compiled", self)

    def __call__(self, experiment, data, topology):
        self.asked.append((experiment.mesh.sizes, experiment.batch))
        if experiment.batch > self.most:
            return search.Row(said=f"batch: {experiment.batch} rows need too much")
        speed = (
            experiment.batch + {"none": 2, "dots": 1, "full": 0}[experiment.method.encoder.remat]
        )
        return search.Row(1, 0.1, "memory", 0.3, float(speed), 60.0)


def test_a_batch_that_does_not_fit_is_halved(experiment, monkeypatch):
    compiler = Compiler(monkeypatch, most=128)
    found = search.search(experiment, SHORT, EIGHT, held={"method.encoder.remat"}, compilations=2)
    assert len(found.compiled) == 2 and found.refused
    batches = [batch for _, batch in compiler.asked]
    first = batches[: batches.index(128) + 1]
    assert first == sorted(set(first), reverse=True), "smaller after each refusal"
    assert all(row.said.endswith("need too much") for _, row in found.refused)


def test_what_was_compiled_is_kept(experiment, monkeypatch, tmp_path):
    held = {"method.encoder.remat"}
    compiler = Compiler(monkeypatch, most=10**6)
    first = search.search(experiment, SHORT, EIGHT, held=held, compilations=2, keep=tmp_path)
    asked = list(compiler.asked)
    again = search.search(experiment, SHORT, EIGHT, held=held, compilations=2, keep=tmp_path)
    assert compiler.asked == asked and len(asked) == 2
    assert [row for _, row in again.compiled] == [row for _, row in first.compiled]
    search.search(
        experiment, SHORT, topology.parse("h200:8"), held=held, compilations=2, keep=tmp_path
    )
    assert len(compiler.asked) == 4, "other hardware, other programs"


# ------------------------------------------------------------------ the command

WORDS = ["--seconds", "1.295", "--method.encoder.width", "64", "--method.encoder.depth", "2",
         "--method.encoder.heads", "4", "--method.passes", "1", "--mesh.tensor", "1"]  # fmt: skip


def test_the_best_is_planned_by_the_command_that_is_printed(capsys, tmp_path):
    """Both candidates are really compiled; the command gives the figures of the table."""
    words = ["plan", "ssast_nano", "--topology", "h100:8", *WORDS, "--method.encoder.remat", "none",
             "--batch", "64"]  # fmt: skip
    cli.main([*words, "--search", "--compile", "2", "--json", str(tmp_path / "found.json")])
    page, progress = capsys.readouterr()
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found["compiled"]) == 2 and "compiling 2 of 2" in progress
    best = found["compiled"][0]
    assert best["examples"] == max(c["examples"] for c in found["compiled"])
    train, plan = found["commands"]
    assert train.startswith("jfreq train ssast_nano --data SHARDS --workdir RUN --method.encoder")
    assert "--seconds" not in train and "--topology" not in train and "--search" not in plan
    for command in (train, plan):
        assert command in page
    cli.main([*shlex.split(plan)[1:], "--json", str(tmp_path / "plan.json")])
    one = json.loads((tmp_path / "plan.json").read_text())
    assert one["mesh"] == {axis: best["changes"][f"mesh.{axis}"] for axis in sharding.AXES}
    assert (one["memory"]["peak"], one["roofline"]["best"]) == (best["memory"], best["step"])
    assert one["roofline"]["mfu"] == pytest.approx(best["mfu"])
    row = rf"\| {'x'.join(map(str, one['mesh'].values()))} +\| 64 +\| "
    assert re.search(row + rf".*{best['mfu']:.1%}", page)


def test_commands_of_several_slices_and_of_shards():
    """What was typed comes back, but for the search itself; what was found wins; hosts of GPUs are
    told to be slices, those of TPUs say so themselves."""
    typed = ["--topology", "x", "--search", "--compile=2", "--data", "a", "b", "--batch", "8",
             "--method.encoder.dtype=bfloat16", "--optim.lr", "0.1"]  # fmt: skip
    given = dict(plan_command._options(typed))
    assert given["--data"] == ["a", "b"] and given["--compile"] == ["2"] and not given["--search"]
    found = {
        text: plan_command._commands("mine", given, [("batch", 64)], topology.parse(text))
        for text in ("2xh100:4", "2xv5e:2x2")
    }
    options = "--batch 64 --method.encoder.dtype bfloat16 --optim.lr 0.1"
    assert found["2xh100:4"] == [
        f"jfreq train mine --data a b --workdir RUN {options} --mesh.slices 2",
        f"jfreq plan mine --topology 2xh100:4 --data a b {options} --mesh.slices 2",
    ]
    assert found["2xv5e:2x2"][0] == f"jfreq train mine --data a b --workdir RUN {options}"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--topology", "cpu:8", "--search"], "search: the rates of cpu:8 are not known"),
        (["--topology", "h100:8", "--compile", "2"], "compile: has no effect without --search"),
        (["--topology", "h100:8", "--keep", "x"], "keep: has no effect without --search"),
        (
            ["--topology", "h100:8", "--search", "--largest-batch"],
            "largest-batch: a search tries",
        ),
        (["--topology", "h100:8", "--search", "--compile", "0"], "--compile: must be 1 or more"),
        (["--topology", "h100:8", "--search", "--batch", "12"], "search: nothing can be compiled"),
    ],
)
def test_bad_input(capsys, words, said):
    with pytest.raises(SystemExit) as stop:
        cli.main(["plan", "ssast_nano", *WORDS, *words])
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (2, "")
    assert err.splitlines()[-1].removeprefix("jfreq: error: ").startswith(said)


def test_a_search_that_finds_nothing_says_why(experiment):
    tiny = dataclasses.replace(EIGHT, hardware=dataclasses.replace(EIGHT.hardware, memory=1e5))
    with pytest.raises(InputError, match=r"nothing can be compiled .* 1\.5 times the memory"):
        search.search(experiment, SHORT, tiny, held={"method.encoder.remat"})
