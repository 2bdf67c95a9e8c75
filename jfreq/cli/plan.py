"""``jfreq plan``: the train step compiled for hardware that is not here."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from jfreq.cli.parsing import experiment_name, parse, print_note
from jfreq.ranges import InputError

if TYPE_CHECKING:
    from jfreq.cli.config_views import PlanView
    from jfreq.data.shards.metadata import ShardsInfo
    from jfreq.plan.topology import Topology


def plan(argv: Sequence[str]) -> None:
    """Compiles the train step for absent hardware: jfreq plan NAME --topology v5e:4x4 [...]"""
    name, rest = experiment_name("plan", argv)
    import tyro

    from jfreq import recipes
    from jfreq.cli import config_views
    from jfreq.plan import topology

    args = parse(
        config_views.PlanView,
        args=rest,
        prog=f"jfreq plan {name}",
        default=config_views.PlanView(recipes.load(name), topology=tyro.MISSING),
        description=f"Compiles the train step of {name} for hardware that is not here.",
    )
    target = topology.parse(args.topology)
    if args.largest_batch and not target.hardware.memory:
        raise InputError(
            f"largest-batch: the memory of {target.text} is not known; name a TPU or GPU"
        )
    topology.host(target)
    data = config_views.shards_info(args)
    if args.search:
        _search(name, rest, args, data, target)
    else:
        _one(name, args, data, target)


def _one(name: str, args: PlanView, data: ShardsInfo, target: Topology) -> None:
    """The step as the options say, and maybe with larger batches."""
    from jfreq.config import replace
    from jfreq.files import write_json
    from jfreq.plan import aot, table

    def compiled(batch: int) -> aot.Compiled:
        print(f"compiling batch {batch} for {target.text} ...", file=sys.stderr, flush=True)
        return aot.compile_for(replace(args.experiment, batch=batch), data, target)

    step = compiled(args.experiment.batch)
    largest = aot.largest_batch(step, compiled, unit=step.unit) if args.largest_batch else None
    if args.json:
        write_json(args.json, table.to_dict(step, largest))
    print(table.to_markdown(name, step, largest))
    if args.by_op:
        print(f"\n{table.by_op(step)}")


def _search(
    name: str, words: Sequence[str], args: PlanView, data: ShardsInfo, target: Topology
) -> None:
    """The best of what the options leave open."""
    from jfreq.files import write_json
    from jfreq.plan import search, search_table

    given = dict(_options(words))
    found = search.search(
        args.experiment,
        data,
        target,
        held={option.removeprefix("--").replace("-", "_") for option in given},
        compilations=args.compile or 3,
        keep=args.keep,
        note=print_note,
    )
    commands = []
    if found.compiled:
        commands = _commands(name, given, found.compiled[0][0].changes, target)
    if args.json:
        write_json(args.json, {**search.to_dict(found), "commands": commands})
    signal = data.spec.signal()
    print(search_table.to_markdown(name, found, target, signal.seconds, commands))


def _options(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Options as they were typed, each with its values."""
    option, values = "", []
    for word in words:
        if word.startswith("--"):
            if option:
                yield option, values
            option, equals, value = word.partition("=")
            values = [value] if equals else []
        else:
            values.append(word)
    if option:
        yield option, values


_OF_THE_PLAN = ("topology", "search", "compile", "keep", "json", "largest-batch")
_OF_ITS_DATA = ("data", "seconds", "rate", "labels")


def _commands(
    name: str, given: dict[str, list[str]], changes: Sequence[tuple[str, Any]], target: Topology
) -> list[str]:
    """Command lines that train the best, and that plan it in full."""
    best = {f"--{path.replace('_', '-')}": [str(value)] for path, value in changes}
    if target.slices > 1 and not target.tpu:
        best["--mesh.slices"] = [str(target.slices)]
    own = {k: v for k, v in given.items() if k.removeprefix("--") not in _OF_THE_PLAN}
    same = {k: v for k, v in own.items() if k.removeprefix("--") not in _OF_ITS_DATA}
    data = own.get("--data", ["SHARDS"])
    train = ["jfreq", "train", name, "--data", *data, "--workdir", "RUN", *_words(same | best)]
    again = ["jfreq", "plan", name, "--topology", target.text, *_words(own | best)]
    return [shlex.join(train), shlex.join(again)]


def _words(options: dict[str, list[str]]) -> list[str]:
    return [word for option, values in options.items() for word in (option, *values)]
