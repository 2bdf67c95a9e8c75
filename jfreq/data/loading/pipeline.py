"""Batches by step number: the global batch of step s is a pure function of (seed, s).

So the position of a run is its step, no iterator is ever saved, and any number of processes reads
the same global batches. They come from one of two backends: tf.data, or host memory without
TensorFlow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import weakref
from collections.abc import Generator, Iterator
from functools import cached_property
from typing import Any, Literal

import jax
import numpy as np

from jfreq.config import Data, Validation, check
from jfreq.data.fold_assignment import open_data
from jfreq.data.loading import in_memory, index_order
from jfreq.data.loading.held_out import NOTHING_HELD_OUT, divide_rows, measured_rows
from jfreq.data.loading.sampling import Order, balanced, check_sampling
from jfreq.data.loading.subsequences import runs_of
from jfreq.data.shards.example import batch_shapes, signal_bytes
from jfreq.data.shards.metadata import ShardsInfo
from jfreq.data.shards.reader import Shards
from jfreq.types import DataSpec, InputError

_PREFETCH = 2


@dataclasses.dataclass(frozen=True, eq=False)
class Pipeline:
    """Training batches of one process; :func:`open_pipeline` makes it."""

    shards: Shards
    rows: np.ndarray
    """Row numbers that training reads, ``[n]``, ascending."""
    backend: Literal["tfdata", "memory"]
    batch: int
    """Global batch size."""
    seed: int
    order: Order
    """Of the rows, as positions in ``rows``."""
    threads: int
    info: ShardsInfo
    """What batches hold: cropped signals, with statistics over all rows that are not held out,
    labelled or not."""
    process_index: int = 0
    process_count: int = 1
    held_out: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    """Row numbers that training is measured on, ``[m]``, in the order of :meth:`validation`."""
    notes: tuple[str, ...] = ()
    """What a user should know of the rows, in sentences."""
    _iterators: weakref.WeakSet[Generator] = dataclasses.field(default_factory=weakref.WeakSet)

    def __post_init__(self):
        # Threads of tf.data call into Python. Still running at exit, they abort the process.
        weakref.finalize(self, _stop, self._iterators)

    @property
    def spec(self) -> DataSpec:
        return self.info.spec

    @property
    def manifest_hash(self) -> str:
        return self.shards.manifest_hash

    @property
    def size(self) -> int:
        """Rows of an epoch."""
        return self.order.size

    @property
    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of the global batch."""
        return batch_spec(self.info, self.batch)

    def global_ids(self, step: int) -> np.ndarray:
        """Row numbers ``[batch]`` int64 of the global batch of ``step``."""
        return self.rows[self.order(step)]

    def iterate(self, start_step: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """The part of this process in every global batch from ``start_step`` on, without end.

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
        """Rows spread evenly over the set, the same in every process.

        Returns:
          The beginning of signals ``[n t c]``, as long as in batches, and ``length`` ``[n]``, of
          at most ``most`` rows.
        """
        positions = np.unique(np.linspace(0, len(self.rows) - 1, most).astype(int))
        batch = self.shards.read(self.rows[positions])
        length = np.minimum(batch["length"], self.info.signals[0].samples)
        return {name: batch[name][:, :n] for name, n in self._samples.items()} | {"length": length}

    def validation(self, batch: int) -> Iterator[dict[str, np.ndarray]]:
        """The part of this process in batches of ``batch`` rows that hold ``held_out`` once.

        Yields:
          As :meth:`iterate`, where crops are the middle of their rows. The last batch is filled up
          with rows whose ``_mask`` is 0.
        """
        part = self.process_index, self.process_count
        for out in eval_batches(self.shards, self.held_out, batch=batch, part=part):
            if self._cropped:
                middle = np.full(len(out["length"]), 0.5)
                out = in_memory.crop(out, middle, samples=self._samples)
            yield out

    def close(self) -> None:
        """Stops all iterators and closes the shard files."""
        _stop(self._iterators)
        self.shards.close()

    def _positions(self, step: int) -> np.ndarray:
        return self._local(self.order(step))

    def _local(self, values: np.ndarray) -> np.ndarray:
        """The part of this process; the parts in order are the global batch, as devices hold it."""
        return _part(values, (self.process_index, self.process_count))

    @property
    def _samples(self) -> dict[str, int]:
        return {s.name: s.samples for s in self.info.signals}

    @property
    def _cropped(self) -> bool:
        stored = {s.name: s.samples for s in self.shards.info.signals}
        return self._samples != stored

    def _starts(self, step: int) -> np.ndarray:
        return self._local(index_order.fractions(step, batch=self.batch, seed=self.seed))

    def _from_memory(self, start_step: int) -> Iterator[dict[str, np.ndarray]]:
        for step in itertools.count(start_step):
            positions = self._positions(step)
            batch = {name: values[positions] for name, values in self._table.items()}
            if self._cropped:
                batch = in_memory.crop(batch, self._starts(step), samples=self._samples)
            yield batch

    def _from_tfdata(self, start_step: int) -> Iterator[dict[str, np.ndarray]]:
        errors: list[InputError] = []
        try:
            yield from _dataset(self, start_step, errors).as_numpy_iterator()
        except Exception as error:
            # TensorFlow wraps what the reader raised in another error.
            raise errors[0] if errors else error from None

    @cached_property
    def _table(self) -> dict[str, np.ndarray]:
        """All rows in memory, read on first use."""
        return in_memory.load(self.shards, self.rows)


def open_pipeline(
    cfg: Data,
    *,
    batch: int,
    seed: int,
    labelled: bool = False,
    validation: Validation = NOTHING_HELD_OUT,
    process_index: int = 0,
    process_count: int = 1,
) -> Pipeline:
    """Opens the shards ``cfg.path`` for training.

    Args:
      cfg: ``crop_seconds`` cuts a random window out of every row, which (seed, step) decide. With
        ``sequence`` rows come in runs of :func:`jfreq.data.loading.subsequences.runs_of`, and the
        runs are shuffled. With ``sampling`` they are drawn as :mod:`jfreq.data.loading.sampling`
        says.
      batch: global batch size.
      seed: of the order of rows and of the crops.
      labelled: read only rows that have a label.
      validation: rows to hold out, which are not read.
      process_index: of this process.
      process_count: of the processes that share the global batch.

    Raises:
      InputError: for unfinished shards, an unknown split or fold, no rows left, a batch of more
        rows than there are (before a fraction of them is sampled), or one that the processes
        cannot divide evenly, in whole runs, and for sampling that these rows rule out.
    """
    check(
        0 <= process_index < process_count,
        "process_index",
        f"must be 0 or more and below {process_count}, got {process_index}",
    )
    _check_divisible(batch, process_count, cfg.sequence)
    shards = open_data(cfg)
    known, rows, held_out, held_note = divide_rows(shards, cfg, validation, labelled=labelled)
    if batch > len(known):
        power_of_two = 1 << (len(known).bit_length() - 1)
        raise InputError(
            f"batch: is {batch}, but there are {len(known)} rows to train on; use --batch "
            f"{power_of_two} or less, or more data"
        )
    info = cropped_info(shards.measured(known), cfg.crop_seconds)  # statistics need no labels
    weights, note = None, ""
    if cfg.sampling == "balanced":
        rows, weights, note = balanced(shards, rows)
    check_sampling(cfg, len(rows))
    shards.verify()
    order = Order(
        len(rows),
        batch,
        seed,
        shuffle=cfg.shuffle,
        runs=runs_of(shards, rows, cfg.sequence) if cfg.sequence > 1 else None,
        epoch_rows=cfg.epoch_rows,
        weights=weights,
    )
    return Pipeline(
        shards=shards,
        rows=rows,
        backend=_backend(cfg, len(rows) * signal_bytes(shards.info.signals)),
        batch=batch,
        seed=seed,
        order=order,
        threads=cfg.threads,
        info=info,
        process_index=process_index,
        process_count=process_count,
        held_out=measured_rows(shards, held_out, most=validation.rows, sequence=cfg.sequence),
        notes=tuple(filter(None, (note, held_note))),
    )


def _check_divisible(batch: int, processes: int, sequence: int) -> None:
    """``InputError`` where processes cannot have parts of equal size, of whole runs."""
    check(
        batch % processes == 0,
        "batch",
        f"{batch} rows cannot be divided evenly among {processes} processes; use a multiple",
    )
    check(
        batch // processes % sequence == 0,
        "data.sequence",
        f"the {batch} rows of a batch are not whole runs of {sequence} for each of {processes} "
        f"processes; make the batch a multiple of {sequence * processes}",
    )


def batch_spec(info: ShardsInfo, batch: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a batch of ``batch`` rows, ``_mask`` included."""
    shapes = batch_shapes(info, batch) | {"_mask": ((batch,), np.float32)}
    return {name: jax.ShapeDtypeStruct(*value) for name, value in shapes.items()}


def eval_batches(
    shards: Shards, rows: np.ndarray, *, batch: int, part: tuple[int, int] = (0, 1)
) -> Iterator[dict[str, np.ndarray]]:
    """Every row of ``rows`` ``[n]`` once, in that order.

    Args:
      shards: the data.
      rows: numbers of rows.
      batch: rows of a batch.
      part: which of how many equal parts of each batch is read.

    Yields:
      As :meth:`Pipeline.iterate`. The last batch is filled up with rows whose ``_mask`` is 0.
    """
    check(batch >= 1, "batch", f"must be 1 or more, got {batch}")
    for block, mask in _blocks(rows, batch):
        yield {**shards.read(_part(block, part)), "_mask": _part(mask, part)}


def _part(values: np.ndarray, part: tuple[int, int]) -> np.ndarray:
    index, count = part
    return np.split(values, count)[index]


def _blocks(rows: np.ndarray, batch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """``batch`` of ``rows`` after the other, and their ``_mask``; the last block is filled up."""
    for begin in range(0, len(rows), batch):
        block = np.asarray(rows[begin : begin + batch])
        yield np.resize(block, batch), (np.arange(batch) < len(block)).astype(np.float32)


def _stop(iterators: weakref.WeakSet[Generator]) -> None:
    for iterator in list(iterators):
        with contextlib.suppress(ValueError):  # another thread is advancing it
            iterator.close()


def _backend(cfg: Data, size: int) -> Literal["tfdata", "memory"]:
    if cfg.backend != "auto":
        return cfg.backend
    return "memory" if size <= cfg.memory_mb * 2**20 else "tfdata"


def cropped_info(info: ShardsInfo, seconds: float | None) -> ShardsInfo:
    """What batches hold: rows as stored, or crops of ``seconds``, which may not be longer."""
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


def _dataset(pipeline: Pipeline, start_step: int, errors: list[InputError]) -> Any:
    """The ``tf.data.Dataset`` of batches; errors of the reader are appended to ``errors``.

    From step to row ids, records, arrays and crops all is stateless; no GPU is touched.
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
            errors.append(error)
            raise
        # Records number classes as their folder does, not as the set of several folders.
        labels = shards.labels(ids) if shards.relabelled else np.zeros(len(ids), np.int32)
        return np.array(records, object), ids.astype(np.int32), starts, labels

    def load(step: Any) -> dict[str, Any]:
        multi = shards.relabelled and shards.info.multi_label
        dtypes = [tf.string, tf.int32, tf.float64, tf.float32 if multi else tf.int32]
        *columns, labels = tf.numpy_function(read, [step], dtypes, stateful=False)
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
