"""RAVDESS: 24 actors speak and sing two sentences with eight emotions."""

from __future__ import annotations

import re
from pathlib import Path

from jfreq.config import check
from jfreq.data.layouts.clips import Clip, clip_source, from_names, sound_files
from jfreq.data.source import Options, Source
from jfreq.types import InputError

EMOTIONS = {
    "01": "neutral", "02": "calm", "03": "happy", "04": "sad", "05": "angry", "06": "fearful",
    "07": "disgust", "08": "surprised",
}  # fmt: skip
SIGNS = ("Actor_[0-9][0-9]/??-??-??-??-??-??-??.*",)
_NAME = re.compile(r"\d\d-\d\d-(?P<emotion>\d\d)-\d\d-\d\d-\d\d-(?P<actor>\d\d)")


def open_ravdess(path: Path, options: Options) -> Source:
    """``Actor_12/03-01-06-01-02-01-12.wav`` and so on; speech, song, or both.

    Livingstone and Russo, "The Ryerson audio-visual database of emotional speech and song", PLOS
    ONE 2018. The parts of a name are modality (03: sound only), speech or song (01, 02), emotion,
    intensity, sentence, repetition and actor, so ``--only '*/03-01-*'`` is the speech. The subject
    is the actor. The copy of the whole set that some downloads hold is read once.
    """
    check(path.is_dir(), "source", f"{path} is not a folder; name the unpacked archive")
    return clip_source(path, "ravdess", from_names(sound_files(path), _parse), options,
                       order=tuple(EMOTIONS.values()))  # fmt: skip


def _parse(file: str) -> Clip:
    match = _NAME.fullmatch(Path(file).stem)
    if match is None:
        raise InputError("is not called like 03-01-06-01-02-01-12.wav")
    check(match["emotion"] in EMOTIONS, "its third part", f"{match['emotion']} is no emotion of "
          "RAVDESS, which has 01 to 08")  # fmt: skip
    return Clip(file, (EMOTIONS[match["emotion"]],), subject=f"actor_{match['actor']}")
