"""The checkpoints of a run in object storage.

Every process writes its part of a checkpoint to its own local copy of the run folder and uploads it
from there. When all have done so, process 0 uploads the digests of all files, from which moment the
checkpoint exists. Locally only the digests stay; :func:`complete` downloads the rest when it is
read.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import uuid
from collections.abc import Collection
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from jfreq import checksums, distributed
from jfreq.ranges import InputError
from jfreq.staging import Remote, remote_of

LATE_FILES = ("_CHECKPOINT_METADATA", "commit_success.txt")
"""Files to which orbax writes the time of the commit when everything else is complete."""
BARRIER_S = 1200
NOTES = "parts"
"""Folder in a checkpoint where processes tell process 0 what they have uploaded."""


def stored(folder: Path) -> Stored | None:
    """The checkpoints whose local copies lie in ``folder``; None for a folder that is no copy."""
    remote = remote_of(folder)
    return None if remote is None else Stored(remote, folder)


def complete(path: Path) -> None:
    """Downloads what is missing of the local copy of a checkpoint; nothing elsewhere."""
    remote = remote_of(path)
    if remote is None:
        return
    have = set(remote.bucket.sizes(remote.name_of(path)))
    mark = remote.name_of(path / checksums.FILE)
    missing = {n: remote.folder / n for n in have if n == mark or not (remote.folder / n).exists()}
    if mark not in have:
        raise checksums.Damaged(f"{checksums.FILE} is missing")
    remote.bucket.download(missing)


def verify(path: Path, *, step: int) -> None:
    """:func:`jfreq.checksums.verify` of a checkpoint or of its copy, which is then complete.

    What a copy lacks is downloaded a second time before the store is said to hold damage.
    """
    complete(path)
    try:
        checksums.verify(path, step=step)
    except checksums.Damaged:
        if remote_of(path) is None:
            raise
        shutil.rmtree(path, ignore_errors=True)
        complete(path)
        checksums.verify(path, step=step)


class Stored:
    """The checkpoints below one URL, and their local copies in ``folder``."""

    def __init__(self, remote: Remote, folder: Path):
        self._remote, self._folder = remote, folder
        self._bucket = remote.below(folder)
        self._run, self._saves = "", 0

    def start(
        self, options: ocp.CheckpointManagerOptions, last: int | None
    ) -> ocp.handlers.CheckpointHandlerRegistry:
        """Before anything is saved or restored, in all processes.

        They agree on a name of this start of the run, so that nothing of another one is taken for
        a part of its checkpoints. All have the checkpoint ``last``, where there is one. ``options``
        are set so that every process writes a folder of its own, and the handlers that are
        returned write arrays as plain files, which are whole wherever they lie together.
        """
        self._run = distributed.from_chief(lambda: uuid.uuid4().hex)
        if last is not None and not distributed.is_chief():
            try:
                verify(self._folder / str(last), step=last)
            except checksums.Damaged as damage:
                raise InputError(f"{self._folder / str(last)}: is damaged ({damage})") from None
        alone = ocp.options.MultiprocessingOptions(primary_host=None)
        options.multiprocessing_options = alone
        options.enable_per_process_directory_creation = True
        # Handlers of arrays of their own: every reader sets the primary host of the common ones.
        arrays = ocp.type_handlers.create_type_handler_registry(
            (jax.Array, ocp.type_handlers.ArrayHandler(primary_host=None)),
            (np.ndarray, ocp.type_handlers.NumpyHandler()),
        )
        state = ocp.PyTreeCheckpointHandler(
            use_ocdbt=False, multiprocessing_options=alone, type_handler_registry=arrays
        )
        meta = ocp.JsonCheckpointHandler(multiprocessing_options=alone)
        registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
        for name, kind, handler in (
            ("state", ocp.args.PyTreeSave, state),
            ("state", ocp.args.PyTreeRestore, state),
            ("meta", ocp.args.JsonSave, meta),
            ("meta", ocp.args.JsonRestore, meta),
        ):
            registry.add(name, kind, handler)
        return registry

    def refresh(self) -> None:
        """Makes the local copies show the checkpoints that exist now."""
        steps = self._steps(self._bucket.sizes())
        marks = [f"{name}/{checksums.FILE}" for name, whole in steps.items() if whole]
        self._bucket.download({mark: self._folder / mark for mark in marks})
        for path in self._folder.iterdir():
            if path.name.isdecimal() and not steps.get(path.name):
                shutil.rmtree(path, ignore_errors=True)

    @staticmethod
    def _steps(names: Collection[str]) -> dict[str, bool]:
        """By their names the folders of steps, and whether their digests exist."""
        folders = dict.fromkeys(name.partition("/")[0] for name in names)
        return {f: f"{f}/{checksums.FILE}" in names for f in folders if f.isdecimal()}

    def remove_unfinished(self) -> None:
        """Removes what killed processes left of checkpoints that never existed."""
        names = self._bucket.sizes()
        steps = self._steps(names)
        self._bucket.delete(
            name for name in names if steps.get(name.partition("/")[0]) is False or _is_note(name)
        )

    def set_aside(self, old: str, new: str) -> None:
        """Renames a checkpoint."""
        names = list(self._bucket.sizes(old))
        self._bucket.copy({name: new + name.removeprefix(old) for name in names})
        self._remove(old, names)

    def remove(self, step: str) -> None:
        """Removes a checkpoint."""
        self._remove(step, list(self._bucket.sizes(step)))

    def _remove(self, step: str, names: Collection[str]) -> None:
        """Removes a checkpoint; from the first moment on it does not exist."""
        self._bucket.delete([f"{step}/{checksums.FILE}"])
        self._bucket.delete(names)

    def upload(self, draft: Path, step: int) -> None:
        """Makes the checkpoint of ``step`` exist, of which this process has written ``draft``.

        All processes call it, in the threads that write.
        """
        self._saves += 1
        chief, mine = distributed.is_chief(), jax.process_index()
        files = checksums.digests(draft, LATE_FILES)
        late = [name for name in LATE_FILES if (draft / name).is_file()]
        if not chief:  # what all processes write alike comes from process 0
            files, late = {n: d for n, d in files.items() if _is_part(n)}, []
        self._bucket.upload({f"{step}/{name}": draft / name for name in [*files, *late]})
        if jax.process_count() > 1:
            part = f"{step}/{NOTES}/{self._run}-{{}}.json"
            if not chief:
                self._bucket.write(part.format(mine), json.dumps(files).encode())
            wait = ocp.multihost.get_barrier_sync_fn()
            wait(key=f"jfreq-uploaded-{self._saves}", timeout_ms=BARRIER_S * 1000)
            if chief:
                parts = [part.format(i) for i in range(1, jax.process_count())]
                for name in parts:
                    files |= json.loads(self._bucket.read(name) or b"")
        if not chief:
            return
        self._remote.push()  # metrics reach as far as the checkpoint
        self._remote.check_lease(self._folder.parent)
        checksums.write_files(draft, step=step, files=files)
        self._bucket.upload({f"{step}/{checksums.FILE}": draft / checksums.FILE})

    def settle(self, steps: Collection[int]) -> None:
        """Between two saves: removes the checkpoints but ``steps``, and local files of all."""
        if distributed.is_chief():
            names = self._bucket.sizes()
            for step, whole in self._steps(names).items():
                if whole and int(step) not in steps:
                    self._remove(step, [n for n in names if n.startswith(f"{step}/")])
            self._bucket.delete(name for name in names if _is_note(name))
        for step in steps:
            self.forget(step)

    def forget(self, step: int) -> None:
        """Removes the local files of a checkpoint but its digests."""
        for path in (self._folder / str(step)).glob("*"):
            if path.name != checksums.FILE:
                with contextlib.suppress(NotADirectoryError):
                    shutil.rmtree(path, ignore_errors=False)
                    continue
                path.unlink(missing_ok=True)


def _is_note(name: str) -> bool:
    """Whether it is the note of one process to process 0 on what it has uploaded."""
    return name.split("/")[1:2] == [NOTES]


def _is_part(name: str) -> bool:
    """Whether every process writes this file of a checkpoint for itself: pieces of arrays, which
    are numbered, and what orbax notes about them."""
    last = name.rpartition("/")[2]
    return all(word.isdecimal() for word in last.split(".")) or last.startswith("process_")
