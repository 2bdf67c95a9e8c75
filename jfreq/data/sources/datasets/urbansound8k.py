"""UrbanSound8K: 8732 excerpts of at most 4 s of city sounds in 10 classes and 10 folds."""

from __future__ import annotations

from pathlib import Path

from jfreq.data.options import Options
from jfreq.data.sources.base import Source
from jfreq.data.sources.csv_lines import lines_of
from jfreq.data.sources.datasets.clips import (
    Clip,
    clip_source,
    from_list,
    in_order,
    sound_files,
    table_in,
)
from jfreq.data.sources.datasets.layout_roots import root_of

SIGNS = ("metadata/UrbanSound8K.csv", "UrbanSound8K.csv")
_COLUMNS = ("slice_file_name", "fsID", "fold", "classID", "class")


def open_urbansound8k(path: Path, options: Options) -> Source:
    """``audio/fold1/7061-6-0-0.wav`` and so on, and ``metadata/UrbanSound8K.csv``.

    Salamon, Jacoby and Bello, "A dataset and taxonomy for urban sound research", ACM Multimedia
    2014. Classes are in the order of ``classID``. The subject is the Freesound recording
    (``fsID``) that a slice was cut from; all its slices are in one fold.
    """
    root = root_of(path, "urbansound8k", SIGNS)
    table = table_in(root, SIGNS)
    lines = list(lines_of(table, _COLUMNS))
    names = in_order((n.where, n.number_of("classID"), n.text("class")) for n in lines)
    listed = []
    for line in lines:
        fold = line.number_of("fold")
        name = f"fold{fold}/{line.text('slice_file_name')}"
        listed.append(Clip(name, (line.text("class"),), fold, subject=line.text("fsID")))
    clips = from_list(listed, sound_files(root), parts=2, where=table.name)
    return clip_source(root, "urbansound8k", clips, options, order=names)
