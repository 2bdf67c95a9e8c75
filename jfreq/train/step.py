"""One update step: an experiment planned against its data and mesh, then compiled once."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding

from jfreq import distributed, methods, param_paths, sharding
from jfreq.config import Experiment, Part, Source, check
from jfreq.data.loading.pipeline import Pipeline, open_pipeline
from jfreq.method import Loss, Method, Metrics, Rows, Streams
from jfreq.train import checkpoint, optimizer
from jfreq.train.state import State, Trained, init_state
from jfreq.types import Array, Batch, BatchSpec, PyTree


@dataclasses.dataclass(frozen=True)
class StepSpec:
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
class Setup(StepSpec):
    """A step and the data it is fed from."""

    pipeline: Pipeline


def prepare(experiment: Experiment) -> Setup:
    """Opens the data, binds the experiment to it and plans the state; raises ``InputError``."""
    methods.check_experiment(experiment)
    check(bool(experiment.data.path), "data", "no shards given; pass --data FOLDER")
    mesh = sharding.make_mesh(experiment.mesh.sizes)
    check_batch(experiment, mesh)
    check_sources(experiment)
    index, count = sharding.batch_share(mesh)
    pipeline = open_pipeline(
        experiment.data,
        batch=experiment.batch,
        seed=experiment.seed,
        labelled=experiment.method.supervised,
        process_index=index,
        process_count=count,
    )
    experiment = methods.bind(experiment, pipeline.spec)
    method = experiment.method.calibrate(pipeline.sample())
    experiment = dataclasses.replace(experiment, method=method)
    spec = specify(experiment, pipeline.batch_spec, mesh)
    return Setup(**vars(spec), pipeline=pipeline)


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
    unit = experiment.accumulate * experiment.data.sequence
    check(experiment.batch % unit == 0, "data.sequence", f"{experiment.batch} rows in "
          f"{experiment.accumulate} micro-batches are not whole runs of "
          f"{experiment.data.sequence}; take a batch that is a multiple of {unit}")  # fmt: skip
    given = experiment.data.sequence
    wanted = experiment.method.sequence
    check(wanted in (1, given), "data.sequence", f"is {given}, but the method reads sub-sequences "
          f"of {wanted} rows; set it to method.sequence")  # fmt: skip


def specify(experiment: Experiment, batch_spec: BatchSpec, mesh: jax.sharding.Mesh) -> StepSpec:
    """The step of a bound experiment on batches of ``batch_spec`` over ``mesh``, as shapes.

    The devices of the mesh need not exist. Raises ``InputError`` for what the loss refuses.
    """
    check_batch(experiment, mesh)
    method, key = experiment.method, jax.random.key(0)
    params = jax.eval_shape(method.init, key)
    rules = experiment.mesh.rules
    sharding.check_rules(rules, params)
    optimiser = optimizer.make(experiment.optim, steps=experiment.steps, params=params)
    plan = jax.eval_shape(lambda key: init_state(method, optimiser, key), key)
    # What a loss refuses is refused before anything is written.
    jax.eval_shape(method.loss, plan.params, plan.target, batch_spec, Streams(key), 0)
    rows = sharding.batch_sharding(mesh)
    return StepSpec(
        experiment, mesh, method, optimiser,
        abstract=jax.tree.map(_placed, plan, sharding.shardings(plan, mesh, rules)),
        batch_spec={name: _placed(leaf, rows) for name, leaf in batch_spec.items()},
    )  # fmt: skip


def _placed(leaf: jax.ShapeDtypeStruct, place: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)


def _without_other_classes(source: Source, found: Trained, experiment: Experiment) -> PyTree:
    """What ``found`` gives; without its classifier where that tells other classes apart, even as
    many: a logit of a cat is no start for one of a car. Paths that the source names decide."""
    if source.read or source.write or found.experiment.method.labels == experiment.method.labels:
        return found.params
    return {name: part for name, part in found.params.items() if name != "head"}


# ------------------------------------------------------------------ the step


def make_step(setup: StepSpec) -> Callable[[State, Batch, Array], tuple[State, PyTree]]:
    """``(state, batch, key) -> (state, metrics)``: one update; metrics are ``(sum, count)`` pairs.
    ``key`` is the run's, the same at every step; one program serves every seed."""
    method, optimiser = setup.method, setup.optimiser
    parts = setup.experiment.accumulate
    length = setup.experiment.data.sequence
    rates = optimizer.rates(setup.experiment.optim, setup.experiment.steps)

    def grads_of(state: State, batch: Batch, rngs: Streams) -> tuple[PyTree, Metrics, PyTree]:
        def loss(params) -> tuple[Array, Loss]:
            found = method.loss(params, state.target, batch, rngs, state.step)
            return found.value, found

        (_, found), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        return grads, found.metrics, found.aux

    def accumulated(state: State, batch: Batch, rngs: Streams) -> tuple[PyTree, Metrics, PyTree]:
        # Micro-batch i takes runs i::parts of rows, so that every device keeps its own.
        def parted(v: Array) -> Array:
            runs = v.reshape(-1, parts, length, *v.shape[1:]).swapaxes(0, 1)
            return runs.reshape(parts, -1, *v.shape[1:])

        def joined(rows: Rows) -> Array:
            v = rows.array
            runs = v.reshape(parts, -1, length, *v.shape[2:]).swapaxes(0, 1)
            return runs.reshape(-1, *v.shape[2:])

        def part_of(i, rows) -> tuple[tuple, PyTree]:
            """What is summed over the parts, and what stands row by row."""
            grads, metrics, aux = grads_of(state, rows, rngs.at(i))
            grads = jax.tree.map(lambda g: g * metrics["loss"][1], grads)
            by_row = jax.tree.map(lambda x: x if _is_rows(x) else None, aux, is_leaf=_is_rows)
            summed = jax.tree.map(lambda x: None if _is_rows(x) else x, aux, is_leaf=_is_rows)
            return (grads, metrics, summed), by_row

        def body(carry, part):
            summed, by_row = part_of(*part)
            return jax.tree.map(jnp.add, carry, summed), by_row

        split = {k: parted(v) for k, v in batch.items()}
        first = {k: jax.ShapeDtypeStruct(v.shape[1:], v.dtype) for k, v in split.items()}
        shapes, _ = jax.eval_shape(part_of, 0, first)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        sums, by_row = jax.lax.scan(body, zeros, (jnp.arange(parts), split))
        grads, metrics, summed = sums
        total = jnp.maximum(metrics["loss"][1], 1.0)
        aux = jax.tree.map(
            lambda rows, x: Rows(joined(rows)) if _is_rows(rows) else x, by_row, summed,
            is_leaf=lambda x: x is None or _is_rows(x),
        )  # fmt: skip
        return jax.tree.map(lambda g: g / total, grads), metrics, aux

    def step(state: State, batch: Batch, key: Array):
        rngs = Streams(key).at(state.step)
        grads, metrics, aux = (grads_of if parts == 1 else accumulated)(state, batch, rngs)
        updates, opt = optimiser.update(grads, state.opt, state.params)
        params = optax.apply_updates(state.params, updates)
        target = method.update_target(state.target, params, aux, state.step)
        one = jnp.ones(())
        metrics = {
            **metrics,
            **{k: (jnp.asarray(rate(state.step), jnp.float32), one) for k, rate in rates.items()},
            "grad_norm": (optax.tree.norm(grads), one),
            "update_norm": (optax.tree.norm(updates), one),
            "param_norm": (optax.tree.norm(params), one),
        }
        return State(state.step + 1, params, opt, target), metrics

    return step


