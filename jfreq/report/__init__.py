"""Writes one self-contained HTML page about a run or an ablation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from jfreq.types import InputError

FILE = "report.html"


def write_page(
    folder: str | Path,
    *,
    data: Sequence[str | Path] = (),
    rows: int = 1000,
    step: int | None = None,
    out: str | Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Path | str:
    """Writes the page of a run or of an ablation.

    Args:
      folder: of the run or of the ablation; a path or a URL, s3:// or gs://, as ``out``.
      data, rows, step, progress: as :func:`jfreq.report.run.run_page`.
      out: the file; by default ``report.html`` in the folder.

    Returns:
      The file.

    Raises:
      InputError: for a folder that is neither, and for shards that do not fit the run.
    """
    from jfreq import staging
    from jfreq.buckets import folder_or_url, url_of
    from jfreq.export.bundle import trained_folder
    from jfreq.report.collect import is_grid
    from jfreq.report.grid import grid_page
    from jfreq.report.run import run_page

    target = folder_or_url(out, "out") if out else None
    with staging.opened(folder, "folder") as here:
        here = here if is_grid(here) else trained_folder(here)
        target = target or folder_or_url(staging.shown(here / FILE), "folder")
        if not url_of(target) and Path(target).is_dir():
            raise InputError(
                f"{target}: is a folder; give --out the name of a file, for instance {FILE}"
            )
        if step is not None and is_grid(here):
            raise InputError(
                f"{here}: is an ablation, and --step is of a run; give the folder of one of its "
                "runs"
            )
        if is_grid(here):
            text = grid_page(here)
        else:
            text = run_page(here, data=data, rows=rows, step=step, progress=progress)
        return staging.write_file(target, "out", text.encode())
