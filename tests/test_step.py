"""Micro-batches of runs of rows."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jfreq import sharding, step
from jfreq.config import replace
from jfreq.method import Loss, Method, Rows
from jfreq.types import InputError


class Runs(Method):
    """Its loss counts the runs of four whose ids follow on each other, and the places where a
    multiple of eight begins one."""

    def loss(self, params, target, batch, rngs, step):
        ids = batch["id"].reshape(-1, 4)
        whole = (ids == ids[:, :1] + jnp.arange(4)[None]).all(1)
        first = ids[:, 0] % 8 == 0
        count = jnp.asarray(ids.size, jnp.float32)
        value = params["w"] * ids.sum()
        return Loss(value / count, {
            "loss": (value, count), "whole": (whole.sum(), 1), "even": (first.sum(), 1),
        }, {"ids": Rows(batch["id"]), "sum": ids.sum()})  # fmt: skip

    def update_target(self, target, params, aux, step):
        return aux


def test_micro_batches_hold_whole_runs(experiment):
    """All runs are whole, and the target hears of every row in the order of the batch."""
    cfg = replace(experiment, accumulate=2, batch=16, data__sequence=4)
    spec = step.StepSpec(
        cfg, sharding.make_mesh((2, 2, 2)), Runs(), optax.sgd(0.0), cast(Any, None), {}
    )
    state = step.State(jnp.zeros((), jnp.int32), {"w": jnp.ones(())}, optax.sgd(0.0).init({}), {})
    runs = np.array([0, 100, 40, 7])[:, None] + np.arange(4)
    batch = {"id": runs.ravel().astype(np.int32)}
    new, metrics = jax.jit(step.make_step(spec))(state, batch, jax.random.key(0))
    assert metrics["whole"][0] == 4
    assert metrics["even"][0] == 2
    assert metrics["loss"][0] == runs.sum()
    assert new.target["sum"] == runs.sum()
    np.testing.assert_array_equal(new.target["ids"].array, runs.ravel())


def test_batches_that_are_no_whole_runs_in_micro_batches_are_refused(experiment):
    mesh = sharding.make_mesh((2, 1, 4))
    step.check_batch(replace(experiment, batch=16, data__sequence=4, accumulate=2), mesh)
    with pytest.raises(InputError, match=r"data.sequence: .* take a batch that is a multiple of 8"):
        step.check_batch(replace(experiment, batch=12, data__sequence=4, accumulate=2), mesh)


def test_a_seed_is_no_part_of_the_program(experiment):
    one, other = (step.prepare(replace(experiment, seed=seed)) for seed in (0, 1))
    with jax.set_mesh(one.mesh):
        texts = [step.lower_step(setup).as_text() for setup in (one, other)]
        keys = [jax.random.key_data(step.run_key(setup)) for setup in (one, other)]
    assert texts[0] == texts[1]
    assert (keys[0] != keys[1]).any()
