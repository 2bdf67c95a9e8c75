"""Files into embeddings: sound files, recordings of sensors, shards; one ``.npz`` out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jfreq.config import check
from jfreq.export.runtime import Clip, Encoder
from jfreq.files import local_path, write_atomically
from jfreq.types import Embedding, InputError, SignalSpec

MANY = 64
"""From so many recordings on, more windows are computed at once."""


class Input(NamedTuple):
    """What a path holds: ``rows`` recordings, the ``i``-th by ``read(i)``.

    Of shards also ``label`` ``[rows]`` int32 or ``[rows k]`` float32 with the names ``labels``,
    both empty where there are none.
    """

    path: Path
    rows: int
    read: Callable[[int], Clip]
    shards: bool = False
    label: np.ndarray | None = None
    labels: tuple[str, ...] = ()


def embed_files(
    encoder: Encoder,
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    rate: float | None = None,
    modalities: Mapping[str, Sequence[int | str]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Embeds recordings into one ``.npz``: ``clip``, ``frames``, ``valid``, ``times_ms`` as in
    :class:`jfreq.types.Embedding` and ``paths`` ``[n]``; ``progress(done, total)`` on the way.

    A path is a sound file (channel 0); an ``.npz`` with an array ``[t c]`` by modality and
    ``NAME_rate`` or ``rate``; an ``.npz`` with all channels in ``x``, an ``.npy``, a ``.csv`` or
    ``.tsv``, as :func:`jfreq.data.prepare.prepare` reads them; or a folder of shards, of which
    every row is a recording. Shards add ``id`` ``[n]`` (row, -1 for others) and, where they are
    labelled, ``label`` and the class names ``labels``. ``rate``: Hz of arrays that state none;
    ``modalities``: channels of an array that holds several.

    All is read through once before anything is embedded, and ``out`` appears only when complete.
    Raises ``InputError`` naming the first path that is missing or unreadable, lacks a modality or
    its rate, has other channels, or holds no or non-finite samples.
    """
    out = _writable(local_path(out, "out"))
    check(len(paths) > 0, "inputs", "no files to embed")
    inputs = [_open(local_path(path, "inputs"), encoder, rate, modalities) for path in paths]
    names = _class_names(inputs)
    jobs = [(i, row) for i, one in enumerate(inputs) for row in range(one.rows)]
    batch = 8 if len(jobs) < MANY else 32
    parts = []
    for start in range(0, len(jobs), batch):
        group = jobs[start : start + batch]
        parts.append(encoder.encode([inputs[i].read(row) for i, row in group], batch))
        if progress is not None:
            progress(start + len(group), len(jobs))
    arrays: dict[str, Any] = _joined(parts)
    arrays["paths"] = np.array([str(inputs[i].path) for i, _ in jobs])
    if any(one.shards for one in inputs):
        arrays["id"] = np.array([row if inputs[i].shards else -1 for i, row in jobs], np.int32)
    if names:
        arrays |= {"label": _label_column(inputs), "labels": np.array(names)}
    return write_atomically(out, lambda file: np.savez(file, **arrays))


def _writable(out: Path) -> Path:
    if out.suffix != ".npz" or out.is_dir():
        raise InputError(f"{out}: wanted the name of an .npz file")
    home = next(folder for folder in out.absolute().parents if folder.exists())
    if not home.is_dir() or not os.access(home, os.W_OK):
        raise InputError(f"{home}: cannot be written, no {out.name} can lie there; choose another")
    return out


def _open(
    path: Path,
    encoder: Encoder,
    rate: float | None,
    modalities: Mapping[str, Sequence[int | str]] | None,
) -> Input:
    """The recordings of a path, checked."""
    from jfreq.data.source import ARRAYS
    from jfreq.export.sensors import read_sensors

    if path.is_dir():
        return _open_shards(path, encoder)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix.lower() not in ARRAYS:
        _check_sound(path, encoder.signals)
        return Input(path, 1, lambda row: _read_sound(path, encoder))

    def read(row: int) -> Clip:
        del row
        found, rates = read_sensors(path, encoder.signals, rate=rate, modalities=modalities)
        return encoder.clip(found, rates, str(path))

    read(0)
    return Input(path, 1, read)


