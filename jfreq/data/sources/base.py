"""What a source is: light rows, and how to read one of them."""

from __future__ import annotations

import dataclasses
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jfreq.config import close_match
from jfreq.data.options import Channels, Options
from jfreq.data.readers import sound
from jfreq.data.sources.csv_lines import lines_of
from jfreq.data.sources.folders import natural
from jfreq.ranges import Mix
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
"""What reading a damaged file raises, by way of soundfile, numpy, zipfile and ours."""


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
    """``x`` ``[t c]`` int16 PCM or floating point, at ``rate`` Hz; None where nobody says.

    NaN is a missing sample; a signal that is NaN throughout was not recorded. No window lies
    across a sample number of ``breaks``: recording stopped before it and went on later.
    """

    x: np.ndarray
    rate: float | None
    breaks: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    """Of the channels; empty where the file does not name them."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Rows and how to read one.

    ``read(row)`` returns the row's signals by modality or raises; ``seconds(row)`` looks at the
    header only (None where it cannot tell); both are called from several threads.
    """

    name: str
    kind: str
    rows: tuple[Row, ...]
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
    """Hz of the shards where the caller names none; None for that of the recordings."""
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """The same for single modalities."""
    mix: Mix = "first"
    """What becomes of the channels of ``audio`` where the caller does not say."""
    notes: tuple[str, ...] = ()
    """Lines for the user: what was recognised or guessed, and what was left out."""
    floating: bool = False
    """Its ``audio`` is in units of its own, not in full scale."""
    survey: Callable[[Iterable[str]], sound.Survey] | None = None
    """Looks at the headers of sound files by path, where it has such."""

    @property
    def description(self) -> str:
        return f"{self.kind}: {self.name}"


class Listed(NamedTuple):
    """What a source lists, under the names of :class:`Source`."""

    rows: tuple[Row, ...]
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
    """A source of sound files below ``root``."""
    headers = sound.Headers(root)

    def read(row: Row) -> dict[str, Signal]:
        known = headers.of(row.path)
        x, rate = sound.read(root / row.path, row.start, row.end, known=known)
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
    """The channels of one array as modalities, ``default`` where none are named.

    With ``allow_missing`` a modality of which the array has no channel is NaN throughout.
    """
    out, width = {}, signal.x.shape[1]
    for name, asked in (modalities or default).items():
        channels = None if asked is None else _numbers(name, asked, signal.names)
        if allow_missing and channels is not None and min(channels) >= width:
            x = unrecorded(len(signal.x), len(channels))
        elif channels is not None and max(channels) >= width:
            raise InputError(f"has {width} channels, modality {name!r} asks for {list(channels)}")
        else:
            x = signal.x if channels is None else signal.x[:, list(channels)]
        names = signal.names
        if channels is not None and names:
            names = tuple(names[i] for i in channels if i < width)
        out[name] = signal._replace(x=x, names=names if len(names) == x.shape[1] else ())
    return out


def _numbers(modality: str, channels: Sequence[int | str], names: Sequence[str]) -> list[int]:
    """The numbers of channels of which some are given by name."""
    known = {name.casefold(): i for i, name in enumerate(names)}
    out = []
    for channel in channels:
        if isinstance(channel, str) and channel.casefold() not in known:
            there = f"there are: {', '.join(names)}" if names else "the file names no channels"
            raise InputError(
                f"has no channel {channel!r} for modality "
                f"{modality!r}{close_match(channel, names)}; {there}"
            )
        out.append(known[channel.casefold()] if isinstance(channel, str) else channel)
    return out


def ordered(modality: str, signal: Signal, names: Sequence[str], owner: str) -> Signal:
    """The channels in the order of ``names``, matched by name without regard to case.

    Nothing happens where neither side has names. ``owner`` is whose names they are. Raises
    ``InputError`` where the names differ, or only one side has any.
    """
    names_here, wanted = ([name.casefold() for name in side] for side in (signal.names, names))
    if names_here == wanted:
        return signal
    if sorted(names_here) != sorted(wanted):
        said = (
            f"has the channels {', '.join(signal.names)}"
            if names_here
            else "does not name its channels"
        )
        theirs = f"has {', '.join(names)}" if wanted else "does not name its channels"
        raise InputError(f"{modality} {said}, {owner} {theirs}")
    order = [names_here.index(name) for name in wanted]
    return signal._replace(x=signal.x[:, order], names=tuple(names))


def unrecorded(samples: int, channels: int) -> np.ndarray:
    """What stands for a modality that a recording lacks: NaN ``[t c]`` float32."""
    return np.full((samples, channels), np.nan, np.float32)


def given_labels(options: Options) -> tuple[str, ...]:
    """The class names that the caller gives, in order; empty where none."""
    if options.labels_file is None:
        return options.labels
    return tuple(
        line.text("display_name") for line in lines_of(options.labels_file, ("display_name",))
    )


def one_line(error: BaseException) -> str:
    """What an error says, without the quotes that ``KeyError`` puts around it."""
    text: Any = error.args[0] if isinstance(error, KeyError) and error.args else error
    return (str(text) or type(error).__name__).splitlines()[0]
