"""A profile of a few updates, as XProf shows it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

FOLDER = "profile"


class Profiler:
    """Traces the updates ``steps``, counted from 1, into ``profile/`` of a run folder.

    Args:
        steps: A range; an empty one costs a comparison of two numbers for each update.
        workdir: The run folder.
        say: Is called with a line when the profile is written.
        paused: Is told how long starting and writing took.
    """

    def __init__(
        self,
        steps: range,
        workdir: Path,
        say: Callable[[str], None],
        paused: Callable[[float, str], None],
    ):
        self._steps, self._folder = steps, workdir / FOLDER
        self._say, self._paused = say, paused
        self._on = False

    def at(self, step: int, flush: Callable[[], None]) -> None:
        """Starts or ends the trace before update ``step``; ``flush`` waits for the one before."""
        if self._on != (step in self._steps):
            flush()
            began = time.perf_counter()
            with jax.transfer_guard("allow"):
                self._stop() if self._on else self._start()
            self._paused(time.perf_counter() - began, "profiling")

    def update(self, step: int) -> contextlib.AbstractContextManager[Any]:
        """Marks an update of the trace."""
        if not self._on:
            return contextlib.nullcontext()
        return jax.profiler.StepTraceAnnotation("update", step_num=step)

    def span(self, name: str) -> contextlib.AbstractContextManager[Any]:
        """Marks a part of what the host does."""
        return jax.profiler.TraceAnnotation(name) if self._on else contextlib.nullcontext()

    def close(self) -> None:
        """Ends a trace that an error has cut short."""
        if self._on:
            self._stop()

    def _start(self) -> None:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # every call of a Python function hides the updates
        jax.profiler.start_trace(str(self._folder), profiler_options=options)
        self._on = True

    def _stop(self) -> None:
        self._on = False
        jax.profiler.stop_trace()
        first, last = self._steps[0], self._steps[-1]
        self._say(
            f"profile of updates {first} to {last}: xprof --logdir {self._folder} (pip install "
            "xprof)"
        )
