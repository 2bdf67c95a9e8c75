"""The step compiled for devices that are not there: against closed forms, on the real recipes."""

import dataclasses
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq import methods, param_paths, recipes, sharding
from jfreq.config import Data, Experiment, Mesh, Optim, replace
from jfreq.config_json import to_dict
from jfreq.data.loading.pipeline import batch_spec
from jfreq.data.shards.metadata import ShardsInfo, SignalInfo
from jfreq.data.shards.reader import open_shards
from jfreq.frontends.fbank import Fbank
from jfreq.method import Loss, part_of
from jfreq.methods.ssast import SSAST
from jfreq.nn.vit import ViT
from jfreq.plan import aot, topology
from jfreq.train import plan as train_plan
from jfreq.train import step
from jfreq.types import InputError

from ...plan.test_topology import needs_libtpu

GOLDEN = "tests/golden/plan_shardings_ssast_base.json"
UPDATE = f"""the placement of SSAST-base on a mesh changed. Check memory and collectives with `jfreq
plan ssast_base --topology h100:8`; if the change is meant, write `found` to {GOLDEN} with
json.dumps(found, indent=1) and say why in the commit."""
MESHES = {"fsdp=8": Mesh(1, 8, 1), "data=2 fsdp=2 tensor=2": Mesh(2, 2, 2)}
EIGHT = topology.parse("h100:8")


def clips(samples: int) -> ShardsInfo:
    return ShardsInfo("clips", (SignalInfo("audio", 16000.0, samples, 1, "int16", 2.0**-15),), 0)


SHORT = clips(20720)


@pytest.fixture(scope="module")
def experiment():
    return Experiment(
        name="small",
        method=SSAST(frontend=Fbank(), encoder=ViT(width=128, depth=3, heads=4)),
        optim=Optim(weight_decay=0.01, clip=1.0),
        mesh=Mesh(2, 2, 2),
        batch=24,
    )


@pytest.fixture(scope="module")
def plan(experiment):
    return aot.compile_for(experiment, SHORT, EIGHT)


def of_base(mesh):
    experiment = replace(recipes.load("ssast_base"), mesh=mesh)
    bound = methods.bind(experiment, clips(160000).spec)
    return aot.plan_step(bound, clips(160000), EIGHT)


# ------------------------------------------------------------------ who lives where


def test_golden_tables(root):
    found = {
        name: {
            path: [str(axis) if axis else None for axis in leaf.sharding.spec]
            for path, leaf in param_paths.flatten(of_base(mesh).abstract.params).items()
        }
        for name, mesh in MESHES.items()
    }
    assert found == json.loads((root / GOLDEN).read_text()), UPDATE


@pytest.mark.parametrize("mesh", MESHES.values())
def test_nearly_nothing_is_whole_on_every_device(mesh):
    """Parameters and both moments of Adam."""
    state = of_base(mesh).abstract
    for tree in (state.params, state.opt):
        assert 0 < aot.replicated_fraction(tree) < 0.02


def test_it_is_the_step_that_trains(experiment, shards):
    """Planned without data and prepared with data: the same shapes, placements and program."""
    experiment = replace(experiment, data=Data(path=(str(shards),), backend="memory"))
    setup = train_plan.plan_run(experiment)
    bound = methods.bind(experiment, open_shards(shards).spec)
    spec = aot.plan_step(bound, open_shards(shards).info, topology.parse("cpu:8"))
    assert spec.batch_spec == setup.batch_spec
    assert jax.tree.all(jax.tree.map(lambda a, b: a == b, spec.abstract, setup.abstract))
    with jax.set_mesh(spec.mesh):
        planned, trained = (step.lower_step(s).as_text() for s in (spec, setup))
    assert planned == trained


def test_a_gpu_gets_the_attention_of_a_gpu(experiment):
    """XLA:CPU stands in for it, but the form for CPUs does not."""
    bound = methods.bind(experiment, SHORT.spec)
    kinds = {
        text: aot.plan_step(bound, SHORT, topology.parse(text)).experiment.method
        for text in ("h100:8", "cpu:8")
    }
    kinds = {text: to_dict(method)["encoder"]["attention"] for text, method in kinds.items()}
    assert kinds == {"h100:8": "xla", "cpu:8": "auto"}


# ------------------------------------------------------------------ what the compiled step says


