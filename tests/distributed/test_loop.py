"""Meshes agree: losses, parameters, accumulation, and no gather of the batch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jfreq.config import Average, Mesh, Validation, replace
from jfreq.method import Method, summarise
from jfreq.monitoring.metrics_writer import read_metrics
from jfreq.train import checkpoint, initial_state, plan, step
from jfreq.train.loop import Feed, train


def losses_of(setup, steps=3):
    """Losses of the first steps of a planned run."""
    with jax.set_mesh(setup.mesh):
        state, found = initial_state.first_state(setup), []
        update, _ = step.compile_step(setup)
        key = initial_state.run_key(setup)
        feed = Feed(setup, 0)
        for _ in range(steps):
            state, metrics = update(state, next(feed), key)
            found.append(float(metrics["loss"][0] / metrics["loss"][1]))
    return np.array(found), jax.device_get(state.params)


class Regression(Method):
    """Least squares on the first 64 samples; nothing random."""

    def loss(self, params, target, batch, rngs, step):
        x = batch["audio"][:, :64, 0].astype(jnp.float32) / 2**15
        return summarise({"loss": jnp.square(x @ params["w"] - 1.0)}, batch)


def test_accumulation_is_the_same_mathematics(experiment):
    """Two micro-batches of a method without randomness in the loss: the same update."""
    setup = plan.plan_run(replace(experiment, mesh__data=4, mesh__fsdp=2))
    parts = plan.plan_run(
        replace(experiment, mesh__data=4, mesh__fsdp=1, mesh__tensor=2, accumulate=2)
    )
    rng = np.random.default_rng(0)
    batch = {
        "audio": rng.integers(-9999, 9999, (8, 64, 1)).astype(np.int16),
        "_mask": np.array([1, 1, 1, 0, 1, 1, 1, 1], np.float32),
    }
    params = {"w": jnp.asarray(rng.normal(size=64), jnp.float32)}
    results = []
    for each in (setup, parts):
        planned = dataclasses.replace(each, method=Regression(), optimiser=optax.sgd(1.0))
        state = step.State(jnp.zeros((), jnp.int32), params, optax.sgd(1.0).init(params), {})
        new, metrics = jax.jit(step.make_step(planned))(state, batch, jax.random.key(0))
        results.append((new.params["w"], metrics["loss"][0], metrics["loss"][1]))
    for a, b in zip(*results):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_meshes_agree(experiment):
    reference, params = losses_of(plan.plan_run(experiment))
    losses, other = losses_of(plan.plan_run(replace(experiment, mesh=Mesh(2, 2, 2))))
    np.testing.assert_allclose(losses, reference, atol=1e-3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-2), params, other)


def test_a_mean_of_snapshots_lies_where_its_parameters_lie(experiment, tmp_path):
    """On a mesh that splits parameters: the mean of what the checkpoints hold."""
    cfg = replace(
        experiment, mesh=Mesh(2, 2, 2), average=Average(every=0.5), steps=2,
        checkpoint__every=1,
    )  # fmt: skip
    found = train(cfg, tmp_path, quiet=True).params
    one, two = (checkpoint.load_run(tmp_path, step=s, what="last").params for s in (1, 2))
    mean = jax.tree.map(lambda a, b: (a + b) / 2, one, two)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), mean, found)
    setup = plan.plan_run(cfg)
    places = jax.tree.map(lambda x: x.sharding, (setup.abstract.params, setup.abstract.average))
    assert places[0] == places[1]["params"]


def test_validation_of_a_split_state_lowers_its_rate(experiment, tmp_path):
    """On a mesh that splits parameters; at this threshold no figure is better than the first."""
    cfg = replace(
        experiment,
        mesh=Mesh(2, 2, 2),
        validation=Validation(every=1, fraction=0.25),
        checkpoint__best="val/loss",
        optim__schedule="plateau",
        optim__warmup=0,
        optim__plateau_patience=0,
        optim__plateau_threshold=10.0,
        log__every=1,
        steps=3,
    )
    train(cfg, tmp_path, quiet=True)
    rows = read_metrics(tmp_path)
    assert [row["lr"] for row in rows] == pytest.approx([1e-3, 1e-3, 5e-4])
    assert np.isfinite([row["val/loss"] for row in rows]).all()


@pytest.mark.parametrize("mesh", [Mesh(8, 1, 1), Mesh(2, 4, 1)])
def test_no_gather_of_the_batch(experiment, mesh):
    """No collective of the compiled step has the global batch as a dimension."""
    setup = plan.plan_run(replace(experiment, mesh=mesh, batch=24, method__passes=2))
    with jax.set_mesh(setup.mesh):
        compiled, _ = step.compile_step(setup)
    text = compiled.as_text()
    assert text
    for line in text.splitlines():
        if any(f" {op}(" in line or f" {op}-start(" in line for op in ("all-gather", "all-to-all")):
            shape = line.split("=", 1)[1].split("{")[0]
            dims = shape.split("[", 1)[1].split("]")[0].split(",")
            assert not {"24", "48"} & set(dims), line
