"""Several folders of shards as one set: what has to agree, and how classes are renumbered."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jfreq.data.shards.metadata import ShardsInfo
from jfreq.ranges import shortlist
from jfreq.types import InputError


def differing_classes(infos: Sequence[ShardsInfo], folders: Sequence[Path]) -> str:
    """Why the sets cannot be labelled together; empty where all have the same classes."""
    first, first_folder = infos[0], folders[0]
    for info, folder in zip(infos[1:], folders[1:]):
        if not first.labels or not info.labels:
            return f"{folder if first.labels else first_folder} has no labels"
        if first.multi_label != info.multi_label:
            return f"only one of {first_folder} and {folder} has several labels a row"
        lacking = [
            f"{where} has no class {shortlist([repr(name) for name in names], 5)}"
            for where, names in (
                (folder, [name for name in first.labels if name not in info.labels]),
                (first_folder, [name for name in info.labels if name not in first.labels]),
            )
            if names
        ]
        if lacking:
            return f"{'; '.join(lacking)}; prepare all of them with the same --labels"
        unique = len(set(info.labels)) == len(info.labels) == len(first.labels)
        if info.labels != first.labels and not unique:
            return f"{first_folder} and {folder} order classes of the same name differently"
    return ""


def merged(infos: Sequence[ShardsInfo], *, labelled: bool) -> ShardsInfo:
    """What several sets hold together, with their labels or without.

    Raises:
      InputError: where their signals differ, with the field that does.
    """
    first = infos[0]
    for other in infos[1:]:
        names = [[s.name for s in info.signals] for info in (first, other)]
        if names[0] != names[1]:
            raise InputError(
                f"signals: {first.name} has {', '.join(names[0])}, but {other.name} has "
                f"{', '.join(names[1])}; sets of different signals cannot be read together"
            )
        for a, b in zip(first.signals, other.signals):
            for field in ("rate", "channels", "channel_names", "dtype", "scale", "mix", "encoding"):
                x, y = getattr(a, field), getattr(b, field)
                if x != y:
                    raise InputError(
                        f"{a.name}.{field}: is {x} in {first.name} and {y} in {other.name}; "
                        "prepare the sets with the same options to read them together"
                    )
    return dataclasses.replace(
        first,
        name="+".join(info.name for info in infos),
        rows=sum(info.rows for info in infos),
        shards=tuple(shard for info in infos for shard in info.shards),
        labels=first.labels if labelled else (),
        multi_label=first.multi_label and labelled,
        fold_by=first.fold_by if len({info.fold_by for info in infos}) == 1 else "",
        guard_seconds=min(info.guard_seconds for info in infos),
        folds=tuple(sorted({fold for info in infos for fold in info.folds})),
        splits=tuple(sorted({split for info in infos for split in info.splits})),
        source="; ".join(info.source for info in infos),
        skipped=sum(info.skipped for info in infos),
        recipe="",
    )


def renumbered(label: np.ndarray, labels: tuple[str, ...], names: tuple[str, ...]) -> np.ndarray:
    """``label`` ``[n]`` or ``[n classes]``, numbered as in ``names`` instead of ``labels``."""
    if labels == names:
        return label
    number = [names.index(name) for name in labels]
    if label.ndim == 1:
        return np.array([*number, -1])[label]
    out = np.empty_like(label)
    out[:, number] = label
    return out
