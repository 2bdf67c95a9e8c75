"""``jfreq ablate``, ``plan`` and ``bench``: commands that compare and foresee."""

from __future__ import annotations

import ast
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tyro.conf import Positional

from jfreq.cli.common import experiment_name, parse
from jfreq.ranges import Count, Repeats


def ablate(
    file: Positional[str],
    /,
    data: Path,
    workdir: Path,
    trainings: Repeats | None = None,
    have: tuple[Path, ...] = (),
    out: Path | None = None,
) -> None:
    """Runs a grid of changes to one experiment and compares them.

    Args:
        file: FILE.py that defines an Ablation, or FILE.py:NAME.
        data: labelled shards with folds; each training leaves one fold out.
        workdir: folder of the runs; a grid that lies there is continued.
        trainings: of each cell; by default one for each fold.
        have: grid.json files with results to take over.
        out: also write OUT.md, OUT.json and OUT.svg.
    """
    from jfreq.ablate import grid
    from jfreq.ablate.plot import plot
    from jfreq.ablate.run import run
    from jfreq.files import write_atomically, write_json

    def note(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    with compiled_once():
        found = run(grid.load(file), data, workdir, count=trainings, have=have, note=note)
    text = found.to_markdown()
    base = out or workdir / "grid"
    write_atomically(base.with_suffix(".md"), lambda f: f.write(text.encode()))
    plot(found, base.with_suffix(".svg"))
    if out:
        write_json(out.with_suffix(".json"), found.to_dict())
    print(text)


@contextlib.contextmanager
def compiled_once() -> Iterator[None]:
    """Keeps programs for the trainings that follow: those of a cell differ in seed and fold, which
    are no part of a program. A cache that the environment asks for stays as it is."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    if jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        yield
        return
    with tempfile.TemporaryDirectory(prefix="jfreq-compiled-") as folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        compilation_cache.reset_cache()
        try:
            yield
        finally:
            jax.config.update("jax_compilation_cache_dir", None)
            compilation_cache.reset_cache()


def plan(argv: Sequence[str]) -> None:
    """Compiles the train step for absent hardware: jfreq plan NAME --topology v5e:4x4 [...]"""
    name, rest = experiment_name("plan", argv)
    import tyro

    from jfreq import recipes
    from jfreq.cli import config_views
    from jfreq.config import replace
    from jfreq.files import write_json
    from jfreq.plan import aot, table, topology
    from jfreq.types import InputError

    args = parse(
        config_views.PlanView,
        args=rest,
        prog=f"jfreq plan {name}",
        default=config_views.PlanView(recipes.load(name), topology=tyro.MISSING),
        description=f"Compiles the train step of {name} for hardware that is not here.",
    )
    place = topology.parse(args.topology)
    if args.largest_batch and not place.hardware.memory:
        raise InputError(
            f"largest-batch: the memory of {place.text} is not known; name a TPU or GPU"
        )
    topology.host(place)
    data = config_views.described(args)

    def compiled(batch: int) -> aot.Compiled:
        print(f"compiling batch {batch} for {place.text} ...", file=sys.stderr, flush=True)
        return aot.compile_for(replace(args.experiment, batch=batch), data, place)

    found = compiled(args.experiment.batch)
    largest = aot.largest_batch(found, compiled, unit=found.unit) if args.largest_batch else None
    if args.json:
        write_json(args.json, table.to_dict(found, largest))
    print(table.to_markdown(name, found, largest))


def bench(
    names: Positional[tuple[str, ...]] = (), /, rounds: Count | None = None, out: Path | None = None
) -> None:
    """Runs benches of experiments/bench by name, or all; lists them without a name.

    Args:
        names: which, or "all".
        rounds: timed rounds, where a bench has them.
        out: folder of the results, where a bench lets it be chosen; by default its own.
    """
    from jfreq.config import close_match
    from jfreq.types import InputError

    known = benches()
    if not names:
        width = max(map(len, known), default=0)
        print("\n".join(f"{name:{width}}  {about(path)}" for name, path in known.items()))
        return
    for name in names:
        if name != "all" and name not in known:
            raise InputError(
                f"no bench {name!r}{close_match(name, known)}; "
                f"known: {', '.join(known) or 'none'}, all"
            )
    given = {"--rounds": rounds, "--out": out}
    options = [word for k, v in given.items() if v is not None for word in (k, str(v))]
    # A process for each: threads, caches and memory of one are not those of the next.
    codes = [
        subprocess.run([sys.executable, str(known[name]), *options]).returncode
        for name in (known if "all" in names else dict.fromkeys(names))
    ]
    if any(codes):
        raise SystemExit(next(code for code in codes if code))


def benches() -> dict[str, Path]:
    """Scripts by name: the files under ``bench`` of the recipe folders that have a ``main``."""
    from jfreq import recipes

    found: dict[str, Path] = {}
    for folder in recipes.folders():
        for path in sorted((folder / "bench").glob("*.py")):
            body = ast.parse(path.read_text(encoding="utf-8")).body
            if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in body):
                found.setdefault(path.stem, path)
    return found


def about(path: Path) -> str:
    """First line of a script's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]
