"""The inputs of ``jfreq embed`` and ``jfreq predict``: files of sound or sensors, folders, shards.

Headers are read first, then one recording after the other.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jfreq.config import check
from jfreq.data.options import Channels
from jfreq.data.prepare.missing_samples import Stretch
from jfreq.data.readers import sound
from jfreq.data.sources.base import ARRAYS, AUDIO, UNREADABLE
from jfreq.data.sources.folders import METADATA, listing, shown, why_no_file
from jfreq.encoder.encoder import Encoder
from jfreq.encoder.resampling import resampled
from jfreq.encoder.sensor_files import read_sensors
from jfreq.encoder.windowing import Clip
from jfreq.files import local_path
from jfreq.ranges import first_line
from jfreq.types import InputError, SignalSpec

BROKEN = (*UNREADABLE, MemoryError, OverflowError, TypeError)
"""The exceptions that reading a damaged recording raises."""


class Input(NamedTuple):
    """The recordings that a path holds."""

    path: Path
    names: Sequence[str]
    """The names of the recordings."""
    blocks: Callable[[int], Iterator[Clip]]
    """Reads the ``i``-th recording in blocks that follow each other."""
    seconds: Sequence[float] = ()
    """Their lengths, where headers state them."""
    shards: bool = False
    """Whether the recordings are the rows of shards."""
    label: np.ndarray | None = None
    """``[rows]`` int32 or ``[rows k]`` float32, of labelled shards."""
    labels: tuple[str, ...] = ()
    """The names of the classes."""
    starts: Sequence[float] = ()
    """Seconds of samples before each recording, where a file was cut at its gaps."""


class Options(NamedTuple):
    """What the caller says about the recordings."""

    rate: float | None = None
    """Hz of arrays that state none."""
    modalities: Channels | None = None
    """Which channels of an array that holds several belong to which modality."""
    strict: bool = False
    """Raise for a recording that would otherwise be skipped."""
    say: Callable[[str], None] | None = None
    """Called with lines for a person."""


class Job(NamedTuple):
    """One recording: ``row`` of ``inputs[source]``."""

    source: int
    row: int


class Recordings:
    """All recordings of several paths; ``skipped`` names those that cannot be used, and why.

    Making one reads all headers. It raises ``InputError`` for a path that is not there or holds
    nothing that the encoder can read, and with ``strict`` for the first bad recording.
    """

    def __init__(self, paths: Sequence[str | Path], encoder: Encoder, options: Options):
        check(len(paths) > 0, "inputs", "there are no recordings to embed; name at least one")
        self.skipped: list[tuple[str, str]] = []
        self._reported = 0
        self._encoder, self._options = encoder, options
        self.inputs = [self._open(local_path(path, "inputs")) for path in paths]
        self.jobs = [
            Job(i, row) for i, source in enumerate(self.inputs) for row in range(len(source.names))
        ]
        self.check_any(len(self.jobs))
        self._report_skipped()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes; raises ``InputError`` where labelled inputs differ in them."""
        labelled = [(s, s.label.ndim) for s in self.inputs if s.label is not None]
        for source, rank in labelled:
            first, first_rank = labelled[0]
            check(
                (source.labels, rank) == (first.labels, first_rank),
                str(source.path),
                f"has other classes than {first.path}; embed them one by one",
            )
        return labelled[0][0].labels if labelled else ()

    def name(self, job: Job) -> str:
        return self.inputs[job.source].names[job.row]

    def start(self, job: Job) -> float:
        """Seconds of samples that lie before the recording in its file."""
        starts = self.inputs[job.source].starts
        return starts[job.row] if starts else 0.0

    def blocks(self) -> Iterator[Iterator[Clip]]:
        """Every recording, in order; one that cannot be read raises ``InputError``."""
        return map(self._read, self.jobs)

    def _read(self, job: Job) -> Iterator[Clip]:
        try:
            yield from self.inputs[job.source].blocks(job.row)
        except InputError:
            raise
        except BROKEN as error:
            raise InputError(f"cannot be read ({first_line(error)})") from None

    def failed(self, job: Job, error: InputError) -> None:
        """Skips a recording that could not be read to its end."""
        name = self.name(job)
        self._skip(name, str(error).removeprefix(name).lstrip(":, "))
        self._report_skipped()

    def check_any(self, count: int) -> None:
        """Raises ``InputError`` where ``count`` recordings are none."""
        if count or not self.skipped:
            return
        first, reason = self.skipped[0]
        summary = f"none of {len(self.skipped)} recordings can be used; the first: "
        raise InputError(f"{summary if len(self.skipped) > 1 else ''}{first}: {reason}")

    def longest(self) -> float:
        """Seconds of the longest recording whose header states its length."""
        return max((s for source in self.inputs for s in source.seconds), default=0.0)

    def _skip(self, name: str, reason: str) -> None:
        if self._options.strict:
            raise InputError(f"{name}: {reason}")
        self.skipped.append((name, reason))

    def _report_skipped(self) -> None:
        """Reports what was skipped since the last call."""
        reported, self._reported = self._reported, len(self.skipped)
        for name, reason in self.skipped[reported:]:
            self._say(f"skipped {name}: {reason}")

    def _say(self, line: str) -> None:
        if self._options.say is not None:
            self._options.say(line)

    # ------------------------------------------------------------------ kinds of paths

    def _open(self, path: Path) -> Input:
        if path.is_dir():
            return _open_shards(path, self._encoder) if _is_shards(path) else self._folder(path)
        if why := why_no_file(path):
            raise InputError(f"{path}: {'no such file' if why == 'is not on disk' else why}")
        if path.suffix.lower() in ARRAYS:
            return self._arrays(path, [path])
        _check_sound(path, self._encoder)
        return self._sounds(path, [path])

    def _folder(self, path: Path) -> Input:
        """Sound files where the encoder reads sound and there are any, else arrays."""
        listed = listing(path)
        files = sorted(listed.files, key=lambda file: _natural(file.relative_to(path)))
        sounds = (
            [f for f in files if f.suffix.lower() in AUDIO] if _reads_sound(self._encoder) else []
        )
        recordings = sounds or [f for f in files if f.suffix.lower() in ARRAYS]
        if not recordings:
            raise InputError(_nothing(path, self._encoder, files))
        kinds = AUDIO if sounds else ARRAYS
        if other := [f for f in files if f.suffix.lower() not in kinds]:
            self._say(f"{path}: skipped {_counted(other)}, which cannot be read{_hint(other)}")
        for odd, reason in listed.unreadable:
            self._skip(shown(odd), reason)
        return self._sounds(path, recordings) if sounds else self._arrays(path, recordings)

    def _sounds(self, path: Path, files: Sequence[Path]) -> Input:
        good, seconds = [], []
        for file in files:
            try:
                seconds.append(_sound_seconds(file))
                good.append(file)
            except InputError as error:
                self._skip(shown(file), str(error))
        names = [shown(file) for file in good]
        return Input(path, names, lambda i: _sound_blocks(good[i], self._encoder), seconds)

    def _arrays(self, path: Path, files: Sequence[Path]) -> Input:
        """Recordings of sensors; each stretch between two gaps of a file is a recording."""
        encoder, options = self._encoder, self._options

        @functools.lru_cache(maxsize=1)
        def read(file: Path) -> list[Stretch]:
            return read_sensors(
                file, encoder.signals, rate=options.rate, modalities=options.modalities
            )

        recordings: list[tuple[Path, int]] = []
        starts: list[float] = []
        for file in files:
            try:
                stretches = read(file)
            except InputError as error:
                self._skip(shown(file), str(error).removeprefix(f"{file}: "))
                continue
            recordings += [(file, k) for k in range(len(stretches))]
            starts += [part.seconds for part in stretches]
            if len(stretches) > 1:
                self._say(f"{shown(file)}: cut at its gaps into {len(stretches)} recordings")

        def blocks(i: int) -> Iterator[Clip]:
            file, k = recordings[i]
            signals = read(file)[k].signals
            rates = {name: s.rate for name, s in signals.items() if s.rate is not None}
            yield encoder.clip({name: s.x for name, s in signals.items()}, rates, shown(file))

        return Input(path, [shown(file) for file, _ in recordings], blocks, starts=starts)


