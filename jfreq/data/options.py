"""What a user may say about a set of shards that is made of recordings."""

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

_Folders = Literal["auto", "index", "folders", "sensors"]
_Sounds = Literal["audioset", "esc50", "esc10", "urbansound8k", "fsd50k", "gtzan", "nsynth"]
_Speech = Literal["speech_commands", "librispeech", "ravdess", "cremad", "emodb"]
_Motion = Literal["hhar", "ucihar", "motionsense", "pamap2", "realworld"]
Kind = Literal[_Folders, _Sounds, _Speech, _Motion, "cwru", "csi", "mod", "acids"]
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
    """Rate of the shards in Hz; audio: 16000, sensors: as recorded. A source that states no rate
    is taken to have this one."""
    rates: tuple[str, ...] = ()
    """Rates of single modalities, for instance audio:8000 seismic:100."""
    seconds: Seconds | None = None
    """Length of a window; by default that of the longest clip, at most 10 s."""
    hop_seconds: Seconds | None = None
    """Step between windows of long recordings; by default no overlap."""
    mix: Mix | None = None
    """Sound of several channels: the first (the default, but for acids), their mean, or all."""
    dtype: Literal["auto", "int16", "float32"] = "auto"
    """Of sound in the shards; auto is float32 where a file is stored as floating point."""
    modalities: tuple[str, ...] = ()
    """Names for channels, for instance acc:0-2 gyro:gx,gy,gz (numbers or columns)."""
    complex_as: tuple[ComplexAs, ...] = ("amplitude",)
    """Complex recordings: the real modalities to make."""
    only: tuple[str, ...] = ()
    """Patterns of the paths to read, for instance '*/waist'."""
    thin: tuple[str, ...] = ()
    """Classes to make rare, with the fraction of their recordings to keep: fall=0.1."""
    unlabelled: bool = False
    """Also take what no label names: index.csv, speech_commands, pamap2, hhar, mod, acids."""
    allow_missing: bool = False
    """Keep recordings that lack a modality, with zeros in its place; missing.txt names them."""
    fill_seconds: NonNegative = 0.1
    """Longest gap of NaN in a sensor's channel to fill by linear interpolation; a longer one cuts
    the recording. Sound with NaN is refused."""
    guard_seconds: NonNegative | None = None
    """Least distance in a recording between rows of different folds or splits."""
    make_folds: Count | None = None
    """Divide the set into this many folds, with classes in proportion."""
    fold_by: FoldBy | None = None
    """What a fold keeps whole; by default subjects where enough are known, else recordings. A row
    may be a part of a recording."""
    replace_folds: bool = False
    """Make folds although the source has its own."""
    labels: tuple[str, ...] = ()
    """Class names in order, or AudioSet's class_labels_indices.csv, where it does not lie beside
    the list."""
    drop_labels: tuple[str, ...] = ()
    """Patterns of classes to leave out."""
    clips: Path | None = None
    """AudioSet: folder of the clips, where they do not lie beside the list."""
    n: Count | None = None
    """Synthetic: number of rows; by default 24 per class."""
    seed: Seed = 0
    """Of synthetic recordings and of the folds that are made."""
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
        """``modalities`` by name; None where none is named."""
        return parse_modalities(self.modalities) or None

    @cached_property
    def hertz(self) -> dict[str, float]:
        """``rates`` by modality."""
        return _numbers(self.rates, "rates", sign=":")

    @cached_property
    def fractions(self) -> dict[str, float]:
        """``thin`` by class."""
        return _numbers(self.thin, "thin", sign="=")

    @property
    def labels_file(self) -> Path | None:
        """The table that ``labels`` names in place of classes."""
        table = len(self.labels) == 1 and self.labels[0].endswith(".csv")
        return Path(self.labels[0]) if table else None

    def takes(self, path: str) -> bool:
        """Whether ``only`` keeps a row of this path."""
        return not self.only or any(fnmatch.fnmatch(path, pattern) for pattern in self.only)

    def drops(self, label: str) -> bool:
        """Whether ``drop_labels`` leaves the class out."""
        return any(fnmatch.fnmatch(label, pattern) for pattern in self.drop_labels)


def parse_modalities(words: Sequence[str]) -> dict[str, tuple[int | str, ...]]:
    """``("acc:0-2", "gyro:3-5,7", "mag:mx,my,mz")`` to the channels of each modality."""
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
            raise InputError(f"modalities: {word!r} names no channel")
    return out


def _channels(part: str) -> Sequence[int | str]:
    """``3-5`` and ``7`` are numbers, everything else is a column's name."""
    numbers = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
    if numbers is None:
        return (part,)
    first, last = int(numbers[1]), int(numbers[2] or numbers[1])
    if last - first >= 100_000:
        raise InputError(f"modalities: {part!r} are too many channels")
    return range(first, last + 1)


def _numbers(words: Sequence[str], field: str, *, sign: str) -> dict[str, float]:
    """``("audio:8000", "seismic:100")`` with ``sign`` ``:`` to the number of each name."""
    out = {}
    for word in words:
        name, _, text = word.rpartition(sign)
        try:
            out[name] = float(text)
        except ValueError:
            name = ""
        if not name:
            raise InputError(f"{field}: {word!r} is not NAME{sign}NUMBER")
    return out