def _is_rows(x: Any) -> bool:
    return isinstance(x, Rows)


def lower_step(setup: StepSpec) -> jax.stages.Lowered:
    """The step lowered for the devices of its mesh, state donated; call it with the mesh set."""
    places = jax.tree.map(lambda leaf: leaf.sharding, setup.abstract)
    out = places, sharding.replicated(setup.mesh)
    step = jax.jit(make_step(setup), donate_argnums=0, out_shardings=out)
    return step.lower(setup.abstract, setup.batch_spec, setup.key_spec)


def compile_step(setup: StepSpec) -> tuple[jax.stages.Compiled, float]:
    """The step compiled ahead of time; with its compile time in seconds. Raises ``InputError``
    where a device has less memory than the step needs."""
    began = time.perf_counter()
    step = lower_step(setup).compile()
    took = time.perf_counter() - began
    found = step.memory_analysis()
    if found is not None:
        check_memory(sum(memory_of(found)))
    return step, took


def memory_of(stats: Any) -> tuple[int, int]:
    """Bytes of a compiled step on a device: arguments, and temporaries with what comes out anew;
    the donated state comes out where it went in. ``stats``: XLA's memory analysis."""
    new = stats.output_size_in_bytes - stats.alias_size_in_bytes
    return stats.argument_size_in_bytes, stats.temp_size_in_bytes + new


