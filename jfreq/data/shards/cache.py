"""Shards in object storage, copied once to a disk of each host and verified by their digests.

A copy is believed when its contents have the digests that the metadata of the set state, whatever
its name or time. What was verified is noted with its size; a file that is not in the notes, or has
another size, is verified again or copied again. A copy that was cut off goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jfreq.buckets import THREADS, Bucket
from jfreq.data.prepare.messages import say
from jfreq.data.shards import columns
from jfreq.data.shards.metadata import ShardsInfo
from jfreq.data.sources.folders import COLUMNS, METADATA
from jfreq.files import Held, Lock, disk_errors, local_path, read_json, write_json, write_text
from jfreq.ranges import InputError, shortlist

NOTES = "verified.json"
_BLOCK = 256
"""Records that are read at once to be hashed."""
_NAMED = 5
"""Replaced files that a message names."""


def copied(url: str, cache: str | Path | None) -> Path:
    """The local folder with the shards of ``url``, which are copied where they are not there yet.

    Args:
      url: of a finished set.
      cache: the folder of copies on this host; each set has a folder in it, named by its contents.

    Raises:
      InputError: without ``cache``, for a folder that is no finished set, one whose files are not
        those that its metadata state, and a disk that is too small.
    """
    if cache is None:
        raise InputError(
            f"data: {url}: shards are read from a local disk; name a folder for the copy with "
            "--data.cache, or mount the bucket and give its path"
        )
    home, bucket = local_path(cache, "data.cache"), Bucket(url, "data")
    text = bucket.read(METADATA)
    if text is None:
        raise InputError(
            f"{url}: is not a finished set of shards, it has no {METADATA}; copy a folder that "
            "`jfreq data prepare` has finished"
        )
    info = ShardsInfo.from_json(text.decode("utf-8", "replace"), where=f"{url}/{METADATA}")
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", info.name)
    folder = home / f"{name}-{info.manifest_hash[:16]}"
    with disk_errors(folder), _alone(folder):
        _Copy(bucket, info, folder).fill()
        if not (folder / METADATA).is_file() or (folder / METADATA).read_bytes() != text:
            write_text(folder / METADATA, text.decode())
    return folder


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While one process of this host copies; the others wait for it."""
    told = False
    while True:
        try:
            lock = Lock(folder / ".lock", "copies shards to")
            break
        except Held as held:
            if not told:
                say([f"waiting: {held}"])
                told = True
            time.sleep(0.5)
    try:
        yield
    finally:
        lock.close()


class _Copy:
    """The copy of one set."""

    def __init__(self, bucket: Bucket, info: ShardsInfo, folder: Path):
        self._bucket, self._info, self._folder = bucket, info, folder
        self._digests = {shard.file: shard.sha256 for shard in info.shards}
        self._digests[COLUMNS] = ",".join(column.sha256 for column in info.columns)
        self._notes: dict[str, Any] = self._read_notes()
        self._noting = threading.Lock()

    def _read_notes(self) -> dict[str, Any]:
        path = self._folder / NOTES
        try:
            return read_json(path, "notes of what was verified") if path.exists() else {}
        except InputError:
            return {}  # then everything is verified again

    def fill(self) -> None:
        """Copies and verifies what is not here yet."""
        todo = [name for name in self._digests if not self._noted(name)]
        if not todo:
            return
        sizes = {n: size for n, size in self._bucket.sizes().items() if "/" not in n}
        for name in self._digests:
            if name not in sizes:
                raise InputError(f"{self._bucket.url}/{name}: is missing; copy the set there again")
        here = {n for n in todo if self._size(n) == sizes[n]}
        others = [n for n in sizes if n not in self._digests and n not in (METADATA, NOTES)]
        missing = sum(sizes[n] for n in todo if n not in here)
        self._check_space(missing)
        say([
            f"copies {missing / 1e6:.1f} MB of {self._bucket.url} to {self._folder}"
            + f", and verifies {len(here)} files that are there" * bool(here)
        ])  # fmt: skip
        self._bucket.download({n: self._folder / n for n in others if not n.startswith(".")})
        with ThreadPoolExecutor(THREADS) as pool:
            why = list(pool.map(lambda name: self._one(name, name in here), todo))
        if bad := [f"{name} ({reason})" for name, reason in zip(todo, why) if reason]:
            files = "1 file" if len(bad) == 1 else f"{len(bad)} files"
            say([
                f"replaced {files} of {self._folder} that did not hold what the set states: "
                f"{shortlist(bad, _NAMED)}"
            ])  # fmt: skip

    def _noted(self, name: str) -> bool:
        return self._notes.get(name) == [self._size(name), self._digests[name]]

    def _size(self, name: str) -> int:
        path = self._folder / name
        return path.stat().st_size if path.is_file() else -1

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise InputError(
                f"data.cache: {self._folder}: {needed / 1e9:.1f} GB are to be copied and "
                f"{free / 1e9:.1f} GB are free; free some space or name another disk"
            )

    def _one(self, name: str, here: bool) -> str:
        """Makes one file a verified copy; why an earlier copy was replaced, empty if none was.

        ``here`` says that there is a file of the right size.
        """
        path, why = self._folder / name, ""
        if not here or not self._is_good(path, name):
            if path.is_file():
                why = "other contents" if here else f"{self._size(name)} bytes"
            draft = path.with_name(f".{name}.copy")
            try:
                self._bucket.download({name: draft})
                if not self._is_good(draft, name):
                    raise InputError(
                        f"{self._bucket.url}/{name}: is not what its {METADATA} says; copy the set "
                        "there again"
                    )
                os.replace(draft, path)
            finally:
                draft.unlink(missing_ok=True)
        with self._noting:
            self._notes[name] = [self._size(name), self._digests[name]]
            write_json(self._folder / NOTES, self._notes)
        return why

    def _is_good(self, path: Path, name: str) -> bool:
        """Whether a file has the contents that the metadata state."""
        try:
            if name != COLUMNS:
                return _records_digest(path) == self._digests[name]
            found = columns.mapped(path)
            stated = {column.name: column.sha256 for column in self._info.columns}
            return {n: columns.digest(n, values) for n, values in found.items()} == stated
        except Exception:
            return False


def _records_digest(path: Path) -> str:
    """sha256 over the records of a file in order."""
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(path), "readahead_buffer_size:0,max_parallelism:0")
    try:
        sha, count = hashlib.sha256(), reader.num_records()
        for start in range(0, count, _BLOCK):
            for record in reader.read(start, min(count, start + _BLOCK)):
                sha.update(record)
        return sha.hexdigest()
    finally:
        reader.close()
