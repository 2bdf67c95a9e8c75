"""Micro-batches of a sharded batch: whole sub-sequences, targets in order, keys of their own."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jfreq import sharding
from jfreq.config import replace
from jfreq.method import Loss, Method, Rows
from jfreq.ranges import checked
from jfreq.train import plan, step
from jfreq.types import InputError


@checked
class Probe(Method):
    """Counts runs of neighbours in ``id`` ``[b]``; its target is what the last loss handed on."""

    length: int = 1

    def loss(self, params, target, batch, rngs, step):
        ids = batch["id"].reshape(-1, self.length)
        whole = (ids == ids[:, :1] + jnp.arange(self.length)[None]).all(1)
        even = ids[:, 0] % 8 == 0
        count = jnp.asarray(ids.size, jnp.float32)
        value = params["w"] * ids.sum()
        metrics = {"loss": (value, count), "whole": (whole.sum(), 1), "even": (even.sum(), 1)}
        aux = {
            "total": ids.sum(),
            "ids": Rows(batch["id"]),
            "nested": [Rows(2.0 * batch["id"][:, None])],
            "noise": Rows(jax.random.bits(rngs("mask"), batch["id"].shape)),
        }
        return Loss(value / count, metrics, aux)

    def update_target(self, target, params, aux, step):
        return aux


def updated(experiment, ids, *, length, accumulate, number=0):
    """Target and metrics after update ``number`` on rows ``ids``."""
    cfg = replace(experiment, accumulate=accumulate, batch=len(ids), data__sequence=length)
    spec = plan.StepPlan(
        cfg,
        sharding.make_mesh((2, 2, 2)),
        Probe(length=length),
        optax.sgd(0.0),
        cast(Any, None),
        {},
    )
    params = {"w": jnp.ones(())}
    state = step.State(jnp.asarray(number, jnp.int32), params, optax.sgd(0.0).init(params), {})
    state, metrics = jax.jit(step.make_step(spec))(state, {"id": ids}, jax.random.key(0))
    return state.target, metrics


def test_micro_batches_hold_whole_runs(experiment):
    """The loss counts the pairs of neighbours that belong together: all of them, or it is wrong."""
    runs = np.array([0, 100, 40, 7], np.int32)[:, None] + np.arange(4, dtype=np.int32)
    _, metrics = updated(experiment, runs.ravel(), length=4, accumulate=2)
    assert metrics["whole"][0] == 4
    assert metrics["even"][0] == 2
    assert metrics["loss"][0] == runs.sum()


@pytest.mark.parametrize(("length", "accumulate"), [(1, 1), (1, 2), (2, 2)])
def test_the_target_hears_of_the_whole_batch_in_its_order(experiment, length, accumulate):
    """Whatever the micro-batches: arrays are summed, rows stand as they stood in the batch."""
    ids = np.random.default_rng(0).permutation(16).astype(np.int32)
    found, _ = updated(experiment, ids, length=length, accumulate=accumulate)
    assert found["total"] == ids.sum()
    np.testing.assert_array_equal(found["ids"].array, ids)
    np.testing.assert_array_equal(found["nested"][0].array, 2.0 * ids[:, None])


def test_every_update_and_micro_batch_draws_anew(experiment):
    ids = np.arange(8, dtype=np.int32)
    noise = [
        np.asarray(updated(experiment, ids, length=1, accumulate=2, number=n)[0]["noise"].array)
        for n in (0, 0, 1)
    ]
    np.testing.assert_array_equal(noise[0], noise[1])
    assert len(np.unique(np.concatenate(noise[1:]))) == 16


def test_batches_that_are_no_whole_runs_in_micro_batches_are_refused(experiment):
    mesh = sharding.make_mesh((2, 1, 4))
    plan.check_batch(replace(experiment, batch=16, data__sequence=4, accumulate=2), mesh)
    with pytest.raises(InputError, match=r"data.sequence: .* take a batch that is a multiple of 8"):
        plan.check_batch(replace(experiment, batch=12, data__sequence=4, accumulate=2), mesh)


def test_batches_that_do_not_divide_over_the_devices_are_refused(experiment):
    with pytest.raises(InputError, match=r"12 rows .* 8 devices .*take a multiple of 8"):
        plan.check_batch(replace(experiment, batch=12), sharding.make_mesh((8, 1, 1)))
