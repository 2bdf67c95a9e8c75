"""``jfreq report``: a run or a grid as one HTML page."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from jfreq.cli.parsing import progress_bars
from jfreq.ranges import Count, Whole


def report(
    folder: Positional[Path],
    /,
    data: tuple[Path, ...] = (),
    rows: Whole = 1000,
    step: Count | None = None,
    out: Path | None = None,
) -> None:
    """Writes one self-contained HTML page about a run or an ablation.

    Args:
        folder: run folder, or the --workdir of jfreq ablate.
        data: shards for examples, masks and a quick probe of the blocks; by default those that
            the run was trained on, if they still exist.
        rows: largest number of rows for the quick probe; 0 leaves it out.
        step: show the checkpoint of this step, not what the run ends in.
        out: file of the page; by default report.html in the folder.
    """
    from jfreq.report import write_page

    print(write_page(folder, data=data, rows=rows, step=step, out=out, progress=progress_bars()))
