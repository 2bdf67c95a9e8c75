"""Sound files: what their headers promise, and their samples, read whole or refused.

Nothing is opened that is no regular file, no memory is taken on the word of a header, and a
recording that was cut off is noticed wherever its format shows it.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jfreq.data.sources.folders import why_no_file
from jfreq.ranges import Mix
from jfreq.types import InputError

READABLE = tuple(
    ".wav .flac .ogg .oga .opus .mp3 .aif .aiff .aifc .au .snd .w64 .rf64 .caf .sph".split()
)
OTHER_FORMATS = tuple(
    ".m4a .m4b .aac .mp4 .wma .webm .weba .mka .mkv .mov .avi .amr .3gp .3gpp .ac3 .eac3 .dts "
    ".ape .wv .tta .ra .rm .dsf".split()
)
"""Sound and films with sound that libsndfile does not read."""
FASTEST = 20_000_000
"""Hz. What states more is damaged."""
MOST_CHANNELS = 256
_BYTES = (("PCM_S8 PCM_U8 ULAW ALAW", 1), ("PCM_16", 2), ("PCM_24", 3), ("PCM_32 FLOAT", 4))
_WIDTHS = {name: width for names, width in (*_BYTES, ("DOUBLE", 8)) for name in names.split()}
"""Bytes of a sample by libsndfile's name of the encoding."""
_CUT = re.compile(r"^\s*(?:data|SSND|Data Size|riff)\s*:\s*(\d+) \(should be (\d+)\)", re.M)
_CUT_RF64 = re.compile(r"Calculated frame count (\d+) does not match .* of (\d+)")
_OPEN_ENDED = {0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFE}
"""Sizes that programs write which cannot go back to the header: sox, arecord, ffmpeg in a pipe."""
_LARGEST_PAGE = 65_307
"""Bytes of a page of Ogg."""
_MP3_SLACK = 2304
"""Samples that the tables of MP3 files may be off by: two frames."""


class Header(NamedTuple):
    """What a sound file says of itself."""

    frames: int
    rate: int
    channels: int
    floating: bool
    """Stored as floating point, in whatever unit."""
    lost: str = ""
    """What shows that the file was cut off, empty where nothing does."""


def header(path: Path) -> Header:
    """Looks at the header only; ``InputError`` with the reason where it makes no sense."""
    import soundfile

    if why := why_no_file(path):
        raise InputError(why)
    size = os.path.getsize(path)
    if size == 0:
        raise InputError("is empty: it has 0 bytes")
    if path.suffix.lower() in OTHER_FORMATS:
        raise InputError(f"is of a format that cannot be read; {convert(path)}")
    try:
        info: Any = soundfile.info(_raw(path), verbose=True)
    except soundfile.SoundFileError as error:
        raise InputError(_reason(error)) from error
    if not 0 < info.samplerate <= FASTEST:
        raise InputError(f"is damaged: its header says a rate of {info.samplerate} Hz")
    if not 0 < info.channels <= MOST_CHANNELS:
        raise InputError(
            f"its header says {info.channels} channels; at most {MOST_CHANNELS} are read"
        )
    if not 0 <= info.frames < 2**48:
        raise InputError(
            f"does not say how long it is; write it anew: `ffmpeg -i {path.name} {path.stem}.wav`"
        )
    floating = info.subtype in ("FLOAT", "DOUBLE")
    lost = _lost(info) or (_lost_of_ogg(path) if info.format == "OGG" else "")
    return Header(info.frames, info.samplerate, info.channels, floating, lost)


