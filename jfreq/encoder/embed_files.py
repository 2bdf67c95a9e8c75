"""Embeds sound files, recordings of sensors and shards into one ``.npz``."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jfreq.data.options import Channels
from jfreq.encoder.encoder import Encoder
from jfreq.encoder.growing_npz import Column, ColumnArray, check_disk_space, write_npz
from jfreq.encoder.inputs import Job, Options, Recordings
from jfreq.encoder.outputs import FailedRecording, RecordingMean, WindowOutput
from jfreq.files import disk_errors, local_path, write_atomically
from jfreq.types import InputError

LONG = (
    "the frames of all recordings are padded to the longest one; give --no-frames, or embed the "
    "long recordings separately"
)


class Written(NamedTuple):
    """A finished output: how many recordings it holds, and how many were skipped.

    The file ``skipped_list`` names these with the reason. ``path`` is None for standard output.
    """

    path: Path | None
    recordings: int
    skipped: int
    skipped_list: Path | None

    def __str__(self) -> str:
        count = f"{self.recordings} recording{'s' * (self.recordings != 1)}"
        lost = f", {self.skipped} skipped"
        where = f" (see {self.skipped_list})" if self.skipped_list else ""
        return f"{self.path}: {count}{(lost + where) * bool(self.skipped)}"


def embed_files(
    encoder: Encoder,
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    rate: float | None = None,
    modalities: Channels | None = None,
    frames: bool = True,
    strict: bool = False,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> Written:
    """Embeds recordings into one ``.npz``.

    A path is a sound file; an ``.npz`` with an array ``[t c]`` by modality and ``NAME_rate`` or
    ``rate``; an ``.npz`` with all channels in ``x``, an ``.npy``, ``.csv`` or ``.tsv``, as
    :func:`jfreq.data.prepare.run.prepare` reads them; a folder of any of these, at any depth; or a
    folder of shards, of which every row is a recording.

    The file holds ``clip``, ``frames``, ``valid`` and ``times_ms`` as
    :class:`jfreq.types.Embedding` does, and ``paths`` ``[n]``. Shards add ``id`` ``[n]`` (their
    row; -1 for other recordings) and, where they are labelled, ``label`` and the class names
    ``labels``. An encoder that was trained with labels adds ``logits`` ``[n k]`` and their names
    ``classes``. A recording of sensors is cut at its gaps into several; ``start_s`` ``[n]`` are the
    seconds of samples that lie before each in its file.

    Sound files are read in blocks, so that memory does not grow with their length, and ``out``
    appears only when it is complete.

    Args:
      encoder: the encoder.
      paths: the recordings.
      out: the file, which ends in ``.npz``.
      rate: Hz of arrays that state none.
      modalities: which channels of an array that holds several belong to which modality.
      frames: also write the vectors over time, and not only one for each recording.
      strict: raise for the first recording that cannot be used. Otherwise it is skipped, reported
        to ``say`` and listed beside ``out`` in a file that ends in ``.skipped.txt``.
      progress: called with the number of recordings that are done and that there are.
      say: called with lines for a person.

    Raises:
      InputError: for a path that is not there, that holds nothing to embed or other signals than
        the encoder reads, and where no recording can be used.
    """
    out = writable(local_path(out, "out"), ".npz")
    recordings = Recordings(paths, encoder, Options(rate, modalities, strict, say))
    names = recordings.names
    if frames:
        count = recordings.longest() * 1000 / encoder.hop_ms
        check_disk_space(out, 4 * count * encoder.frame_size * len(recordings.jobs), LONG)
    with _Embeddings(out, encoder, frames) as embeddings:
        run(encoder, recordings, embeddings.add, embeddings.finish, embeddings.drop, progress)
        recordings.check_any(len(embeddings.jobs))
        arrays = embeddings.arrays(recordings, names)
        with disk_errors(out.parent):
            write_atomically(out, lambda file: write_npz(file, arrays))
    return done(out, len(embeddings.jobs), recordings)


def run(
    encoder: Encoder,
    recordings: Recordings,
    add: Callable[[WindowOutput], None],
    finish: Callable[[Job, RecordingMean], None],
    drop: Callable[[], None],
    progress: Callable[[int, int], None] | None,
) -> None:
    """Encodes all recordings.

    For every window ``add(window)`` is called, after the last one of a recording
    ``finish(job, mean)``, or ``drop()`` where the recording could not be read to its end.
    """
    mean = RecordingMean()
    for window in encoder.windows(recordings.blocks()):
        job = recordings.jobs[window.recording]
        if isinstance(window, FailedRecording):
            drop()
            recordings.failed(job, window.error)
        else:
            mean.add(window)
            add(window)
            if not window.last:
                continue
            finish(job, mean)
        mean = RecordingMean()
        if progress is not None:
            progress(window.recording + 1, len(recordings.jobs))


class _Embeddings:
    """The arrays of :func:`embed_files` while they grow."""

    def __init__(self, out: Path, encoder: Encoder, frames: bool):
        out.parent.mkdir(parents=True, exist_ok=True)
        self._encoder = encoder
        self._clip = Column(out, encoder.clip_size)
        self._frames = Column(out, encoder.frame_size) if frames else None
        self._logits = Column(out, len(encoder.labels)) if encoder.labels else None
        self._valid: list[int] = []
        self._count = 0
        self.jobs: list[Job] = []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for column in (self._clip, self._frames, self._logits):
            if column is not None:
                column.close()

    def add(self, window: WindowOutput) -> None:
        self._count += len(window.frames)
        if self._frames is not None:
            self._frames.append(window.frames)

    def finish(self, job: Job, mean: RecordingMean) -> None:
        self._clip.append(mean.clip)
        if self._logits is not None and mean.logits is not None:
            self._logits.append(mean.logits)
        self._valid.append(self._count)
        self.jobs.append(job)
        self._count = 0

    def drop(self) -> None:
        self._count = 0
        if self._frames is not None:
            self._frames.cut(sum(self._valid))

    def arrays(self, recordings: Recordings, names: tuple[str, ...]) -> dict[str, Any]:
        arrays: dict[str, Any] = {"clip": ColumnArray(self._clip)}
        if self._frames is not None:
            arrays["frames"] = ColumnArray(self._frames, self._valid)
            arrays["times_ms"] = self._encoder.times_ms(arrays["frames"].shape[1])
        arrays["valid"] = np.array(self._valid, np.int64)
        if self._logits is not None:
            arrays |= {
                "logits": ColumnArray(self._logits),
                "classes": np.array(self._encoder.labels),
            }
        arrays["paths"] = np.array([recordings.name(job) for job in self.jobs])
        if any(starts := [recordings.start(job) for job in self.jobs]):
            arrays["start_s"] = np.array(starts)
        if any(source.shards for source in recordings.inputs):
            rows = [job.row if recordings.inputs[job.source].shards else -1 for job in self.jobs]
            arrays["id"] = np.array(rows, np.int32)
        if names:
            arrays |= {"label": _label_column(recordings, self.jobs), "labels": np.array(names)}
        return arrays


def done(out: Path, count: int, recordings: Recordings) -> Written:
    """Lists beside the output what was skipped, or removes the list of an earlier call."""
    path = out.with_name(f"{out.name}.skipped.txt")
    if not recordings.skipped:
        path.unlink(missing_ok=True)
        return Written(out, count, 0, None)
    text = "".join(f"{name}: {reason}\n" for name, reason in recordings.skipped)
    with disk_errors(out.parent):
        write_atomically(path, lambda file: file.write(text.encode()))
    return Written(out, count, len(recordings.skipped), path)


def _label_column(recordings: Recordings, jobs: Sequence[Job]) -> np.ndarray:
    """``[n]`` or ``[n k]``: the labels of all recordings; -1 or no class for those without one."""
    columns = [source.label for source in recordings.inputs]
    like = next(column for column in columns if column is not None)
    none = np.full(like.shape[1:], -1 if like.ndim == 1 else 0, like.dtype)
    return np.stack([none if (c := columns[i]) is None else c[row] for i, row in jobs])


def writable(out: Path, suffix: str) -> Path:
    """Returns ``out``; raises ``InputError`` where such a file cannot be written there."""
    if out.suffix != suffix or out.is_dir():
        raise InputError(f"{out}: must be the name of a file that ends in {suffix}")
    folder = next(folder for folder in out.absolute().parents if folder.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"{folder}: cannot be written to; choose another folder for {out.name}")
    return out
