"""Rows of shards as ``tf.train.Example`` in the layout of TFDS, written and parsed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jfreq.data.shards import flac
from jfreq.data.shards.metadata import ShardsInfo, SignalInfo

TEXT = ("split", "subject", "path")
"""Features that are text."""


def batch_shapes(info: ShardsInfo, size: int) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shape and dtype of every array in ``size`` rows: signals, ``label``, ``id``, ``length``."""
    multi = info.multi_label
    signals = {s.name: ((size, s.samples, s.channels), s.dtype) for s in info.signals}
    return signals | {
        "label": ((size, len(info.labels)), np.float32) if multi else ((size,), np.int32),
        "id": ((size,), np.int32),
        "length": ((size,), np.int32),
    }


def empty_batch(info: ShardsInfo, size: int) -> dict[str, np.ndarray]:
    """Arrays of zeros for ``size`` rows, see :func:`batch_shapes`."""
    return {name: np.zeros(*value) for name, value in batch_shapes(info, size).items()}


def fill(out: dict[str, np.ndarray], i: int, record: bytes, info: ShardsInfo) -> None:
    """Parses one record into row ``i`` of ``out``, arrays of :func:`empty_batch`.

    Windows longer than ``info`` states are cut, shorter ones leave zeros at their end.
    """
    feature = _protos()[0].Example.FromString(record).features.feature
    for s in info.signals:
        data = feature[s.name].bytes_list.value[0]
        if s.encoding == "flac":
            x = flac.decode(data)[: s.samples]
        else:
            x = np.frombuffer(data, s.dtype).reshape(-1, s.channels)[: s.samples]
        out[s.name][i, : len(x)] = x
    if info.multi_label:
        out["label"][i] = np.frombuffer(feature["label"].bytes_list.value[0], np.float32)
    elif info.labels:
        out["label"][i] = feature["label"].int64_list.value[0]
    else:
        out["label"][i] = -1
    out["length"][i] = min(feature["length"].int64_list.value[0], info.signals[0].samples)


def _protos() -> Any:
    """The modules of ``tf.train.Example`` and ``Feature``, without TensorFlow."""
    from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

    return tf_example_pb2, tf_feature_pb2


def serialise(row: dict[str, Any], info: ShardsInfo) -> bytes:
    """One record, a ``tf.train.Example`` in the layout of TFDS: the inverse of :func:`fill`.

    Args:
      row: signals ``[t c]``; ``label`` (a number, or ``[classes]``); the numbers ``length``,
        ``fold`` and ``start``; the texts ``split``, ``subject`` and ``path``.
    """
    tf_example_pb2, tf_feature_pb2 = _protos()

    def raw(value: bytes):
        return tf_feature_pb2.Feature(bytes_list=tf_feature_pb2.BytesList(value=[value]))

    def number(value: int):
        return tf_feature_pb2.Feature(int64_list=tf_feature_pb2.Int64List(value=[int(value)]))

    feature = {s.name: raw(_encoded(row[s.name], s)) for s in info.signals}
    label = row["label"]
    feature["label"] = (
        raw(np.asarray(label, np.float32).tobytes()) if info.multi_label else number(label)
    )
    feature |= {name: number(row[name]) for name in ("length", "fold", "start")}
    feature |= {name: raw(row[name].encode()) for name in TEXT}
    example = tf_example_pb2.Example(features=tf_feature_pb2.Features(feature=feature))
    return example.SerializeToString(deterministic=True)


def _encoded(x: np.ndarray, info: SignalInfo) -> bytes:
    """The samples ``[t c]`` as they lie in a record."""
    x = np.ascontiguousarray(x, info.dtype)
    return flac.encode(x, info.rate) if info.encoding == "flac" else x.tobytes()


def signal_bytes(signals: Sequence[SignalInfo]) -> int:
    """Size of the signals of one row in memory, in bytes."""
    return sum(s.samples * s.channels * np.dtype(s.dtype).itemsize for s in signals)
