"""What happens between two updates of a run: snapshots are taken, the state is saved."""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable
from typing import Any

import jax

import jfreq
from jfreq.config_json import to_dict
from jfreq.train.average import averages_weights, snapshot_steps, with_snapshot
from jfreq.train.checkpoint import Checkpoints
from jfreq.train.plan import RunPlan
from jfreq.train.state import State
from jfreq.types import PyTree

OnSnapshot = Callable[[PyTree, int], None]
"""Is called with the parameters on the devices, in every process, and the updates done so far."""


class Milestones:
    """Called after an update, with the state and how many updates it has seen.

    ``flush`` waits for the metrics of the last update, which must be finite before anything is
    kept of it.
    """

    def __init__(
        self,
        setup: RunPlan,
        saves: Checkpoints,
        flush: Callable[[], None],
        on_snapshot: OnSnapshot | None = None,
    ):
        self._setup, self._saves, self._flush = setup, saves, flush
        self._snapshots = frozenset(
            snapshot_steps(setup.experiment.average, setup.experiment.steps)
        )
        self._on_snapshot = on_snapshot

    def __call__(self, state: State, step: int, *, ends: bool = False) -> State:
        """The state to go on with; it is saved where the time has come or the run ``ends``."""
        if step in self._snapshots:
            self._flush()
            state = self._snapshot(state, step)
        if ends or step % self._setup.experiment.checkpoint.every == 0:
            self._flush()
            self._saves.save(state, step, self._meta(step))
        return state

    def _snapshot(self, state: State, step: int) -> State:
        if averages_weights(self._setup.experiment.average):
            return state._replace(average=self._add(state.average, state.params))
        assert self._on_snapshot is not None
        with jax.transfer_guard("allow"):
            self._on_snapshot(state.params, step)
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
            "manifest": self._setup.pipeline.manifest_hash,
            "config": to_dict(self._setup.experiment),
            "versions": {"jfreq": jfreq.__version__, "jax": jax.__version__, "python": python},
        }
