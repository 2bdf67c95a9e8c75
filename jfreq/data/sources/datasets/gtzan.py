"""GTZAN: 1000 excerpts of 30 s of music in ten genres."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from jfreq.config import check
from jfreq.data.options import Options
from jfreq.data.sources.base import Source
from jfreq.data.sources.csv_lines import read_text
from jfreq.data.sources.datasets.clips import Clip, clip_source, from_list, from_names, sound_files
from jfreq.data.sources.datasets.layout_roots import DEPTH
from jfreq.types import InputError

GENRES = tuple("blues classical country disco hiphop jazz metal pop reggae rock".split())
_PLACES = ("genres_original/", "genres/", "")
SIGNS = tuple(f"{place}{genre}/{genre}.[0-9]*" for genre in GENRES for place in _PLACES)
LISTS = {
    "train_filtered.txt": "train",
    "valid_filtered.txt": "validation",
    "test_filtered.txt": "test",
}
_NAME = re.compile(r"(?P<genre>[a-z]+)\.\d+")


def open_gtzan(path: Path, options: Options) -> Source:
    """``genres/blues/blues.00000.wav`` and so on, ``.au`` as well.

    Tzanetakis and Cook, "Musical genre classification of audio signals", IEEE Transactions on
    Speech and Audio Processing 2002. Where the fault-filtered lists of Kereliuk, Sturm and Larsen
    (2015; ``train_filtered.txt``, ``valid_filtered.txt``, ``test_filtered.txt``) lie in the folder,
    they give the splits, and what they leave out, such as repetitions, is left out.
    """
    listed, sounds = list(_listed(path)), sound_files(path)
    if listed:
        clips = from_list(listed, sounds, parts=1, where="the filtered lists")
    else:
        clips = from_names(sounds, _parse)
    return clip_source(path, "gtzan", clips, options, order=GENRES)


def _parse(file: str) -> Clip:
    match = _NAME.fullmatch(Path(file).stem)
    if match is None or match["genre"] not in GENRES:
        raise InputError("is not called like blues.00000.wav")
    return Clip(file, (match["genre"],))


def _listed(path: Path) -> Iterator[Clip]:
    """The clips of the filtered lists; nothing where there are no such lists."""
    patterns = ["*/" * depth + "*_filtered.txt" for depth in range(DEPTH + 1)]
    files = [file for pattern in patterns for file in sorted(path.glob(pattern))]
    lists = {file.name: file for file in files if file.name in LISTS}
    for name, split in LISTS.items() if lists else ():
        check(name in lists, "source", f"{path} has {next(iter(lists), '')}, but no {name}")
        for i, line in enumerate(read_text(lists[name]).splitlines(), start=1):
            if file := line.strip():
                try:
                    yield _parse(file)._replace(split=split)
                except InputError as error:
                    raise InputError(f"{lists[name]}:{i}: {file} {error}") from error
