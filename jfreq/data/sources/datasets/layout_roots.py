"""Finds the top folder of a published set by its signs: patterns of paths that only it has."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path

from jfreq.config import check
from jfreq.data.sources.folders import hidden
from jfreq.types import InputError

DEPTH = 2
"""Folders below the source in which a set is looked for, for archives unpacked into folders."""


def find_roots(folder: Path, signs: Mapping[str, Sequence[str]]) -> dict[str, list[Path]]:
    """The folders with a sign of each kind, at the least depth at which there are any.

    A sign is a pattern of a path, such as ``meta/esc50.csv``. Every folder is listed once.
    """
    for folders in _by_depth(folder):
        roots: dict[str, list[Path]] = {}
        for root, names in folders:
            for kind, patterns in signs.items():
                if any(_has_sign(root, names, pattern) for pattern in patterns):
                    roots.setdefault(kind, []).append(root)
        if roots:
            return roots
    return {}


def root_of(path: Path, kind: str, signs: Sequence[str]) -> Path:
    """The one folder in ``path`` that has the layout.

    ``path`` may also be a table that is a sign, such as ``ESC-50/meta/esc50.csv``, or its folder.

    Raises:
      InputError: where no folder or several have the layout.
    """
    for parent in reversed(path.parents[:2]) if path.is_file() else ():
        if path.relative_to(parent).as_posix() in signs:
            return parent
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
            f"{' and '.join(map(str, roots[:2]))}; name one of them"
        )
    root = roots[0]
    inside = any(f"{root.name}/{sign}" in signs and (root / sign).is_file() for sign in signs)
    return root.parent if inside else root


def _by_depth(folder: Path) -> Iterator[list[tuple[Path, Set[str]]]]:
    """All folders at one depth with the names in each, from ``folder`` down to ``DEPTH``."""
    folders = [folder]
    for _ in range(DEPTH + 1):
        listed, below = [], []
        for parent in folders:
            entries = _entries(parent)
            listed.append((parent, {entry.name for entry in entries}))
            below += [parent / entry.name for entry in entries if entry.is_dir()]
        yield listed
        folders = below


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder by name, without hidden ones; none where it cannot be opened."""
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not hidden(e.name)), key=lambda e: e.name)
    except OSError:
        return []


def _has_sign(folder: Path, names: Set[str], sign: str) -> bool:
    """Whether a folder that holds ``names`` has a path that matches ``sign``."""
    head, _, rest = sign.partition("/")
    heads = fnmatch.filter(names, head) if set(head) & set("*?[") else names & {head}
    return bool(heads) if not rest else any(any((folder / name).glob(rest)) for name in heads)
