"""Metrics on disk: ``metrics.jsonl``, and copies for other writers."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jfreq.files import disk_errors, write_atomically
from jfreq.monitoring.writers import Writer

FILE = "metrics.jsonl"
log = logging.getLogger("jfreq")


class MetricsWriter:
    """One JSON object per line: the updates of a logged step, or what was measured after it
    (``val/...``, ``eval/...``). A resumed run drops what lies after its start, so that nothing
    stands there twice. ``copies`` get every row too."""

    def __init__(self, workdir: Path, *, start_step: int = 0, copies: Writer | None = None):
        self._path = workdir / FILE
        lines = [(line, row) for line, row in _lines(self._path) if _is_kept(row, start_step)]
        bad = sum(row is None for _, row in lines)
        if bad:
            log.warning(
                "%s: %d lines cannot be read; they stay there and are left out of tables",
                self._path,
                bad,
            )
        with disk_errors(workdir):
            write_atomically(self._path, lambda file: file.writelines(line for line, _ in lines))
            self._file = open(self._path, "a")  # noqa: SIM115 - closed by close()
        self._copies = copies

    def write(self, row: dict[str, Any]) -> None:
        """``row`` has ``step`` and plain numbers."""
        with disk_errors(self._path.parent):
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        if self._copies is not None:
            self._copies.write(row)

    def close(self) -> None:
        os.fsync(self._file.fileno())
        self._file.close()
        if self._copies is not None:
            self._copies.close()


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """All rows of a run that can be read, one a step; see :func:`unreadable` for the others.

    What updates and what validation gave at the same step is one row.
    """
    rows: list[dict[str, Any]] = []
    for _, row in _lines(workdir / FILE):
        if row is not None and rows and rows[-1]["step"] == row["step"]:
            rows[-1] |= row
        elif row is not None:
            rows.append(row)
    return rows


def unreadable(workdir: Path) -> int:
    """How many lines of a run's metrics are damaged, without a last line that a kill cut off."""
    return sum(row is None for _, row in _lines(workdir / FILE))


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
    """Every whole line with its row, None where it is damaged."""
    if not path.exists():
        return
    with disk_errors(path, doing="read"), path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line, _row(line)


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = row.get("step") if isinstance(row, dict) else None
    good = isinstance(step, int) and not isinstance(step, bool) and 0 <= step < 2**63
    return row if good else None


def _is_kept(row: dict[str, Any] | None, start_step: int) -> bool:
    """Damaged lines stay; nothing that a run wrote is thrown away unless it is written again."""
    return row is None or row["step"] <= start_step
