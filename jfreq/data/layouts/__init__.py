"""Data sets in the layouts in which their owners publish them; one file each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jfreq.data.folders import listing
from jfreq.data.layouts.acids import open_acids
from jfreq.data.layouts.csi import open_csi
from jfreq.data.layouts.cwru import open_cwru
from jfreq.data.layouts.hhar import open_hhar
from jfreq.data.layouts.mod import open_mod
from jfreq.data.layouts.motionsense import open_motionsense
from jfreq.data.layouts.pamap2 import open_pamap2
from jfreq.data.layouts.realworld import open_realworld
from jfreq.data.layouts.ucihar import open_ucihar
from jfreq.data.source import Options, Source

LAYOUTS: dict[str, Callable[[Path, Options], Source]] = {
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
    "hhar": ("Phones_accelerometer.csv", "Watch_accelerometer.csv"),
    "ucihar": ("Inertial Signals",),
    "motionsense": ("A_DeviceMotion_data",),
    "pamap2": ("Protocol/subject1*.dat",),
    "realworld": ("proband*/data",),
    "mod": ("rs[0-9]*/ehz.csv", "rs[0-9]*/aud*.csv"),
    "acids": ("Acoustics/*.mat",),
}
"""What only this layout has in its top folder, or in one below it. MATLAB files say nothing."""


def recognise(folder: Path) -> str | None:
    """The kind of a folder that has an owner's layout."""
    found = listing(folder)
    for kind, signs in _SIGNS.items():
        for sign in signs:
            if any(_depth(path, folder, sign) <= 2 for path in found.matching(sign)):
                return kind
    return None


def _depth(path: Path, folder: Path, sign: str) -> int:
    """How many folders lie between ``folder`` and what looks like ``sign``."""
    return len(path.relative_to(folder).parts) - len(sign.split("/"))
