"""Stateless operations of tf.data on whole batches.

Each has a counterpart in numpy with the same result: :func:`jfreq.data.shards.example.fill` for
``parse``, :func:`jfreq.data.loading.in_memory.crop` for ``crop``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jfreq.data.shards import flac
from jfreq.data.shards.metadata import ShardsInfo, SignalInfo

if TYPE_CHECKING:
    import tensorflow as tf

    Tensors = dict[str, tf.Tensor]


def parse(records: tf.Tensor, *, info: ShardsInfo) -> Tensors:
    """Parses serialised examples ``[b]`` to signals ``[b t c]``, ``label`` and ``length`` ``[b]``.

    Windows longer than ``info`` states are cut, shorter ones zero-padded.
    """
    import tensorflow as tf

    raw, number = tf.io.FixedLenFeature([], tf.string), tf.io.FixedLenFeature([], tf.int64)
    keys: dict[str, Any] = {s.name: raw for s in info.signals} | {"length": number}
    keys |= {"label": raw if info.multi_label else number} if info.labels else {}
    parsed: dict[str, Any] = tf.io.parse_example(records, keys)
    out = {}
    for s in info.signals:
        if s.encoding == "flac":
            out[s.name] = _decoded(parsed[s.name], s)
            continue
        dtype = tf.as_dtype(s.dtype)
        flat = tf.io.decode_raw(
            parsed[s.name], dtype, fixed_length=s.samples * s.channels * dtype.size
        )
        out[s.name] = tf.reshape(flat, [-1, s.samples, s.channels])
    out["length"] = tf.minimum(tf.cast(parsed["length"], tf.int32), info.signals[0].samples)
    if info.multi_label:
        flat = tf.io.decode_raw(parsed["label"], tf.float32, fixed_length=4 * len(info.labels))
        out["label"] = tf.reshape(flat, [-1, len(info.labels)])
    else:
        none = -tf.ones_like(out["length"])
        out["label"] = tf.cast(parsed["label"], tf.int32) if info.labels else none
    return out


def _decoded(files: tf.Tensor, info: SignalInfo) -> tf.Tensor:
    """FLAC files ``[b]`` as samples ``[b t c]``, in the thread of tf.data that needs them."""
    import tensorflow as tf

    def decode(data: Any) -> Any:
        return flac.decode_all(data, info.samples, info.channels)

    samples = tf.numpy_function(decode, [files], tf.int16, stateful=False)
    return tf.ensure_shape(samples, [None, info.samples, info.channels])


def crop(batch: Tensors, start: tf.Tensor, *, samples: dict[str, int]) -> Tensors:
    """Crops every signal of a batch to ``samples[name]`` samples.

    A row has one fraction for all modalities, so they stay aligned. It chooses among the starts
    that leave only valid samples in the crop; a row with too few of them starts at 0.

    Args:
      batch: signals ``[b t c]`` and ``length`` ``[b]``; everything else stays as it is.
      start: the fraction of every row, in [0, 1), ``[b]`` float64.
      samples: length of the crop by modality; ``length`` counts samples of the first.
    """
    import tensorflow as tf

    out, length, first_name = dict(batch), batch["length"], next(iter(samples))
    widths = {name: int(batch[name].shape[1] or 0) for name in samples}
    for name, size in samples.items():
        valid = tf.cast(length, tf.float64) * (widths[name] / widths[first_name])
        slack = tf.maximum(tf.cast(tf.round(valid), tf.int32) - size, 0)
        first = tf.cast(start * tf.cast(slack + 1, tf.float64), tf.int32)
        index = first[:, None] + tf.range(size)[None]
        out[name] = tf.gather(batch[name], index, batch_dims=1)
    return out | {"length": tf.minimum(length, samples[first_name])}
