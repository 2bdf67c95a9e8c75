"""Whether a saved state has the arrays that the code wants now."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp

from jfreq import param_paths
from jfreq.ranges import shortlist
from jfreq.train.state import State
from jfreq.types import InputError, PyTree


def check_fits(item: Path, abstract: State, workdir: Path) -> None:
    """Raises ``InputError`` with what is missing, new and of another shape in a saved state."""
    if found := misfits(item, abstract._asdict()):
        raise InputError(
            f"{item.parent}: its arrays do not fit: {found}; the code has changed since it was "
            f"saved; train in another --workdir with --checkpoint.init-from {workdir} to take "
            "what fits"
        )


def misfits(item: Path, parts: Mapping[str, PyTree], *, left_out: Collection[str] = ()) -> str:
    """What is missing, new and of another shape in a saved state for these parts, in words; empty
    where all fits. ``left_out`` names parts that are not asked for."""
    with ocp.PyTreeCheckpointer() as reader:
        tree = reader.metadata(item).item_metadata.tree
    saved = _by_path({name: part for name, part in tree.items() if name not in left_out})
    wanted = _by_path(parts)
    differences = {
        "missing": [name for name in wanted if name not in saved],
        "not known any more": [name for name in saved if name not in wanted],
        "of another shape": [
            f"{name} {list(saved[name][0])} {saved[name][1]}, now {list(shape)} {dtype}"
            for name, (shape, dtype) in wanted.items()
            if saved.get(name, (shape, dtype)) != (shape, dtype)
        ],
    }
    return "; ".join(
        f"{len(names)} {what} ({shortlist(names, 3)})"
        for what, names in differences.items()
        if names
    )


def _by_path(tree: PyTree) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of every leaf, by path."""
    return {
        path: (tuple(leaf.shape), str(np.dtype(leaf.dtype)))
        for path, leaf in param_paths.flatten(tree).items()
    }