def _natural(path: Path) -> tuple[Any, ...]:
    """A key that sorts ``2.wav`` before ``10.wav``, folder by folder."""
    parts = (re.split(r"([0-9]+)", part) for part in path.parts)
    return tuple(
        tuple((0, int(word), "") if i % 2 else (1, 0, word) for i, word in enumerate(words))
        for words in parts
    )


def _nothing(path: Path, encoder: Encoder, files: Sequence[Path]) -> str:
    kinds = (AUDIO if _reads_sound(encoder) else ()) + ARRAYS
    holds = f"only {_counted(files)}" if files else "no files at all"
    return (
        f"{path}: holds no {'sound files' if _reads_sound(encoder) else 'recordings of sensors'} "
        f"({', '.join(kinds)}) but {holds}, and is not a set of shards (it has no {METADATA})"
        f"{_hint(files)}"
    )


def _hint(files: Sequence[Path]) -> str:
    """How to convert the first sound file of a format that cannot be read."""
    other = [f for f in files if f.suffix.lower() in sound.OTHER_FORMATS]
    return f"; {sound.convert(other[0])}" if other else ""


def _counted(files: Sequence[Path]) -> str:
    """``3 .txt, 1 .m4a``."""
    kinds = Counter(file.suffix.lower() or "without a suffix" for file in files)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))


