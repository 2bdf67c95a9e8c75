"""Views of an experiment for the terminal, ``jfreq config show|diff|params|shardings``.

``jfreq plan`` has the same options.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import jax

from jfreq import methods, param_paths, sharding
from jfreq.cli.options import Flat
from jfreq.config import Experiment
from jfreq.config_json import changes, to_dict
from jfreq.data.shards.metadata import ShardsInfo, SignalInfo
from jfreq.ranges import Count, Hertz, Range, Seconds, check, checked
from jfreq.types import SignalSpec


@checked
class View:
    """Options of ``jfreq config``: an experiment and the data that it is bound to."""

    experiment: Flat
    data: str | None = None
    """Shards to bind the experiment to; by default a clip of sound, or windows of motion sensors,
    as the method reads them."""
    seconds: Seconds | None = None
    """Length of the clip where no shards are given; by default 10 for sound, 10.24 for sensors."""
    rate: Hertz | None = None
    """Rate of the clip in Hz; by default 16000 for sound, 50 for sensors."""
    labels: Annotated[int, Range(0, 10_000_000, wording="0 or more")] = 10
    """Number of classes where no shards are given."""


@checked
class PlanView(View):
    """Options of ``jfreq plan``."""

    topology: str = ""
    """Hardware: v4, v5e, v5p or v6e with a slice (v5e:4x4), a GPU or cpu with a number (h100:8); or
    several of these that the network of a data centre joins (2xv5e:4x4)."""
    largest_batch: bool = False
    """Also find the largest batch that fits, which takes a few more compilations."""
    by_op: bool = False
    """Also print which parts of the network and kinds of operation move the most bytes."""
    json: Path | None = None
    """Also write the plan to this file."""
    search: bool = False
    """Try meshes, recomputation, attention and batches, and compile those that an estimate puts
    first; options that are given keep their values."""
    compile: Count | None = None
    """How many that fit a search compiles; by default 3."""
    keep: Path | None = None
    """A folder of what a search has compiled; the same command then goes on from there."""

    def __post_init__(self):
        for name in ("compile", "keep"):
            given = getattr(self, name) is not None
            check(self.search or not given, name, "has no effect without --search; add it")
        check(
            not (self.search and self.largest_batch),
            "largest-batch",
            "a search tries batches itself; leave one of the two out",
        )
        check(not (self.search and self.by_op), "by-op", "is of one plan; leave --search out")


def shards_info(view: View) -> ShardsInfo:
    """What training would read: cropped rows of the shards, or of 16-bit clips without shards."""
    from jfreq.data.loading.pipeline import cropped_info

    if view.data:
        from jfreq.data.shards.reader import open_shards

        info = open_shards(view.data, cache=view.experiment.data.cache).info
    else:
        info = ShardsInfo("clips", _signals(view), 0, labels=tuple(map(str, range(view.labels))))
    return cropped_info(info, view.experiment.data.crop_seconds)


def _signals(view: View) -> tuple[SignalInfo, ...]:
    """The signals of a clip where no shards are given."""

    def stored(s: SignalSpec) -> SignalInfo:
        dtype, scale = ("int16", 2.0**-15) if s.name == "audio" else ("float32", 1.0)
        return SignalInfo(s.name, s.rate, s.samples, s.channels, dtype, scale, s.mean, s.std)

    return tuple(map(stored, view.experiment.method.example_signals(view.seconds, view.rate)))


def bound(view: View) -> Experiment:
    """The experiment bound to the shards or the clip."""
    return methods.bind(view.experiment, shards_info(view).spec)


def abstract_params(experiment: Experiment) -> Any:
    """Shapes of the parameters of a bound experiment; nothing is computed."""
    return jax.eval_shape(experiment.method.init, jax.random.key(0))


def show(view: View, original: Experiment) -> str:
    """The whole bound config as the JSON of a run folder."""
    return json.dumps(to_dict(bound(view)), indent=1)


def diff(view: View, original: Experiment) -> str:
    """What the given options and the data change."""
    changed = changes(to_dict(original), to_dict(bound(view)))
    lines = [f"{name}: {before} -> {after}" for name, (before, after) in changed.items()]
    return "\n".join(lines) or "no difference"


def params(view: View, original: Experiment) -> str:
    """The path, count and shape of every parameter, and the total."""
    leaves = param_paths.flatten(abstract_params(bound(view)))
    width = max(map(len, leaves))
    lines = [f"{path:{width}} {leaf.size:>12,} {list(leaf.shape)}" for path, leaf in leaves.items()]
    total = sum(leaf.size for leaf in leaves.values())
    return "\n".join([*lines, f"{'total':{width}} {total:>12,}"])


def shardings(view: View, original: Experiment) -> str:
    """How every parameter is sharded over the mesh of the config; sizes of -1 count as 1."""
    mesh = view.experiment.mesh
    sizes = {axis: max(1, getattr(mesh, axis)) for axis in sharding.AXES}
    leaves = param_paths.flatten(abstract_params(bound(view)))
    sharding.check_rules(mesh.rules, leaves)
    width, lines, split, total = max(map(len, leaves)), [], 0, 0
    for path, leaf in leaves.items():
        spec = sharding.spec_for(path, leaf.shape, leaf.dtype.itemsize, sizes, mesh.rules)
        ways = math.prod(sizes[axis] for axis in spec if axis)
        split, total = split + leaf.size * (ways > 1), total + leaf.size
        lines.append(f"{path:{width}} {list(leaf.shape)!s:24} {tuple(spec) or 'replicated'}")
    text = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
    lines.append(f"mesh {text}: {split / total:.2%} of the parameters are sharded")
    dropped = sharding.dropped(leaves, sizes, mesh.rules)
    return "\n".join([*lines, dropped] if dropped else lines)


VIEWS: dict[str, Callable[[View, Experiment], str]] = {
    "show": show,
    "diff": diff,
    "params": params,
    "shardings": shardings,
}
