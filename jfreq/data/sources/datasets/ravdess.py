"""RAVDESS: 24 actors speak and sing two sentences with eight emotions."""

from __future__ import annotations

import re
from pathlib import Path

from jfreq.data.options import Options
from jfreq.data.sources.base import Source
from jfreq.data.sources.datasets.clips import (
    Clip,
    clip_source,
    from_names,
    match_name,
    sound_files,
)
from jfreq.types import InputError

EMOTIONS = {
    "01": "neutral",
    "02": "calm",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fearful",
    "07": "disgust",
    "08": "surprised",
}
SIGNS = ("Actor_[0-9][0-9]/??-??-??-??-??-??-??.*",)
_NAME = re.compile(r"\d\d-\d\d-(?P<emotion>\d\d)-\d\d-\d\d-\d\d-(?P<actor>\d\d)")


def open_ravdess(path: Path, options: Options) -> Source:
    """``Actor_12/03-01-06-01-02-01-12.wav`` and so on; speech, song, or both.

    Livingstone and Russo, "The Ryerson audio-visual database of emotional speech and song", PLOS
    ONE 2018. The parts of a name are modality (03: sound only), speech or song (01, 02), emotion,
    intensity, sentence, repetition and actor, so ``--only '*/03-01-*'`` is the speech. The subject
    is the actor. The copy of the whole set that some downloads hold is read once.
    """
    clips = from_names(sound_files(path), _parse)
    return clip_source(path, "ravdess", clips, options, order=tuple(EMOTIONS.values()))


def _parse(file: str) -> Clip:
    match = match_name(_NAME, file, "03-01-06-01-02-01-12.wav")
    emotion = EMOTIONS.get(match["emotion"])
    if emotion is None:
        raise InputError(f"the third part of its name is {match['emotion']}, not 01 to 08")
    return Clip(file, (emotion,), subject=f"actor_{match['actor']}")