def test_arguments_are_the_sharded_state_and_batch(plan, experiment):
    """Bytes of every leaf's part, summed by hand."""
    spec = aot.plan_step(methods.bind(experiment, SHORT.spec), SHORT, EIGHT)
    # Ids are in the batch for the dump of a bad step only; the program does not read them.
    batch = {k: v for k, v in spec.batch_spec.items() if k not in ("id", "label")}
    expected = sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves((spec.abstract, batch))
    )
    assert plan.memory.arguments == pytest.approx(expected, rel=0.01)
    assert plan.memory.peak == plan.memory.arguments + plan.memory.temporaries
    assert plan.memory.temporaries > 0


def test_arithmetic_is_that_of_the_transformer(plan, experiment):
    """2 FLOP for each weight and token, twice that backward, and attention's products: within the
    few per cent that heads and front end add."""
    cfg = experiment.method.encoder
    tokens, rows = 66, experiment.batch * experiment.method.passes
    block = 12 * cfg.width**2 * tokens + 2 * tokens**2 * cfg.width
    encoder = 2 * 3 * rows * cfg.depth * block
    frontend = experiment.batch * 2 * 128 * (400 * 514 + 257 * 128)
    assert encoder + frontend < plan.flops < 1.2 * (encoder + frontend)
    # TF32 at half the rate; front end and similarities (50 masked patches of 256, for the loss,
    # its gradient and the accuracy) at highest precision, 15 times the cost.
    exact = frontend + 3 * 2 * experiment.batch * 50 * 50 * 256
    assert plan.work == pytest.approx(2 * plan.flops + 13 * exact, rel=1e-3)


def test_only_weights_are_gathered(plan):
    """All-gathers bring parameters (or a block's slice) together, nothing else; what moves
    activations are the sums that tensor parallelism is made of."""
    assert not plan.gathers
    assert {c.kind for c in plan.collectives} <= {"all-gather", "reduce-scatter", "all-reduce"}
    spec = of_small()
    allowed = set()
    for leaf in jax.tree.leaves(spec.abstract.params):
        for dims in (leaf.shape, leaf.shape[1:]):
            for split in (1, 2):
                allowed.add(math.prod(dims) // split)
    gathers = [c for c in plan.collectives if c.kind == "all-gather"]
    assert gathers, "fsdp without gathers of weights is no fsdp"
    for c in gathers:
        for shape in c.shapes:
            assert math.prod(map(int, re.findall(r"\d+", shape.partition("[")[2]))) in allowed, c
    over = {axis for c in plan.collectives for axis in c.axes}
    assert over == {"data", "fsdp", "tensor"}


def of_small():
    experiment = Experiment(
        name="small", method=SSAST(frontend=Fbank(), encoder=ViT(width=128, depth=3, heads=4)),
        mesh=Mesh(2, 2, 2), batch=24,
    )  # fmt: skip
    return aot.plan_step(methods.bind(experiment, SHORT.spec), SHORT, EIGHT)


class Contrasted(SSAST):
    """A loss that compares every row with every other, as contrastive ones do."""

    def loss(self, params, target, batch, rngs, step):
        rows = batch["audio"][:, :64, 0].astype(jnp.float32)
        every = jax.lax.with_sharding_constraint(rows, jax.P())
        value = jnp.square(rows @ every.T).mean() * params["mask_token"].sum()
        return Loss(value, {"loss": (value, jnp.ones(()))})


def test_a_step_that_gathers_the_batch_is_found():
    spec = of_small()
    spec = dataclasses.replace(spec, method=part_of(Contrasted, spec.method))
    found = aot.examine(spec, EIGHT, SHORT.spec.signal())
    assert found.gathers and all(c.kind == "all-gather" for c in found.gathers)


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mesh": Mesh(3, 1, 1)}, "^mesh: data=3 .* these would: "),
        ({"batch": 18}, "^batch: 18 rows .* take a multiple of 4"),
        ({"accumulate": 4, "batch": 24}, "^batch: .* take a multiple of 16"),
        ({"method__mask": 999}, "mask"),
        (
            {"method__encoder__attention": "cudnn", "method__encoder__dtype": "bfloat16"},
            "^encoder.attention: cudnn cannot .* h100:8",
        ),
        ({"method__encoder__attention": "splash"}, "^encoder.attention: splash cannot .* h100:8"),
    ],
)
def test_refused_before_compiling(experiment, changes, said, monkeypatch):
    monkeypatch.setattr(step, "lower_step", lambda spec: pytest.fail("compiles"))
    with pytest.raises(InputError, match=said):
        aot.compile_for(replace(experiment, **changes), SHORT, EIGHT)


