"""The backend for sets that fit in host memory: in numpy, with the same batches as tf.data."""

from __future__ import annotations

import numpy as np

from jfreq.data.shards.example import empty_batch
from jfreq.data.shards.reader import Shards

_BLOCK = 256


def load(shards: Shards, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The rows ``rows`` ``[n]``, read in blocks, in the form of :meth:`Shards.read`."""
    out = empty_batch(shards.info, len(rows))
    for begin in range(0, len(rows), _BLOCK):
        block = shards.read(rows[begin : begin + _BLOCK])
        for name, values in block.items():
            out[name][begin : begin + _BLOCK] = values
    return out


def crop(
    batch: dict[str, np.ndarray], start: np.ndarray, *, samples: dict[str, int]
) -> dict[str, np.ndarray]:
    """:func:`jfreq.data.loading.tf_ops.crop` in numpy."""
    out, length, first_name = dict(batch), batch["length"], next(iter(samples))
    full = batch[first_name].shape[1]
    for name, size in samples.items():
        valid = length.astype(np.float64) * (batch[name].shape[1] / full)
        slack = np.maximum(np.rint(valid).astype(np.int32) - size, 0)
        first = (start * (slack + 1)).astype(np.int32)
        index = first[:, None] + np.arange(size)[None]
        out[name] = np.take_along_axis(batch[name], index[..., None], axis=1)
    return out | {"length": np.minimum(length, samples[first_name])}
