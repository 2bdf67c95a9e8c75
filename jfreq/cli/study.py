"""``jfreq ablate`` and ``bench``: commands that compare and measure."""

from __future__ import annotations

import ast
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from jfreq.cli.parsing import print_note
from jfreq.ranges import Count, Repeats


def ablate(
    file: Positional[str],
    /,
    data: Path,
    workdir: Path,
    trainings: Repeats | None = None,
    have: tuple[Path, ...] = (),
    part: str | None = None,
    out: Path | None = None,
) -> None:
    """Runs a grid of changes to one experiment and compares them.

    Args:
        file: FILE.py that defines an Ablation, or FILE.py:NAME.
        data: labelled shards with folds; each training leaves one fold out.
        workdir: folder of the runs; the grid that is in it is continued.
        trainings: number of trainings of each cell; by default one for each fold.
        have: grid.json files whose results are reused.
        part: 2/4 does the second quarter of the trainings, then what nobody has begun; start one
            process for each part, on machines that share the workdir.
        out: write OUT.md, OUT.json and OUT.svg, in place of grid.md and grid.svg in the workdir.
    """
    from jfreq import staging
    from jfreq.ablate import grid
    from jfreq.ablate.plot import plot
    from jfreq.ablate.run import run
    from jfreq.ablate.table import Grid
    from jfreq.files import write_json, write_text
    from jfreq.parts import parse_part
    from jfreq.report import write_page

    chosen = None if part is None else parse_part(part)
    with staging.opened(workdir, "workdir", write=True) as folder:
        base = out or folder / "grid"

        def write(results: Grid) -> None:
            write_text(base.with_suffix(".md"), results.to_markdown())
            plot(results, base.with_suffix(".svg"))
            if out:
                write_json(out.with_suffix(".json"), results.to_dict())
            write_page(folder)

        with temporary_compilation_cache():
            results = run(grid.load(file), data, folder, count=trainings, have=have, part=chosen,
                          note=print_note, on_grid=write)  # fmt: skip
    print(results.to_markdown())


@contextlib.contextmanager
def temporary_compilation_cache() -> Iterator[None]:
    """Lets the trainings of a cell share programs, of which seed and fold are no part.

    A compilation cache that JAX has been configured with is used instead.
    """
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


def bench(
    names: Positional[tuple[str, ...]] = (),
    /,
    rounds: Count | None = None,
    isa: Literal["native", "avx2"] | None = None,
    out: Path | None = None,
) -> None:
    """Runs benches of experiments/bench by name, or all; without a name it lists them.

    Args:
        names: names of benches, or "all".
        rounds: number of timed rounds, where a bench has them.
        isa: avx2 keeps all contenders from AVX-512, where a bench compares products.
        out: folder of the results, where a bench has a choice; by default that of the bench.
    """
    from jfreq.config import close_match
    from jfreq.types import InputError

    known = benches()
    if not names:
        width = max(map(len, known), default=0)
        print("\n".join(f"{name:{width}}  {about}" for name, (_, about) in known.items()))
        return
    for name in names:
        if name != "all" and name not in known:
            raise InputError(
                f"no bench {name!r}{close_match(name, known)}; "
                f"there are: {', '.join(known) or 'none'}; all runs all of them"
            )
    values = {"--rounds": rounds, "--isa": isa, "--out": out}
    options = [word for k, v in values.items() if v is not None for word in (k, str(v))]
    # Every bench has a process, so that threads, caches and memory of another do not matter.
    codes = [
        subprocess.run([sys.executable, str(known[name][0]), *options]).returncode
        for name in (known if "all" in names else dict.fromkeys(names))
    ]
    if any(codes):
        raise SystemExit(next(code for code in codes if code))


def benches() -> dict[str, tuple[Path, str]]:
    """By name the scripts in ``bench`` of the recipe folders that define ``main``.

    Returns:
      The path and the first line of the docstring of each.
    """
    from jfreq import recipes

    scripts: dict[str, tuple[Path, str]] = {}
    for folder in recipes.folders():
        for path in sorted((folder / "bench").glob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
                about = (ast.get_docstring(tree) or "").partition("\n")[0]
                scripts.setdefault(path.stem, (path, about))
    return scripts
