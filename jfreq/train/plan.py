"""A run as shapes, before anything is computed: an experiment against its data and its mesh."""

from __future__ import annotations

import dataclasses

import jax
import optax
from jax.sharding import NamedSharding

from jfreq import methods, sharding
from jfreq.config import Experiment, check
from jfreq.data.loading.pipeline import Pipeline, open_pipeline
from jfreq.method import Loss, Method, Streams
from jfreq.train import optimizer
from jfreq.train.average import averages_weights
from jfreq.train.state import State, init_state
from jfreq.types import BatchSpec


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """Everything static of an update step: functions, shapes and placements; no data, no arrays."""

    experiment: Experiment
    mesh: jax.sharding.Mesh
    method: Method
    optimiser: optax.GradientTransformation
    abstract: State
    """Shapes, dtypes and shardings of the state."""
    batch_spec: BatchSpec
    """Shapes, dtypes and shardings of the global batch."""

    @property
    def key_spec(self) -> jax.ShapeDtypeStruct:
        """Shape, dtype and sharding of the run's key."""
        return _placed(jax.eval_shape(jax.random.key, 0), sharding.replicated(self.mesh))


@dataclasses.dataclass(frozen=True)
class RunPlan(StepPlan):
    """A step and the data it is fed from."""

    pipeline: Pipeline


def plan_run(experiment: Experiment) -> RunPlan:
    """Opens the data, binds the experiment to it and plans the state; raises ``InputError``."""
    methods.check_experiment(experiment)
    check(bool(experiment.data.path), "data", "no shards given; pass --data FOLDER")
    mesh = sharding.make_mesh(experiment.mesh.sizes, slices=experiment.mesh.slices)
    check_batch(experiment, mesh)
    index, count = sharding.process_shard(mesh)
    pipeline = open_pipeline(
        experiment.data,
        batch=experiment.batch,
        seed=experiment.seed,
        labelled=experiment.method.supervised,
        validation=experiment.validation,
        process_index=index,
        process_count=count,
    )
    experiment = methods.bind(experiment, pipeline.spec)
    method = experiment.method.calibrate(pipeline.sample())
    experiment = dataclasses.replace(experiment, method=method)
    spec = plan_step(experiment, pipeline.batch_spec, mesh)
    return RunPlan(**vars(spec), pipeline=pipeline)


def check_batch(experiment: Experiment, mesh: jax.sharding.Mesh) -> None:
    """Raises ``InputError`` unless every device gets whole rows of every micro-batch, and every
    micro-batch whole runs, as long as the method's sub-sequences."""
    ways = sharding.batch_ways(mesh)
    check(
        experiment.batch % (ways * experiment.accumulate) == 0,
        "batch",
        f"{experiment.batch} rows in {experiment.accumulate} micro-batches do not divide over "
        f"{ways} devices (mesh data x fsdp); take a multiple of {ways * experiment.accumulate}",
    )
    sequence, wanted = experiment.data.sequence, experiment.method.sequence
    unit = experiment.accumulate * sequence
    check(
        experiment.batch % unit == 0,
        "data.sequence",
        f"{experiment.batch} rows in {experiment.accumulate} micro-batches are not whole runs of "
        f"{sequence}; take a batch that is a multiple of {unit}",
    )
    check(
        wanted in (1, sequence),
        "data.sequence",
        f"is {sequence}, but the method reads sub-sequences of {wanted} rows; set it to "
        "method.sequence",
    )


def plan_step(experiment: Experiment, batch_spec: BatchSpec, mesh: jax.sharding.Mesh) -> StepPlan:
    """The step of a bound experiment on batches of ``batch_spec`` over ``mesh``, as shapes.

    The devices of the mesh need not exist. Raises ``InputError`` for what the loss refuses.
    """
    check_batch(experiment, mesh)
    method, key = experiment.method, jax.random.key(0)
    params = jax.eval_shape(method.init, key)
    rules = experiment.mesh.rules
    sharding.check_rules(rules, params)
    optimiser = optimizer.make(
        experiment.optim, steps=experiment.steps, params=params, stem=method.stem
    )
    averaged = averages_weights(experiment.average)
    plan = jax.eval_shape(
        lambda p: init_state(method, optimiser, key, params=p, averaged=averaged), params
    )
    # What a loss refuses is refused before anything is written.
    _check_loss(method, plan, batch_spec, Streams(key))
    rows = sharding.batch_sharding(mesh)
    return StepPlan(
        experiment,
        mesh,
        method,
        optimiser,
        abstract=jax.tree.map(_placed, plan, sharding.shardings(plan, mesh, rules)),
        batch_spec={name: _placed(leaf, rows) for name, leaf in batch_spec.items()},
    )


def _check_loss(method: Method, state: State, batch: BatchSpec, rngs: Streams) -> None:
    """Raises ``InputError`` for what the loss refuses, or where it does not return a ``Loss`` of
    one number whose metrics are pairs of sum and count, ``loss`` among them."""
    loss = jax.eval_shape(method.loss, state.params, state.target, batch, rngs, 0)
    name = f"{type(method).__name__}.loss"
    check(
        isinstance(loss, Loss),
        name,
        "returns no Loss; return summarise({'loss': ...}, batch) of jfreq.method, or a Loss(value, "
        "metrics, aux)",
    )
    shape = getattr(loss.value, "shape", None)
    check(
        shape == (),
        name,
        f"the value of its Loss has the shape {shape}; it is one number, the mean over the batch",
    )
    check(
        "loss" in loss.metrics,
        name,
        "the metrics of its Loss lack 'loss', a pair of sum and count",
    )


def _placed(leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
