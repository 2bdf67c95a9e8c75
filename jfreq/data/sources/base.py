"""Sources of recordings: rows that are cheap to list, and a function that reads one of them."""

from __future__ import annotations

import dataclasses
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jfreq.config import close_match
from jfreq.data.options import Channels, Options
from jfreq.data.readers import sound
from jfreq.data.sources.csv_lines import lines_of
from jfreq.data.sources.folders import natural
from jfreq.ranges import Mix, brief
from jfreq.types import InputError

AUDIO = sound.READABLE
ARRAYS = (".npz", ".npy", ".csv", ".tsv")
UNREADABLE = (
    InputError,
    RuntimeError,
    OSError,
    ValueError,
    KeyError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What reading a damaged file raises: soundfile, numpy, zipfile and jfreq itself."""


class Row(NamedTuple):
    """One clip of a source; ``start`` and ``end`` are samples at the source's own rate."""

    path: str
    label: tuple[int, ...] = ()
    fold: int = -1
    split: str = ""
    subject: str = ""
    start: int = 0
    end: int | None = None
    item: int | None = None
    """Index into the first axis of a file that holds many recordings."""
    rate: float | None = None
    """Hz that an index states; it must agree with the file."""

    @property
    def recording(self) -> tuple[str, int | None]:
        """What the rows of one recording have in common: the path and the item."""
        return self.path, self.item


class Signal(NamedTuple):
    """``x`` ``[t c]`` int16 PCM or floating point, at ``rate`` Hz; None where nothing states it.

    NaN is a missing sample; a signal that is NaN throughout was not recorded. ``breaks`` are
    sample numbers before which recording stopped and went on later; no window lies across one.
    """

    x: np.ndarray
    rate: float | None
    breaks: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    """Names of the channels; empty where the file states none."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Rows and how to read them.

    ``read(row)`` returns the signals of a row by modality, or raises one of ``UNREADABLE``.
    ``seconds(row)`` is the row's length by the header of its file, None where that does not say.
    Both are called from several threads.
    """

    name: str
    kind: str
    rows: Sequence[Row]
    read: Callable[[Row], dict[str, Signal]]
    seconds: Callable[[Row], float | None]
    audio: bool
    labels: tuple[str, ...] = ()
    multi_label: bool = False
    missing: tuple[str, ...] = ()
    """What the source lists and the disk does not have: ``name: reason``."""
    rest: tuple[Row, ...] = ()
    """Unlabelled stretches that were asked for; too short ones are left out later."""
    dropped: frozenset[str] = frozenset()
    """Classes that were left out because the caller asked for it."""
    rate: float | None = None
    """Hz of the shards where the caller states no rate; None for the rate of the recordings."""
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """The same for single modalities."""
    mix: Mix = "first"
    """What becomes of the channels of ``audio`` where the caller does not choose."""
    notes: tuple[str, ...] = ()
    """Lines for the user: what was recognised or guessed, and what was left out."""
    floating: bool = False
    """``audio`` is in a physical unit, not relative to full scale."""
    survey: Callable[[Iterable[str]], sound.Survey] | None = None
    """Summary of the headers of sound files, by their paths; None for sources of other files."""

    @property
    def description(self) -> str:
        return f"{self.kind}: {self.name}"


class Listed(NamedTuple):
    """What a source lists; the fields are those of :class:`Source`."""

    rows: Sequence[Row]
    labels: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    rest: tuple[Row, ...] = ()
    dropped: frozenset[str] = frozenset()


class Classes(NamedTuple):
    """The classes of a source."""

    labels: tuple[str, ...]
    """In the order of their numbers."""
    numbers: Mapping[str, int]
    """By name, without those that are dropped."""
    dropped: frozenset[str]
    """Names that ``Options.drop_labels`` leaves out."""


def audio_source(
    name: str,
    kind: str,
    listed: Listed,
    root: Path,
    options: Options,
    *,
    multi_label: bool = False,
    notes: Iterable[str] = (),
) -> Source:
    """A source whose rows are sound files, by their paths below ``root``."""
    headers = sound.Headers(root)

    def read(row: Row) -> dict[str, Signal]:
        header = headers.of(row.path)
        x, rate = sound.read(root / row.path, row.start, row.end, known=header)
        return split_channels({"audio": None}, Signal(x, float(rate)), options.channels)

    def seconds(row: Row) -> float | None:
        if row.end is not None and row.rate is not None:
            return (row.end - row.start) / row.rate
        try:
            header = headers.of(row.path)
        except InputError:
            return None
        return ((header.frames if row.end is None else row.end) - row.start) / header.rate

    return Source(
        name=name,
        kind=kind,
        **listed._asdict(),
        read=read,
        seconds=seconds,
        audio=True,
        multi_label=multi_label,
        notes=tuple(notes),
        survey=headers.survey,
    )


def classes_of(
    named: Iterable[tuple[str, str]], options: Options, *, order: Sequence[str] = ()
) -> Classes:
    """The classes that ``(where, name)`` of all labels make; an empty name is no label.

    Their order is that of ``options.labels`` where these are given; otherwise the names in
    ``order`` come first and the rest follow in natural order.

    Raises:
      InputError: for a name that is not among ``options.labels``.
    """
    where_of: dict[str, str] = {}
    for where, name in named:
        if name:
            where_of.setdefault(name, where)
    dropped = frozenset(filter(options.drops, where_of))
    where_of = {name: where for name, where in where_of.items() if name not in dropped}
    rank = {name: i for i, name in enumerate(order)}
    sorted_names = sorted(where_of, key=lambda name: (rank.get(name, len(rank)), natural(name)))
    labels = given_labels(options) or tuple(sorted_names)
    unknown = next((name for name in where_of if name not in labels), None)
    if unknown is not None:
        raise InputError(
            f"{where_of[unknown]}: label {unknown!r} is not in the list of "
            f"labels{close_match(unknown, labels)}"
        )
    numbers = {name: i for i, name in enumerate(labels) if name not in dropped}
    return Classes(labels, numbers, dropped)


def split_channels(
    default: Mapping[str, Sequence[int | str] | None] | Mapping[str, Sequence[int] | None],
    signal: Signal,
    modalities: Channels | None,
    *,
    allow_missing: bool = False,
) -> dict[str, Signal]:
    """The channels of one array as modalities.

    Args:
      default: modalities where the caller names none; None stands for all channels.
      modalities: as the caller names them.
      allow_missing: a modality of which the array has no channel is NaN throughout.

    Raises:
      InputError: for a channel that the array does not have.
    """
    out, width = {}, signal.x.shape[1]
    for name, wanted in (modalities or default).items():
        channels = None if wanted is None else _numbers(name, wanted, signal.names)
        if allow_missing and channels is not None and min(channels) >= width:
            x = unrecorded(len(signal.x), len(channels))
        elif channels is not None and max(channels) >= width:
            raise InputError(
                f"has {width} channels, modality {name!r} asks for {brief(str(list(channels)))}"
            )
        else:
            x = signal.x if channels is None else signal.x[:, list(channels)]
        names = signal.names
        if channels is not None and names:
            names = tuple(names[i] for i in channels if i < width)
        out[name] = signal._replace(x=x, names=names if len(names) == x.shape[1] else ())
    return out


def _numbers(modality: str, channels: Sequence[int | str], names: Sequence[str]) -> list[int]:
    """The numbers of channels that are given by number or by name."""
    known = {name.casefold(): i for i, name in enumerate(names)}
    out = []
    for channel in channels:
        if isinstance(channel, str) and channel.casefold() not in known:
            available = f"it has: {', '.join(names)}" if names else "the file names no channels"
            raise InputError(
                f"has no channel {channel!r} for modality "
                f"{modality!r}{close_match(channel, names)}; {available}"
            )
        out.append(known[channel.casefold()] if isinstance(channel, str) else channel)
    return out


def ordered(modality: str, signal: Signal, names: Sequence[str], owner: str) -> Signal:
    """The channels in the order of ``names``, matched by name without regard to case.

    A signal without names is returned as it is where ``names`` are empty too.

    Args:
      owner: what ``names`` belong to, for messages.

    Raises:
      InputError: where the names differ, or only one side has any.
    """
    names_here, wanted = ([name.casefold() for name in side] for side in (signal.names, names))
    if names_here == wanted:
        return signal
    if sorted(names_here) != sorted(wanted):
        stated = (
            f"has the channels {', '.join(signal.names)}"
            if names_here
            else "does not name its channels"
        )
        expected = f"has {', '.join(names)}" if wanted else "does not name its channels"
        raise InputError(f"{modality} {stated}, {owner} {expected}")
    order = [names_here.index(name) for name in wanted]
    return signal._replace(x=signal.x[:, order], names=tuple(names))


def unrecorded(samples: int, channels: int) -> np.ndarray:
    """NaN ``[t c]`` float32, in place of a modality that a recording lacks."""
    return np.full((samples, channels), np.nan, np.float32)


def given_labels(options: Options) -> tuple[str, ...]:
    """The class names that the caller gives, in order; empty where there are none."""
    if options.labels_file is None:
        return options.labels
    return tuple(
        line.text("display_name") for line in lines_of(options.labels_file, ("display_name",))
    )
