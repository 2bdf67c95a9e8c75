"""CREMA-D: 91 actors speak twelve sentences with six emotions; 7442 clips."""

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
    "NEU": "neutral",
    "HAP": "happy",
    "SAD": "sad",
    "ANG": "angry",
    "FEA": "fearful",
    "DIS": "disgust",
}
SIGNS = ("AudioWAV/1[0-9][0-9][0-9]_???_???_*", "AudioMP3/1[0-9][0-9][0-9]_???_???_*")
_NAME = re.compile(r"(?P<actor>\d{4})_(?P<sentence>[A-Z]{3})_(?P<emotion>[A-Z]{3})_(XX?|LO|MD|HI)")


def open_cremad(path: Path, options: Options) -> Source:
    """``AudioWAV/1001_DFA_ANG_XX.wav`` and so on; ``AudioMP3`` is read where there is no WAV.

    Cao et al., "CREMA-D: Crowd-sourced emotional multimodal actors dataset", IEEE Transactions on
    Affective Computing 2014. The parts of a name are actor, sentence, emotion (what the actor was
    told to show) and its intensity. The subject is the actor. ``1076_MTI_SAD_XX`` is silent.
    """
    clips = from_names(sound_files(path), _parse)
    return clip_source(path, "cremad", clips, options, order=tuple(EMOTIONS.values()))


def _parse(file: str) -> Clip:
    match = match_name(_NAME, file, "1001_DFA_ANG_XX.wav")
    emotion = EMOTIONS.get(match["emotion"])
    if emotion is None:
        known = ", ".join(EMOTIONS)
        raise InputError(f"the third part of its name is {match['emotion']}, not one of {known}")
    return Clip(file, (emotion,), subject=match["actor"])
