"""Files into classes: what an encoder that was trained with labels says about recordings."""

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
from jfreq.encoder.encoder import Encoder, Part, Whole
from jfreq.encoder.inputs import Job, Options, Recordings
from jfreq.files import disk_errors, local_path, write_atomically

HEADER = ("path", "start_s", "end_s", "label", "score")


class Choice(NamedTuple):
    """Which classes a table names: the ``top`` best; None: the best one, or where a recording may
    have several every one from ``threshold`` up and at least the best."""

    top: int | None = None
    threshold: float = 0.5

    def of(self, scores: np.ndarray, multi_label: bool) -> np.ndarray:
        """Numbers of the classes to name, the best first, of ``scores`` ``[k]``."""
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
    """Writes a CSV with a line for each recording and class: ``path,start_s,end_s,label,score``,
    to standard output where ``out`` is None; with ``windows`` a line for each window of it.

    ``score`` is the probability of :meth:`Encoder.predict`. Paths and what is skipped are as in
    :func:`jfreq.encoder.embed_files.embed_files`; rows of shards add a column ``id`` behind
    ``path``.

    Raises ``InputError`` as it does, and for an encoder that was trained without labels.
    """
    encoder.check_classes()
    top = choice.top
    check(top is None or top >= 1, "top", f"must be 1 or more, got {top}")
    check(0 <= choice.threshold <= 1, "threshold", f"is a probability, got {choice.threshold}")
    target = None if out is None else writable(local_path(out, "out"), ".csv")
    found = Recordings(paths, encoder, Options(rate, modalities, strict, say))
    table = _Table(encoder, found, windows, choice)
    if target is None:
        table.write(sys.stdout, progress)
        return Written(None, table.recordings, len(found.skipped), None)

    def write(file: Any) -> None:
        text = io.TextIOWrapper(file, "utf-8", newline="")
        table.write(text, progress)
        text.detach()

    with disk_errors(target.parent):
        write_atomically(target, write)
    return done(target, table.recordings, found)


class _Table:
    """Lines of the table while recordings come; those of one only once it was read to its end."""

    def __init__(self, encoder: Encoder, found: Recordings, windows: bool, choice: Choice):
        self._encoder, self._found = encoder, found
        self._windows, self._choice = windows, choice
        self._ids = any(one.shards for one in found.inputs)
        self._parts: list[tuple[float, float, np.ndarray]] = []
        self.recordings = 0

    def write(self, file: TextIO, progress: Callable[[int, int], None] | None) -> None:
        writer = csv.writer(file, lineterminator="\n")
        first, *rest = HEADER

        def finish(job: Job, whole: Whole) -> None:
            if self.recordings == 0:
                writer.writerow((first, *["id"] * self._ids, *rest))
            writer.writerows(self._lines(job, whole))
            self._parts.clear()
            self.recordings += 1

        run(self._encoder, self._found, self._add, finish, self._parts.clear, progress)
        self._found.check_any(self.recordings)
        file.flush()

    def _add(self, part: Part) -> None:
        if self._windows:
            assert part.logits is not None
            self._parts.append((part.start, part.end, part.logits))

    def _lines(self, job: Job, whole: Whole) -> Iterator[tuple[Any, ...]]:
        name = self._found.name(job)
        row = [job.row if self._found.inputs[job.source].shards else ""] * self._ids
        assert whole.logits is not None
        first = self._found.start(job)
        for start, end, logits in self._parts or [(0.0, whole.end, whole.logits)]:
            scores = self._encoder.probabilities(logits)
            for k in self._choice.of(scores, self._encoder.multi_label):
                label, score = self._encoder.labels[k], f"{scores[k]:.6g}"
                yield (name, *row, f"{first + start:.3f}", f"{first + end:.3f}", label, score)
