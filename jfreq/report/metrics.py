"""Metrics on disk: ``metrics.jsonl`` is the truth, TensorBoard mirrors it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from jfreq.files import disk_errors

FILE = "metrics.jsonl"


class MetricsWriter:
    """One JSON object per line and logged step. A resumed run drops what lies after its start,
    so that no step stands there twice."""

    def __init__(self, workdir: Path, *, start_step: int = 0, tensorboard: bool = True):
        self._path = workdir / FILE
        kept = [row for row in read_metrics(workdir) if row["step"] <= start_step]
        with disk_errors(workdir):
            draft = self._path.with_suffix(".draft")
            draft.write_text("".join(json.dumps(row) + "\n" for row in kept))
            draft.replace(self._path)
            self._file = open(self._path, "a")  # noqa: SIM115 - closed by close()
        self._board: Any = None
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=start_step)

    def write(self, row: dict[str, Any]) -> None:
        """``row`` has ``step`` and plain numbers."""
        with disk_errors(self._path.parent):
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        if self._board is not None:
            for name, value in row.items():
                if name != "step" and value is not None:
                    self._board.add_scalar(name, value, row["step"])

    def close(self) -> None:
        os.fsync(self._file.fileno())
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """All rows of a run; a last line that was cut off by a kill is left out."""
    path = workdir / FILE
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
