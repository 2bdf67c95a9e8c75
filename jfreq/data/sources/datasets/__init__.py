"""Data sets in the layouts in which their owners publish them; one file each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jfreq.data.options import Options
from jfreq.data.sources.base import Source
from jfreq.data.sources.datasets import (
    audioset,
    cremad,
    emodb,
    esc50,
    fsd50k,
    gtzan,
    librispeech,
    nsynth,
    ravdess,
    speech_commands,
    urbansound8k,
)
from jfreq.data.sources.datasets.acids import open_acids
from jfreq.data.sources.datasets.csi import open_csi
from jfreq.data.sources.datasets.cwru import open_cwru
from jfreq.data.sources.datasets.hhar import open_hhar
from jfreq.data.sources.datasets.layout_roots import find_roots
from jfreq.data.sources.datasets.mod import open_mod
from jfreq.data.sources.datasets.motionsense import open_motionsense
from jfreq.data.sources.datasets.pamap2 import open_pamap2
from jfreq.data.sources.datasets.realworld import open_realworld
from jfreq.data.sources.datasets.ucihar import open_ucihar
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
    "hhar": open_hhar,
    "ucihar": open_ucihar,
    "motionsense": open_motionsense,
    "pamap2": open_pamap2,
    "realworld": open_realworld,
    "cwru": open_cwru,
    "csi": open_csi,
    "mod": open_mod,
    "acids": open_acids,
}

_SIGNS = {
    "audioset": audioset.SIGNS,
    "esc50": esc50.SIGNS,
    "urbansound8k": urbansound8k.SIGNS,
    "fsd50k": fsd50k.SIGNS,
    "speech_commands": speech_commands.SIGNS,
    "librispeech": librispeech.SIGNS,
    "ravdess": ravdess.SIGNS,
    "cremad": cremad.SIGNS,
    "emodb": emodb.SIGNS,
    "gtzan": gtzan.SIGNS,
    "nsynth": nsynth.SIGNS,
    "hhar": ("Phones_accelerometer.csv", "Watch_accelerometer.csv"),
    "ucihar": ("Inertial Signals", "train/Inertial Signals", "test/Inertial Signals"),
    "motionsense": ("A_DeviceMotion_data",),
    "pamap2": ("Protocol/subject1*.dat",),
    "realworld": ("proband*/data",),
    "mod": ("rs[0-9]*/ehz.csv", "rs[0-9]*/aud*.csv"),
    "acids": ("Acoustics/*.mat",),
}
"""What only this layout has in its top folder, or in one below it. MATLAB files say nothing."""


_TABLES = {"esc50.csv": "esc50", "UrbanSound8K.csv": "urbansound8k"}
"""Tables that people name in place of the folder of the set."""


def recognise_table(file: Path) -> str | None:
    """The kind of the set that a table belongs to."""
    return "audioset" if audioset.is_list(file) else _TABLES.get(file.name)


def recognise(folder: Path) -> str | None:
    """The kind of a folder that has an owner's layout; ``InputError`` where it holds several."""
    found = find_roots(folder, _SIGNS)
    if len(found) > 1:
        where = " and ".join(f"{kind} in {there[0]}" for kind, there in found.items())
        raise InputError(
            f"source: {folder} holds several data sets, {where}; name the folder of one of them"
        )
    return next(iter(found), None)
