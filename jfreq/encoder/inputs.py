"""What the paths of ``jfreq embed`` and ``jfreq predict`` hold: sound files, recordings of sensors,
folders of them, and shards; opened by their headers, read one after the other."""

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
from jfreq.data.sources.base import ARRAYS, AUDIO, UNREADABLE, one_line
from jfreq.data.sources.folders import METADATA, listing, shown, why_no_file
from jfreq.encoder.encoder import Encoder
from jfreq.encoder.sensor_files import read_sensors
from jfreq.encoder.signals import resampled
from jfreq.encoder.windowing import Clip
from jfreq.files import local_path
from jfreq.types import InputError, SignalSpec

BROKEN = (*UNREADABLE, MemoryError, OverflowError, TypeError)
"""What reading a damaged recording raises."""
MANY_WINDOWS = 64
"""From so many windows on, more are computed at once."""


class Input(NamedTuple):
    """What a path holds: recordings ``names``, the ``i``-th of them by ``blocks(i)``, blocks of
    samples that follow each other.

    Of shards (``shards``) the rows, with ``label`` ``[rows]`` int32 or ``[rows k]`` float32 and
    its names ``labels``, both empty where there are none. ``seconds``: as far as headers tell.
    """

    path: Path
    names: Sequence[str]
    blocks: Callable[[int], Iterator[Clip]]
    seconds: Sequence[float] = ()
    shards: bool = False
    label: np.ndarray | None = None
    labels: tuple[str, ...] = ()
    starts: Sequence[float] = ()
    """Seconds of recorded samples before each, where a file was cut at its gaps."""


class Options(NamedTuple):
    """What the caller says about the recordings: ``rate`` Hz of arrays that state none,
    ``modalities`` channels of an array that holds several; ``strict`` refuses what else would be
    skipped; ``say`` shows a person a line."""

    rate: float | None = None
    modalities: Channels | None = None
    strict: bool = False
    say: Callable[[str], None] | None = None


class Job(NamedTuple):
    """One recording: ``row`` of ``inputs[source]``."""

    source: int
    row: int


