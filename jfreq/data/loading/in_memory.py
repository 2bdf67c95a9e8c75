"""The backend for sets that fit in host memory: numpy only, the same batches as tf.data's."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from jfreq.data.shards.example import empty_batch
from jfreq.data.shards.reader import Shards

_BLOCK = 256


def load(shards: Shards, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Every row of ``rows`` stacked, read in blocks: signals ``[rows t c]``, ``label``, ..."""
    out = empty_batch(shards.info, len(rows))
    for begin in range(0, len(rows), _BLOCK):
        block = shards.read(rows[begin : begin + _BLOCK])
        for name, values in block.items():
            out[name][begin : begin + _BLOCK] = values
    return out


def batches(
    table: dict[str, np.ndarray],
    positions: Callable[[int], np.ndarray],
    starts: Callable[[int], np.ndarray] | None,
    samples: dict[str, int],
    *,
    start_step: int,
) -> Iterator[dict[str, np.ndarray]]:
    """The batches from ``start_step`` on, without end, gathered from ``table``.

    ``positions(step)`` names rows of ``table``, ``starts(step)`` places the crops, if any.
    """
    step = start_step
    while True:
        where = positions(step)
        batch = {name: values[where] for name, values in table.items()}
        yield batch if starts is None else crop(batch, starts(step), samples=samples)
        step += 1


def crop(
    batch: dict[str, np.ndarray], start: np.ndarray, *, samples: dict[str, int]
) -> dict[str, np.ndarray]:
    """:func:`jfreq.data.loading.tf_ops.crop` in numpy."""
    out, length = dict(batch), batch["length"]
    first_name = next(iter(samples))
    full = batch[first_name].shape[1]
    for name, size in samples.items():
        valid = length.astype(np.float64) * (batch[name].shape[1] / full)
        slack = np.maximum(np.rint(valid).astype(np.int32) - size, 0)
        first = (start * (slack + 1)).astype(np.int32)
        index = first[:, None] + np.arange(size)[None]
        out[name] = np.take_along_axis(batch[name], index[..., None], axis=1)
    return out | {"length": np.minimum(length, samples[first_name])}
