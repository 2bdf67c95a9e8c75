"""NSynth: 305979 notes of 4 s, by 1006 instruments of eleven families."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from jfreq.config import check
from jfreq.data.options import Options
from jfreq.data.sources.base import Source
from jfreq.data.sources.csv_lines import read_text
from jfreq.data.sources.datasets.clips import Clip, clip_source, from_list, sound_files
from jfreq.data.sources.datasets.layout_roots import root_of
from jfreq.types import InputError

SIGNS = ("nsynth-*/examples.json", "audio/*_???-???-???.*")
FAMILIES = tuple(
    "bass brass flute guitar keyboard mallet organ reed string synth_lead vocal".split()
)
SPLITS = {"train": "train", "valid": "validation", "test": "test"}
_LIST = "examples.json"


def open_nsynth(path: Path, options: Options) -> Source:
    """``nsynth-train/audio/bass_synthetic_033-022-050.wav`` and so on, each folder with its
    ``examples.json``; also one of the folders alone.

    Engel et al., "Neural audio synthesis of musical notes with WaveNet autoencoders", ICML 2017.
    The class is the family of the instrument, the subject the instrument. The splits are
    ``train``, ``validation`` and ``test``; no instrument of the training set is in the others.
    """
    root = root_of(path, "nsynth", SIGNS)
    lists = sorted(root.glob(f"nsynth-*/{_LIST}")) or [root / _LIST]
    places = [file.parent.relative_to(root).as_posix() for file in lists]
    listed = [clip for file in lists for clip in _clips(file, root)]
    found = from_list(listed, sound_files(root, *places), parts=3, where=_LIST)
    return clip_source(root, "nsynth", found, options, order=FAMILIES)


def _clips(file: Path, root: Path) -> Iterator[Clip]:
    """The notes of one split; ``InputError`` for a file that is not the owners'."""
    try:
        notes = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: is not JSON ({error})") from error
    check(isinstance(notes, dict), str(file), "is not a table of notes")
    split = SPLITS.get(file.parent.name.rpartition("-")[2], "")
    home = file.parent.relative_to(root) / "audio"
    for name, note in notes.items():
        said = note if isinstance(note, dict) else {}
        family, player = said.get("instrument_family_str"), said.get("instrument_str")
        if not (isinstance(family, str) and isinstance(player, str)):
            raise InputError(f"{file}: {name}: names no instrument_family_str or instrument_str")
        yield Clip((home / name).as_posix(), (family,), split=split, subject=player)
