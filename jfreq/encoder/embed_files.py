"""Files into embeddings: sound files, recordings of sensors, shards; one ``.npz`` out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jfreq.data.options import Channels
from jfreq.encoder.encoder import Encoder, Failed, Whole
from jfreq.encoder.growing_npz import Column, Grown, check_room, write_npz
from jfreq.encoder.inputs import Job, Options, Recordings
from jfreq.files import disk_errors, local_path, write_atomically
from jfreq.types import InputError

LONG = (
    "the frames of all recordings are padded to the longest; give --no-frames, or embed the long "
    "ones by themselves"
)


class Written(NamedTuple):
    """A finished output: how many recordings it holds, and how many could not be used; these are
    listed in ``skipped_list``, with the reason."""

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
    """Embeds recordings into one ``.npz``: ``clip``, ``frames``, ``valid``, ``times_ms`` as in
    :class:`jfreq.types.Embedding` and ``paths`` ``[n]``; ``progress(done, total)`` on the way.

    A path is a sound file; an ``.npz`` with an array ``[t c]`` by modality and ``NAME_rate`` or
    ``rate``; an ``.npz`` with all channels in ``x``, an ``.npy``, ``.csv`` or ``.tsv``, as
    :func:`jfreq.data.prepare.run.prepare` reads them; a folder of any of these, at any depth; or a
    folder of shards, of which every row is a recording. Shards add ``id`` ``[n]`` (row, -1 for
    others) and, where they are labelled, ``label`` and the class names ``labels``. An encoder that
    was trained with labels adds ``logits`` ``[n k]`` and their names ``classes``. ``rate``: Hz of
    arrays that state none; ``modalities``: channels of an array that holds several. Without
    ``frames`` only one vector a recording is kept. A recording of sensors that stops and goes on is
    cut there into several, and ``start_s`` ``[n]`` says how many seconds of samples lie before.

    Headers are looked at first. A recording that cannot be used is skipped, told to ``say`` and
    listed beside ``out`` in a file that ends in ``.skipped.txt``; with ``strict`` the first one
    raises ``InputError``. Sound files are read in blocks, so that memory does not grow with their
    length, and ``out`` appears only when it is complete.

    Raises ``InputError`` for a path that is not there, that holds nothing to embed or other
    signals than the encoder reads, and where no recording is left.
    """
    out = writable(local_path(out, "out"), ".npz")
    found = Recordings(paths, encoder, Options(rate, modalities, strict, say))
    names = found.names
    if frames:
        count = found.longest() * 1000 / encoder.hop_ms
        check_room(out, 4 * count * encoder.frame_size * len(found.jobs), LONG)
    with _Embeddings(out, encoder, frames) as made:
        run(encoder, found, made.add, made.finish, made.drop, progress)
        found.check_any(len(made.jobs))
        arrays = made.arrays(found, names)
        with disk_errors(out.parent):
            write_atomically(out, lambda file: write_npz(file, arrays))
    return done(out, len(made.jobs), found)


def run(
    encoder: Encoder,
    found: Recordings,
    add: Callable[[Any], None],
    finish: Callable[[Job, Whole], None],
    drop: Callable[[], None],
    progress: Callable[[int, int], None] | None,
) -> None:
    """Encodes all recordings: ``add(part)`` for every window, then ``finish(job, whole)``, or
    ``drop()`` where the recording turns out to be unusable."""
    whole = Whole()
    for part in encoder.parts(found.blocks(), found.batch()):
        job = found.jobs[part.recording]
        if isinstance(part, Failed):
            drop()
            found.failed(job, part.error)
        else:
            whole.add(part)
            add(part)
            if not part.last:
                continue
            finish(job, whole)
        whole = Whole()
        if progress is not None:
            progress(part.recording + 1, len(found.jobs))


class _Embeddings:
    """The arrays of ``embed_files`` while they grow."""

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

    def add(self, part: Any) -> None:
        self._count += len(part.frames)
        if self._frames is not None:
            self._frames.append(part.frames)

    def finish(self, job: Job, whole: Whole) -> None:
        self._clip.append(whole.clip)
        if self._logits is not None and whole.logits is not None:
            self._logits.append(whole.logits)
        self._valid.append(self._count)
        self.jobs.append(job)
        self._count = 0

    def drop(self) -> None:
        self._count = 0
        if self._frames is not None:
            self._frames.cut(sum(self._valid))

    def arrays(self, found: Recordings, names: tuple[str, ...]) -> dict[str, Any]:
        arrays: dict[str, Any] = {"clip": Grown(self._clip)}
        if self._frames is not None:
            arrays["frames"] = Grown(self._frames, self._valid)
            arrays["times_ms"] = self._encoder.times_ms(arrays["frames"].shape[1])
        arrays["valid"] = np.array(self._valid, np.int64)
        if self._logits is not None:
            arrays |= {"logits": Grown(self._logits), "classes": np.array(self._encoder.labels)}
        arrays["paths"] = np.array([found.name(job) for job in self.jobs])
        if any(starts := [found.start(job) for job in self.jobs]):
            arrays["start_s"] = np.array(starts)
        if any(one.shards for one in found.inputs):
            rows = [job.row if found.inputs[job.source].shards else -1 for job in self.jobs]
            arrays["id"] = np.array(rows, np.int32)
        if names:
            arrays |= {"label": _label_column(found, self.jobs), "labels": np.array(names)}
        return arrays


def done(out: Path, recordings: int, found: Recordings) -> Written:
    """Lists what was skipped beside the output; removes the list of an earlier call."""
    listed = out.with_name(f"{out.name}.skipped.txt")
    if not found.skipped:
        listed.unlink(missing_ok=True)
        return Written(out, recordings, 0, None)
    text = "".join(f"{name}: {reason}\n" for name, reason in found.skipped)
    with disk_errors(out.parent):
        write_atomically(listed, lambda file: file.write(text.encode()))
    return Written(out, recordings, len(found.skipped), listed)


def _label_column(found: Recordings, jobs: Sequence[Job]) -> np.ndarray:
    """The labels of all rows, -1 (none of several) for recordings without one."""
    like = next(one.label for one in found.inputs if one.label is not None)
    none = np.full(like.shape[1:], -1 if like.ndim == 1 else 0, like.dtype)
    columns = [one.label for one in found.inputs]
    return np.stack([none if (c := columns[i]) is None else c[row] for i, row in jobs])


def writable(out: Path, suffix: str) -> Path:
    """``out``; ``InputError`` where no file of this kind can be written there."""
    if out.suffix != suffix or out.is_dir():
        raise InputError(f"{out}: wanted the name of a file that ends in {suffix}")
    home = next(folder for folder in out.absolute().parents if folder.exists())
    if not home.is_dir() or not os.access(home, os.W_OK):
        raise InputError(f"{home}: cannot be written, no {out.name} can lie there; choose another")
    return out
