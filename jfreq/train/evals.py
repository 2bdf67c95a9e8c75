"""An encoder measured while it trains: probes and spread of its clip vectors on labelled sets."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jfreq import distributed, sharding
from jfreq.config import Eval
from jfreq.kernels import cpu
from jfreq.method import Method
from jfreq.metrics import metrics_for
from jfreq.ops import collapse
from jfreq.train.plan import RunPlan, StepPlan
from jfreq.train.state import State
from jfreq.train.step import bytes_a_device, check_memory, memory_of
from jfreq.types import Array, Batch, BatchSpec, InputError, PyTree

MOST_FOLDS = 5
"""Probes are tested on at most so many folds of a set, the first ones."""
COST = 0.01
"""By default the rows of all measurements take this part of the arithmetic of all updates."""
MOST_TIMES = 50
"""By default a run is measured at most so many times."""
FIGURES = {"knn": ("knn",), "ridge": ("ridge",), "collapse": ("effective_rank", "std")}


class EvalPlan(NamedTuple):
    """A labelled set opened for a run: which rows are measured, and when."""

    cfg: Eval
    every: int
    method: Method
    """Encodes rows of this set, whatever their length."""
    shards: Any
    rows: np.ndarray
    """``[n]`` row numbers."""
    task: Any
    """A :class:`jfreq.evaluate.folds.Task`: labels of the rows, and the folds to test on."""
    batch: int
    """Rows that are encoded at a time."""
    note: str
    """What is measured and when, in a sentence."""

    @property
    def figures(self) -> list[str]:
        """Their names in metrics.jsonl."""
        return [f"eval/{self.cfg.name}/{x}" for kind in self.cfg.kinds for x in FIGURES[kind]]

    def is_due(self, step: int, steps: int) -> bool:
        """Whether to measure after update ``step`` of ``steps``."""
        return step % self.every == 0 or step == steps


def plan_evals(setup: RunPlan) -> list[EvalPlan]:
    """The sets of ``evals``, opened and divided, before anything is computed or written.

    Raises ``InputError`` for a set without labels, without the signals of the method, or without
    rows of enough classes on both sides of a fold.
    """
    return [_plan(setup, cfg) for cfg in setup.experiment.evals]


def _plan(setup: RunPlan, cfg: Eval) -> EvalPlan:
    from jfreq.evaluate.any_length import for_any_length
    from jfreq.evaluate.folds import labelled_rows

    shards, made = _with_folds(_open(setup, cfg))
    rows = spread(shards, labelled_rows(shards), cfg.rows)
    task = _task(cfg, shards, rows)
    method = for_any_length(setup.method, shards.spec)
    most = setup.experiment.batch // setup.experiment.accumulate
    ways = sharding.batch_ways(setup.mesh)
    batch = min(most, math.ceil(len(rows) / ways) * ways)
    steps = setup.experiment.steps
    every = cfg.every or default_every(setup, _encode_flops(setup, method, shards, len(rows)))
    times = steps // every + (steps % every > 0)
    note = (
        f"evals: {cfg.name}: {len(rows)} of {len(shards)} rows in "
        f"{len(task.folds)} fold{'s' * (len(task.folds) > 1)}{made}, every {every} updates, "
        f"{times} time{'s' * (times > 1)}"
    )
    return EvalPlan(cfg, every, method, shards, rows, task, batch, note)


def _open(setup: RunPlan, cfg: Eval) -> Any:
    """The shards of a set, which have labels and the signals that the method reads."""
    from jfreq.data.shards.reader import open_shards
    from jfreq.evaluate.folds import check_signals, labelled_rows

    try:
        shards = open_shards((cfg.data,))
        check_signals(setup.method.signals, shards)
        labelled_rows(shards)
    except InputError as error:
        raise InputError(f"evals: {cfg.name},data={cfg.data}: {error}") from None
    return shards


def _task(cfg: Eval, shards: Any, rows: np.ndarray) -> Any:
    """The labels of the rows, and the folds to test on."""
    from jfreq.evaluate.folds import divide, labelled_rows, make_task

    try:
        return make_task(shards, rows, divide(shards, rows)[:MOST_FOLDS])
    except InputError as error:
        all_rows = len(labelled_rows(shards))
        few = f"; only {len(rows)} of its {all_rows} rows are read, raise rows"
        raise InputError(f"evals: {cfg.name}: {error}{few * (len(rows) < all_rows)}") from None


def _with_folds(shards: Any) -> tuple[Any, str]:
    """The shards, with folds of their own making where they have neither folds nor splits, and
    what was made, in words."""
    from jfreq.data.fold_assignment import recordings, refolded, suggested_folds

    if len(shards.info.folds) > 1 or {"train", "test"} <= set(shards.info.splits):
        return shards, ""
    subjects = len(set(shards.column("subject")) - {""})
    shards, _ = refolded(shards, suggested_folds(subjects, len(np.unique(recordings(shards)))))
    return shards, f" of whole {shards.info.fold_by}s, made because the set has none"


def spread(shards: Any, rows: np.ndarray, most: int) -> np.ndarray:
    """At most ``most`` of ``rows`` ``[n]``, ascending: every fold, split and class keeps its share,
    in which they are spread evenly."""
    if len(rows) <= most:
        return rows
    label = shards.column("label")[rows]
    keys = [rows, label if label.ndim == 1 else label.argmax(1)]
    keys += [np.unique(shards.column(name)[rows], return_inverse=True)[1]
             for name in ("split", "fold")]  # fmt: skip
    order = rows[np.lexsort(keys)]
    return np.sort(order[np.linspace(0, len(rows) - 1, most).round().astype(int)])


def default_every(setup: StepPlan, flops: int) -> int:
    """After how many updates to measure again, where encoding the rows takes ``flops``."""
    from jfreq.monitoring.throughput import step_flops

    steps = setup.experiment.steps
    wanted = max(flops / (COST * max(1, step_flops(setup))), steps / MOST_TIMES, 1)
    return min(steps, math.ceil(wanted))


def _encode_flops(setup: StepPlan, method: Method, shards: Any, rows: int) -> int:
    from jfreq.monitoring import flops

    spec = {k: jax.ShapeDtypeStruct(x.shape, x.dtype) for k, x in _inputs(shards, 1).items()}
    return rows * flops.count(method.encode, setup.abstract.params, spec)


def _inputs(shards: Any, batch: int) -> BatchSpec:
    """What the encoder reads of a batch, as shapes."""
    from jfreq.data.loading.pipeline import batch_spec
    from jfreq.evaluate.features import NOT_SIGNALS

    spec = batch_spec(shards.info, batch)
    return {name: leaf for name, leaf in spec.items() if name not in NOT_SIGNALS}


class Evaluator:
    """Measures states of one run on one set; its programs are compiled here, once.

    Raises ``InputError`` where a device has less memory than encoding needs beside the state.
    """

    def __init__(self, setup: RunPlan, plan: EvalPlan):
        self.plan, self._setup = plan, setup
        whole, rows = sharding.replicated(setup.mesh), sharding.batch_sharding(setup.mesh)
        spec = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=rows)
            for name, leaf in _inputs(plan.shards, plan.batch).items()
        }

        def encode(params: PyTree, batch: Batch) -> Array:
            return plan.method.encode(params, batch).clip.astype(jnp.float32)

        def join(parts: Sequence[Array]) -> tuple[Array, Array, Array]:
            x = jnp.concatenate(parts)[: len(plan.rows)]
            unit = x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-12)
            return x, collapse.rankme(x), collapse.mean_std(unit) * math.sqrt(x.shape[1])

        params = setup.abstract.params
        lowered = jax.jit(encode, out_shardings=whole).lower(params, spec)
        self._encode = lowered.compile(compiler_options=cpu.compiler_options())
        if (memory := self._encode.memory_analysis()) is not None:
            beside = bytes_a_device(setup.abstract) - bytes_a_device(params)
            check_memory(
                beside + sum(memory_of(memory)),
                what=f"evals: {plan.cfg.name}: encoding {plan.batch} rows beside the state",
                advice="take a smaller batch or more --accumulate, which bound the rows",
            )
        clip = jax.eval_shape(encode, params, spec)
        part = jax.ShapeDtypeStruct(clip.shape, clip.dtype, sharding=whole)
        parts = [part] * math.ceil(len(plan.rows) / plan.batch)
        self._join = jax.jit(join, out_shardings=whole).lower(parts).compile()
        if distributed.is_chief():  # libraries that probes load when first used
            probes(plan, np.random.default_rng(0).normal(size=(len(plan.rows), clip.shape[1])))

    def __call__(self, state: State) -> dict[str, float]:
        """The figures by their names in metrics.jsonl, and ``seconds``; the same in every
        process."""
        began = time.perf_counter()
        x, rank, std = jax.device_get(self._join(self._clips(state)))
        spreads = {"effective_rank": float(rank), "std": float(std)}

        def figures() -> dict[str, float]:
            found = {**probes(self.plan, x), **spreads, "seconds": time.perf_counter() - began}
            names = [*self.plan.figures, f"eval/{self.plan.cfg.name}/seconds"]
            return {name: found[name.rpartition("/")[2]] for name in names}

        return distributed.from_chief(figures)

    def _clips(self, state: State) -> list[Array]:
        """``[batch d]`` clip vectors of every batch, on every device; not waited for."""
        from jfreq.data.loading.pipeline import eval_batches
        from jfreq.evaluate.features import NOT_SIGNALS

        plan, mesh = self.plan, self._setup.mesh
        part = sharding.process_shard(mesh)
        found = []
        for batch in eval_batches(plan.shards, plan.rows, batch=plan.batch, part=part):
            inputs = {name: x for name, x in batch.items() if name not in NOT_SIGNALS}
            found.append(self._encode(state.params, sharding.to_global(inputs, mesh)))
        return found


def in_words(figures: Mapping[str, float]) -> str:
    """``eval/esc10: knn 0.412, ridge 0.503 (0.8 s)``."""
    name, _, _ = next(iter(figures)).rpartition("/")
    values = {key.rpartition("/")[2]: value for key, value in figures.items()}
    seconds = values.pop("seconds", 0.0)
    return f"{name}: {', '.join(f'{k} {v:.3g}' for k, v in values.items())} ({seconds:.1f} s)"


def probes(plan: EvalPlan, x: np.ndarray) -> dict[str, float]:
    """Main metric of each probe on the features ``x`` ``[n d]``, the mean over the folds; NaN
    where a feature is not finite."""
    from threadpoolctl import threadpool_limits

    kinds = [kind for kind in ("knn", "ridge") if kind in plan.cfg.kinds]
    if not np.isfinite(x).all():
        return dict.fromkeys(kinds, math.nan)
    with threadpool_limits(1, user_api="blas"):
        return {
            kind: float(np.mean([_score(kind, plan, x, fold) for fold in plan.task.folds]))
            for kind in kinds
        }


def _score(kind: str, plan: EvalPlan, x: np.ndarray, fold: Any) -> float:
    from jfreq.evaluate.knn import knn_scores, one_hot
    from jfreq.evaluate.probe import fit_ridge_left_out, standardised

    label, classes = plan.task.label, plan.task.classes
    train, test = standardised(x[fold.train], x[fold.test])
    if kind == "knn":
        scores = knn_scores(train, label[fold.train], test, classes=classes)
    else:
        scores = fit_ridge_left_out(train, one_hot(label[fold.train], classes))[0](test)
    return next(iter(metrics_for(label).values()))(label[fold.test], scores)
