"""A checkpoint as a folder of files: its files, what is noted beside the state, its removal."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jfreq import checksums
from jfreq.files import disk_errors, read_json
from jfreq.ranges import first_line
from jfreq.staging import remote_of
from jfreq.train.stored import stored
from jfreq.types import InputError

DAMAGED = "damaged-"
"""Before the step in the name of a checkpoint that was set aside."""
UNFINISHED = ".orbax-checkpoint-tmp"
"""In the name of what is being written, or was to be removed when a process was killed; the next
start of the run removes it."""


def finished(folder: Path) -> set[int]:
    """Steps of a folder's checkpoints; those being written still have another name."""
    names = {entry.name for entry in folder.iterdir()}
    return {int(name) for name in names if name.isdecimal() and name == str(int(name))}


def files_of(path: Path) -> dict[str, int]:
    """The bytes of every file of a checkpoint, by its name in the folder."""
    if remote := remote_of(path):
        names = remote.bucket.sizes(name := remote.name_of(path))
        return {each.removeprefix(f"{name}/"): size for each, size in names.items()}
    found = (each for each in path.rglob("*") if each.is_file())
    return {each.relative_to(path).as_posix(): each.stat().st_size for each in found}


def read_meta(path: Path) -> dict[str, Any]:
    """What is saved beside the state of a checkpoint; of a local copy it is downloaded alone."""
    file = path / "meta" / "metadata"
    if (remote := remote_of(path)) and not file.exists():
        remote.bucket.download({remote.name_of(file): file})
    return read_json(file, "the metadata of a checkpoint")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns whatever goes wrong when a checkpoint is read into an ``InputError`` of one line."""
    try:
        with disk_errors(path, doing="read", kept="nothing was changed"):
            yield
    except (InputError, checksums.Damaged):
        raise
    except MemoryError as error:
        raise InputError(f"{path}: does not fit into memory; nothing was changed") from error
    except Exception as error:
        raise InputError(
            f"{path}: cannot be restored ({first_line(error)}); nothing was changed"
        ) from error


def remove(path: Path) -> None:
    """Removes a checkpoint. It loses its name first, so that none is ever half there."""
    if found := stored(path.parent):
        found.remove(path.name)
    with disk_errors(path, doing="removed"):
        old = path.with_name(f"{path.name}{UNFINISHED}-removed")
        path.rename(old)
        shutil.rmtree(old)
