"""Speech Commands, versions 1 and 2: single words of one second by thousands of speakers."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

from jfreq.config import check
from jfreq.data.options import Options
from jfreq.data.sources.base import Row, Source
from jfreq.data.sources.csv_lines import read_text
from jfreq.data.sources.datasets.clips import Clip, clip_source, from_names, left_out, sound_files
from jfreq.data.sources.datasets.layout_roots import root_of
from jfreq.types import InputError

SIGNS = ("testing_list.txt", "validation_list.txt", "_background_noise_", "_unknown_/*_nohash_*")
NOISE = "_background_noise_"
LISTS = {"validation_list.txt": "validation", "testing_list.txt": "test"}
_ADVICE = "--unlabelled reads them, without a label"
_NAME = re.compile(r"(?:.*_)?(?P<speaker>[^_]+)_nohash_\d+")


def open_speech_commands(path: Path, options: Options) -> Source:
    """``yes/0a7c2a8d_nohash_0.wav`` and so on, with ``validation_list.txt`` and
    ``testing_list.txt``.

    Warden, "Speech Commands: A dataset for limited-vocabulary speech recognition", arXiv
    1804.03209: 30 words in version 1, 35 in version 2. What neither list names is the split
    ``train``. The subject is the speaker, by the first part of a file's name. The recordings of
    ``_background_noise_`` are left out, or read without a label where unlabelled stretches are
    asked for. The owners' separate test set has no lists, but the classes ``_silence_`` and
    ``_unknown_``: all of it is the split ``test``.
    """
    root = root_of(path, "speech_commands", SIGNS)
    words = root / "audio" if (root / "audio").is_dir() else root
    sounds = sound_files(words)
    noise = [file for file in sounds.files if file.startswith(f"{NOISE}/")]
    spoken = [file for file in sounds.files if not file.startswith(f"{NOISE}/")]
    splits = _splits(root)

    def parse(file: str) -> Clip:
        word, _, name = file.rpartition("/")
        match = _NAME.fullmatch(name.rpartition(".")[0])
        if not word or "/" in word or not (match or word == "_silence_"):
            raise InputError("is not called WORD/SPEAKER_nohash_NUMBER.wav")
        speaker = match["speaker"] if match else ""
        split = "test" if splits is None else splits.get(_stem(file), "train")
        return Clip(file, (word,), split=split, subject=speaker)

    clips = from_names(sounds._replace(files=spoken), parse, parts=2)
    absent = sorted(set(splits or ()) - {_stem(clip.path) for clip in clips.clips})
    missing = [*clips.missing, *(f"{file}: listed, but not on disk" for file in absent)]
    if options.unlabelled:
        rest = [Row(file, split="train") for file in noise]
    else:
        rest = []
        clips.notes.extend(left_out(noise, "files of background noise", _ADVICE))
    clips = clips._replace(missing=missing)
    source = clip_source(words, "speech_commands", clips, options, rest=rest)
    return dataclasses.replace(source, name=root.name)


def _stem(file: str) -> str:
    """A path without its suffix, which differs where people convert what they download."""
    return os.path.splitext(file)[0]


def _splits(root: Path) -> dict[str, str] | None:
    """The split of every listed file, without suffixes; None for the owners' separate test set."""
    lists = [name for name in LISTS if (root / name).is_file()]
    if not lists and (root / "_unknown_").is_dir():
        return None
    splits: dict[str, str] = {}
    for name, split in LISTS.items():
        if name not in lists:
            raise InputError(
                f"source: {root} has no {name}, which names the {split} data; unpack the "
                "archive again, or read every folder as a class with --kind folders"
            )
        for i, line in enumerate(read_text(root / name).splitlines(), start=1):
            file = _stem(line.strip())
            first = splits.setdefault(file, split) if file else split
            check(first == split, f"{root / name}:{i}", f"{file} is in the other list too")
    return splits
