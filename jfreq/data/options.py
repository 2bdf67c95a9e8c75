"""Options of making shards from recordings, with their checks."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

from jfreq.files import local_path
from jfreq.ranges import (
    Count,
    Encoding,
    FoldBy,
    Hertz,
    InputError,
    Mix,
    NonNegative,
    Seconds,
    Seed,
    Workers,
    check_value,
    checked,
)

_General = Literal["auto", "index", "folders", "sensors"]
_Sounds = Literal["audioset", "esc50", "esc10", "urbansound8k", "fsd50k", "gtzan", "nsynth"]
_Speech = Literal["speech_commands", "librispeech", "ravdess", "cremad", "emodb"]
_Motion = Literal["hhar", "ucihar", "motionsense", "pamap2", "realworld"]
Kind = Literal[_General, _Sounds, _Speech, _Motion, "cwru", "csi", "mod", "acids"]
"""Layouts of a source; ``jfreq.data.sources.kinds.KINDS`` opens them."""
ComplexAs = Literal["amplitude", "phase_difference", "real_imag"]
Channels = Mapping[str, Sequence[int | str]]
"""Numbers or names of the channels of every modality."""


@checked
class Options:
    """Options of :func:`jfreq.data.prepare.run.prepare` and of ``jfreq data prepare``."""

    kind: Kind = "auto"
    """Layout of the source, see docs/data.md; auto recognises it."""
    rate: Hertz | None = None
    """Rate of the shards in Hz; by default 16000 for audio and as recorded for sensors. Recordings
    that state no rate are taken to have this one."""
    rates: tuple[str, ...] = ()
    """Rates of single modalities, for instance audio:8000 seismic:100."""
    seconds: Seconds | None = None
    """Length of a window; by default that of the longest clip, at most 10 s."""
    hop_seconds: Seconds | None = None
    """Step between windows of long recordings; by default no overlap."""
    mix: Mix | None = None
    """Sound of several channels: keep the first (the default, except for acids), their mean, or
    all."""
    dtype: Literal["auto", "int16", "float32"] = "auto"
    """Type of sound in the shards; auto is int16, or float32 where a file is stored as floating
    point."""
    encoding: Encoding = "raw"
    """How 16-bit sound lies in the shards: raw, or flac, which loses nothing and takes about half
    of the bytes. Sensors stay raw."""
    modalities: tuple[str, ...] = ()
    """Modalities by their channels, as numbers or names: acc:0-2 gyro:gx,gy,gz."""
    complex_as: tuple[ComplexAs, ...] = ("amplitude",)
    """Real modalities to make of complex recordings."""
    only: tuple[str, ...] = ()
    """Patterns of the paths to read, for instance '*/waist'; by default all."""
    thin: tuple[str, ...] = ()
    """Classes to make rare, with the fraction of their recordings to keep: fall=0.1."""
    unlabelled: bool = False
    """Also take stretches without a label (index.csv, speech_commands, pamap2, hhar, mod,
    acids)."""
    allow_missing: bool = False
    """Keep recordings that lack a modality, with zeros in its place; missing.txt names them."""
    fill_seconds: NonNegative = 0.1
    """Longest gap of NaN in a sensor's channel to fill by linear interpolation; a longer one cuts
    the recording. Sound with NaN is refused."""
    guard_seconds: NonNegative | None = None
    """Least distance in a recording between rows of different folds or splits."""
    make_folds: Count | None = None
    """Number of folds to divide the set into, with classes in proportion."""
    fold_by: FoldBy | None = None
    """What a fold keeps whole; by default subjects where enough are known, else recordings. With
    row, parts of a recording may lie in different folds."""
    replace_folds: bool = False
    """Make folds even where the source has its own."""
    labels: tuple[str, ...] = ()
    """Class names in order; for AudioSet the file class_labels_indices.csv, where it does not lie
    beside the list of segments."""
    drop_labels: tuple[str, ...] = ()
    """Patterns of the classes to leave out, for instance '*_to_*'."""
    clips: Path | None = None
    """Folder of AudioSet's clips, where they do not lie beside the list of segments."""
    n: Count | None = None
    """Number of synthetic recordings; by default 24 per class."""
    seed: Seed = 0
    """Seed of synthetic recordings and of new folds."""
    workers: Workers | None = None
    """Decoding threads; by default one per core."""
    strict: bool = False
    """Refuse a set with an unreadable, empty, NaN or wrong-rate file instead of skipping it."""

    def __post_init__(self):
        for name, rate in self.hertz.items():
            check_value(Hertz, rate, "rates", name)
        if self.clips is not None:
            local_path(self.clips, "clips")
        if self.labels_file is not None:
            local_path(self.labels_file, "labels")
        _ = self.channels, self.fractions  # refused here already if they cannot be read

    @cached_property
    def channels(self) -> Channels | None:
        """The channels of each of ``modalities``; None where there are none."""
        return parse_modalities(self.modalities) or None

    @cached_property
    def hertz(self) -> dict[str, float]:
        """Hz of each modality in ``rates``."""
        return _numbers(self.rates, "rates", ":", "audio:8000")

    @cached_property
    def fractions(self) -> dict[str, float]:
        """The fraction of each class in ``thin``."""
        return _numbers(self.thin, "thin", "=", "fall=0.1")

    @property
    def labels_file(self) -> Path | None:
        """The file that ``labels`` names in place of classes; None where it names classes."""
        table = len(self.labels) == 1 and self.labels[0].endswith(".csv")
        return Path(self.labels[0]) if table else None

    def keeps(self, path: str) -> bool:
        """Whether rows of this path are read: it matches ``only``, or there are no patterns."""
        return not self.only or any(fnmatch.fnmatch(path, pattern) for pattern in self.only)

    def drops(self, label: str) -> bool:
        """Whether ``drop_labels`` leaves out the class of this name."""
        return any(fnmatch.fnmatch(label, pattern) for pattern in self.drop_labels)


def parse_modalities(words: Sequence[str]) -> dict[str, tuple[int | str, ...]]:
    """The channels of each modality in words such as ``acc:0-2``, ``gyro:3-5,7`` or ``mag:mx,my``.

    Raises:
      InputError: for a word of another form, and for one that names no channel.
    """
    out = {}
    for word in words:
        name, colon, spans = word.partition(":")
        parts = [span.strip() for span in spans.split(",")]
        if not (name and colon and all(parts)):
            raise InputError(
                f"modalities: {word!r} is not NAME:FIRST-LAST or NAME:COLUMN,COLUMN, for instance "
                "acc:0-2 or acc:ax,ay,az"
            )
        out[name] = tuple(channel for part in parts for channel in _channels(part))
        if not out[name]:
            raise InputError(
                f"modalities: {word!r} names no channel; write FIRST-LAST, as in acc:0-2"
            )
    return out


def _channels(part: str) -> Sequence[int | str]:
    """``3-5`` and ``7`` are numbers, everything else is a column's name."""
    numbers = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
    if numbers is None:
        return (part,)
    first, last = int(numbers[1]), int(numbers[2] or numbers[1])
    if last - first >= 100_000:
        raise InputError(f"modalities: {part!r} names too many channels; 100000 are the most")
    return range(first, last + 1)


def _numbers(words: Sequence[str], field: str, sign: str, example: str) -> dict[str, float]:
    """The number of each name in words such as ``audio:8000``; ``sign`` stands between them."""
    out = {}
    for word in words:
        name, _, text = word.rpartition(sign)
        try:
            out[name] = float(text)
        except ValueError:
            name = ""
        if not name:
            raise InputError(f"{field}: {word!r} is not NAME{sign}NUMBER, for instance {example}")
    return out
