"""Reads the headers and samples of sound files; a file is read whole or refused.

Only regular files are opened, memory is checked before samples are read, and a recording that was
cut off is refused wherever its format shows it.
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
"""Formats of sound, and of films with sound, that libsndfile does not read."""
_HIGHEST_RATE = 20_000_000
"""Hz. A header that states more is damaged."""
_MOST_CHANNELS = 256
_BYTES = (("PCM_S8 PCM_U8 ULAW ALAW", 1), ("PCM_16", 2), ("PCM_24", 3), ("PCM_32 FLOAT", 4))
_WIDTHS = {name: width for names, width in (*_BYTES, ("DOUBLE", 8)) for name in names.split()}
"""Bytes of a sample by libsndfile's name of its encoding."""
_SIZES = re.compile(r"^\s*(?:data|SSND|Data Size|riff)\s*:\s*(\d+) \(should be (\d+)\)", re.M)
_FRAMES_OF_RF64 = re.compile(r"Calculated frame count (\d+) does not match .* of (\d+)")
_OPEN_ENDED = {0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFE}
"""Sizes in headers by programs that write to a pipe (sox, arecord, ffmpeg): the size is unknown."""
_LARGEST_PAGE = 65_307
"""Bytes of the largest page of Ogg."""
_MP3_TOLERANCE = 2304
"""Samples by which the tables of MP3 files may be wrong: two frames."""


class Header(NamedTuple):
    """What the header of a sound file states."""

    frames: int
    rate: int
    channels: int
    floating: bool
    """Whether samples are stored as floating point, in any unit."""
    truncation: str = ""
    """A message where the file was cut off, else empty."""


def header(path: Path) -> Header:
    """The header of a sound file.

    Raises:
      InputError: for a file that is missing, of a format that cannot be read, or damaged.
    """
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
    if not 0 < info.samplerate <= _HIGHEST_RATE:
        raise InputError(f"is damaged: its header says a rate of {info.samplerate} Hz")
    if not 0 < info.channels <= _MOST_CHANNELS:
        raise InputError(
            f"its header says {info.channels} channels; at most {_MOST_CHANNELS} are read"
        )
    if not 0 <= info.frames < 2**48:
        raise InputError(
            f"does not say how long it is; write it again: `ffmpeg -i {path.name} {path.stem}.wav`"
        )
    floating = info.subtype in ("FLOAT", "DOUBLE")
    truncation = _truncation(info) or (_truncation_of_ogg(path) if info.format == "OGG" else "")
    return Header(info.frames, info.samplerate, info.channels, floating, truncation)


