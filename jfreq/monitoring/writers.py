"""What gets a copy of the metrics of a run, by name: TensorBoard, wandb, or code of the user."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from jfreq.classes import find_code
from jfreq.config import check
from jfreq.ranges import first_line
from jfreq.types import InputError

PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}
log = logging.getLogger("jfreq")


class RunInfo(NamedTuple):
    """What a writer is told about a run; every one is made as ``Writer(info)``."""

    workdir: Path
    name: str
    """Of the experiment."""
    id: str
    """Of the run, the same each time that it is started."""
    start_step: int
    """The step that it goes on from; later rows that were written before are written again."""
    config: Mapping[str, Any]
    """The experiment as JSON values."""


class Writer(Protocol):
    """Gets the rows of metrics.jsonl while a run writes them."""

    def write(self, row: dict[str, Any]) -> None:
        """``row`` has ``step`` and plain numbers, None where one is not known."""
        ...

    def close(self) -> None:
        """Is called once, at the end."""
        ...


class TensorBoard:
    """Scalars under ``tensorboard/`` of the run folder."""

    def __init__(self, info: RunInfo):
        from tensorboardX import SummaryWriter

        self._board = SummaryWriter(str(info.workdir / "tensorboard"), purge_step=info.start_step)

    def write(self, row: dict[str, Any]) -> None:
        for name, value in row.items():
            if name != "step" and value is not None:
                self._board.add_scalar(name, value, row["step"])

    def close(self) -> None:
        self._board.close()


class Wandb:
    """A run of wandb, which its own variables steer (``WANDB_PROJECT``, ``WANDB_MODE=offline``)."""

    def __init__(self, info: RunInfo):
        self._run: Any = importlib.import_module("wandb").init(
            id=info.id,
            name=f"{info.name} {info.workdir.name}",
            dir=str(info.workdir),
            config=dict(info.config),
            resume="allow",
        )
        # A run that goes on writes steps again, which the counter of wandb itself refuses.
        self._run.define_metric("*", step_metric="step")

    def write(self, row: dict[str, Any]) -> None:
        self._run.log({name: value for name, value in row.items() if value is not None})

    def close(self) -> None:
        self._run.finish()


KNOWN: dict[str, Callable[[RunInfo], Writer]] = {"tensorboard": TensorBoard, "wandb": Wandb}


def find_writers(names: Sequence[str]) -> dict[str, Callable[[RunInfo], Writer]]:
    """The classes of ``log.writers`` by name.

    Raises ``InputError``, with the line that installs it, for a package that is missing, and for
    code of the user that is not trusted or has no such name.
    """
    for name in names:
        package = PACKAGES.get(name)
        try:
            importlib.import_module(package or "json")
        except ImportError as error:
            raise InputError(
                f"log.writers: {name} needs the package {package}: pip install {package}"
            ) from error
    return {name: KNOWN.get(name) or _own(name) for name in names}


def _own(name: str) -> Callable[[RunInfo], Writer]:
    writer = find_code(name, "log.writers")
    check(
        all(callable(getattr(writer, part, None)) for part in ("write", "close")),
        "log.writers",
        f"{name} is no writer: it needs the methods write(self, row) and close(self)",
    )
    return writer


class Writers:
    """Writers side by side. One that fails is left out from then on, and training goes on."""

    def __init__(self, found: Mapping[str, Callable[[RunInfo], Writer]], info: RunInfo):
        self._open: dict[str, Writer] = {}
        for name, writer in found.items():
            self._trying(name, lambda name=name, new=writer: self._open.update({name: new(info)}))

    def write(self, row: dict[str, Any]) -> None:
        for name, writer in list(self._open.items()):
            self._trying(name, lambda writer=writer: writer.write(row))

    def close(self) -> None:
        for name, writer in list(self._open.items()):
            self._trying(name, writer.close)

    def _trying(self, name: str, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:
            self._open.pop(name, None)
            log.warning(
                "log.writers: %s fails (%s: %s) and gets no more metrics of this start; "
                "metrics.jsonl has them all",
                name,
                type(error).__name__,
                first_line(error),
            )
