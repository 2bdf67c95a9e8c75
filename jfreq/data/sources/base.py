"""What a source is: light rows, and how to read one of them."""

from __future__ import annotations

import csv
import dataclasses
import fnmatch
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jfreq.config import check, close_match
from jfreq.data.readers import sound
from jfreq.data.sources.folders import listing, natural
from jfreq.types import InputError, Mix

Channels = Mapping[str, Sequence[int | str]]
"""Numbers or names of the channels of every modality."""
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
    """What an index states; must agree with the file."""


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


@dataclasses.dataclass(frozen=True)
class Options:
    """What the caller may say about a source; see :func:`jfreq.data.prepare.run.prepare`."""

    rate: float | None = None
    clips: Path | None = None
    labels: tuple[str, ...] | Path | None = None
    drop_labels: tuple[str, ...] = ()
    modalities: Channels | None = None
    n: int | None = None
    seconds: float | None = None
    seed: int = 0
    unlabelled: bool = False
    only: tuple[str, ...] = ()
    complex_as: tuple[str, ...] = ("amplitude",)
    allow_missing: bool = False
    _dropping: set[str] = dataclasses.field(default_factory=set, compare=False, repr=False)
    """Patterns of ``drop_labels`` that have left out a class so far."""

    def takes(self, path: str) -> bool:
        """Whether ``only`` keeps a row of this path."""
        return not self.only or any(fnmatch.fnmatch(path, pattern) for pattern in self.only)

    def drops(self, label: str) -> bool:
        """Whether ``drop_labels`` leaves the class out."""
        hits = [pattern for pattern in self.drop_labels if fnmatch.fnmatch(label, pattern)]
        self._dropping.update(hits)
        return bool(hits)

    def check_dropped(self, labels: Iterable[str]) -> None:
        """``InputError`` for a pattern of ``drop_labels`` that no class matched; ``labels`` are
        the classes that are left."""
        for pattern in self.drop_labels:
            if pattern not in self._dropping:
                known = list(labels)
                raise InputError(
                    f"drop_labels: {pattern!r} matches no class{close_match(pattern, known)}; "
                    f"there are: {', '.join(known) or 'none'}"
                )


def audio_source(
    name: str,
    kind: str,
    rows: Iterable[Row],
    root: Path,
    options: Options,
    *,
    labels: tuple[str, ...] = (),
    missing: Iterable[str] = (),
    multi_label: bool = False,
) -> Source:
    """Rows of sound files below ``root``."""
    headers = sound.Headers(root)

    def read(row: Row) -> dict[str, Signal]:
        known = headers.of(row.path)
        x, rate = sound.read(root / row.path, row.start, row.end, known=known)
        return split_channels({"audio": None}, Signal(x, float(rate)), options.modalities)

    def seconds(row: Row) -> float | None:
        if row.end is not None and row.rate is not None:
            return (row.end - row.start) / row.rate
        try:
            found = headers.of(row.path)
        except InputError:
            return None
        return ((found.frames if row.end is None else row.end) - row.start) / found.rate

    return Source(
        name,
        kind,
        tuple(rows),
        read,
        seconds,
        True,
        labels,
        multi_label,
        tuple(missing),
        survey=headers.survey,
    )


def label_numbers(
    found: Iterable[tuple[str, str]], options: Options, *, order: Sequence[str] = ()
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Class names and their numbers from ``(where, name)``; an empty name is no label.

    Given names win; else those found, in ``order``, then by name, numbers in numeric order.
    Raises ``InputError`` for a name that is not among those given.
    """
    places = {name: where for where, name in found if name and not options.drops(name)}
    rank = {name: i for i, name in enumerate(order)}
    own = sorted(places, key=lambda name: (rank.get(name, len(rank)), natural(name)))
    labels = given_labels(options) or tuple(own)
    unknown = next((name for name in places if name not in labels), None)
    if unknown is not None:
        raise InputError(
            f"{places[unknown]}: label {unknown!r} is not in the list of "
            f"labels{close_match(unknown, labels)}"
        )
    return labels, {name: i for i, name in enumerate(labels)}


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
    own, wanted = ([name.casefold() for name in side] for side in (signal.names, names))
    if own == wanted:
        return signal
    if sorted(own) != sorted(wanted):
        said = (
            f"has the channels {', '.join(signal.names)}" if own else "does not name its channels"
        )
        theirs = f"has {', '.join(names)}" if wanted else "does not name its channels"
        raise InputError(f"{modality} {said}, {owner} {theirs}")
    order = [own.index(name) for name in wanted]
    return signal._replace(x=signal.x[:, order], names=tuple(names))


def unrecorded(samples: int, channels: int) -> np.ndarray:
    """What stands for a modality that a recording lacks: NaN ``[t c]`` float32."""
    return np.full((samples, channels), np.nan, np.float32)


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
        check(bool(out[name]), "modalities", f"{word!r} names no channel")
    return out


def _channels(part: str) -> Sequence[int | str]:
    """``3-5`` and ``7`` are numbers, everything else is a column's name."""
    numbers = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
    if numbers is None:
        return (part,)
    first, last = int(numbers[1]), int(numbers[2] or numbers[1])
    check(last - first < 100_000, "modalities", f"{part!r} are too many channels")
    return range(first, last + 1)


def parse_numbers(words: Sequence[str], field: str, *, sign: str) -> dict[str, float]:
    """``("audio:8000", "seismic:100")`` with ``sign`` ``:`` to the number of each name."""
    out = {}
    for word in words:
        name, _, text = word.rpartition(sign)
        check(bool(name) and is_number(text), field, f"{word!r} is not NAME{sign}NUMBER")
        out[name] = float(text)
    return out


def read_csv(path: Path, *, required: Sequence[str]) -> Iterator[dict[str, str]]:
    """The lines of a CSV file by column; ``InputError`` for a missing file or column."""
    reader = csv.DictReader(read_text(path).splitlines(keepends=True))
    columns = reader.fieldnames or ()
    for name in required:
        check(name in columns, str(path), f"has no column {name!r}{close_match(name, columns)}")
    yield from reader


def read_text(path: Path) -> str:
    """A text file, with or without a byte order mark; ``InputError`` where it is none."""
    check(path.is_file(), "source", f"{path} does not exist")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not a UTF-8 text file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def given_labels(options: Options) -> tuple[str, ...]:
    if isinstance(options.labels, Path):
        return tuple(
            r["display_name"] for r in read_csv(options.labels, required=("display_name",))
        )
    return tuple(options.labels or ())


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def files_in(root: Path, suffixes: Sequence[str]) -> list[Path]:
    """The files below ``root`` with one of the suffixes in either case, sorted."""
    return [file for file in listing(root).files if file.suffix.lower() in suffixes]


def one_line(error: BaseException) -> str:
    """What an error says, without the quotes that ``KeyError`` puts around it."""
    text: Any = error.args[0] if isinstance(error, KeyError) and error.args else error
    return (str(text) or type(error).__name__).splitlines()[0]
