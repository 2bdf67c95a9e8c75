"""How the rows of a source are cut, decided before any is written: window, hop, rates, channels."""

from __future__ import annotations

import dataclasses
from typing import Literal

from jfreq.config import check, close_match
from jfreq.data.options import Options
from jfreq.data.prepare.windowing import Cutter
from jfreq.data.readers.sound import Survey
from jfreq.data.shards.flac import check_flac
from jfreq.data.shards.metadata import SignalInfo
from jfreq.data.sources.base import UNREADABLE, Signal, Source
from jfreq.data.sources.segments import name_of
from jfreq.ranges import Encoding, first_line
from jfreq.types import InputError

AUDIO_RATE = 16000.0
"""Default rate of sound in the shards, in Hz."""
LONGEST_DEFAULT = 10.0
"""Longest default window, in seconds."""
_TOLERANCE = 1e-3
"""A window may be longer than the longest recording by this fraction: rounding, lossy codecs."""


def cutter_for(source: Source, options: Options, dtype: Literal["int16", "float32"]) -> Cutter:
    """The window, hop, rates and channels that the options and the first readable row lead to.

    Args:
      source: rows are read until one can be used; its signals are those of the set.
      options: those of the caller; what they leave open is decided here.
      dtype: of ``audio`` in the shards.

    Raises:
      InputError: where the window is longer than every recording, no row can be used, ``rates``
        names an unknown modality, or with ``allow_missing`` no row has one of the modalities.
    """
    default_rate = AUDIO_RATE if source.audio else source.rate
    if options.seconds is not None:
        _check_window(source, options.seconds)
    seconds = options.seconds or _longest(source)
    cutter = Cutter(
        signals=(),
        rate=default_rate if options.rate is None else options.rate,
        seconds=seconds,
        hop_seconds=options.hop_seconds or seconds,
        mix=options.mix or source.mix,
        fill_seconds=options.fill_seconds,
        dtype=dtype,
        rates={**(source.rates if options.rate is None else {}), **options.hertz},
        allow_missing=options.allow_missing,
    )
    example = _first_usable(source, cutter)
    for name in options.hertz:
        there = f"there are: {', '.join(example)}"
        hint = close_match(name, example)
        check(name in example, "rates", f"no modality {name!r}{hint}; {there}")
    if options.allow_missing:
        _check_present(source, cutter, tuple(example))
    signals = tuple(_signal_info(name, signal, cutter) for name, signal in example.items())
    return dataclasses.replace(
        cutter,
        signals=_encoded(signals, options.encoding),
        rates={name: hertz for name, hertz in cutter.rates.items() if name in example},
    )


def sound_dtype(
    wanted: Literal["auto", "int16", "float32"], source: Source, survey: Survey | None
) -> Literal["int16", "float32"]:
    """The dtype of sound in the shards; ``auto`` is float32 where any file is floating point."""
    if wanted != "auto":
        return wanted
    return "float32" if source.floating or (survey and survey.floating) else "int16"


def _first_usable(source: Source, cutter: Cutter) -> dict[str, Signal]:
    """The converted signals of the first row that can be used; ``InputError`` where none can."""
    first_reason = ""
    for row in source.rows:
        try:
            return cutter.convert(row, source.read(row))[0].signals
        except UNREADABLE as error:
            first_reason = first_reason or f"{name_of(row)}: {first_line(error)}"
    raise InputError(
        f"none of the {len(source.rows)} rows of {source.name} can be used; the first: "
        f"{first_reason}"
    )


def _signal_info(name: str, signal: Signal, cutter: Cutter) -> SignalInfo:
    """How a modality with the rate and channels of ``signal`` is stored."""
    rate, audio = signal.rate or 0.0, name == "audio"
    return SignalInfo(
        name=name,
        rate=rate,
        samples=round(cutter.seconds * rate),
        channels=signal.x.shape[1],
        dtype=cutter.dtype if audio else "float32",
        scale=1 / 32768 if audio and cutter.dtype == "int16" else 1.0,
        channel_names=signal.names,
        mix=cutter.mix if audio else "first",
    )


def _encoded(signals: tuple[SignalInfo, ...], encoding: Encoding) -> tuple[SignalInfo, ...]:
    """The signals with sound in this encoding; ``InputError`` where FLAC cannot hold it."""
    if encoding == "raw":
        return signals
    names = [s.name for s in signals]
    there = f"there are: {', '.join(names)}"
    check("audio" in names, "encoding", f"flac is for sound, and this is none; {there}")
    for s in signals:
        if s.name == "audio":
            check_flac(s.name, s.dtype, s.rate, s.channels)
    return tuple(
        dataclasses.replace(s, encoding=encoding) if s.name == "audio" else s for s in signals
    )


def _longest(source: Source) -> float:
    """Seconds of the longest recording, at most ``LONGEST_DEFAULT``, where the search ends."""
    longest = 0.0
    for row in source.rows:
        longest = max(longest, source.seconds(row) or 0.0)
        if longest >= LONGEST_DEFAULT:
            return LONGEST_DEFAULT
    return longest or LONGEST_DEFAULT


def _check_window(source: Source, seconds: float) -> None:
    """``InputError`` where no recording is as long as a window, naming the longest."""
    longest, where = 0.0, ""
    for row in source.rows:
        length = source.seconds(row) or 0.0
        if length >= seconds * (1 - _TOLERANCE):
            return
        if length > longest:
            longest, where = length, name_of(row)
    if longest != 0:
        raise InputError(
            f"seconds: a window of {seconds:g} s is longer than every recording; the longest is "
            f"{where} with {longest:g} s; choose a shorter window"
        )


def _check_present(source: Source, cutter: Cutter, names: tuple[str, ...]) -> None:
    """``InputError`` for a modality that every row lacks; ends once all have been present."""
    missing = set(names)
    for row in source.rows:
        try:
            missing -= {k for k, s in source.read(row).items() if not cutter.absent(s.x)}
        except UNREADABLE:
            continue
        if not missing:
            return
    absent = ", ".join(name for name in names if name in missing)
    raise InputError(f"no recording of {source.name} has {absent}; leave it out with modalities")