@pytest.mark.parametrize(
    "said",
    [
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space "
        "hbm. Used 20.14G of 15.75G hbm. Exceeded hbm capacity by 4.39G.",
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (20.14G) exceeds available HBM (15.75G).",
    ],
)
def test_what_does_not_fit_is_bad_input(experiment, monkeypatch, said):
    def fail(spec):
        raise jax.errors.JaxRuntimeError(said)

    monkeypatch.setattr(step, "lower_step", fail)
    with pytest.raises(aot.DoesNotFit, match=r"^batch: 24 rows on h100:8 need 20.14G of 15.75G"):
        aot.compile_for(experiment, SHORT, EIGHT)
    said = "INTERNAL: something else"
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        aot.compile_for(experiment, SHORT, EIGHT)


# ------------------------------------------------------------------ the largest batch


class Machine:
    """Plans whose memory grows as ``base + slope * batch``, with a knee where a compiler starts to
    recompute; ``strict`` ones refuse as the TPU compiler does."""

    def __init__(self, plan, base, slope, strict):
        self.plan, self.base, self.slope, self.strict, self.asked = plan, base, slope, strict, []

    def peak(self, batch):
        knee = 40
        return int(self.base + self.slope * (min(batch, knee) + max(0, batch - knee) / 2))

    def compile(self, batch):
        self.asked.append(batch)
        if self.strict and self.peak(batch) > EIGHT.hardware.memory:
            raise aot.DoesNotFit("batch: no")
        memory = aot.Memory(int(self.base), 0, self.peak(batch))
        return dataclasses.replace(self.plan, batch=batch, memory=memory)

    def truth(self, unit):
        return max(b for b in range(unit, 10_000, unit) if self.peak(b) <= EIGHT.hardware.memory)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_largest_batch(plan, strict, seed):
    rng = np.random.default_rng(seed)
    room, unit = EIGHT.hardware.memory, 4
    machine = Machine(plan, rng.uniform(0, 0.3) * room, rng.uniform(1e-3, 2e-2) * room, strict)
    first = machine.compile(8)
    machine.asked.clear()
    found = aot.largest_batch(first, machine.compile, unit=unit, tries=12)
    truth = machine.truth(unit)
    assert found.batch % unit == 0 and machine.peak(found.batch) <= room
    assert found.batch <= truth < (found.refused or math.inf)
    assert found.refused is not None and found.refused - found.batch <= max(unit, 0.05 * truth)
    assert found.compiles == len(machine.asked) == len(set(machine.asked)) <= 8
    assert found.peak == machine.peak(found.batch)


def test_largest_batch_from_one_that_is_too_large(plan):
    machine = Machine(plan, 0, 0.02 * EIGHT.hardware.memory, strict=False)
    found = aot.largest_batch(machine.compile(256), machine.compile, unit=4, tries=12)
    assert found.batch <= machine.truth(4) < (found.refused or 0) <= found.batch + 4


def test_no_batch_fits(plan):
    machine = Machine(plan, 2 * EIGHT.hardware.memory, 1.0, strict=True)
    first = dataclasses.replace(plan, memory=aot.Memory(0, 0, machine.peak(64)), batch=64)
    found = aot.largest_batch(first, machine.compile, unit=16, tries=12)
    assert (found.batch, found.refused) == (0, 16)


# ------------------------------------------------------------------ TPU, where its compiler is


@needs_libtpu
@pytest.mark.slow
def test_tpu_step(experiment):
    """The TPU's own program: matmul DFT (no FFT), loops counted, no gather of the batch."""
    place = topology.parse("v5e:2x2")
    topology.host(place)
    small = replace(
        experiment, mesh=Mesh(1, 2, 2), batch=8, method__encoder__width=64,
        method__encoder__depth=3, method__encoder__heads=2, method__passes=1,
    )  # fmt: skip
    bound = methods.bind(small, SHORT.spec)
    spec = aot.plan_step(bound, SHORT, place)
    with jax.set_mesh(spec.mesh):
        text = step.lower_step(spec).as_text()
    assert "stablehlo.fft" not in text
    found = aot.examine(spec, place, SHORT.spec.signal())
    assert found.how.startswith("XLA:TPU")
    assert not found.gathers and not found.unknown_loops
    assert 3 in {c.times for c in found.collectives}
    assert {c.axes for c in found.collectives} >= {("fsdp",), ("tensor",)}
    assert found.work > found.flops > 0


def test_batches_are_those_of_the_pipeline():
    """A plan without data takes the shapes that the pipeline would give."""
    spec = of_small()
    assert {k: (v.shape, v.dtype) for k, v in spec.batch_spec.items()} == {
        k: (v.shape, v.dtype) for k, v in batch_spec(SHORT, 24).items()
    }
    assert sharding.batch_ways(spec.mesh) == 4
