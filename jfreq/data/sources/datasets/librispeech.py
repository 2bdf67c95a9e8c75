"""LibriSpeech: read English speech by 2484 speakers, without labels."""

from __future__ import annotations

import re
from pathlib import Path

from jfreq.data.options import Options
from jfreq.data.sources.base import Source
from jfreq.data.sources.datasets.clips import Clip, clip_source, from_names, sound_files
from jfreq.data.sources.datasets.layout_roots import root_of
from jfreq.types import InputError

SIGNS = (
    "train-*/[0-9]*/[0-9]*/*.trans.*",
    "dev-*/[0-9]*/[0-9]*/*.trans.*",
    "test-*/[0-9]*/[0-9]*/*.trans.*",
    "[0-9]*/[0-9]*/*.trans.*",
)
_NAME = re.compile(r"(?P<speaker>\d+)[-_](?P<chapter>\d+)[-_][\d_]+")


def open_librispeech(path: Path, options: Options) -> Source:
    """``LibriSpeech/train-clean-100/19/198/19-198-0000.flac`` and so on, or one of the subsets.

    Panayotov et al., "LibriSpeech: An ASR corpus based on public domain audio books", ICASSP 2015;
    LibriTTS has the same layout. The split is the subset (``train-clean-100``, ``dev-other``), the
    subject is the speaker. Utterances have no label; the words of the transcripts are not read.
    """
    root = root_of(path, "librispeech", SIGNS)

    def parse(file: str) -> Clip:
        *above, name = file.split("/")
        match = _NAME.fullmatch(name.rpartition(".")[0])
        if match is None or above[-2:] != [match["speaker"], match["chapter"]]:
            raise InputError("is not called SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac")
        subset = above[-3] if len(above) > 2 else root.name
        return Clip(file, split=subset, subject=match["speaker"])

    clips = from_names(sound_files(root), parse)
    stems = {Path(clip.path).stem for clip in clips.clips}
    absent = sorted(set(_transcribed(root)) - stems)
    missing = [
        *clips.missing,
        *(f"{name}: transcribed, but not on disk" for name in absent),
    ]
    return clip_source(root, "librispeech", clips._replace(missing=missing), options)


def _transcribed(root: Path) -> list[str]:
    """The names of the utterances that have a transcript."""
    files = [file for sub in ("", "*/") for file in root.glob(f"{sub}*/*/[0-9]*.trans.txt")]
    texts = [f.read_text(encoding="utf-8", errors="replace") for f in files if f.is_file()]
    return [line.split()[0] for text in texts for line in text.splitlines() if line.strip()]
