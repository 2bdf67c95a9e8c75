"""What happens between two updates of a run: it is measured on rows that are held out, snapshots
are taken, the state is saved."""

from __future__ import annotations

import dataclasses
import functools
import platform
import time
from collections.abc import Callable
from typing import Any

import jax

import jfreq
from jfreq.config_json import to_dict
from jfreq.train.average import averages_weights, snapshot_steps, with_snapshot
from jfreq.train.checkpoint import Checkpoints
from jfreq.train.optimizer import at_plateau, follows_plateau
from jfreq.train.plan import RunPlan
from jfreq.train.state import State, Trained
from jfreq.train.validation import Validator, higher_is_better
from jfreq.train.watch import Watch
from jfreq.types import PyTree

OnSnapshot = Callable[[Trained], None]
"""Is called in every process, with parameters that lie on the devices."""


@dataclasses.dataclass(frozen=True)
class Hooks:
    """What the loop does when it is asked to."""

    flush: Callable[[], None]
    """Waits for the metrics of the last update, which must be finite before training continues."""
    write: Callable[[dict[str, Any]], None]
    """Writes a row of metrics, which has ``step``."""
    say: Callable[[str], None]
    paused: Callable[[float], None]
    """Is told for how many seconds no update was computed."""
    on_snapshot: OnSnapshot | None = None


class Milestones:
    """Called after an update, with the state and how many updates it has seen.

    ``watch`` is what a run that goes on remembers of its validation.
    """

    def __init__(self, setup: RunPlan, saves: Checkpoints, hooks: Hooks, watch: Watch):
        cfg = setup.experiment.validation
        self._setup, self._saves, self._hooks, self._watch = setup, saves, hooks, watch
        self._validator = Validator(setup) if cfg.every is not None else None
        if cfg.keep_best:
            saves.kept.best = watch.best_step
        self._snapshots = frozenset(
            snapshot_steps(setup.experiment.average, setup.experiment.steps)
        )

    def __call__(self, state: State, step: int, *, ends: bool = False) -> State:
        """The state to go on with. It is saved where the time has come, where it is the best so
        far and that is kept, and where the run ``ends``."""
        experiment = self._setup.experiment
        validates = step % (experiment.validation.every or step + 1) == 0
        if validates or step in self._snapshots:
            self._hooks.flush()
            began = time.perf_counter()
            with jax.transfer_guard("allow"):
                state = self._snapshot(state, step) if step in self._snapshots else state
                state = self._validated(state, step) if validates else state
            self._hooks.paused(time.perf_counter() - began)
        best = experiment.validation.keep_best and self._watch.best_step == step
        if best:
            self._saves.kept.best = step
        if ends or best or step % experiment.checkpoint.every == 0:
            self._hooks.flush()
            self._saves.save(state, step, self._meta(step))
        return state

    def _validated(self, state: State, step: int) -> State:
        """The state after its validation, which may lower its learning rate."""
        assert self._validator is not None
        experiment, before = self._setup.experiment, self._watch
        metric, values = experiment.validation.metric, self._validator(state)
        self._hooks.write({"step": step, **{f"val/{name}": x for name, x in values.items()}})
        higher = higher_is_better(self._setup.method, metric)
        self._watch = before.after(values[metric], step, experiment.optim, higher=higher)
        if follows_plateau(experiment.optim) and self._watch.factor != before.factor:
            factor = self._watch.factor
            self._hooks.say(f"step {step}: {metric} stands still, learning rate times {factor:g}")
            state = state._replace(opt=at_plateau(state.opt, factor))
        return state

    def _snapshot(self, state: State, step: int) -> State:
        if averages_weights(self._setup.experiment.average):
            return state._replace(average=self._add(state.average, state.params))
        assert self._hooks.on_snapshot is not None
        self._hooks.on_snapshot(Trained(self._setup.experiment, state.params, step))
        return state

    @functools.cached_property
    def _add(self) -> Callable[[PyTree, PyTree], PyTree]:
        places = jax.tree.map(lambda leaf: leaf.sharding, self._setup.abstract.average)
        return jax.jit(with_snapshot, donate_argnums=0, out_shardings=places)

    def _meta(self, step: int) -> dict[str, Any]:
        """What is saved beside the state of ``step``."""
        python = platform.python_version()
        return {
            "step": step,
            **({} if self._validator is None else {"watch": self._watch._asdict()}),
            "manifest": self._setup.pipeline.manifest_hash,
            "config": to_dict(self._setup.experiment),
            "versions": {"jfreq": jfreq.__version__, "jax": jax.__version__, "python": python},
        }
