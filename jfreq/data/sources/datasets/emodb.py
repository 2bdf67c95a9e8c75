"""EMO-DB, the Berlin database: ten actors speak ten German sentences with seven emotions."""

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

EMOTIONS = {
    "N": "neutral",
    "F": "happy",
    "T": "sad",
    "W": "angry",
    "A": "fearful",
    "E": "disgust",
    "L": "bored",
}
"""By the first letters of German words: Freude, Trauer, Wut, Angst, Ekel, Langeweile."""
_SIGN = "[01][0-9][ab][01][0-9][WLEAFTN][a-f].*"
SIGNS = (f"wav/{_SIGN}", f"audio/{_SIGN}", _SIGN)
_NAME = re.compile(r"(?P<speaker>\d\d)(?P<sentence>[ab]\d\d)(?P<emotion>[WLEAFTN])[a-z]?")


def open_emodb(path: Path, options: Options) -> Source:
    """``wav/03a01Fa.wav`` and so on.

    Burkhardt et al., "A database of German emotional speech", Interspeech 2005. The parts of a
    name are speaker, sentence, emotion by its German letter, and version. The subject is the
    speaker.
    """
    clips = from_names(sound_files(path), _parse)
    return clip_source(path, "emodb", clips, options, order=tuple(EMOTIONS.values()))


def _parse(file: str) -> Clip:
    match = match_name(_NAME, file, "03a01Fa.wav")
    return Clip(file, (EMOTIONS[match["emotion"]],), subject=match["speaker"])
