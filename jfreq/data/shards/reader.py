"""Reading shards: random access by row, whole columns, several folders as one set."""

from __future__ import annotations

import copy
import dataclasses
import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jfreq.config import check
from jfreq.data.prepare.statistics import measured, training_rows
from jfreq.data.shards import combine
from jfreq.data.shards.example import TEXT, empty_batch, fill
from jfreq.data.shards.metadata import ShardsInfo, columns_digest, digest
from jfreq.data.sources.folders import COLUMNS
from jfreq.files import local_path
from jfreq.types import DataSpec, InputError

READ_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"


class Shards:
    """One or several folders of shards as one sequence of rows.

    Of several, windows are cut or zero-padded to those of the first folder. Where all have the
    same classes, in whatever order, they are one labelled set with the classes of the first; else
    every ``label`` is -1 and ``why_unlabelled`` says why.
    """

    def __init__(self, parts: Sequence[Part]):
        self._parts = tuple(parts)
        self._starts = np.cumsum([0, *(part.info.rows for part in parts)])
        self._fold: np.ndarray | None = None
        self.why_unlabelled = ""
        self.info = parts[0].info
        if len(parts) > 1:
            infos = [part.info for part in parts]
            self.why_unlabelled = combine.differing_classes(infos, self.paths)
            self.info = combine.merged(infos, labelled=not self.why_unlabelled)
            self.info = self.measured(training_rows(self.column("split")))
        hashes = self.manifests
        self.manifest_hash: str = hashes[0] if len(hashes) == 1 else digest(list(hashes))

    @property
    def spec(self) -> DataSpec:
        return self.info.spec

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(part.folder for part in self._parts)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def relabelled(self) -> bool:
        """The numbers of classes in the records may not be those of the set; see ``labels``."""
        return len(self._parts) > 1

    def with_folds(self, fold: np.ndarray, by: str) -> Shards:
        """The same rows with the folds ``[rows]`` in place of their own; files are shared."""
        out = copy.copy(self)
        out._fold = fold
        known = tuple(int(f) for f in np.unique(fold) if f >= 0)
        out.info = dataclasses.replace(self.info, folds=known, fold_by=by)
        return out

    @property
    def manifests(self) -> tuple[str, ...]:
        """The hash of every folder."""
        return tuple(part.info.manifest_hash for part in self._parts)

    def part_of(self, ids: np.ndarray) -> np.ndarray:
        """Which folder each of the rows ``ids`` ``[n]`` lies in, ``[n]`` int64."""
        return np.searchsorted(self._starts, ids, side="right") - 1

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return {name: value[0] for name, value in self.read([index % len(self)]).items()}

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return (self[i] for i in range(len(self)))

    def read(self, ids: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """Rows ``ids`` stacked: signals ``[b t c]`` as stored, ``label``, ``id``, ``length``."""
        ids = np.asarray(ids, np.int64)
        out = empty_batch(self.info, len(ids))
        out["id"][:] = ids
        for i, record in enumerate(self.read_bytes(ids)):
            fill(out, i, record, self.info)
        if self.relabelled:
            out["label"][:] = self.labels(ids)
        return out

    def read_bytes(self, ids: Sequence[int] | np.ndarray) -> list[bytes]:
        """The serialised ``tf.train.Example`` of each row; ``InputError`` for a damaged shard."""
        ids = np.asarray(ids, np.int64)
        if ids.size and (ids.min() < 0 or ids.max() >= len(self)):
            raise IndexError(f"rows {ids.min()}..{ids.max()} of {len(self)}")
        out: list[Any] = [None] * len(ids)
        for p, where, inside in _by_range(self._starts, ids):
            for position, record in zip(where, self._parts[p].read_bytes(inside)):
                out[position] = record
        return out

    def column(self, name: str) -> np.ndarray:
        """``[rows]``: ``label`` ``fold`` ``split`` ``subject`` ``path`` ``item`` ``start`` or
        ``length``."""
        if name == "label" and self.relabelled:
            return self.labels(np.arange(len(self)))
        if name == "fold" and self._fold is not None:
            return self._fold
        columns = [part.column(name) for part in self._parts]
        if name == "length":
            columns = [np.minimum(c, self.info.signals[0].samples) for c in columns]
        return np.concatenate(columns)

    def labels(self, ids: np.ndarray) -> np.ndarray:
        """``label`` of the rows ``ids``, ``[n]`` or ``[n classes]``, by the classes of the set."""
        if self.relabelled and not self.info.labels:
            return np.full(len(ids), -1, np.int32)
        shape = (len(ids), len(self.info.labels)) if self.info.multi_label else (len(ids),)
        out = np.empty(shape, np.float32 if self.info.multi_label else np.int32)
        for p, where, inside in _by_range(self._starts, ids):
            part = self._parts[p]
            values = part.column("label")[inside]
            out[where] = combine.renumbered(values, part.info.labels, self.info.labels)
        return out

    def rows(
        self,
        split: str | None = None,
        *,
        exclude_folds: Sequence[int] = (),
        folds: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Row numbers int64, ascending; ``InputError`` for a split or fold that is not there."""
        keep = np.ones(len(self), bool)
        if split is not None:
            known = ", ".join(self.info.splits) or "none"
            if split not in self.info.splits:
                raise InputError(
                    f"split: no rows of split {split!r}; the set has: {known} (to train on all "
                    "rows: --data.split None)"
                )
            keep &= self.column("split") == split
        for fold in (*exclude_folds, *(folds or ())):
            known = ", ".join(map(str, self.info.folds)) or "none"
            check(fold in self.info.folds, "fold", f"no rows of fold {fold}; the set has: {known}")
        if exclude_folds or folds is not None:
            fold = self.column("fold")
            keep &= ~np.isin(fold, list(exclude_folds))
            keep &= np.isin(fold, list(folds)) if folds is not None else True
        return np.flatnonzero(keep)

    def measured(self, rows: np.ndarray) -> ShardsInfo:
        """``info`` with the mean and standard deviation of ``rows`` instead of the set's."""
        return dataclasses.replace(
            self.info, signals=measured(self.info.signals, self.column, rows)
        )

    def verify(self) -> None:
        """Opens every shard of every part; ``InputError`` names the first damaged one."""
        for part in self._parts:
            part.verify()

    def close(self) -> None:
        for part in self._parts:
            part.close()


def _by_range(starts: np.ndarray, ids: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Rows ``ids`` ``[n]`` by the range that holds them; range ``i`` begins at ``starts[i]``.

    Yields:
      The number of a range, positions in ``ids``, and the rows counted from its start.
    """
    range_of = np.searchsorted(starts, ids, side="right") - 1
    for i in np.unique(range_of):
        where = np.flatnonzero(range_of == i)
        yield int(i), where, ids[where] - starts[i]


@dataclasses.dataclass
class Part:
    """One folder of shards."""

    folder: Path
    info: ShardsInfo

    def __post_init__(self):
        self._starts = np.cumsum([0, *(shard.rows for shard in self.info.shards)])
        self._readers: dict[int, Any] = {}
        self._lock = threading.Lock()
        for shard in self.info.shards:
            path = self.folder / shard.file
            check(path.is_file(), str(path), "is missing; prepare the set again")

    @cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        path = self.folder / COLUMNS
        try:
            with np.load(path, allow_pickle=False) as file:
                columns = {name: file[name] for name in file.files}
        except Exception as error:
            raise InputError(f"{path}: cannot be read ({error}); prepare the set again") from error
        if columns_digest(columns) != self.info.columns:
            raise InputError(f"{path}: is not what was written; prepare the set again")
        wrong = [name for name, values in columns.items() if len(values) != self.info.rows]
        check(not wrong, str(path), f"column {wrong[:1]} has a wrong length; prepare the set again")
        return columns

    def column(self, name: str) -> np.ndarray:
        known = ", ".join(n for n in self._columns if "." not in n)
        check(name in self._columns, "column", f"no column {name!r}; the set has: {known}")
        values = self._columns[name]
        return np.strings.decode(values, "utf-8") if name in TEXT else values

    def read_bytes(self, ids: np.ndarray) -> list[bytes]:
        out: list[Any] = [None] * len(ids)
        for s, where, inside in _by_range(self._starts, ids):
            try:
                records = self._reader(s).read(inside.tolist())
            except (RuntimeError, IndexError, ValueError) as error:
                raise self._damaged(s, error) from error
            for position, record in zip(where, records):
                out[position] = record
        return out

    def verify(self) -> None:
        """Opens every shard; ``InputError`` names the first that is damaged or cut short."""
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
                    str(self.folder / self.info.shards[shard].file), READ_OPTIONS
                )
                found, stated = reader.num_records(), self.info.shards[shard].rows
                if found != stated:
                    raise RuntimeError(f"it holds {found} records, not {stated}")
                self._readers[shard] = reader
            return self._readers[shard]

    def _damaged(self, shard: int, error: Exception) -> InputError:
        path = self.folder / self.info.shards[shard].file
        reason = str(error).splitlines()[0][:200]
        return InputError(
            f"{path}: damaged or cut short; delete the folder and prepare it again ({reason})"
        )

    def close(self) -> None:
        with self._lock:
            for reader in self._readers.values():
                reader.close()
            self._readers.clear()


def open_shards(paths: str | Path | Sequence[str | Path]) -> Shards:
    """Opens one folder of shards, or several as one set, labelled where the classes agree.

    Raises ``InputError`` where a folder is missing or unfinished, or the signals differ.
    """
    named = [paths] if isinstance(paths, str | Path) else paths
    folders = [local_path(path, "data") for path in named]
    check(len(folders) > 0, "data.path", "name at least one folder of shards")
    return Shards([Part(f, ShardsInfo.read(f)) for f in folders])