def read(
    path: Path, start: int = 0, end: int | None = None, *, known: Header | None = None
) -> tuple[np.ndarray, int]:
    """Samples ``start`` to ``end`` ``[t c]`` float32, full scale 1 for PCM, and Hz.

    ``known`` is the file's header, where it was looked at before.

    Raises ``InputError`` with the reason where the file cannot be read, lacks some of the samples,
    was cut off, or would not fit into memory.
    """
    import soundfile

    info = known or header(path)
    stop = info.frames if end is None else end
    if not 0 <= start <= stop <= info.frames:
        raise InputError(f"samples {start}..{stop} lie outside its {info.frames}")
    if end is None and info.lost:
        raise InputError(info.lost)
    _check_memory((stop - start) * info.channels * 4)
    try:
        with soundfile.SoundFile(_raw(path)) as file:
            file.seek(start)
            x = file.read(stop - start, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        there = _decodable(path)
        if there < info.frames:
            raise InputError(_promise(info.frames, there)) from error
        raise InputError(_reason(error)) from error
    if len(x) + _slack(path) < stop - start:
        raise InputError(_promise(info.frames, start + len(x)))
    return x, info.rate


def blocks(path: Path, mix: Mix, *, size: int = 1 << 18) -> Iterator[np.ndarray]:
    """A whole file, ``size`` frames at a time: ``[t c]`` float32 with the channels mixed.

    Raises ``InputError`` as :func:`read` does, at the latest after the last block.
    """
    import soundfile

    info = header(path)
    if info.lost:
        raise InputError(info.lost)
    there = 0
    try:
        with soundfile.SoundFile(_raw(path)) as file:
            while count := len(x := file.read(size, dtype="float32", always_2d=True)):
                there += count
                yield mixed(x, mix)
    except soundfile.SoundFileError as error:
        if there < info.frames:
            raise InputError(_promise(info.frames, there)) from error
        raise InputError(_reason(error)) from error
    if there + _slack(path) < info.frames:
        raise InputError(_promise(info.frames, there))


def channel_means(path: Path, mix: Mix) -> np.ndarray:
    """Mean ``[c]`` float32 of every channel of the mix, over a whole file; errors as above."""
    total, count = np.float64(0), 0
    for x in blocks(path, mix):
        total, count = total + x.sum(0, dtype=np.float64), count + len(x)
    return np.asarray(total / max(1, count), np.float32)


def mixed(x: np.ndarray, how: Mix) -> np.ndarray:
    """Channels ``[t c]``: the first, their mean, or all; int16 stays int16."""
    if how == "keep" or x.shape[1] == 1:
        return x
    if how == "first":
        return x[:, :1]
    mean = x.mean(1, keepdims=True)
    return np.rint(mean).astype(np.int16) if x.dtype == np.int16 else mean


class Survey(NamedTuple):
    """What the headers of many files say together."""

    files: int
    floating: int
    """How many are stored as floating point."""
    channels: Counter[int]
    """How many files have so many channels."""


class Headers:
    """Headers of the files below ``root``, each looked at once; threads may share it."""

    def __init__(self, root: Path):
        self._root = root
        self._known: dict[str, Header | InputError] = {}

    def of(self, path: str) -> Header:
        """As :func:`header`."""
        if path not in self._known:
            try:
                self._known[path] = header(self._root / path)
            except InputError as error:
                self._known[path] = error
        known = self._known[path]
        if isinstance(known, InputError):
            raise InputError(str(known))
        return known

    def survey(self, paths: Iterable[str]) -> Survey:
        """Looks at all of ``paths``, several at a time."""
        unique = tuple(dict.fromkeys(paths))
        with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool:
            headers = [h for h in pool.map(self._looked_at, unique) if isinstance(h, Header)]
        return Survey(
            len(headers), sum(h.floating for h in headers), Counter(h.channels for h in headers)
        )

    def _looked_at(self, path: str) -> Header | InputError:
        try:
            return self.of(path)
        except InputError as error:
            return error


def convert(path: Path, what: str = "it") -> str:
    """How to make a file of a format that can be read."""
    return f"convert {what}, for instance `ffmpeg -i {path.name} {path.stem}.wav`"


def _raw(path: Path) -> Any:
    """The name as the disk has it: soundfile takes bytes, and text in UTF-8 only."""
    return os.fsencode(path)


def _lost(info: Any) -> str:
    """What libsndfile noticed while it parsed the header: sound that is not there."""
    log = info.extra_info
    if found := _CUT_RF64.search(log):
        there, promised = map(int, found.groups())
        return _promise(promised, there) if there < promised < 2**48 else ""
    for text, actual in _CUT.findall(log):
        promised, there = int(text), int(actual)
        if promised in _OPEN_ENDED or promised <= there:
            continue
        width = _WIDTHS.get(info.subtype)
        if width is None:
            return f"was cut off: its header promises {promised} bytes of sound, {there} are there"
        missing = (promised - there) // (width * info.channels)
        return _promise(info.frames + missing, info.frames) if missing else ""
    return ""


def _lost_of_ogg(path: Path) -> str:
    """Whether the last page (RFC 3533) is whole and says that it is the last."""
    size = os.path.getsize(path)
    with path.open("rb") as file:
        file.seek(max(0, size - 2 * _LARGEST_PAGE))
        tail = file.read()
    page = tail[max(0, tail.rfind(b"OggS")) :]
    length = 27 + page[26] + sum(page[27 : 27 + page[26]]) if len(page) > 27 else len(page) + 1
    whole = length <= len(page) and page[5] & 4
    return "" if whole else "was cut off: the end of its stream is missing"


def _promise(promised: int, there: int) -> str:
    return f"was cut off: its header promises {promised} frames, {there} are there"


def _slack(path: Path) -> int:
    return _MP3_SLACK if path.suffix.lower() == ".mp3" else 0


def _reason(error: Any) -> str:
    """What libsndfile says, without the path."""
    text = (getattr(error, "error_string", "") or str(error)).strip().rstrip(".")
    return f"is no sound that can be read ({text or 'no reason given'})"


def _decodable(path: Path, *, block: int = 1 << 14) -> int:
    """How many frames can be decoded before the first error."""
    import soundfile

    there = 0
    try:
        with soundfile.SoundFile(_raw(path)) as file:
            while count := len(file.read(block, dtype="float32")):
                there += count
    except soundfile.SoundFileError:
        pass
    return there


def _check_memory(size: int) -> None:
    """``InputError`` where ``size`` bytes and a copy of them do not fit."""
    import psutil

    free = psutil.virtual_memory().available
    if 2 * size > free:
        raise InputError(
            f"takes {2 * size / 1e9:.3g} GB of memory to read, {free / 1e9:.3g} GB are free; cut "
            "it into pieces, for instance by an index.csv with start_seconds and end_seconds"
        )
