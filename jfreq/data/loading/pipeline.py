"""Batches by step number: the global batch of step s is a pure function of (seed, s).

So the position of a run is its step, no iterator is ever saved, and 1, 2 or 4 processes read
the same global batches. Two backends lead to them: tf.data, and host memory without TensorFlow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import weakref
from collections.abc import Generator, Iterator
from functools import cached_property
from typing import Any, Literal

import jax
import numpy as np

from jfreq.config import Data, check
from jfreq.data.fold_assignment import open_data
from jfreq.data.loading import in_memory, index_order
from jfreq.data.loading.label_subsets import sampled_rows
from jfreq.data.loading.subsequences import runs_of
from jfreq.data.shards.example import signal_bytes
from jfreq.data.shards.metadata import ShardsInfo
from jfreq.data.shards.reader import Shards
from jfreq.types import DataSpec, InputError

_PREFETCH = 2


@dataclasses.dataclass(frozen=True, eq=False)
class Pipeline:
    """Training batches of one process.

    ``size`` rows make an epoch: each of ``rows`` once, or, with ``runs``, all runs once, in which
    rows may come twice.
    """

    shards: Shards
    rows: np.ndarray
    backend: Literal["tfdata", "memory"]
    batch: int
    """Global batch size."""
    seed: int
    shuffle: bool
    threads: int
    info: ShardsInfo
    """Of the batches: as stored, but for the crop, with the statistics of all rows that are not
    held out, labelled or not."""
    process_index: int = 0
    process_count: int = 1
    runs: np.ndarray | None = None
    """Positions in ``rows``, ``[k q]``: rows i * q to i * q + q - 1 of a batch are one of these."""
    _iterators: weakref.WeakSet[Generator] = dataclasses.field(default_factory=weakref.WeakSet)

    def __post_init__(self):
        # tf.data's threads call into Python: left running at exit, they abort the process.
        weakref.finalize(self, _stop, self._iterators)

    @property
    def spec(self) -> DataSpec:
        return self.info.spec

    @property
    def manifest_hash(self) -> str:
        return self.shards.manifest_hash

    @property
    def size(self) -> int:
        return len(self.rows) if self.runs is None else self.runs.size

    @property
    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of the global batch."""
        return batch_spec(self.info, self.batch)

    def global_ids(self, step: int) -> np.ndarray:
        """Row numbers ``[batch]`` int64 of the global batch of ``step``."""
        return self.rows[self._global(step)]

    def iterate(self, start_step: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """This process's part of every global batch from ``start_step`` on, without end.

        Yields:
          Signals ``[b t c]``, ``label``, ``id``, ``length``, ``_mask`` (ones), numpy.
        """
        check(start_step >= 0, "start_step", f"must be 0 or more, got {start_step}")
        source = self._from_memory if self.backend == "memory" else self._from_tfdata
        mask = np.ones(self.batch // self.process_count, np.float32)
        batches = ({**batch, "_mask": mask} for batch in source(start_step))
        self._iterators.add(batches)
        return batches

    def sample(self, most: int = 512) -> dict[str, np.ndarray]:
        """Rows spread evenly over the set, cut to the window: the same in every process.

        Returns:
          Signals ``[n t c]`` and ``length``, at most ``most`` rows.
        """
        picked = np.unique(np.linspace(0, len(self.rows) - 1, most).astype(int))
        read = self.shards.read(self.rows[picked])
        samples = self._samples
        first = next(iter(samples.values()))
        return {name: read[name][:, :n] for name, n in samples.items()} | {
            "length": np.minimum(read["length"], first)
        }

    def close(self) -> None:
        """Stops all iterators and closes the shard files."""
        _stop(self._iterators)
        self.shards.close()

    def _global(self, step: int) -> np.ndarray:
        runs = self.runs
        length = 1 if runs is None else runs.shape[1]
        ids = index_order.global_ids(
            step,
            batch=self.batch // length,
            rows=self.size // length,
            seed=self.seed,
            shuffle=self.shuffle,
        )
        return ids if runs is None else runs[ids].ravel()

    def _positions(self, step: int) -> np.ndarray:
        return self._mine(self._global(step))

    def _mine(self, values: np.ndarray) -> np.ndarray:
        return index_order.local(
            values, process_index=self.process_index, process_count=self.process_count
        )

    @property
    def _samples(self) -> dict[str, int]:
        return {s.name: s.samples for s in self.info.signals}

    @property
    def _cropped(self) -> bool:
        stored = {s.name: s.samples for s in self.shards.info.signals}
        return self._samples != stored

    def _starts(self, step: int) -> np.ndarray:
        return self._mine(index_order.fractions(step, batch=self.batch, seed=self.seed))

    def _from_memory(self, start_step: int) -> Iterator[dict[str, np.ndarray]]:
        starts = self._starts if self._cropped else None
        return in_memory.batches(
            self._table, self._positions, starts, self._samples, start_step=start_step
        )

    def _from_tfdata(self, start_step: int) -> Iterator[dict[str, np.ndarray]]:
        failed: list[InputError] = []
        try:
            yield from _dataset(self, start_step, failed).as_numpy_iterator()
        except Exception as error:
            # TensorFlow turns what the reader raised into an error of its own.
            raise failed[0] if failed else error from None

    @cached_property
    def _table(self) -> dict[str, np.ndarray]:
        """The set in memory, read on first use."""
        return in_memory.load(self.shards, self.rows)


def open_pipeline(
    cfg: Data,
    *,
    batch: int,
    seed: int,
    labelled: bool = False,
    process_index: int = 0,
    process_count: int = 1,
) -> Pipeline:
    """Opens ``cfg.path`` for training, with ``labelled`` only the rows that carry a label.

    ``cfg.crop_seconds`` cuts a random window out of every row, which (seed, step) decide. With
    ``cfg.sequence`` the rows come in runs of :func:`jfreq.data.loading.subsequences.runs_of`, and
    it is the runs that are shuffled. Raises ``InputError`` for unfinished shards, an unknown split
    or fold, no rows left, a batch of more rows than there are (before a fraction of them is
    sampled), or one that the processes cannot divide evenly, in whole runs.
    """
    check(
        batch % process_count == 0,
        "batch",
        f"{batch} rows cannot be shared evenly by {process_count} processes; make it a multiple",
    )
    check(
        batch // process_count % cfg.sequence == 0,
        "data.sequence",
        f"the {batch} rows of a batch are not whole runs of {cfg.sequence} for each of "
        f"{process_count} processes; make the batch a multiple of {cfg.sequence * process_count}",
    )
    if not 0 <= process_index < process_count:
        raise InputError(f"process_index: {process_index} of {process_count}")
    shards = open_data(cfg)
    rows = shards.rows(cfg.split, exclude_folds=cfg.exclude_folds)
    check(len(rows) > 0, "data", "no rows are left after split and exclude_folds")
    if batch > len(rows):
        raise InputError(
            f"batch: is {batch}, but there are {len(rows)} rows to train on; take --batch "
            f"{_power_of_two(len(rows))} or less, or more data"
        )
    info = cropped_info(shards.measured(rows), cfg.crop_seconds)  # statistics need no labels
    rows = sampled_rows(shards, rows, cfg, labelled=labelled)
    shards.verify()
    return Pipeline(
        shards=shards,
        rows=rows,
        backend=_backend(cfg, len(rows) * signal_bytes(shards.info.signals)),
        batch=batch,
        seed=seed,
        shuffle=cfg.shuffle,
        threads=cfg.threads,
        info=info,
        process_index=process_index,
        process_count=process_count,
        runs=runs_of(shards, rows, cfg.sequence) if cfg.sequence > 1 else None,
    )


def _power_of_two(n: int) -> int:
    """The largest that is not above ``n``."""
    return 1 << (n.bit_length() - 1)


def batch_spec(info: ShardsInfo, batch: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a batch of ``batch`` rows."""
    shape: dict[str, tuple[tuple[int, ...], Any]] = {
        s.name: ((batch, s.samples, s.channels), s.dtype) for s in info.signals
    }
    multi = info.multi_label
    shape["label"] = ((batch, len(info.labels)), np.float32) if multi else ((batch,), np.int32)
    shape |= {"id": ((batch,), np.int32), "length": ((batch,), np.int32)}
    shape |= {"_mask": ((batch,), np.float32)}
    return {name: jax.ShapeDtypeStruct(*value) for name, value in shape.items()}


def eval_batches(
    shards: Shards, rows: np.ndarray, *, batch: int
) -> Iterator[dict[str, np.ndarray]]:
    """Every row once, in the order of ``rows``; the last batch is filled up with ``_mask`` 0."""
    check(batch >= 1, "batch", f"must be 1 or more, got {batch}")
    for begin in range(0, len(rows), batch):
        block = np.asarray(rows[begin : begin + batch])
        mask = (np.arange(batch) < len(block)).astype(np.float32)
        yield {**shards.read(np.resize(block, batch)), "_mask": mask}


def _stop(iterators: weakref.WeakSet[Generator]) -> None:
    for iterator in list(iterators):
        with contextlib.suppress(ValueError):  # it is being advanced by another thread
            iterator.close()


def _backend(cfg: Data, size: int) -> Literal["tfdata", "memory"]:
    if cfg.backend != "auto":
        return cfg.backend
    return "memory" if size <= cfg.memory_mb * 2**20 else "tfdata"


def cropped_info(info: ShardsInfo, seconds: float | None) -> ShardsInfo:
    """What batches hold: rows as stored, or windows of ``seconds``."""
    if seconds is None:
        return info
    longest = min(s.spec.seconds for s in info.signals)
    check(
        seconds <= longest,
        "data.crop_seconds",
        f"must be {longest:g} or less, the window of the data, got {seconds:g}",
    )
    signals = tuple(
        dataclasses.replace(s, samples=max(1, round(seconds * s.rate))) for s in info.signals
    )
    return dataclasses.replace(info, signals=signals)


def _dataset(pipeline: Pipeline, start_step: int, failed: list[InputError]) -> Any:
    """step -> row ids -> records -> parse -> crop, all stateless; never touches a GPU.

    ``failed`` takes the reader's own errors.
    """
    import tensorflow as tf

    from jfreq.data.loading import tf_ops

    tf.config.set_visible_devices([], "GPU")
    shards, rows, cropped = pipeline.shards, pipeline.rows, pipeline._cropped

    def read(step: np.ndarray) -> tuple[np.ndarray, ...]:
        ids = rows[pipeline._positions(int(step))]
        starts = pipeline._starts(int(step)) if cropped else np.zeros(len(ids))
        try:
            records = shards.read_bytes(ids)
        except InputError as error:
            failed.append(error)
            raise
        # What records say of their classes holds in their own folder.
        labels = shards.labels(ids) if shards.relabelled else np.zeros(len(ids), np.int32)
        return np.array(records, object), ids.astype(np.int32), starts, labels

    def load(step: Any) -> dict[str, Any]:
        several = shards.relabelled and shards.info.multi_label
        kinds = [tf.string, tf.int32, tf.float64, tf.float32 if several else tf.int32]
        *columns, labels = tf.numpy_function(read, [step], kinds, stateful=False)
        size = pipeline.batch // pipeline.process_count
        records, ids, starts = (tf.ensure_shape(x, [size]) for x in columns)
        batch = {**tf_ops.parse(records, info=shards.info), "id": ids}
        if shards.relabelled:
            batch["label"] = tf.ensure_shape(labels, batch["label"].shape)
        return tf_ops.crop(batch, starts, samples=pipeline._samples) if cropped else batch

    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    options.threading.private_threadpool_size = pipeline.threads
    options.threading.max_intra_op_parallelism = 1
    steps = tf.data.Dataset.counter(start_step, dtype=tf.int64)
    loaded = steps.map(load, num_parallel_calls=pipeline.threads, deterministic=True)
    return loaded.prefetch(_PREFETCH).with_options(options)
