"""Audio sets of TensorFlow Datasets."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import Any

import numpy as np

from jfreq.config import check
from jfreq.data.options import Options
from jfreq.data.sources.base import Row, Signal, Source, split_channels
from jfreq.data.sources.rows import packed
from jfreq.ranges import brief, first_line
from jfreq.types import InputError

_CHUNK = 64
"""Examples that are read at once."""


def open_tfds(name: str, options: Options) -> Source:
    """All splits of an audio set of TFDS, labelled by its ClassLabel feature.

    Labels are stored inside the examples only, so each example of a labelled set is read once. A
    set that is not on disk is downloaded by TFDS. Sets in ArrayRecord are read without
    TensorFlow, all others with it.

    Args:
      name: of the set, or a folder that holds it.

    Raises:
      InputError: for a set that TFDS cannot open, or that has no audio or no sampling rate.
    """
    builder = _builder(name)
    features: dict[str, Any] = dict(builder.info.features.items())
    key = _key(features, "Audio", name) or _key(features, "Tensor", name) or ""
    check(key != "", f"tfds:{name}", f"has no audio feature; it has: {brief(', '.join(features))}")
    label = _key(features, "ClassLabel", name)
    labels = tuple(features[label].names) if label else ()
    rate = float(getattr(features[key], "sample_rate", None) or options.rate or 0)
    check(rate > 0, f"tfds:{name}", "does not state its sampling rate; give it with --rate")
    chunk = functools.lru_cache(maxsize=8)(functools.partial(_examples, builder))

    def example(row: Row) -> Any:
        assert row.item is not None
        return chunk(row.split, row.item // _CHUNK)[row.item % _CHUNK]

    def read(row: Row) -> dict[str, Signal]:
        x = np.asarray(example(row)[key])
        x = x[:, None] if x.ndim == 1 else x
        return split_channels({"audio": None}, Signal(_full_scale(x), rate), options.channels)

    def labelled(row: Row) -> Row:
        number = int(example(row)[label]) if label else -1  # -1: unknown
        return row._replace(label=(number,)) if number >= 0 else row

    rows = (
        Row(f"{builder.info.name}/{split}/{i}", split=split, item=i)
        for split, info in builder.info.splits.items()
        for i in range(info.num_examples)
    )
    return Source(
        name=builder.info.name,
        kind="tfds",
        rows=packed(map(labelled, rows)),
        labels=labels,
        read=read,
        seconds=lambda row: len(read(row)["audio"].x) / rate,
        audio=True,
    )


def _builder(name: str) -> Any:
    import tensorflow_datasets as tfds

    try:
        if Path(name).expanduser().is_dir():
            return tfds.builder_from_directory(str(Path(name).expanduser()))
        builder = tfds.builder(name)
        builder.download_and_prepare()
    except Exception as error:
        raise InputError(
            f"tfds:{name}: TensorFlow Datasets cannot open it ({first_line(error)})"
        ) from error
    return builder


def _examples(builder: Any, split: str, chunk: int) -> list[Any]:
    """Examples ``[64 chunk, 64 (chunk + 1))`` of a split, in the order in which they are stored."""
    import tensorflow_datasets as tfds

    stop = min((chunk + 1) * _CHUNK, builder.info.splits[split].num_examples)
    if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
        source = builder.as_data_source(split)
        return [source[i] for i in range(chunk * _CHUNK, stop)]
    config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    part = builder.as_dataset(
        split=f"{split}[{chunk * _CHUNK}:{stop}]", shuffle_files=False, read_config=config
    )
    return list(itertools.islice(tfds.as_numpy(part), _CHUNK))


def _key(features: dict[str, Any], kind: str, name: str) -> str | None:
    """The key of the only feature of type ``kind``, or None.

    Of several ClassLabels ``label`` wins; a Tensor counts only if it is called audio, speech or
    signal. Raises ``InputError`` if more than one remains.
    """
    keys = [key for key, feature in features.items() if type(feature).__name__ == kind]
    if kind == "Tensor":
        keys = [key for key in keys if key in ("audio", "speech", "signal")]
    if kind == "ClassLabel" and "label" in keys:
        return "label"
    if len(keys) > 1:
        raise InputError(
            f"tfds:{name}: has several features of type {kind} ({', '.join(keys)}); only sets with "
            "one are read"
        )
    return keys[0] if keys else None


def _full_scale(x: np.ndarray) -> np.ndarray:
    """float32 relative to full scale; integers are 16-bit PCM, which TFDS stores as int64."""
    return x.astype(np.float32) / (32768 if np.issubdtype(x.dtype, np.integer) else 1)
