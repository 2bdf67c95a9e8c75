"""The metadata of a folder of shards, ``metadata.json``."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from jfreq.config import check
from jfreq.config_json import OtherSettings, from_dict, to_dict
from jfreq.data.readers.sound import READABLE
from jfreq.data.sources.folders import METADATA, PARTS, listing, shown
from jfreq.files import parse_json, read_text
from jfreq.ranges import Count, Encoding, Finite, Hertz, Mix, NonNegative, Positive, Whole, checked
from jfreq.types import DataSpec, InputError, SignalSpec

_FLOAT32_EPSILON = 2.0**-23
FORMAT = 3
"""Version of ``metadata.json``."""
RESERVED = tuple("label id length fold split subject path start _mask spectrogram".split())
"""Names that a modality cannot have: they mean something else in a record or a batch."""


@checked
class SignalInfo:
    """One modality as stored: ``value * scale`` is in physical units, with full scale 1 for PCM."""

    name: str
    rate: Hertz
    samples: Whole
    channels: Count
    dtype: str
    scale: Positive
    mean: tuple[Finite, ...] = ()
    """Per channel over the valid samples of the training rows, in physical units."""
    std: tuple[NonNegative, ...] = ()
    """As ``mean``."""
    channel_names: tuple[str, ...] = ()
    """Names of the columns in the files; empty where files do not name their channels."""
    mix: Mix = "first"
    """Of ``audio``: how the channels of a recording became those of the signal."""
    encoding: Encoding = "raw"
    """How the samples lie in a record; ``flac`` is for int16."""

    def __post_init__(self):
        advice = "choose letters, digits and underscores, with a letter first"
        check(self.name.isidentifier(), "signal name", f"{self.name!r} is no name; {advice}")
        reserved = self.name in RESERVED
        check(not reserved, "signal name", f"{self.name!r} is reserved; choose another")
        wanted = f"must be int16 or float32, got {self.dtype!r}"
        check(self.dtype in ("int16", "float32"), f"{self.name}.dtype", wanted)
        advice = "a window must hold at least one sample; make it longer with --seconds"
        check(self.samples >= 1, f"{self.name}.samples", advice)
        check(
            len(self.channel_names) in (0, self.channels),
            f"{self.name}.channel_names",
            f"there are {len(self.channel_names)} names for {self.channels} channels",
        )

    @property
    def constant(self) -> tuple[int, ...]:
        """Channels whose std is below the resolution of float32 at their mean."""
        return tuple(
            i for i, (m, s) in enumerate(zip(self.mean, self.std)) if s <= _FLOAT32_EPSILON * abs(m)
        )

    @property
    def spec(self) -> SignalSpec:
        """The signal as methods know it.

        Its mean and std have nine digits, so that all machines agree. The std of a constant
        channel is 1, so that standardising makes the channel 0.
        """
        std = [1.0 if i in self.constant else s for i, s in enumerate(self.std)]
        mean, std = (tuple(float(f"{v:.9g}") for v in values) for values in (self.mean, std))
        return SignalSpec(
            self.name,
            self.rate,
            self.samples,
            self.channels,
            mean,
            std,
            self.channel_names,
            self.mix,
        )


@checked
class ShardFile:
    """One ArrayRecord file; ``sha256`` is over its records in order, whatever the container."""

    file: str
    rows: Whole
    sha256: str


@checked
class ColumnDigest:
    """A column of ``rows.npz``; ``sha256`` is that of :func:`jfreq.data.shards.columns.digest`."""

    name: str
    sha256: str


@checked
class ShardsInfo:
    """A finished set of shards."""

    name: str
    signals: tuple[SignalInfo, ...]
    rows: Whole
    shards: tuple[ShardFile, ...] = ()
    labels: tuple[str, ...] = ()
    multi_label: bool = False
    folds: tuple[Whole, ...] = ()
    fold_by: str = ""
    """What folds made by jfreq keep whole: ``subject``, ``recording`` or ``row``; empty for the
    folds of the source."""
    splits: tuple[str, ...] = ()
    guard_seconds: NonNegative = 0.0
    """Least distance between rows of one recording in different folds or splits; 0 for none."""
    source: str = ""
    skipped: Whole = 0
    """Rows of the source that could not be used; ``skipped.txt`` names them."""
    recipe: str = ""
    """Digest of the rows of the source and of the options it was prepared with."""
    columns: tuple[ColumnDigest, ...] = ()
    """Of what ``rows.npz`` holds: labels, folds, splits and moments of every row."""
    format: Count = FORMAT

    @property
    def spec(self) -> DataSpec:
        return DataSpec(tuple(s.spec for s in self.signals), self.labels, self.multi_label)

    @property
    def manifest_hash(self) -> str:
        """sha256 over all fields, which include the hashes of the shards."""
        return digest(to_dict(self))

    def to_json(self) -> str:
        return json.dumps({**to_dict(self), "manifest": self.manifest_hash}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str = METADATA) -> ShardsInfo:
        """Reads strictly what :meth:`to_json` writes.

        Raises:
          InputError: for unknown or missing fields, another format, or a manifest that does not
            agree with the fields. The message begins with ``where``.
        """
        value = parse_json(text, where, "the metadata of shards", advice="prepare the shards again")
        check(
            value.get("format") == FORMAT,
            where,
            f"format {value.get('format')!r} is not {FORMAT}; prepare the shards with this version",
        )
        manifest = value.pop("manifest", None)
        try:
            info = from_dict(cls, value, path=where)
        except OtherSettings as error:
            raise InputError(
                f"{error}; it was changed by hand, or written by another version of jfreq: read "
                "the shards with that version, or prepare them again"
            ) from None
        check(
            manifest == info.manifest_hash,
            where,
            "was changed by hand, or written by another version; prepare the shards again",
        )
        return info

    @classmethod
    def read(cls, folder: Path) -> ShardsInfo:
        """Reads ``metadata.json``; ``InputError`` where the set is missing or unfinished."""
        path = folder / METADATA
        if not path.is_file():
            raise InputError(f"{shown(folder)}{_why_no_shards(folder)}")
        text = read_text(path, "the metadata of shards", advice="prepare the shards again")
        return cls.from_json(text, where=str(path))


def _why_no_shards(folder: Path) -> str:
    """The end of a message about a path that is no finished set: what it is, and what to do."""
    if not folder.is_dir():
        what = " is a file, not a folder of shards" if folder.exists() else ": no such folder"
        return f"{what}; make shards with `jfreq data prepare`"
    if (folder / PARTS).is_dir() or any(folder.glob("*array_record*")):
        return (
            f" is not a finished set of shards (it has no {METADATA}); run the same `jfreq "
            "data prepare` again, which goes on where it stopped"
        )
    suffixes = [file.suffix.lower() for file in listing(folder).files]
    sound = sum(suffix in READABLE for suffix in suffixes)
    holds = f"{sound} sound files" if sound > 1 else "a sound file" if sound else "other files"
    what = f"it holds {holds}" if suffixes else "it is empty"
    return (
        f" is not a set of shards: {what}; make shards of recordings with `jfreq data prepare "
        f"{shown(folder) if sound else 'FOLDER'} --out SHARDS`"
    )


def digest(value: object) -> str:
    """sha256 of plain JSON values, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
