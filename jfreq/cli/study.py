"""``jfreq ablate``: commands that compare."""

from __future__ import annotations

import sys
from pathlib import Path

from tyro.conf import Positional


def ablate(
    file: Positional[str],
    /,
    data: Path,
    workdir: Path,
    trainings: int | None = None,
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
    from jfreq.checkpoint import write_json
    from jfreq.export.bundle import write_atomically

    def note(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    found = run(grid.load(file), data, workdir, count=trainings, have=have, note=note)
    text = found.to_markdown()
    base = out or workdir / "grid"
    write_atomically(base.with_suffix(".md"), lambda f: f.write(text.encode()))
    plot(found, base.with_suffix(".svg"))
    if out:
        write_json(out.with_suffix(".json"), found.to_dict())
    print(text)
