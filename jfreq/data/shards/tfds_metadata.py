"""The files with which TensorFlow Datasets (TFDS) opens a folder of shards.

``tfds.builder_from_directory(folder).as_data_source("rows")`` reads it, without TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jfreq.data.shards.example import TEXT
from jfreq.data.shards.metadata import ShardsInfo, SignalInfo
from jfreq.files import read_json, write_json

NAME = "jfreq"
SPLIT = "rows"
"""The split that holds all rows; TFDS uses ``all`` for the union of splits."""


def shard_name(index: int, count: int) -> str:
    """The file name that TFDS expects of a shard."""
    return f"{NAME}-{SPLIT}.array_record-{index:05d}-of-{count:05d}"


def write(folder: Path, info: ShardsInfo) -> None:
    """Writes ``features.json`` and label names by TFDS, and ``dataset_info.json`` in its schema."""
    import tensorflow_datasets as tfds

    f = tfds.features
    features: dict = {
        s.name: f.Tensor(shape=(s.samples, s.channels), dtype=np.dtype(s.dtype), encoding="bytes")
        for s in info.signals
    }
    if info.multi_label:
        features["label"] = f.Tensor(shape=(len(info.labels),), dtype=np.float32, encoding="bytes")
    elif info.labels:
        features["label"] = f.ClassLabel(names=list(info.labels))
    else:
        features["label"] = f.Scalar(np.int64)
    features |= {name: f.Scalar(np.int64) for name in ("length", "fold", "start")}
    features |= {name: f.Text() for name in TEXT}
    f.FeaturesDict(features).save_config(str(folder))
    if flac := [s for s in info.signals if s.encoding == "flac"]:
        _as_flac(folder / "features.json", flac)
    split = {
        "name": SPLIT,
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "shardLengths": [str(shard.rows) for shard in info.shards],
        "numBytes": str(sum((folder / shard.file).stat().st_size for shard in info.shards)),
    }
    dataset = {
        "name": NAME,
        "version": "1.0.0",
        "fileFormat": "array_record",
        "description": f"{info.name}: {info.source}",
        "splits": [split],
    }
    write_json(folder / "dataset_info.json", dataset)


def _as_flac(path: Path, signals: Sequence[SignalInfo]) -> None:
    """States in ``features.json`` which signals are FLAC: data sources give the files as bytes.

    The feature of TFDS is not made here, because that imports TensorFlow.
    """
    config = read_json(path, "the features of a set")
    for s in signals:
        config["featuresDict"]["features"][s.name] = {
            "pythonClassName": "tensorflow_datasets.core.features.audio_feature.Audio",
            "audio": {
                "shape": {"dimensions": [str(s.samples), str(s.channels)]},
                "dtype": s.dtype,
                "fileFormat": "flac",
                "sampleRate": str(int(s.rate)),
                "encoding": "NONE",
                "lazyDecode": True,
            },
        }
    write_json(path, config)
