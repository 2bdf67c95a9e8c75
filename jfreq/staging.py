"""Folders in object storage, worked on as local copies.

What reads or writes a folder opens it with :func:`opened`: for a URL that is a local folder with
copies of its small files, and what changes there is uploaded while it is open and at its end. Files
of checkpoints are not copied. Of each finished one there is a folder that holds its digests alone;
:func:`complete` downloads the others.

An object appears whole, so a reader sees an older file or a newer one. A checkpoint counts from the
moment at which its digests exist, and these are uploaded last.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import inspect
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ParamSpec, TypeVar

from jfreq import checksums
from jfreq.buckets import Bucket, url_of
from jfreq.files import Lock, disk_errors, local_path, write_atomically
from jfreq.lease import FOLDER as LEASES
from jfreq.lease import Lease
from jfreq.ranges import InputError

CHECKPOINTS = "checkpoints"
NOT_COPIED = (CHECKPOINTS, "tensorboard", LEASES)
"""Folders whose files are not copied when a folder is opened."""
EVERY_S = 5.0
SHARE = 0.05
"""Uploads of files that grow take at most this share of the time."""
CACHE = "JFREQ_CACHE"
"""Environment variable: the folder of local copies, by default ``~/.cache/jfreq``."""

P = ParamSpec("P")
T = TypeVar("T")
log = logging.getLogger("jfreq")
_open: dict[Path, Remote] = {}


@contextlib.contextmanager
def opened(place: str | Path, field: str, *, write: bool = False) -> Iterator[Path]:
    """The local folder for ``place``, a path or a URL.

    Args:
        place: a local path stays as it is, unless it is in a folder that is open already.
        field: names the option or argument that it was given for.
        write: upload what changes; else the copy is only read.

    Raises:
        InputError: the store refuses or does not answer. Messages from inside name the URL.
    """
    url, within = url_of(place), remote_of(Path(place))
    if within is not None:
        yield Path(place)
        return
    if url is None:
        yield local_path(place, field)
        return
    with temporary() as home:
        remote = Remote(Bucket(url, field), home / (url.rpartition("/")[2] or "folder"))
        _open[remote.folder] = remote
        renamed = _Renamed(str(remote.folder), url)
        log.addFilter(renamed)
        try:
            remote.pull()
            with remote.uploading() if write else contextlib.nullcontext():
                yield remote.folder
        except (InputError, RuntimeError) as error:
            error.args = tuple(renamed.text(a) if isinstance(a, str) else a for a in error.args)
            raise
        finally:
            log.removeFilter(renamed)
            del _open[remote.folder]


def remote_of(path: Path) -> Remote | None:
    """The open folder that a local path lies in."""
    return next((r for folder, r in _open.items() if path.is_relative_to(folder)), None)


def shown(path: Path) -> str:
    """A path as a user knows it: the URL of what is a local copy."""
    remote = remote_of(path)
    return str(path) if remote is None else remote.url_of(path)


def lock(path: Path, doing: str) -> Lock | Lease:
    """What one process at a time holds, :class:`Lock` or :class:`Lease`; ``doing`` as there."""
    remote = remote_of(path)
    return Lock(path, doing) if remote is None else remote.lease(path.parent, doing)


def refresh(folder: Path) -> None:
    """Copies the small files below a folder once more; nothing for a folder that is no copy."""
    if remote := remote_of(folder):
        remote.pull(remote.name_of(folder))


def push(folder: Path) -> None:
    """Uploads what has changed at once; nothing for a folder that is no copy."""
    if remote := remote_of(folder):
        remote.push()


class _Renamed(logging.Filter):
    """Names a URL in messages in place of its local copy."""

    def __init__(self, folder: str, url: str):
        super().__init__()
        self._folder, self._url = folder, url

    def text(self, message: str) -> str:
        return message.replace(self._folder, self._url)

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self.text(record.getMessage()), ()
        return True


def staged(argument: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Of a function, makes ``argument``, a path or a URL, the folder that is opened for writing."""

    def wrap(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def inside(*args: P.args, **kwargs: P.kwargs) -> T:
            bound = signature.bind(*args, **kwargs)
            with opened(bound.arguments[argument], argument, write=True) as folder:
                bound.arguments[argument] = folder
                return function(*bound.args, **bound.kwargs)

        return inside

    return wrap


def write_file(place: str | Path, field: str, data: bytes) -> str | Path:
    """Writes a file, whole or not at all, at a path or URL, which is returned."""
    url = url_of(place)
    if url is None:
        return write_atomically(local_path(place, field), lambda file: file.write(data))
    folder, _, name = url.rpartition("/")
    if folder.endswith("/"):
        raise InputError(f"{field}: {url}: names a bucket; add the name of a file")
    Bucket(folder, field).write(name, data)
    return url


@contextlib.contextmanager
def temporary() -> Iterator[Path]:
    """A folder for local copies until the end of the context; those of processes that were killed
    are removed."""
    home = Path(os.environ.get(CACHE) or Path.home() / ".cache" / "jfreq") / "open"
    with disk_errors(home):
        home.mkdir(parents=True, exist_ok=True)
        for old in home.glob("*.lock"):
            with contextlib.suppress(OSError), old.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(old.with_suffix(""), ignore_errors=True)
                old.unlink()
        folder = Path(tempfile.mkdtemp(dir=home))
    # The lock is taken before the file has the name under which others look for it.
    held = folder / ".lock"
    with held.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        held = held.rename(folder.with_suffix(".lock"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            held.unlink(missing_ok=True)


class Remote:
    """A folder in object storage and its local copy.

    ``_known`` has the size and the time of each local file that is as it is in the store.
    """

    def __init__(self, bucket: Bucket, folder: Path):
        self.bucket, self.folder = bucket, folder
        self._known: dict[str, tuple[int, int]] = {}
        self._leases: dict[Path, Lease] = {}
        self._uploads = threading.Lock()
        folder.mkdir(parents=True)

    def name_of(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def url_of(self, path: Path) -> str:
        return f"{self.bucket.url}/{self.name_of(path)}".removesuffix("/.")

    def lease(self, folder: Path, doing: str) -> Lease:
        """A lease on a folder in this one, or on all of it."""
        self._leases[folder] = Lease(self.below(folder), doing)
        return self._leases[folder]

    def check_lease(self, folder: Path) -> None:
        """Raises ``InputError`` where another process has taken over ``folder``."""
        if folder in self._leases:
            self._leases[folder].check()

    def below(self, folder: Path) -> Bucket:
        """The objects of which ``folder`` has copies."""
        return self.bucket if folder == self.folder else self.bucket / self.name_of(folder)

    def pull(self, below: str = "") -> None:
        """Copies the small files, and of each finished checkpoint its digests."""
        names = self.bucket.sizes(below)
        wanted = [n for n in names if _is_small(n) or _is_mark(n)]
        with disk_errors(self.folder):
            self.bucket.download({name: self.folder / name for name in wanted})
        self._known |= {n: _stamp(self.folder / n) for n in wanted if (self.folder / n).exists()}

    def push(self) -> None:
        """Uploads the small files that have changed."""
        with self._uploads:
            changed = {}
            for path in sorted(self.folder.rglob("*")):
                name = self.name_of(path)
                if CHECKPOINTS in name.split("/") or path.name.endswith((".draft", ".lock")):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    if path.is_file() and self._known.get(name) != (stamp := _stamp(path)):
                        changed[name] = stamp
            self.bucket.upload({name: self.folder / name for name in changed})
            self._known |= changed

    @contextlib.contextmanager
    def uploading(self) -> Iterator[None]:
        """Uploads what changes, in a thread and once more at the end."""
        ended = threading.Event()
        thread = threading.Thread(target=self._upload_until, args=(ended,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.push()

    def _upload_until(self, ended: threading.Event) -> None:
        pause = EVERY_S
        while not ended.wait(pause):
            began = time.monotonic()
            try:
                self.push()
            except (InputError, OSError) as error:
                log.warning("%s; training goes on and uploads later", error)
            pause = max(EVERY_S, (time.monotonic() - began) / SHARE)


def _is_small(name: str) -> bool:
    return not any(part in NOT_COPIED for part in name.split("/")[:-1])


def _is_mark(name: str) -> bool:
    """Whether it is the file of digests of a checkpoint, ``[...]/checkpoints/STEP/sha256.json``."""
    parts = name.split("/")
    return parts[-1] == checksums.FILE and parts[-3:-2] == [CHECKPOINTS]


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