class Recordings:
    """All recordings of some paths, and those that cannot be used, with the reason.

    Headers are looked at first. Raises ``InputError`` for a path that is not there or holds
    nothing that the encoder could read, and for the first bad recording with ``strict``.
    """

    def __init__(self, paths: Sequence[str | Path], encoder: Encoder, options: Options):
        check(len(paths) > 0, "inputs", "no files to embed")
        self.skipped: list[tuple[str, str]] = []
        self._reported = 0
        self._encoder, self._options = encoder, options
        self.inputs = [self._open(local_path(path, "inputs")) for path in paths]
        self.jobs = [
            Job(i, row) for i, one in enumerate(self.inputs) for row in range(len(one.names))
        ]
        self.check_any(len(self.jobs))
        self._report_skipped()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, the same in all labelled inputs."""
        return _class_names(self.inputs)

    def name(self, job: Job) -> str:
        return self.inputs[job.source].names[job.row]

    def start(self, job: Job) -> float:
        """Seconds of recorded samples that lie before it in its file."""
        starts = self.inputs[job.source].starts
        return starts[job.row] if starts else 0.0

    def blocks(self) -> Iterator[Iterator[Clip]]:
        """Every recording, in order."""
        for job in self.jobs:
            yield self._guarded(job)

    def _guarded(self, job: Job) -> Iterator[Clip]:
        try:
            yield from self.inputs[job.source].blocks(job.row)
        except InputError:
            raise
        except BROKEN as error:
            raise InputError(f"cannot be read ({one_line(error)})") from None

    def failed(self, job: Job, error: InputError) -> None:
        """Leaves a recording out that could not be read to its end."""
        name = self.name(job)
        self._skip(name, str(error).removeprefix(name).lstrip(":, "))
        self._report_skipped()

    def check_any(self, count: int) -> None:
        """``InputError`` where nothing is left."""
        if count or not self.skipped:
            return
        first, reason = self.skipped[0]
        many = f"none of {len(self.skipped)} recordings can be used; the first: "
        raise InputError(f"{many if len(self.skipped) > 1 else ''}{first}: {reason}")

    def batch(self) -> int:
        """Windows to compute at once."""
        window = self._encoder.signals[0].seconds
        known = sum(sum(one.seconds) / window for one in self.inputs)
        return 8 if max(known, len(self.jobs)) < MANY_WINDOWS else 32

    def longest(self) -> float:
        """Seconds of the longest recording, as far as headers tell."""
        return max((s for one in self.inputs for s in one.seconds), default=0.0)

    def _skip(self, name: str, reason: str) -> None:
        if self._options.strict:
            raise InputError(f"{name}: {reason}")
        self.skipped.append((name, reason))

    def _report_skipped(self) -> None:
        """Says what was skipped since it was last called."""
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
            self._say(f"{path}: left out {_counted(other)}, which are not read{_hint(other)}")
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
        """Recordings of sensors; each stretch between two gaps of a file is one."""
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
    """Order of people: ``2.wav`` before ``10.wav``, folder by folder."""
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
        f"({', '.join(kinds)}) but {holds}, and is no set of shards (it has no {METADATA})"
        f"{_hint(files)}"
    )


def _hint(files: Sequence[Path]) -> str:
    """How to make sound of the first file that is of a format nobody reads here."""
    other = [f for f in files if f.suffix.lower() in sound.OTHER_FORMATS]
    return f"; {sound.convert(other[0])}" if other else ""


def _counted(files: Sequence[Path]) -> str:
    """``3 .txt, 1 .m4a``."""
    kinds = Counter(file.suffix.lower() or "without a suffix" for file in files)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))


# ------------------------------------------------------------------ shards


def _is_shards(path: Path) -> bool:
    """Whether ``jfreq data prepare`` writes here, finished or not."""
    return (path / METADATA).exists() or any(path.glob("[0-9]*.array_record"))


def _open_shards(path: Path, encoder: Encoder) -> Input:
    from jfreq.data.shards.reader import open_shards

    shards = open_shards(path)
    stored = {s.name: s for s in shards.spec.signals}
    for wanted in encoder.signals:
        check(
            wanted.name in stored,
            str(path),
            f"no signal {wanted.name!r}; the shards have {', '.join(stored)}",
        )
        channels = stored[wanted.name].channels
        check(
            channels == wanted.channels,
            str(path),
            f"{wanted.name} has {channels} channels, the encoder reads {wanted.channels}",
        )
    check(len(shards) > 0, str(path), "holds no rows")
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
    return Input(path, _Repeated(str(path), len(shards)), blocks, (), True, label, labels)


def _labels_of(shards: Any) -> np.ndarray:
    """``[rows]`` int32, or ``[rows k]`` float32 where a row may have several."""
    if not shards.info.multi_label:
        return np.asarray(shards.column("label"), np.int32)
    rows = np.arange(len(shards))
    return np.concatenate([shards.read(part)["label"] for part in np.split(rows, rows[::512][1:])])


def _class_names(inputs: Sequence[Input]) -> tuple[str, ...]:
    """Names of the classes; ``InputError`` unless all labelled inputs have the same."""
    labelled = [(one, one.label.ndim) for one in inputs if one.label is not None]
    if not labelled:
        return ()
    first, dims = labelled[0]
    for one, rank in labelled[1:]:
        check(
            (one.labels, rank) == (first.labels, dims),
            str(one.path),
            f"has other classes than {first.path}; embed them one by one",
        )
    return first.labels


class _Repeated(Sequence[str]):
    """One name for each of ``count`` rows."""

    def __init__(self, name: str, count: int):
        self._name, self._count = name, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return self._name


# ------------------------------------------------------------------ sound files


def _reads_sound(encoder: Encoder) -> bool:
    """Whether sound files can be read: one signal, of one channel or of all that were kept."""
    first, *others = encoder.signals
    return not others and (first.channels == 1 or first.mix == "keep")


def _check_sound(path: Path, encoder: Encoder) -> None:
    if not _reads_sound(encoder):
        names = ", ".join(f"{s.name} ({s.channels} channels)" for s in encoder.signals)
        raise InputError(
            f"{path}: the encoder reads {names}; only encoders of one sound embed sound files, "
            "give an .npz with an array for each, or shards"
        )


def _sound_seconds(path: Path) -> float:
    """What the header says; ``InputError`` without the path for one that cannot be used."""
    found = sound.header(path)
    if found.truncation or found.frames == 0:
        raise InputError(found.truncation or "holds no samples")
    return found.frames / found.rate


def _sound_blocks(path: Path, encoder: Encoder) -> Iterator[Clip]:
    """A sound file block by block, mixed as the training data were, at the rate of the encoder."""
    spec, found = encoder.signals[0], sound.header(path)
    # What physical units rest on is set aside, or it would ring at both ends of the recording.
    rests = found.floating and found.rate != spec.rate
    level = sound.channel_means(path, spec.mix) if rests else np.float32(0)
    if not np.isfinite(level).all():
        raise InputError("holds NaN or infinite samples")
    fitting = (_fitting(x, spec) - level for x in sound.blocks(path, spec.mix))
    for x in resampled(fitting, found.rate, spec, shown(path)):
        yield {spec.name: x + level}


def _fitting(x: np.ndarray, spec: SignalSpec) -> np.ndarray:
    if x.shape[1] != spec.channels:
        raise InputError(f"has {x.shape[1]} channels where the model reads {spec.channels}")
    return x
