"""What a run starts from: initial parameters, and what the sources of ``init_from`` give."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Collection, Sequence

import jax

from jfreq import distributed, param_paths
from jfreq.config import Experiment, Part, Source, check
from jfreq.method import Method, Streams
from jfreq.ranges import shortlist
from jfreq.train import transfer
from jfreq.train.plan import StepPlan
from jfreq.train.state import State, Trained, init_state
from jfreq.types import Array, PyTree

Sources = Sequence[tuple[Source, Trained]]
"""Each source with what was read of it: its target where it asks for that, else parameters."""


def _silent(line: str) -> None:
    del line


def first_state(
    setup: StepPlan, sources: Sources = (), say: Callable[[str], None] = _silent
) -> State:
    """A fresh state with what ``sources`` give it, one after the other.

    Args:
        setup: The plan. Every device makes its own part of the state.
        sources: Runs and bundles that give some of the first values.
        say: Is called with a line for each source, which says what it gave.

    Raises:
        InputError: A source gives nothing, or a part that must be trained elsewhere is missing.
    """
    key = _stream(setup, "init")
    shardings = jax.tree.map(lambda leaf: leaf.sharding, setup.abstract)

    def fresh(key, params=None):
        averaged = bool(setup.abstract.average)
        return init_state(setup.method, setup.optimiser, key, params=params, averaged=averaged)

    parts = {source.into for source, _ in sources}
    state = jax.jit(fresh, out_shardings=shardings)(key)
    if "params" in parts:
        params, _ = _given(setup, sources, "params", distributed.to_host(state.params), say)
        state = jax.jit(fresh, out_shardings=shardings)(key, params)
    taken: set[str] = set()
    if "target" in parts:
        target, taken = _given(setup, sources, "target", distributed.to_host(state.target), say)
        state = state._replace(target=jax.jit(lambda t: t, out_shardings=shardings.target)(target))
    check_trained(setup.method, setup.abstract.target, taken)
    return state


def check_start(setup: StepPlan, sources: Sources) -> None:
    """Raises ``InputError`` where :func:`first_state` cannot start from ``sources``; by shapes
    alone, so that it is known before anything is computed or written."""
    _given(setup, sources, "params", setup.abstract.params, _silent)
    _, taken = _given(setup, sources, "target", setup.abstract.target, _silent)
    check_trained(setup.method, setup.abstract.target, taken)


def _given(
    setup: StepPlan, sources: Sources, part: Part, tree: PyTree, say: Callable[[str], None]
) -> tuple[PyTree, set[str]]:
    """``tree``, arrays or shapes, with what the sources of this part give one after the other, and
    the paths that were taken as they are."""
    taken: set[str] = set()
    for source, trained in sources:
        if source.into == part:
            values = _without_other_classes(source, trained, setup.experiment)
            tree, fit = transfer.fit_params(values, tree, source)
            taken.update(fit.taken)
            say(transfer.describe(source, fit))
    return tree, taken


def _without_other_classes(source: Source, trained: Trained, experiment: Experiment) -> PyTree:
    """The parameters of ``trained``, without the classifier if that has other classes, even
    equally many: a logit means nothing for another class. A source that names paths gets them."""
    if source.read or source.write or trained.experiment.method.labels == experiment.method.labels:
        return trained.params
    return {name: part for name, part in trained.params.items() if name != "head"}


def check_trained(method: Method, target: PyTree, taken: Collection[str]) -> None:
    """Raises ``InputError`` unless the paths ``taken`` from sources hold all of the target that
    ``method`` says was trained elsewhere: random weights are of no use as a teacher."""
    for part in method.trained_elsewhere:
        needed = [path for path in param_paths.flatten(target) if path.startswith(f"{part}/")]
        missing = [path for path in needed if path not in taken]
        below = posixpath.commonpath(missing or [""])
        check(
            not missing,
            "checkpoint.init_from",
            f"{len(missing)} of {len(needed)} arrays of the "
            f"{part} come from no run that trained it: {shortlist(missing, 3)}; add the source "
            f"that has them, RUN,write={below},into=target (with what=target,read=... for what "
            "that run keeps in its target)",
        )


def check_sources(experiment: Experiment) -> None:
    """Raises ``InputError`` unless every part that must be trained elsewhere has a source.

    It looks at the config alone, before anything is read or written.
    """
    into = [s.write for s in experiment.checkpoint.init_from if s.into == "target"]
    for part in experiment.method.trained_elsewhere:
        given = any(write in ("", part) or part.startswith(f"{write}/") for write in into)
        check(
            given,
            "checkpoint.init_from",
            f"{experiment.name} needs the {part} of a run that "
            f"trained it; give RUN,write={part},into=target",
        )


def _stream(setup: StepPlan, name: str) -> Array:
    """A key from the run's seed. Initial parameters and updates have streams of their own."""
    return Streams(jax.random.key(setup.experiment.seed))(name)


def run_key(setup: StepPlan, name: str = "loop") -> Array:
    """A key of a run, on every device of its mesh, for its updates or for what ``name`` says: what
    ``seed`` stands for."""
    sharding = setup.key_spec.sharding
    return jax.jit(lambda: _stream(setup, name), out_shardings=sharding)()
