"""Rows of shards as records: ``tf.train.Example`` in the layout of TFDS, written and parsed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jfreq.data.shards.metadata import ShardsInfo, SignalInfo

TEXT = ("split", "subject", "path")


def empty_batch(info: ShardsInfo, size: int) -> dict[str, np.ndarray]:
    """A zeroed batch of ``size`` rows: signals ``[b t c]``, ``label``, ``id``, ``length``."""
    out: dict[str, np.ndarray] = {
        s.name: np.zeros((size, s.samples, s.channels), s.dtype) for s in info.signals
    }
    multi = info.multi_label
    out["label"] = (
        np.zeros((size, len(info.labels)), np.float32) if multi else np.zeros(size, np.int32)
    )
    out["id"] = np.zeros(size, np.int32)
    out["length"] = np.zeros(size, np.int32)
    return out


def fill(out: dict[str, np.ndarray], i: int, record: bytes, info: ShardsInfo) -> None:
    """Parses one record into row ``i`` of ``out``."""
    feature = _protos()[0].Example.FromString(record).features.feature
    for s in info.signals:
        x = np.frombuffer(feature[s.name].bytes_list.value[0], s.dtype).reshape(-1, s.channels)[
            : s.samples
        ]
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
    """One record: a ``tf.train.Example`` in the layout of TFDS, the inverse of :func:`fill`.

    ``row`` holds the signals ``[t c]`` and ``label``, ``length``, ``fold``, ``start`` (numbers),
    ``split``, ``subject``, ``path`` (text).
    """
    tf_example_pb2, tf_feature_pb2 = _protos()

    def raw(value: bytes):
        return tf_feature_pb2.Feature(bytes_list=tf_feature_pb2.BytesList(value=[value]))

    def number(value: int):
        return tf_feature_pb2.Feature(int64_list=tf_feature_pb2.Int64List(value=[int(value)]))

    feature = {
        s.name: raw(np.ascontiguousarray(row[s.name], s.dtype).tobytes()) for s in info.signals
    }
    label = row["label"]
    feature["label"] = (
        raw(np.asarray(label, np.float32).tobytes()) if info.multi_label else number(label)
    )
    feature |= {name: number(row[name]) for name in ("length", "fold", "start")}
    feature |= {name: raw(row[name].encode()) for name in TEXT}
    example = tf_example_pb2.Example(features=tf_feature_pb2.Features(feature=feature))
    return example.SerializeToString(deterministic=True)


def signal_bytes(signals: Sequence[SignalInfo]) -> int:
    """Bytes of one row's signals."""
    return sum(s.samples * s.channels * np.dtype(s.dtype).itemsize for s in signals)
