"""Where in a folder a layout lies: by signs, patterns of what only that layout has."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path

from jfreq.config import check
from jfreq.data.sources.folders import hidden
from jfreq.types import InputError

DEPTH = 2
"""Folders below the one that is named: an archive unpacked into a folder of its own, twice."""


def find_roots(folder: Path, signs: Mapping[str, Sequence[str]]) -> dict[str, list[Path]]:
    """The folders that show a sign of each kind, all of the least depth at which there is one.

    A sign is a pattern of a path, such as ``meta/esc50.csv``. Every folder is listed once.
    """
    for level in _levels(folder):
        found: dict[str, list[Path]] = {}
        for place, names in level:
            for kind, patterns in signs.items():
                if any(_shows(place, names, pattern) for pattern in patterns):
                    found.setdefault(kind, []).append(place)
        if found:
            return found
    return {}


def root_of(path: Path, kind: str, signs: Sequence[str]) -> Path:
    """The one folder in ``path`` that has the layout; ``InputError`` for none and for several.

    A table that is a sign itself, ``ESC-50/meta/esc50.csv``, and its folder stand for the set.
    """
    for place in reversed(path.parents[:2]) if path.is_file() else ():
        if path.relative_to(place).as_posix() in signs:
            return place
    check(path.is_dir(), "source", f"{path} is not a folder; name the unpacked archive")
    roots = find_roots(path, {kind: signs}).get(kind, [])
    if not roots:
        raise InputError(
            f"source: {path} has no {signs[0]} in it, as {kind} has; docs/data.md shows what the "
            "layout looks like"
        )
    if len(roots) != 1:
        raise InputError(
            f"source: {path} holds {kind} {len(roots)} times: "
            f"{' and '.join(str(place) for place in roots[:2])}; name one of them"
        )
    place = roots[0]
    inside = any(f"{place.name}/{sign}" in signs and (place / sign).is_file() for sign in signs)
    return place.parent if inside else place


def _levels(folder: Path) -> Iterator[list[tuple[Path, Set[str]]]]:
    """Folders and the names in each, level by level from ``folder`` down."""
    level = [folder]
    for _ in range(DEPTH + 1):
        listed, below = [], []
        for place in level:
            inside = _inside(place)
            listed.append((place, {entry.name for entry in inside}))
            below += [place / entry.name for entry in inside if entry.is_dir()]
        yield listed
        level = below


def _inside(place: Path) -> list[os.DirEntry[str]]:
    """What a folder shows, by name; nothing of one that cannot be opened."""
    try:
        with os.scandir(place) as entries:
            return sorted((e for e in entries if not hidden(e.name)), key=lambda e: e.name)
    except OSError:
        return []


def _shows(place: Path, names: Set[str], sign: str) -> bool:
    """Whether a folder that holds ``names`` has a path like ``sign``."""
    head, _, rest = sign.partition("/")
    found = fnmatch.filter(names, head) if set(head) & set("*?[") else names & {head}
    return bool(found) if not rest else any(any((place / name).glob(rest)) for name in found)
