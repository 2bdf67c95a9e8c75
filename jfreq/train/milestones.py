"""What happens between two updates of a run: it is measured on rows that are held out and on
labelled sets, snapshots are taken, the state is saved."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

import jfreq
from jfreq.config_json import to_dict
from jfreq.train.average import averages_weights, snapshot_steps, with_snapshot
from jfreq.train.checkpoint import Checkpoints
from jfreq.train.evals import EvalPlan, Evaluator, in_words
from jfreq.train.keeping import SaveClock, is_due
from jfreq.train.optimizer import at_plateau, follows_plateau
from jfreq.train.plan import RunPlan
from jfreq.train.state import State, Trained
from jfreq.train.validation import Validator
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
    paused: Callable[[float, str], None]
    """Is told for how many seconds no update was computed, and what was done."""
    on_snapshot: OnSnapshot | None = None


class Milestones:
    """Called after an update, with the state and how many updates it has seen.

    Args:
        evals: The labelled sets to measure on.
        higher: The figures that may be watched, and whether a higher value is better.
        watch: What a run that goes on remembers of its figures.
        start: The updates before this start.
    """

    def __init__(
        self,
        setup: RunPlan,
        saves: Checkpoints,
        hooks: Hooks,
        watch: Watch,
        *,
        evals: Sequence[EvalPlan] = (),
        higher: Mapping[str, bool | None],
        start: int = 0,
    ):
        experiment = setup.experiment
        self._setup, self._saves, self._hooks, self._higher = setup, saves, hooks, higher
        self._best = experiment.checkpoint.best
        self._plateau = None
        if follows_plateau(experiment.optim):
            self._plateau = experiment.optim.plateau_figure
        self._watch = watch.of(self._best)
        wanted = [x.removeprefix("val/") for x in (self._best, self._plateau) if x is not None]
        wanted = [name for name in wanted if "/" not in name]
        self._validator = None
        if experiment.validation.every is not None:
            self._validator = Validator(setup, wanted)
        self._evals = [Evaluator(setup, plan) for plan in evals]
        saves.kept.best = self._watch.best_step
        self._clock = SaveClock(experiment.checkpoint.minutes, start)
        self._snapshots = frozenset(
            snapshot_steps(setup.experiment.average, setup.experiment.steps)
        )

    def __call__(self, state: State, step: int, *, ends: bool = False) -> State:
        """The state to go on with. It is saved where the time has come, where it is the best so
        far and that is kept, and where the run ``ends``."""
        experiment = self._setup.experiment
        validates = step % (experiment.validation.every or step + 1) == 0
        due = [each for each in self._evals if each.plan.is_due(step, experiment.steps)]
        if step in self._snapshots:
            with self._pause("taking snapshots"):
                state = self._snapshot(state, step)
        if validates or due:
            with self._pause("measuring"):
                state = self._measured(state, step, validates, due)
        best = self._best is not None and self._watch.best_step == step
        if best:
            self._saves.kept.best = step
        if ends or best or is_due(step, experiment.checkpoint) or self._time_is_up(step):
            self.save(state, step)
        return state

    def save(self, state: State, step: int) -> None:
        with self._pause("saving"):
            self._saves.save(state, step, self._meta(step))
        self._clock.saved(step)

    def _time_is_up(self, step: int) -> bool:
        if not self._clock.asks(step):
            return False
        with self._pause("saving"):
            return self._clock.is_up(step)

    @contextlib.contextmanager
    def _pause(self, doing: str) -> Iterator[None]:
        """Waits for the update before, and leaves what is done inside out of the step time."""
        self._hooks.flush()
        began = time.perf_counter()
        with jax.transfer_guard("allow"):
            yield
        self._hooks.paused(time.perf_counter() - began, doing)

    def _measured(
        self, state: State, step: int, validates: bool, due: Sequence[Evaluator]
    ) -> State:
        """The state after it was measured, which may lower its learning rate."""
        found: dict[str, float] = {}
        if validates and self._validator is not None:
            found |= {f"val/{name}": value for name, value in self._validator(state).items()}
        for each in due:
            found |= (figures := each(state))
            self._hooks.say(f"step {step}: {in_words(figures)}")
        self._hooks.write({"step": step, **found})
        if self._best in found:
            higher = bool(self._higher[self._best])
            self._watch = self._watch.with_best(found[self._best], step, higher=higher)
        if self._plateau in found:
            before, optim = self._watch.factor, self._setup.experiment.optim
            value, higher = found[self._plateau], bool(self._higher[self._plateau])
            self._watch = self._watch.with_level(value, optim, higher=higher)
            if self._watch.factor != before:
                factor = self._watch.factor
                self._hooks.say(
                    f"step {step}: {self._plateau} stands still, learning rate times {factor:g}"
                )
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
            "time": time.time(),
            "watch": self._watch._asdict(),
            "manifest": self._setup.pipeline.manifest_hash,
            "config": to_dict(self._setup.experiment),
            "versions": {"jfreq": jfreq.__version__, "jax": jax.__version__, "python": python},
        }
