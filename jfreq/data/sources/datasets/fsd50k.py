"""FSD50K: 51197 clips from Freesound, each with several of 200 classes of AudioSet."""

from __future__ import annotations

from collections.abc import Iterator, Set
from pathlib import Path

from jfreq.config import check, close_match
from jfreq.data.options import Options
from jfreq.data.sources.base import Source
from jfreq.data.sources.csv_lines import lines_of
from jfreq.data.sources.datasets.clips import Clip, clip_source, from_list, sound_files
from jfreq.data.sources.datasets.layout_roots import root_of
from jfreq.ranges import brief
from jfreq.types import InputError

TRUTH = "FSD50K.ground_truth"
SIGNS = (f"{TRUTH}/dev.csv", f"{TRUTH}/eval.csv")
SPLITS = {"train": "train", "val": "validation"}
_FOLDERS = {"dev": "FSD50K.dev_audio", "eval": "FSD50K.eval_audio"}


def open_fsd50k(path: Path, options: Options) -> Source:
    """``FSD50K.dev_audio``, ``FSD50K.eval_audio`` and ``FSD50K.ground_truth``.

    Fonseca et al., "FSD50K: An open dataset of human-labeled sound events", IEEE/ACM TASLP 2022.
    Classes are in the order of ``vocabulary.csv``. The splits are ``train`` and ``validation`` as
    ``dev.csv`` says, and ``test``, which the owners call eval.
    """
    root = root_of(path, "fsd50k", SIGNS)
    words = lines_of(root / TRUTH / "vocabulary.csv", ("index", "name", "mid"), header=False)
    names = tuple(word.text("name") for word in words)
    listed = [clip for part in _FOLDERS for clip in _clips(root, part, set(names))]
    clips = from_list(listed, sound_files(root, *_FOLDERS.values()), parts=2, where=TRUTH)
    return clip_source(root, "fsd50k", clips, options, vocabulary=names)


def _clips(root: Path, part: str, names: Set[str]) -> Iterator[Clip]:
    columns = ("fname", "labels", "split") if part == "dev" else ("fname", "labels")
    for line in lines_of(root / TRUTH / f"{part}.csv", columns):
        labels = tuple(line.text("labels").split(","))
        unknown = [label for label in labels if label not in names]
        if unknown:
            hint = close_match(unknown[0], names)
            raise InputError(
                f"{line.where}: label {brief(unknown[0])!r} is not in vocabulary.csv{hint}"
            )
        split = line.text("split")
        known = part == "eval" or split in SPLITS
        check(known, line.where, f"split is {brief(split)!r}, not train or val")
        name = f"{_FOLDERS[part]}/{line.text('fname')}"
        yield Clip(name, labels, split=SPLITS.get(split, "test"))
