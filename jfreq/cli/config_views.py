"""Views of an experiment for the terminal: ``jfreq config show|diff|params|shardings``,
and what ``jfreq plan`` looks at."""

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
from jfreq.ranges import Hertz, Range, Seconds, checked


@checked
class View:
    """An experiment, the data it would see, and a mesh."""

    experiment: Flat
    data: str | None = None
    """Shards to bind the experiment to; else what the method reads by default: a clip of sound, or
    windows of motion sensors."""
    seconds: Seconds | None = None
    """Of the clip: 10 for sound, 10.24 for sensors."""
    rate: Hertz | None = None
    """Of the clip in Hz: 16000 for sound, 50 for sensors."""
    labels: Annotated[int, Range(0, 10_000_000, wording="0 or more")] = 10
    """Number of classes where no shards are given."""


@checked
class PlanView(View):
    """What ``jfreq plan`` asks for beside that."""

    topology: str = ""
    """Hardware: v4, v5e, v5p or v6e with a slice (v5e:4x4), a GPU or cpu with a number (h100:8)."""
    largest_batch: bool = False
    """Also find the largest batch that fits; takes a few more compilations."""
    json: Path | None = None
    """Also write the plan to this file."""


def described(view: View) -> ShardsInfo:
    """The rows that training would see: of the view's shards, or 16-bit clips of its length."""
    from jfreq.data.loading.pipeline import cropped_info

    if view.data:
        from jfreq.data.shards.reader import open_shards

        info = open_shards(view.data).info
    else:
        info = ShardsInfo("clips", _signals(view), 0, labels=tuple(map(str, range(view.labels))))
    return cropped_info(info, view.experiment.data.crop_seconds)


def _signals(view: View) -> tuple[SignalInfo, ...]:
    """What a clip without shards holds."""
    return tuple(
        SignalInfo(
            s.name,
            s.rate,
            s.samples,
            s.channels,
            mean=s.mean,
            std=s.std,
            **(
                {"dtype": "int16", "scale": 2.0**-15}
                if s.name == "audio"
                else {"dtype": "float32", "scale": 1.0}
            ),
        )
        for s in view.experiment.method.example_signals(view.seconds, view.rate)
    )


def bound(view: View) -> Experiment:
    """The experiment bound to the view's shards or clip length."""
    return methods.bind(view.experiment, described(view).spec)


def abstract_params(experiment: Experiment) -> Any:
    """Shapes of the parameters of a bound experiment; nothing is computed."""
    return jax.eval_shape(experiment.method.init, jax.random.key(0))


def show(view: View, original: Experiment) -> str:
    """The whole config, bound, as the JSON that a run folder holds."""
    return json.dumps(to_dict(bound(view)), indent=1)


def diff(view: View, original: Experiment) -> str:
    """What the given options and the data change."""
    found = changes(to_dict(original), to_dict(bound(view)))
    lines = [f"{name}: {before} -> {after}" for name, (before, after) in found.items()]
    return "\n".join(lines) or "no difference"


def params(view: View, original: Experiment) -> str:
    """Every parameter: path, shape, count."""
    leaves = param_paths.flatten(abstract_params(bound(view)))
    width = max(map(len, leaves))
    lines = [f"{path:{width}} {leaf.size:>12,} {list(leaf.shape)}" for path, leaf in leaves.items()]
    total = sum(leaf.size for leaf in leaves.values())
    return "\n".join([*lines, f"{'total':{width}} {total:>12,}"])


def shardings(view: View, original: Experiment) -> str:
    """Where every parameter lives on the mesh of the config; sizes of -1 count as 1."""
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
