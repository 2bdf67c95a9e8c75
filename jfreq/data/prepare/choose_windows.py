"""What rows become, decided before any is written: window, hop, rates, channels."""

from __future__ import annotations

import dataclasses
from typing import Literal

from jfreq.config import check, close_match
from jfreq.data.options import Options
from jfreq.data.prepare.windowing import Cutter
from jfreq.data.shards.metadata import SignalInfo
from jfreq.data.sources.base import UNREADABLE, Source, one_line
from jfreq.data.sources.segments import name_of
from jfreq.types import InputError

AUDIO_RATE = 16000.0
LONGEST = 10.0
"""Seconds of the default window at most."""
_SHORT = 1e-3
"""A window may be this fraction longer than the longest recording: rounding, and lossy codecs."""


def cutter_for(source: Source, options: Options, dtype: Literal["int16", "float32"]) -> Cutter:
    """Decides window, hop, rates and channels from the options and the first good row.

    Raises ``InputError`` for a window longer than every recording, where no row can be used, and
    for a modality that no row has.
    """
    default = AUDIO_RATE if source.audio else source.rate
    rates = options.hertz
    if options.seconds is not None:
        _check_window(source, options.seconds)
    seconds = options.seconds or _longest(source)
    undecided = Cutter(
        signals=(),
        rate=default if options.rate is None else options.rate,
        seconds=seconds,
        hop_seconds=options.hop_seconds or seconds,
        mix=options.mix or source.mix,
        fill_seconds=options.fill_seconds,
        dtype=dtype,
        rates={**(source.rates if options.rate is None else {}), **rates},
        allow_missing=options.allow_missing,
    )
    reasons = []
    for row in source.rows:
        try:
            probe = undecided.convert(row, source.read(row))[0].signals
        except UNREADABLE as error:
            reasons.append(f"{name_of(row)}: {one_line(error)}")
            continue
        signals = tuple(
            SignalInfo(
                name=name,
                rate=s.rate or 0.0,
                samples=round(seconds * (s.rate or 0.0)),
                channels=s.x.shape[1],
                dtype=dtype if name == "audio" else "float32",
                scale=1 / 32768 if (name, dtype) == ("audio", "int16") else 1.0,
                channel_names=s.names,
                mix=undecided.mix if name == "audio" else "first",
            )
            for name, s in probe.items()
        )
        for name in rates:
            check(
                name in probe,
                "rates",
                f"no modality {name!r}{close_match(name, probe)}; there are: {', '.join(probe)}",
            )
        if options.allow_missing:
            _check_present(source, undecided, tuple(probe))
        kept = {name: hz for name, hz in undecided.rates.items() if name in probe}
        return dataclasses.replace(undecided, signals=signals, rates=kept)
    raise InputError(
        f"none of the {len(source.rows)} rows of {source.name} can be used; the first: {reasons[0]}"
    )


def _longest(source: Source) -> float:
    """Seconds of the longest clip, at most ``LONGEST``; stops looking where one is that long."""
    best = 0.0
    for row in source.rows:
        best = max(best, source.seconds(row) or 0.0)
        if best >= LONGEST:
            return LONGEST
    return best or LONGEST


def _check_window(source: Source, seconds: float) -> None:
    """``InputError`` where no recording is as long as a window, naming the longest."""
    longest, where = 0.0, ""
    for row in source.rows:
        length = source.seconds(row) or 0.0
        if length >= seconds * (1 - _SHORT):
            return
        if length > longest:
            longest, where = length, name_of(row)
    if longest != 0:
        raise InputError(
            f"seconds: a window of {seconds:g} s is longer than every recording; the longest is "
            f"{where} with {longest:g} s"
        )


def _check_present(source: Source, cutter: Cutter, names: tuple[str, ...]) -> None:
    """``InputError`` for a modality that every row lacks; stops once each has been seen."""
    unseen = set(names)
    for row in source.rows:
        try:
            unseen -= {k for k, s in source.read(row).items() if not cutter.absent(s.x)}
        except UNREADABLE:
            continue
        if not unseen:
            return
    absent = ", ".join(name for name in names if name in unseen)
    raise InputError(f"no recording of {source.name} has {absent}; leave it out with modalities")
