"""Predicts the classes of recordings with an encoder that was trained with labels."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from jfreq.config import check
from jfreq.data.options import Channels
from jfreq.encoder.embed_files import Written, done, run, writable
from jfreq.encoder.encoder import Encoder
from jfreq.encoder.inputs import Job, Options, Recordings
from jfreq.encoder.outputs import RecordingMean, WindowOutput
from jfreq.files import disk_errors, local_path, write_atomically

HEADER = ("path", "start_s", "end_s", "label", "score")


class Choice(NamedTuple):
    """Which classes a table names.

    These are the ``top`` best. Where ``top`` is None it is the best one, or, where a recording may
    have several classes, all from the probability ``threshold`` up and at least the best.
    """

    top: int | None = None
    threshold: float = 0.5

    def of(self, scores: np.ndarray, multi_label: bool) -> np.ndarray:
        """Indices of the classes to name, the best first, from ``scores`` ``[k]``."""
        order = np.argsort(-scores, kind="stable")
        if self.top is not None:
            return order[: self.top]
        count = int((scores >= self.threshold).sum()) if multi_label else 1
        return order[: max(1, count)]


BEST = Choice()


def predict_files(
    encoder: Encoder,
    paths: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    windows: bool = False,
    choice: Choice = BEST,
    rate: float | None = None,
    modalities: Channels | None = None,
    strict: bool = False,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> Written:
    """Writes a CSV with the columns ``path,start_s,end_s,label,score``.

    It has a line for each recording and each class that is named. ``score`` is the probability of
    :meth:`Encoder.predict`. Rows of shards add a column ``id`` behind ``path``.

    Args:
      encoder: an encoder that was trained with labels.
      paths: the recordings, as for :func:`jfreq.encoder.embed_files.embed_files`, where also
        ``rate``, ``modalities``, ``strict``, ``progress`` and ``say`` are described.
      out: the file, which ends in ``.csv``; None for standard output.
      windows: a line for each window of a recording instead of one for the whole recording.
      choice: the classes that are named.

    Raises:
      InputError: as :func:`jfreq.encoder.embed_files.embed_files`, and for an encoder that was
        trained without labels.
    """
    encoder.check_classes()
    top = choice.top
    check(top is None or top >= 1, "top", f"must be 1 or more, got {top}")
    check(
        0 <= choice.threshold <= 1,
        "threshold",
        f"must be a probability between 0 and 1, got {choice.threshold}",
    )
    target = None if out is None else writable(local_path(out, "out"), ".csv")
    recordings = Recordings(paths, encoder, Options(rate, modalities, strict, say))
    table = _Table(encoder, recordings, windows, choice)
    if target is None:
        table.write(sys.stdout, progress)
        return Written(None, table.count, len(recordings.skipped), None)

    def write(file: Any) -> None:
        text = io.TextIOWrapper(file, "utf-8", newline="")
        table.write(text, progress)
        text.detach()

    with disk_errors(target.parent):
        write_atomically(target, write)
    return done(target, table.count, recordings)


class _Table:
    """Writes the lines of a recording as soon as it has been read to its end."""

    def __init__(self, encoder: Encoder, recordings: Recordings, windows: bool, choice: Choice):
        self._encoder, self._recordings = encoder, recordings
        self._windows, self._choice = windows, choice
        self._ids = any(source.shards for source in recordings.inputs)
        self._outputs: list[tuple[float, float, np.ndarray]] = []
        self.count = 0

    def write(self, file: TextIO, progress: Callable[[int, int], None] | None) -> None:
        writer = csv.writer(file, lineterminator="\n")
        first, *rest = HEADER

        def finish(job: Job, mean: RecordingMean) -> None:
            if self.count == 0:
                writer.writerow((first, *["id"] * self._ids, *rest))
            writer.writerows(self._lines(job, mean))
            self._outputs.clear()
            self.count += 1

        run(self._encoder, self._recordings, self._add, finish, self._outputs.clear, progress)
        self._recordings.check_any(self.count)
        file.flush()

    def _add(self, window: WindowOutput) -> None:
        if self._windows:
            assert window.logits is not None
            self._outputs.append((window.start, window.end, window.logits))

    def _lines(self, job: Job, mean: RecordingMean) -> Iterator[tuple[Any, ...]]:
        name = self._recordings.name(job)
        row = [job.row if self._recordings.inputs[job.source].shards else ""] * self._ids
        assert mean.logits is not None
        first = self._recordings.start(job)
        for start, end, logits in self._outputs or [(0.0, mean.end, mean.logits)]:
            scores = self._encoder.probabilities(logits)
            for k in self._choice.of(scores, self._encoder.multi_label):
                label, score = self._encoder.labels[k], f"{scores[k]:.6g}"
                yield (name, *row, f"{first + start:.3f}", f"{first + end:.3f}", label, score)
