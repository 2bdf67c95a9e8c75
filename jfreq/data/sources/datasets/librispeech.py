"""LibriSpeech: read English speech, by 2484 speakers; here without labels."""

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
    """``LibriSpeech/train-clean-100/19/198/19-198-0000.flac`` and so on; also one of its subsets.

    Panayotov et al., "LibriSpeech: An ASR corpus based on public domain audio books", ICASSP 2015;
    LibriTTS has the same layout. The split is the subset (``train-clean-100``, ``dev-other``), the
    subject is the speaker. Utterances have no label; their words are not read.
    """
    root = root_of(path, "librispeech", SIGNS)

    def parse(file: str) -> Clip:
        *above, name = file.split("/")
        match = _NAME.fullmatch(name.rpartition(".")[0])
        if match is None or above[-2:] != [match["speaker"], match["chapter"]]:
            raise InputError("is not called SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac")
        subset = above[-3] if len(above) > 2 else root.name
        return Clip(file, split=subset, subject=match["speaker"])

    found = from_names(sound_files(root), parse)
    there = {Path(clip.path).stem for clip in found.clips}
    lost = sorted(set(_transcribed(root)) - there)
    missing = [*found.missing, *(f"{name}: has words, but is not on disk" for name in lost)]
    return clip_source(root, "librispeech", found._replace(missing=missing), options)


def _transcribed(root: Path) -> list[str]:
    """The names of the utterances that have words."""
    files = [file for sub in ("", "*/") for file in root.glob(f"{sub}*/*/[0-9]*.trans.txt")]
    texts = [f.read_text(encoding="utf-8", errors="replace") for f in files if f.is_file()]
    return [line.split()[0] for text in texts for line in text.splitlines() if line.strip()]
