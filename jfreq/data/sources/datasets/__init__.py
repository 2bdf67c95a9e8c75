"""Published data sets in the layouts of their authors; one file each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jfreq.data.options import Options
from jfreq.data.sources.base import Source
from jfreq.data.sources.datasets import (
    acids,
    audioset,
    cremad,
    csi,
    cwru,
    emodb,
    esc50,
    fsd50k,
    gtzan,
    hhar,
    librispeech,
    mod,
    motionsense,
    nsynth,
    pamap2,
    ravdess,
    realworld,
    speech_commands,
    ucihar,
    urbansound8k,
)
from jfreq.data.sources.datasets.layout_roots import find_roots
from jfreq.types import InputError

LAYOUTS: dict[str, Callable[[Path, Options], Source]] = {
    "audioset": audioset.open_audioset,
    "esc50": esc50.open_esc50,
    "esc10": esc50.open_esc10,
    "urbansound8k": urbansound8k.open_urbansound8k,
    "fsd50k": fsd50k.open_fsd50k,
    "speech_commands": speech_commands.open_speech_commands,
    "librispeech": librispeech.open_librispeech,
    "ravdess": ravdess.open_ravdess,
    "cremad": cremad.open_cremad,
    "emodb": emodb.open_emodb,
    "gtzan": gtzan.open_gtzan,
    "nsynth": nsynth.open_nsynth,
    "hhar": hhar.open_hhar,
    "ucihar": ucihar.open_ucihar,
    "motionsense": motionsense.open_motionsense,
    "pamap2": pamap2.open_pamap2,
    "realworld": realworld.open_realworld,
    "cwru": cwru.open_cwru,
    "csi": csi.open_csi,
    "mod": mod.open_mod,
    "acids": acids.open_acids,
}
_RECOGNISED = (
    *(audioset, esc50, urbansound8k, fsd50k, speech_commands, librispeech, ravdess, cremad, emodb),
    *(gtzan, nsynth, hhar, ucihar, motionsense, pamap2, realworld, mod, acids),
)
_SIGNS = {module.__name__.rpartition(".")[2]: module.SIGNS for module in _RECOGNISED}
"""Patterns of paths that only this layout has. Folders of MATLAB files are not recognised."""
_TABLES = {"esc50.csv": "esc50", "UrbanSound8K.csv": "urbansound8k"}
"""Kinds by the name of a table that stands for the whole set."""


def recognise_table(file: Path) -> str | None:
    """The kind of the set that a table belongs to; None for other tables."""
    return "audioset" if audioset.is_list(file) else _TABLES.get(file.name)


def recognise(folder: Path) -> str | None:
    """The kind of the published set in a folder; None for other folders.

    Raises:
      InputError: for a folder that holds several sets.
    """
    roots = find_roots(folder, _SIGNS)
    if len(roots) > 1:
        where = " and ".join(f"{kind} in {folders[0]}" for kind, folders in roots.items())
        raise InputError(
            f"source: {folder} holds several data sets, {where}; name the folder of one of them"
        )
    return next(iter(roots), None)
