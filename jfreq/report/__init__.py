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
) -> Path:
    """Writes the page of a run or of an ablation.

    Args:
      folder: of the run or of the ablation.
      data, rows, step, progress: as :func:`jfreq.report.run.run_page`.
      out: the file; by default ``report.html`` in the folder.

    Returns:
      The file.

    Raises:
      InputError: for a folder that is neither, and for shards that do not fit the run.
    """
    from jfreq.export.bundle import trained_folder
    from jfreq.files import local_path, write_atomically
    from jfreq.report.collect import is_grid
    from jfreq.report.grid import grid_page
    from jfreq.report.run import run_page

    folder = local_path(folder, "folder")
    folder = folder if is_grid(folder) else trained_folder(folder)
    target = local_path(out, "out") if out else folder / FILE
    if target.is_dir():
        raise InputError(
            f"{target}: is a folder; give --out the name of a file, for instance {FILE}"
        )
    if step is not None and is_grid(folder):
        raise InputError(
            f"{folder}: is an ablation, and --step is of a run; give the folder of one of its runs"
        )
    if is_grid(folder):
        text = grid_page(folder)
    else:
        text = run_page(folder, data=data, rows=rows, step=step, progress=progress)
    return write_atomically(target, lambda file: file.write(text.encode()))