# ------------------------------------------------------------------ shards


def _is_shards(path: Path) -> bool:
    """Whether the folder is one of ``jfreq data prepare``, finished or not."""
    return (path / METADATA).exists() or any(path.glob("[0-9]*.array_record"))


def _open_shards(path: Path, encoder: Encoder) -> Input:
    from jfreq.data.shards.reader import open_shards

    shards = open_shards(path)
    stored = {s.name: s for s in shards.spec.signals}
    for wanted in encoder.signals:
        check(
            wanted.name in stored,
            str(path),
            f"lacks the signal {wanted.name!r} that the encoder reads; the shards have "
            f"{', '.join(stored)}",
        )
        channels = stored[wanted.name].channels
        check(
            channels == wanted.channels,
            str(path),
            f"{wanted.name} has {channels} channels, but the encoder reads {wanted.channels}",
        )
    check(len(shards) > 0, str(path), "holds no rows; prepare the set again")
    shards.verify()
    rates = {s.name: stored[s.name].rate for s in encoder.signals}
    first = shards.spec.signals[0].rate

    def blocks(row: int) -> Iterator[Clip]:
        batch = shards.read([row])
        seconds = int(batch["length"][0]) / first
        clip = {name: batch[name][0, : max(1, round(seconds * r))] for name, r in rates.items()}
        yield encoder.clip(clip, rates, f"row {row}")

    labels = shards.info.labels
    label = _labels_of(shards) if labels else None
    names = [str(path)] * len(shards)
    return Input(path, names, blocks, shards=True, label=label, labels=labels)


def _labels_of(shards: Any) -> np.ndarray:
    """``[rows]`` int32, or ``[rows k]`` float32 where a row may have several."""
    if not shards.info.multi_label:
        return np.asarray(shards.column("label"), np.int32)
    rows = np.arange(len(shards))
    return np.concatenate([shards.read(part)["label"] for part in np.split(rows, rows[::512][1:])])


# ------------------------------------------------------------------ sound files


def _reads_sound(encoder: Encoder) -> bool:
    """Whether the encoder reads sound files: one signal, mixed to one channel or kept whole."""
    first, *others = encoder.signals
    return not others and (first.channels == 1 or first.mix == "keep")


def _check_sound(path: Path, encoder: Encoder) -> None:
    if not _reads_sound(encoder):
        names = ", ".join(f"{s.name} ({s.channels} channels)" for s in encoder.signals)
        raise InputError(
            f"{path}: is a sound file, but the encoder reads {names}; give an .npz with an array "
            "for each signal, or shards"
        )


def _sound_seconds(path: Path) -> float:
    """The length in the header; raises ``InputError`` without the path where it cannot be used."""
    header = sound.header(path)
    if header.truncation or header.frames == 0:
        raise InputError(header.truncation or "holds no samples")
    return header.frames / header.rate


def _sound_blocks(path: Path, encoder: Encoder) -> Iterator[Clip]:
    """A sound file block by block, mixed as the training data were, at the rate of the encoder."""
    spec, header = encoder.signals[0], sound.header(path)
    # The offset of physical units is subtracted, or it would ring at both ends of the recording.
    has_offset = header.floating and header.rate != spec.rate
    mean = sound.channel_means(path, spec.mix) if has_offset else np.float32(0)
    if not np.isfinite(mean).all():
        raise InputError("holds NaN or infinite samples")
    centred = (_checked(x, spec) - mean for x in sound.blocks(path, spec.mix))
    for x in resampled(centred, header.rate, spec, shown(path)):
        yield {spec.name: x + mean}


def _checked(x: np.ndarray, spec: SignalSpec) -> np.ndarray:
    if x.shape[1] != spec.channels:
        raise InputError(f"has {x.shape[1]} channels, but the model reads {spec.channels}")
    return x
