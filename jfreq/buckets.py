"""Folders in object storage, ``s3://`` and ``gs://``, through fsspec.

An object is written whole or not at all, and every listing is up to date. There is no renaming, no
appending and no lock; what needs these works on a local copy (:mod:`jfreq.staging`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from jfreq.files import local_path
from jfreq.ranges import InputError, first_line, shown

DRIVERS = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gcs")}
"""By scheme the package that reads it, and the extra of jfreq that installs the package."""
URL = re.compile(r"(s3|gs):/+(?=[^/])")
"""The start of such a URL, also as pathlib leaves it (``gs:/bucket``)."""
THREADS = 8
PATIENCE_S = 120.0
"""How long a store that does not answer is asked again."""
FIRST_PATIENCE_S = 20.0
"""The same before it has answered for the first time: its address may be wrong."""

T = TypeVar("T")
log = logging.getLogger("jfreq")


def url_of(text: str | Path) -> str | None:
    """``text`` as a URL of object storage without a ``/`` at its end; None for anything else."""
    text = str(text)
    match = URL.match(text)
    return f"{match[1]}://{text[match.end() :].rstrip('/')}" if match else None


def folder_or_url(text: str | Path, field: str) -> Path | str:
    """``text`` as a URL of object storage or as a local path; ``InputError`` for other URLs."""
    return url_of(text) or local_path(text, field)


class Bucket:
    """The objects below a URL, by names relative to it such as ``checkpoints/2/meta``.

    Whatever a store answers that is not a success is an ``InputError`` of one line.
    """

    def __init__(self, url: str, field: str):
        """``field`` names the option or argument that the URL was given for.

        Raises ``InputError`` where the driver is not installed, the bucket does not exist or
        denies access, or the store cannot be reached.
        """
        self.url, self._field = url, field
        scheme, _, self._root = url.partition("://")
        self._scheme, self._name = scheme, self._root.partition("/")[0]
        self._store = _store(scheme, f"{field}: {url}")
        wait_s = min(FIRST_PATIENCE_S, PATIENCE_S)
        if not self._try(lambda: self._store.exists(self._root), "read", wait_s=wait_s):
            self._try(self._exists, "read")

    def __truediv__(self, name: str) -> Bucket:
        """The objects below ``name``; nothing is asked of the store."""
        below = object.__new__(Bucket)
        below.__dict__ |= self.__dict__ | {
            "url": f"{self.url}/{name}", "_root": f"{self._root}/{name}"
        }  # fmt: skip
        return below

    def _exists(self) -> None:
        """Raises where there is no such bucket; an empty one is as good as any."""
        self._store.ls(self._name, refresh=True)

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """The bytes of every object whose name begins with ``prefix``, a folder or nothing."""
        return self._try(lambda: self._sizes(prefix), "read")

    def _sizes(self, prefix: str) -> dict[str, int]:
        root = f"{self._root}/{prefix}".rstrip("/")
        try:
            found = self._store.find(root, detail=True, refresh=True)
        except FileNotFoundError:
            return {}
        start = len(self._root) + 1
        return {
            key[start:]: int(info["size"] or 0)
            for key, info in found.items()
            if info["type"] == "file" and key.startswith(root + "/") and not key.endswith("/")
        }

    def read(self, name: str) -> bytes | None:
        """The bytes of an object; None where there is none."""

        def read() -> bytes | None:
            try:
                return self._store.cat_file(f"{self._root}/{name}")
            except FileNotFoundError:
                return None

        return self._try(read, "read")

    def write(self, name: str, data: bytes) -> None:
        """Writes an object, whole or not at all."""
        self._try(lambda: self._store.pipe_file(f"{self._root}/{name}", data), "written")

    def create(self, name: str, data: bytes) -> bool:
        """Writes an object that does not exist; of several that try, one is told True."""

        def create() -> bool:
            try:
                self._store.pipe_file(f"{self._root}/{name}", data, mode="create")
            except FileExistsError:
                return False
            return True

        # A repeated request finds what the first one wrote, although its answer was lost.
        return self._try(create, "written") or self.read(name) == data

    def upload(self, files: Mapping[str, Path]) -> None:
        """Writes local files as objects, several at a time."""
        self._each(files.items(), self._upload)

    def _upload(self, item: tuple[str, Path]) -> None:
        name, path = item
        where = f"{self._root}/{name}"
        self._try(lambda: self._store.put_file(str(path), where), "written")

    def download(self, files: Mapping[str, Path]) -> None:
        """Copies objects to local files, several at a time; a file appears when it is whole.

        Objects that are gone are left out.
        """
        self._each(files.items(), self._download)

    def _download(self, item: tuple[str, Path]) -> None:
        name, path = item
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}.draft")

        def download() -> None:
            self._store.get_file(f"{self._root}/{name}", str(draft))

        try:
            self._try(download, "read", missing=True)
            draft.replace(path)
        except FileNotFoundError:
            pass
        finally:
            draft.unlink(missing_ok=True)

    def delete(self, names: Iterable[str]) -> None:
        """Removes objects; those that are gone already are as good."""

        def delete(name: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                self._try(
                    lambda: self._store.rm_file(f"{self._root}/{name}"), "removed", missing=True
                )

        self._each(names, delete)

    def copy(self, names: Mapping[str, str]) -> None:
        """Copies objects within the store, from old to new names, several at a time."""

        def copy(item: tuple[str, str]) -> None:
            old, new = (f"{self._root}/{name}" for name in item)
            self._try(lambda: self._store.cp_file(old, new), "copied")

        self._each(names.items(), copy)

    @staticmethod
    def _each(items: Iterable[T], work: Callable[[T], None]) -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            for _ in pool.map(work, items):
                pass

    def _try(
        self, work: Callable[[], T], done: str, *, missing: bool = False,
        wait_s: float | None = None,
    ) -> T:  # fmt: skip
        """``work()``, tried again for a while where the store does not answer.

        Args:
            done: completes "cannot be ...".
            missing: whether a missing object is the caller's to handle.
            wait_s: for how long; ``PATIENCE_S`` by default.
        """
        wait_s = PATIENCE_S if wait_s is None else wait_s
        end, pause, told = time.monotonic() + wait_s, 0.5, False
        while True:
            try:
                return work()
            except Exception as error:
                if missing and isinstance(error, FileNotFoundError):
                    raise
                reason = self._reason(error, done)
                if reason is None and time.monotonic() + pause < end:
                    if not told:
                        log.warning("%s: the store does not answer (%s); asked again for %.0f s",
                                    self.url, first_line(error), wait_s)  # fmt: skip
                    told = True
                    time.sleep(pause)
                    pause *= 2
                    continue
                if reason is None:
                    reason = f"the store does not answer ({first_line(error)}); try again later"
                raise InputError(f"{self._field}: {self.url}: {reason}") from error

    def _reason(self, error: Exception, done: str) -> str | None:
        """What is wrong and what to do; None for what may pass by itself."""
        names = {type(e).__name__ for e in _chain(error)}
        text = first_line(error)
        if isinstance(error, OSError) and os.path.isabs(error.filename or ""):
            raise error  # of the local disk
        if isinstance(error, FileNotFoundError):
            return f"there is no bucket {self._name}; create it, or correct the name"
        if isinstance(error, PermissionError) or "Forbidden" in text:
            return (
                f"access to bucket {self._name} is denied, it cannot be {done}; give your account "
                "the right to list, read, write and delete objects there"
            )
        if names & {"NoCredentialsError", "DefaultCredentialsError", "PartialCredentialsError"}:
            how = {"s3": "run `aws configure`, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
                   "gs": "run `gcloud auth application-default login`"}[self._scheme]  # fmt: skip
            return f"there are no credentials for it; {how}"
        if isinstance(error, ValueError | TypeError) or "ParamValidationError" in names:
            return f"is not a name that the store takes ({shown(text)}); correct it"
        return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _store(scheme: str, where: str) -> Any:
    """The driver of a scheme. It remembers no listings, which other machines change."""
    package, extra = DRIVERS[scheme]
    try:
        import fsspec

        return fsspec.filesystem(scheme, use_listings_cache=False)
    except ImportError:
        raise InputError(
            f"{where}: {package} is not installed; pip install 'jfreq[{extra}]'"
        ) from None
    except Exception as error:
        raise InputError(f"{where}: {package} cannot start ({first_line(error)})") from error