def read(
    path: Path, start: int = 0, end: int | None = None, *, known: Header | None = None
) -> tuple[np.ndarray, int]:
    """Samples ``start`` to ``end`` ``[t c]`` float32, full scale 1 for PCM, and Hz.

    Args:
      known: the header of the file, where it was read before.

    Raises:
      InputError: for a file that cannot be read, lacks some of the samples, was cut off, or does
        not fit into memory.
    """
    import soundfile

    info = known or header(path)
    stop = info.frames if end is None else end
    if not 0 <= start <= stop <= info.frames:
        raise InputError(f"samples {start}..{stop} lie outside its {info.frames} samples")
    if end is None and info.truncation:
        raise InputError(info.truncation)
    _check_memory((stop - start) * info.channels * 4)
    try:
        with soundfile.SoundFile(_raw(path)) as file:
            file.seek(start)
            x = file.read(stop - start, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        frames = _decodable(path)
        if frames < info.frames:
            raise InputError(_cut_off(info.frames, frames)) from error
        raise InputError(_reason(error)) from error
    if len(x) + _tolerance(path) < stop - start:
        raise InputError(_cut_off(info.frames, start + len(x)))
    return x, info.rate


def blocks(path: Path, mix: Mix, *, size: int = 1 << 18) -> Iterator[np.ndarray]:
    """A whole file, ``size`` frames at a time: ``[t c]`` float32 with the channels mixed.

    Raises:
      InputError: as :func:`read`, at the latest after the last block.
    """
    import soundfile

    info = header(path)
    if info.truncation:
        raise InputError(info.truncation)
    frames = 0
    try:
        with soundfile.SoundFile(_raw(path)) as file:
            while count := len(x := file.read(size, dtype="float32", always_2d=True)):
                frames += count
                yield mixed(x, mix)
    except soundfile.SoundFileError as error:
        if frames < info.frames:
            raise InputError(_cut_off(info.frames, frames)) from error
        raise InputError(_reason(error)) from error
    if frames + _tolerance(path) < info.frames:
        raise InputError(_cut_off(info.frames, frames))


def channel_means(path: Path, mix: Mix) -> np.ndarray:
    """Mean ``[c]`` float32 of the mixed channels over a whole file; errors as :func:`blocks`."""
    total, count = np.float64(0), 0
    for x in blocks(path, mix):
        total, count = total + x.sum(0, dtype=np.float64), count + len(x)
    return np.asarray(total / max(1, count), np.float32)


def mixed(x: np.ndarray, how: Mix) -> np.ndarray:
    """The first channel of ``[t c]``, the mean of all, or all; int16 stays int16."""
    if how == "keep" or x.shape[1] == 1:
        return x
    if how == "first":
        return x[:, :1]
    mean = x.mean(1, keepdims=True)
    return np.rint(mean).astype(np.int16) if x.dtype == np.int16 else mean


class Survey(NamedTuple):
    """A summary of the headers of many files."""

    files: int
    floating: int
    """Number of files that are stored as floating point."""
    channels: Counter[int]
    """Number of files by their number of channels."""


class Headers:
    """Headers of the files below ``root``, each read once; several threads may use it."""

    def __init__(self, root: Path):
        self._root = root
        self._known: dict[str, Header | InputError] = {}

    def of(self, path: str) -> Header:
        """The header of a file; errors as :func:`header`."""
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
        """The summary of the headers of ``paths``, without files that cannot be read."""
        unique = tuple(dict.fromkeys(paths))
        with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool:
            headers = [h for h in pool.map(self._header_or_error, unique) if isinstance(h, Header)]
        return Survey(
            len(headers), sum(h.floating for h in headers), Counter(h.channels for h in headers)
        )

    def _header_or_error(self, path: str) -> Header | InputError:
        try:
            return self.of(path)
        except InputError as error:
            return error


def convert(path: Path, what: str = "it") -> str:
    """Advice to convert a file into a format that can be read."""
    return f"convert {what}, for instance `ffmpeg -i {path.name} {path.stem}.wav`"


def _raw(path: Path) -> Any:
    """The name as bytes, because soundfile takes text in UTF-8 only."""
    return os.fsencode(path)


def _truncation(info: Any) -> str:
    """A message where libsndfile found less sound than the header states, else empty."""
    log = info.extra_info
    if match := _FRAMES_OF_RF64.search(log):
        actual, stated = map(int, match.groups())
        return _cut_off(stated, actual) if actual < stated < 2**48 else ""
    for sizes in _SIZES.findall(log):
        stated, actual = map(int, sizes)
        if stated in _OPEN_ENDED or stated <= actual:
            continue
        width = _WIDTHS.get(info.subtype)
        if width is None:
            return f"was cut off: its header promises {stated} bytes of sound, {actual} are there"
        missing = (stated - actual) // (width * info.channels)
        return _cut_off(info.frames + missing, info.frames) if missing else ""
    return ""


def _truncation_of_ogg(path: Path) -> str:
    """A message unless the last page (RFC 3533) is whole and marked as the last, else empty."""
    size = os.path.getsize(path)
    with path.open("rb") as file:
        file.seek(max(0, size - 2 * _LARGEST_PAGE))
        tail = file.read()
    page = tail[max(0, tail.rfind(b"OggS")) :]
    length = 27 + page[26] + sum(page[27 : 27 + page[26]]) if len(page) > 27 else len(page) + 1
    whole = length <= len(page) and page[5] & 4
    return "" if whole else "was cut off: the end of its stream is missing"


def _cut_off(stated: int, actual: int) -> str:
    return f"was cut off: its header promises {stated} frames, {actual} are there"


def _tolerance(path: Path) -> int:
    """Frames that a file may lack without being cut off."""
    return _MP3_TOLERANCE if path.suffix.lower() == ".mp3" else 0


def _reason(error: Any) -> str:
    """The error of libsndfile, without the path."""
    text = (getattr(error, "error_string", "") or str(error)).strip().rstrip(".")
    return f"is no sound that can be read ({text or 'no reason given'})"


def _decodable(path: Path, *, block: int = 1 << 14) -> int:
    """Number of frames that can be decoded before the first error."""
    import soundfile

    frames = 0
    try:
        with soundfile.SoundFile(_raw(path)) as file:
            while count := len(file.read(block, dtype="float32")):
                frames += count
    except soundfile.SoundFileError:
        pass
    return frames


def _check_memory(size: int) -> None:
    """``InputError`` where ``size`` bytes and a copy of them do not fit into memory."""
    import psutil

    free = psutil.virtual_memory().available
    if 2 * size > free:
        raise InputError(
            f"takes {2 * size / 1e9:.3g} GB of memory to read, {free / 1e9:.3g} GB are free; cut "
            "it into pieces, for instance by an index.csv with start_seconds and end_seconds"
        )
