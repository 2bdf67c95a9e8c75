"""ESC-50: 2000 environmental sounds of 5 s in 50 classes and 5 folds; and ESC-10, a part of it."""

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

SIGNS = ("meta/esc50.csv", "esc50.csv")
_COLUMNS = ("filename", "fold", "target", "category", "esc10", "src_file")


def open_esc50(path: Path, options: Options, *, kind: str = "esc50") -> Source:
    """``audio/1-100032-A-0.wav`` and so on, and ``meta/esc50.csv``.

    Piczak, "ESC: Dataset for environmental sound classification", ACM Multimedia 2015. Classes are
    in the order of ``target``. The subject is the recording that a clip was cut from; all its
    clips are in one fold.
    """
    root = root_of(path, kind, SIGNS)
    table = table_in(root, SIGNS)
    lines = list(lines_of(table, _COLUMNS))
    names = in_order((n.where, n.number_of("target"), n.text("category")) for n in lines)
    listed, in_ten = [], set()
    for line in lines:
        name, fold = line.text("category"), line.number_of("fold")
        listed.append(Clip(line.text("filename"), (name,), fold, subject=line.text("src_file")))
        if line.text("esc10").lower() == "true":
            in_ten.add(name)
    clips = from_list(listed, sound_files(root), parts=1, where=table.name)
    if kind == "esc10":
        ten = [clip for clip in clips.clips if clip.labels[0] in in_ten]
        clips = clips._replace(clips=ten)
    return clip_source(root, kind, clips, options, order=names)


def open_esc10(path: Path, options: Options) -> Source:
    """The ten classes of ESC-50 that its table marks as ``esc10``, with the same folds."""
    return open_esc50(path, options, kind="esc10")
