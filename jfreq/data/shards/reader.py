"""Reads shards: rows by number, whole columns, several folders as one set."""

from __future__ import annotations

import copy
import dataclasses
import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jfreq.buckets import url_of
from jfreq.config import check
from jfreq.data.prepare.statistics import measured, training_rows
from jfreq.data.shards import columns, combine
from jfreq.data.shards.cache import copied
from jfreq.data.shards.example import TEXT, empty_batch, fill
from jfreq.data.shards.metadata import ShardsInfo, digest
from jfreq.data.sources.folders import COLUMNS
from jfreq.files import local_path
from jfreq.ranges import first_line
from jfreq.types import DataSpec, InputError

READ_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"


class Shards:
    """One or several folders of shards as one sequence of rows.

    Windows of several folders are cut or zero-padded to the length of those in the first. Where
    all folders have the same classes, in any order, they are one labelled set with the classes of
    the first; otherwise every ``label`` is -1 and ``why_unlabelled`` says why.
    """

    def __init__(self, folders: Sequence[ShardFolder]):
        self._folders = tuple(folders)
        self._starts = np.cumsum([0, *(folder.info.rows for folder in folders)])
        self._fold: np.ndarray | None = None
        self.why_unlabelled = ""
        self.info = folders[0].info
        if len(folders) > 1:
            infos = [folder.info for folder in folders]
            self.why_unlabelled = combine.differing_classes(infos, self.paths)
            self.info = combine.merged(infos, labelled=not self.why_unlabelled)
            self.info = self.measured(training_rows(self._stored("split")))
        hashes = self.manifests
        self.manifest_hash: str = hashes[0] if len(hashes) == 1 else digest(list(hashes))

    @property
    def spec(self) -> DataSpec:
        return self.info.spec

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(folder.path for folder in self._folders)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def relabelled(self) -> bool:
        """Whether records may number classes otherwise than the set; :meth:`labels` does not."""
        return len(self._folders) > 1

    def with_folds(self, fold: np.ndarray, by: str) -> Shards:
        """The same rows with other folds ``[rows]``, which keep ``by`` whole; files are shared."""
        out = copy.copy(self)
        out._fold = fold
        known = tuple(int(f) for f in np.unique(fold) if f >= 0)
        out.info = dataclasses.replace(self.info, folds=known, fold_by=by)
        return out

    @property
    def manifests(self) -> tuple[str, ...]:
        """The manifest hash of every folder."""
        return tuple(folder.info.manifest_hash for folder in self._folders)

    def folder_of(self, ids: np.ndarray) -> np.ndarray:
        """The number of the folder that holds the rows ``ids`` ``[n]``, ``[n]`` int64."""
        return np.searchsorted(self._starts, ids, side="right") - 1

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return {name: value[0] for name, value in self.read([index % len(self)]).items()}

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return (self[i] for i in range(len(self)))

    def read(self, ids: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """Rows ``ids`` stacked: signals ``[b t c]`` as stored, ``label``, ``id``, ``length``.

        Raises ``IndexError`` for a row that does not exist, ``InputError`` for a damaged shard.
        """
        ids = np.asarray(ids, np.int64)
        out = empty_batch(self.info, len(ids))
        out["id"][:] = ids
        for i, record in enumerate(self.read_bytes(ids)):
            fill(out, i, record, self.info)
        if self.relabelled:
            out["label"][:] = self.labels(ids)
        return out

    def read_bytes(self, ids: Sequence[int] | np.ndarray) -> list[bytes]:
        """The serialised ``tf.train.Example`` of the rows ``ids``; raises as :meth:`read`."""
        ids = np.asarray(ids, np.int64)
        if ids.size and (ids.min() < 0 or ids.max() >= len(self)):
            raise IndexError(f"rows {ids.min()} to {ids.max()} of {len(self)}")
        out: list[Any] = [None] * len(ids)
        for i, where, local in _by_range(self._starts, ids):
            for position, record in zip(where, self._folders[i].read_bytes(local)):
                out[position] = record
        return out

    def column(self, name: str) -> np.ndarray:
        """A value of all rows, ``[rows]`` (``label`` of several a row: ``[rows classes]``).

        Args:
          name: ``label``, ``fold``, ``split``, ``subject``, ``path``, ``item``, ``start``,
            ``length``, or a moment of a signal such as ``acc.mean`` ``[rows c]``.

        Raises:
          InputError: for an unknown name, and where the file of columns is damaged.
        """
        if name == "label" and self.relabelled:
            return self.labels(np.arange(len(self)))
        if name == "fold" and self._fold is not None:
            return self._fold
        values = self._stored(name)
        if name == "length":
            return np.minimum(values, self.info.signals[0].samples)
        if name == "label" and self.info.multi_label:
            return values.astype(np.float32)
        return np.strings.decode(values, "utf-8") if name in TEXT else values

    def _stored(self, name: str) -> np.ndarray:
        """A column as it is on disk: text in UTF-8, several labels as bytes of 0 and 1."""
        values = [folder.column(name) for folder in self._folders]
        return values[0] if len(values) == 1 else np.concatenate(values)

    def labels(self, ids: np.ndarray) -> np.ndarray:
        """Labels of the rows ``ids`` in the classes of the set, ``[n]`` or ``[n classes]``."""
        if self.relabelled and not self.info.labels:
            return np.full(len(ids), -1, np.int32)
        shape = (len(ids), len(self.info.labels)) if self.info.multi_label else (len(ids),)
        out = np.empty(shape, np.float32 if self.info.multi_label else np.int32)
        for i, where, local in _by_range(self._starts, ids):
            folder = self._folders[i]
            values = folder.column("label")[local]
            out[where] = combine.renumbered(values, folder.info.labels, self.info.labels)
        return out

    def rows(
        self,
        split: str | None = None,
        *,
        exclude_folds: Sequence[int] = (),
        folds: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Row numbers ``[n]`` int64, ascending.

        Args:
          split: only rows of this split; None for all.
          exclude_folds: no rows of these folds.
          folds: only rows of these folds; None for all.

        Raises:
          InputError: for a split or fold that does not exist.
        """
        keep = np.ones(len(self), bool)
        if split is not None:
            if split not in self.info.splits:
                known = ", ".join(self.info.splits) or "none"
                raise InputError(
                    f"split: no rows of split {split!r}; the set has: {known} (--data.split None "
                    "trains on all rows)"
                )
            keep &= self._stored("split") == split.encode()
        known = ", ".join(map(str, self.info.folds)) or "none"
        for fold in (*exclude_folds, *(folds or ())):
            check(fold in self.info.folds, "fold", f"no rows of fold {fold}; the set has: {known}")
        if exclude_folds or folds is not None:
            fold = self.column("fold")
            keep &= ~np.isin(fold, list(exclude_folds))
            keep &= np.isin(fold, list(folds)) if folds is not None else True
        return np.flatnonzero(keep)

    def measured(self, rows: np.ndarray) -> ShardsInfo:
        """``info`` with mean and standard deviation over ``rows`` instead of all training rows."""
        return dataclasses.replace(
            self.info, signals=measured(self.info.signals, self._stored, rows)
        )

    def verify(self) -> None:
        """Opens the shards of all folders; ``InputError`` names the first that is damaged."""
        for folder in self._folders:
            folder.verify()

    def close(self) -> None:
        for folder in self._folders:
            folder.close()


def _by_range(starts: np.ndarray, ids: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Rows ``ids`` ``[n]`` by the range that holds them; range ``i`` begins at ``starts[i]``.

    Yields:
      The number of a range, positions in ``ids``, and those rows counted from its start.
    """
    range_of = np.searchsorted(starts, ids, side="right") - 1
    for i in np.unique(range_of):
        where = np.flatnonzero(range_of == i)
        yield int(i), where, ids[where] - starts[i]


@dataclasses.dataclass
class ShardFolder:
    """One folder of shards."""

    path: Path
    info: ShardsInfo

    def __post_init__(self):
        self._starts = np.cumsum([0, *(shard.rows for shard in self.info.shards)])
        self._readers: dict[int, Any] = {}
        self._lock = threading.Lock()
        self._intact: set[str] = set()
        for shard in self.info.shards:
            path = self.path / shard.file
            check(path.is_file(), str(path), "is missing; prepare the set again")

    @cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        path = self.path / COLUMNS
        try:
            found = columns.mapped(path)
        except Exception as error:
            raise InputError(f"{path}: cannot be read ({error}); prepare the set again") from error
        if sorted(found) != [stated.name for stated in self.info.columns]:
            raise self._other_columns()
        return found

    def column(self, name: str) -> np.ndarray:
        """The values of a column, read from disk where they are used; text is UTF-8."""
        known = ", ".join(n for n in self._columns if "." not in n)
        check(name in self._columns, "column", f"no column {name!r}; the set has: {known}")
        values = self._columns[name]
        if name not in self._intact:
            stated = {column.name: column.sha256 for column in self.info.columns}
            if columns.digest(name, values) != stated[name]:
                raise self._other_columns()
            self._intact.add(name)
        return np.asarray(values)

    def _other_columns(self) -> InputError:
        return InputError(f"{self.path / COLUMNS}: is not what was written; prepare the set again")

    def read_bytes(self, ids: np.ndarray) -> list[bytes]:
        out: list[Any] = [None] * len(ids)
        for shard, where, local in _by_range(self._starts, ids):
            try:
                records = self._reader(shard).read(local.tolist())
            except (RuntimeError, IndexError, ValueError) as error:
                raise self._damaged(shard, error) from error
            for position, record in zip(where, records):
                out[position] = record
        return out

    def verify(self) -> None:
        """Opens all shards; ``InputError`` names the first that is damaged or cut short."""
        for shard in range(len(self.info.shards)):
            try:
                self._reader(shard)
            except (RuntimeError, ValueError) as error:
                raise self._damaged(shard, error) from error

    def _reader(self, shard: int) -> Any:
        with self._lock:
            if shard not in self._readers:
                from array_record.python.array_record_module import ArrayRecordReader

                reader = ArrayRecordReader(
                    str(self.path / self.info.shards[shard].file), READ_OPTIONS
                )
                records, rows = reader.num_records(), self.info.shards[shard].rows
                if records != rows:
                    raise RuntimeError(f"it holds {records} records, not {rows}")
                self._readers[shard] = reader
            return self._readers[shard]

    def _damaged(self, shard: int, error: Exception) -> InputError:
        path = self.path / self.info.shards[shard].file
        return InputError(
            f"{path}: is damaged or cut short ({first_line(error)}); delete the folder and "
            "prepare it again"
        )

    def close(self) -> None:
        with self._lock:
            for reader in self._readers.values():
                reader.close()
            self._readers.clear()


def open_shards(
    paths: str | Path | Sequence[str | Path], *, cache: str | Path | None = None
) -> Shards:
    """Opens one folder of shards, or several as one set, labelled where the classes agree.

    Args:
      paths: folders, also URLs of object storage, s3:// and gs://.
      cache: the local folder that URLs are copied to, see :func:`jfreq.data.shards.cache.copied`.

    Raises:
      InputError: where a folder is missing or unfinished, or the signals differ.
    """
    paths = [paths] if isinstance(paths, str | Path) else paths
    check(len(paths) > 0, "data.path", "name at least one folder of shards")
    folders = [
        copied(url, cache) if (url := url_of(path)) else local_path(path, "data") for path in paths
    ]
    return Shards([ShardFolder(folder, ShardsInfo.read(folder)) for folder in folders])
