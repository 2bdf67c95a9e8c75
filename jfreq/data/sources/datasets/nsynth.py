"""NSynth: 305979 notes of 4 s, played by 1006 instruments of eleven families."""

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
"""Patterns of paths by which a folder is known to hold NSynth: all of it, or one split alone."""
FAMILIES = tuple(
    "bass brass flute guitar keyboard mallet organ reed string synth_lead vocal".split()
)
"""The classes, in the order of their numbers."""
SPLITS = {"train": "train", "valid": "validation", "test": "test"}
"""Names of the splits by the last part of the name of a folder, ``nsynth-valid``."""
_LIST = "examples.json"
"""The file beside ``audio`` that describes every note of a split."""


def open_nsynth(path: Path, options: Options) -> Source:
    """The notes of NSynth, or of one of its splits.

    ``path`` holds the folders ``nsynth-train``, ``nsynth-valid`` and ``nsynth-test``, or is one of
    them. Each has an ``examples.json`` and its notes in ``audio``, such as
    ``audio/bass_synthetic_033-022-050.wav``.

    Engel et al., "Neural audio synthesis of musical notes with WaveNet autoencoders", ICML 2017.
    The class is the family of the instrument, the subject the instrument. The splits are
    ``train``, ``validation`` and ``test``; no instrument of the training set is in the others.

    Notes that are listed and not on disk are in ``Source.missing``.

    Raises:
      InputError: for a folder without this layout, and for an unreadable ``examples.json``.
    """
    root = root_of(path, "nsynth", SIGNS)
    lists = sorted(root.glob(f"nsynth-*/{_LIST}")) or [root / _LIST]
    folders = [file.parent.relative_to(root).as_posix() for file in lists]
    listed = [clip for file in lists for clip in _clips(file, root)]
    # Three parts of a path tell notes apart: the folder of the split, "audio" and the name.
    clips = from_list(listed, sound_files(root, *folders), parts=3, where=_LIST)
    return clip_source(root, "nsynth", clips, options, order=FAMILIES)


def _clips(file: Path, root: Path) -> Iterator[Clip]:
    """The notes that one ``examples.json`` lists, by paths below ``root`` without a suffix.

    Raises:
      InputError: for a file that is not JSON, and for a note without an instrument.
    """
    try:
        notes = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: is not JSON ({error})") from error
    check(isinstance(notes, dict), str(file), "is not a table of notes")
    split = SPLITS.get(file.parent.name.rpartition("-")[2], "")
    folder = file.parent.relative_to(root) / "audio"
    for name, note in notes.items():
        fields = note if isinstance(note, dict) else {}
        family, instrument = fields.get("instrument_family_str"), fields.get("instrument_str")
        if not (isinstance(family, str) and isinstance(instrument, str)):
            raise InputError(f"{file}: {name}: names no instrument_family_str or instrument_str")
        yield Clip((folder / name).as_posix(), (family,), split=split, subject=instrument)