def check_memory(need: int, limit: int | None = None) -> None:
    """Raises ``InputError`` for a step of ``need`` bytes where a device has fewer than ``limit``;
    None: what the device says of itself, among CPUs an equal share of the machine's memory."""
    if limit is None:
        devices = jax.local_devices()
        limit = (devices[0].memory_stats() or {}).get("bytes_limit")
        if limit is None and devices[0].platform == "cpu":
            limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // len(devices)
    check(limit is None or need <= limit, "batch", f"a step needs {need / 2**30:.1f} GiB a device, "
          f"there are {(limit or 0) / 2**30:.1f}: take a smaller batch, more --accumulate, "
          "--method.encoder.remat full, or fewer --method.clones if it has them")  # fmt: skip


def _stream(setup: StepSpec, name: str) -> Array:
    """A stream of the run's seed: initial parameters and updates never share a key."""
    return Streams(jax.random.key(setup.experiment.seed))(name)


def run_key(setup: StepSpec) -> Array:
    """The key of a run, on every device of its mesh: what ``seed`` stands for."""
    place = setup.key_spec.sharding
    return jax.jit(lambda: _stream(setup, "loop"), out_shardings=place)()


Sources = Sequence[tuple[Source, Trained]]
"""What a run starts from; the target stands in place of the parameters where a source asks so."""


def first_state(
    setup: StepSpec, sources: Sources = (), say: Callable[[str], None] = lambda line: None
) -> State:
    """A fresh state, born sharded, with what ``sources`` give it one after the other.

    ``say`` is told what each gave. Raises ``InputError`` for a source that gives nothing.
    """
    key = _stream(setup, "init")
    places = jax.tree.map(lambda leaf: leaf.sharding, setup.abstract)

    def fresh(key, params=None):
        state = init_state(setup.method, setup.optimiser, key)
        if params is None:
            return state
        # The optimiser and the target look at the parameters that training starts from.
        return State(
            state.step, params, setup.optimiser.init(params), setup.method.init_target(params)
        )

    taken: set[str] = set()

    def given(part: Part, tree: PyTree) -> PyTree:
        tree = distributed.to_host(tree)
        for source, found in sources:
            if source.into == part:
                values = _without_other_classes(source, found, setup.experiment)
                tree, fit = checkpoint.fit_params(values, tree, source)
                taken.update(fit.taken if part == "target" else ())
                say(checkpoint.told(source, fit))
        return tree

    parts = {source.into for source, _ in sources}
    state = jax.jit(fresh, out_shardings=places)(key)
    if "params" in parts:
        state = jax.jit(fresh, out_shardings=places)(key, given("params", state.params))
    if "target" in parts:
        target = given("target", state.target)
        state = state._replace(target=jax.jit(lambda t: t, out_shardings=places.target)(target))
    check_trained(setup.method, setup.abstract.target, taken)
    return state


def check_trained(method: Method, target: PyTree, taken: Collection[str]) -> None:
    """Raises ``InputError`` unless the paths ``taken`` from sources hold all of the target that
    ``method`` says was trained elsewhere: a random teacher teaches nothing."""
    for part in method.trained_elsewhere:
        needed = [path for path in param_paths.flatten(target) if path.startswith(f"{part}/")]
        missing = [path for path in needed if path not in taken]
        check(not missing, "checkpoint.init_from", f"{len(missing)} of {len(needed)} arrays of the "
              f"{part} come from no run that trained it: {', '.join(missing[:3])}")  # fmt: skip


def check_sources(experiment: Experiment) -> None:
    """As :func:`check_trained`, before anything is read or written: a source for every part."""
    into = [s.write for s in experiment.checkpoint.init_from if s.into == "target"]
    for part in experiment.method.trained_elsewhere:
        given = any(write in ("", part) or part.startswith(f"{write}/") for write in into)
        check(given, "checkpoint.init_from", f"{experiment.name} needs the {part} of a run that "
              f"trained it; give RUN,write={part},into=target")  # fmt: skip
