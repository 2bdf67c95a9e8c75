"""What a fresh run takes from other runs: which part, from where, to where."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jfreq import sharding
from jfreq.config import Checkpoint, Experiment, Source
from jfreq.method import Method
from jfreq.methods.ssast import SSAST
from jfreq.ops.posemb import resize_positions
from jfreq.train import checkpoint, initial_state, plan, run_folder
from jfreq.train.loop import load_sources
from jfreq.train.state import State, init_state
from jfreq.types import InputError


@dataclasses.dataclass(frozen=True)
class Student(Method):
    """A trunk with positions, a teacher that averages it, a tokenizer that stays as it is."""

    def init(self, key):
        trunk = {"w": jax.random.normal(key, (4, 3)), "positions": {"grid": jnp.zeros((2, 6, 3))}}
        return {"trunk": trunk, "head": {"kernel": jax.random.normal(key, (3, 5))}}

    def init_target(self, params):
        codes = {"trunk": {"w": jnp.zeros((4, 3))}, "codebook": {"codes": jnp.zeros((7, 2))}}
        return {"teacher": {"trunk": params["trunk"]}, "tokenizer": codes}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders of a trained student and of a tokenizer, and what they hold."""
    rng, folder = np.random.default_rng(), tmp_path_factory.mktemp("runs")

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    def trunk():
        return {"w": normal(4, 3), "positions": {"grid": normal(2, 4, 3)}}

    held = {
        "student": (
            {"trunk": trunk(), "head": {"kernel": normal(3, 9)}},
            {"teacher": {"trunk": trunk()}},
        ),
        "tokenizer": (
            {"trunk": {"w": normal(4, 3)}, "to_code": {"kernel": normal(3, 2)}},
            {"codebook": {"codes": normal(7, 2)}},
        ),
        "plain": ({"trunk": trunk()}, {}),
    }
    for name, (params, target) in held.items():
        with run_folder.lock_run_folder(folder / name, Experiment(name, SSAST())):
            saves = checkpoint.Checkpoints(folder / name)
            saves.save(State(jnp.int32(5), params, {"mu": params}, target), 5, {})
            saves.wait()
            saves.close()
    return folder, held


def started(*sources):
    """The first state of a run that starts from ``sources``, and what it says of them."""
    experiment = Experiment("new", Student(), checkpoint=Checkpoint(init_from=sources))
    mesh, optimiser = sharding.make_mesh((-1, 1, 1)), optax.adam(1e-3)
    state = jax.eval_shape(lambda key: init_state(Student(), optimiser, key), jax.random.key(0))
    places = sharding.shardings(state, mesh, ())
    state = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), state, places
    )
    setup = plan.StepPlan(experiment, mesh, Student(), optimiser, state, {})
    lines: list[str] = []
    with jax.set_mesh(mesh):
        state = initial_state.first_state(setup, load_sources(experiment), lines.append)
    return jax.device_get(state), lines


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_student_and_a_frozen_tokenizer(runs):
    """From two runs, three sources; the teacher is made of what the student starts from."""
    folder, held = runs
    state, lines = started(
        Source(str(folder / "student")),
        Source(str(folder / "tokenizer"), write="tokenizer", into="target"),
        Source(str(folder / "tokenizer"), "codebook", "tokenizer/codebook", "target", "target"),
    )
    student, (params, target) = held["student"][0], held["tokenizer"]
    grid = resize_positions(student["trunk"]["positions"]["grid"], (2, 6))
    equal(state.params["trunk"], {"w": student["trunk"]["w"], "positions": {"grid": grid}})
    equal(state.params["head"], started()[0].params["head"])
    equal(state.target["teacher"]["trunk"], state.params["trunk"])
    equal(state.target["tokenizer"], {"trunk": {"w": params["trunk"]["w"]}, **target})
    assert not any(np.any(x) for x in jax.tree.leaves(state.opt))
    said = "arrays taken, 0 resized"
    assert lines == [
        f"params from {folder}/student: 1 arrays taken, 1 resized, 1 left fresh (head/kernel)",
        f"target below tokenizer from {folder}/tokenizer: 1 {said}, 1 left fresh "
        "(tokenizer/codebook/codes)",
        f"target below tokenizer/codebook from {folder}/tokenizer: 1 {said}, 0 left fresh",
    ]


def test_the_average_of_a_run_as_a_student_and_as_a_teacher(runs):
    folder, held = runs
    path, average = str(folder / "student"), held["student"][1]["teacher"]["trunk"]
    state, _ = started(Source(path, "teacher/trunk", "trunk", "target"))
    equal(state.params["trunk"]["w"], average["w"])
    equal(state.target["teacher"]["trunk"], state.params["trunk"])
    state, _ = started(Source(path, "teacher", "teacher", "target", "target"))
    equal(state.target["teacher"]["trunk"]["w"], average["w"])
    equal(state.params, started()[0].params)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        (
            "student",
            {"read": "trnk"},
            r"student has nothing below 'trnk' in its params; there is "
            "head, trunk",
        ),
        ("student", {"write": "tokenizer"}, r"this run has nothing below 'tokenizer' in its par"),
        ("tokenizer", {"what": "target"}, r"no parameter of .*/tokenizer fits"),
        ("plain", {"what": "target"}, r"its method has no target"),
        ("bundle", {"what": "target"}, r"a bundle has no target; give the folder of its run"),
    ],
)
def test_a_source_that_gives_nothing(runs, name, fields, message):
    folder, _ = runs
    (folder / "bundle").mkdir(exist_ok=True)
    for file in ("config.json", "model.safetensors"):
        (folder / "bundle" / file).touch()
    with pytest.raises(InputError, match=message) as error:
        started(Source(str(folder / name), **fields))
    assert "\n" not in str(error.value)