def _joined(parts: Sequence[Embedding]) -> dict[str, np.ndarray]:
    """Embeddings of different lengths as one, padded with zeros."""
    longest = max((part.times_ms for part in parts), key=len)
    frames = [
        np.pad(p.frames, ((0, 0), (0, len(longest) - p.frames.shape[1]), (0, 0))) for p in parts
    ]
    return {
        "clip": np.concatenate([part.clip for part in parts]),
        "frames": np.concatenate(frames),
        "valid": np.concatenate([part.valid for part in parts]),
        "times_ms": longest,
    }


# ------------------------------------------------------------------ shards


def _open_shards(path: Path, encoder: Encoder) -> Input:
    from jfreq.data.records import open_shards

    shards = open_shards(path)
    stored = {s.name: s for s in shards.spec.signals}
    for wanted in encoder.signals:
        check(wanted.name in stored, str(path), f"no signal {wanted.name!r}; the shards have "
              f"{', '.join(stored)}")  # fmt: skip
        found = stored[wanted.name].channels
        check(found == wanted.channels, str(path), f"{wanted.name} has {found} channels, the "
              f"encoder reads {wanted.channels}")  # fmt: skip
    check(len(shards) > 0, str(path), "holds no rows")
    shards.verify()
    rates = {s.name: stored[s.name].rate for s in encoder.signals}
    first = shards.spec.signals[0].rate

    def read(row: int) -> Clip:
        found = shards.read([row])
        seconds = int(found["length"][0]) / first
        clip = {name: found[name][0, : max(1, round(seconds * r))] for name, r in rates.items()}
        return encoder.clip(clip, rates, f"{path}, row {row}")

    labels = shards.info.labels
    return Input(path, len(shards), read, True, _labels_of(shards) if labels else None, labels)


def _labels_of(shards: Any) -> np.ndarray:
    """``[rows]`` int32, or ``[rows k]`` float32 where a row may have several."""
    if not shards.info.multi_label:
        return np.asarray(shards.column("label"), np.int32)
    rows = np.arange(len(shards))
    return np.concatenate([shards.read(part)["label"] for part in np.split(rows, rows[::512][1:])])


def _class_names(inputs: Sequence[Input]) -> tuple[str, ...]:
    """Those that all labelled inputs share."""
    labelled = [(one, one.label.ndim) for one in inputs if one.label is not None]
    if not labelled:
        return ()
    first, dims = labelled[0]
    for one, own in labelled[1:]:
        check((one.labels, own) == (first.labels, dims), str(one.path), "has other classes than "
              f"{first.path}; embed them one by one")  # fmt: skip
    return first.labels


def _label_column(inputs: Sequence[Input]) -> np.ndarray:
    """The labels of all rows, -1 (none of several) for recordings without one."""
    like = next(one.label for one in inputs if one.label is not None)
    none = -1 if like.ndim == 1 else 0
    return np.concatenate([
        np.full((one.rows, *like.shape[1:]), none, like.dtype) if one.label is None else one.label
        for one in inputs
    ])  # fmt: skip


# ------------------------------------------------------------------ sound files


def _check_sound(path: Path, signals: Sequence[SignalSpec]) -> None:
    import soundfile

    if len(signals) != 1 or signals[0].channels != 1:
        names = ", ".join(f"{s.name} ({s.channels} channels)" for s in signals)
        raise InputError(
            f"{path}: the encoder reads {names}; only mono encoders embed sound files, give an "
            ".npz with an array for each, or shards"
        )
    try:
        with soundfile.SoundFile(path) as file:
            if file.samplerate <= 0:
                raise InputError(f"{path}: the header gives a rate of {file.samplerate} Hz")
            read = 0
            for block in file.blocks(blocksize=1 << 20, dtype="float32"):
                read += len(block)
                if not np.isfinite(block).all():
                    raise InputError(f"{path}: holds NaN or infinite samples")
    except soundfile.SoundFileError as error:
        raise InputError(f"{path}: not a readable sound file ({error})") from None
    if read == 0:
        raise InputError(f"{path}: holds no samples")


def _read_sound(path: Path, encoder: Encoder) -> Clip:
    import soundfile

    x, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return encoder.clip(x[:, :1], rate, str(path))
