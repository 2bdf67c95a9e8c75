"""Parameters of other runs fitted into a fresh one: what each source of ``init_from`` gives."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jfreq import param_paths
from jfreq.config import Saved, Source
from jfreq.ops.posemb import resize_positions
from jfreq.ranges import shortlist
from jfreq.types import InputError, PyTree


class Fit(NamedTuple):
    """Paths that were taken as they are, taken in another shape, and left as they were."""

    taken: list[str]
    resized: list[str]
    fresh: list[str]


def fit_params(given: PyTree, template: PyTree, source: Source) -> tuple[PyTree, Fit]:
    """``template`` with every array that ``given`` has, matched by path.

    A prefix may differ (``trunk/...`` fits ``backbone/trunk/...``). Position grids ``[f t d]`` of
    another shape are cropped or resized (AST, section 2.2).

    Args:
        given: Arrays of another run.
        template: Arrays of the new run, or their shapes.
        source: Only what lies below ``source.read`` is taken, and only what lies below
            ``source.write`` replaced; paths are compared below these two.

    Returns:
        The tree, and which of its paths were taken, resized and left as they were.

    Raises:
        InputError: Nothing lies below one of the paths, or nothing fits.
    """
    leaves = _below(given, source.read, f"{source.path} has", source.what)
    replaced = _below(template, source.write, "this run has", source.into)
    fit = Fit([], [], [])

    def pick(path: str, leaf: Any) -> Any:
        end = _relative(path, source.write)
        if end not in replaced:
            return leaf
        value = next((leaves[p] for p in _tails(end) if p in leaves), None)
        if value is not None and value.shape == leaf.shape:
            fit.taken.append(path)
            return np.asarray(value, leaf.dtype)
        grid = path.endswith("positions/grid")
        if value is not None and grid and value.shape[2:] == leaf.shape[2:]:
            fit.resized.append(path)
            return np.asarray(resize_positions(np.asarray(value), leaf.shape[:2]), leaf.dtype)
        fit.fresh.append(path)
        return leaf

    fitted = param_paths.map_paths(pick, template)
    if not fit.taken:
        raise InputError(
            f"checkpoint.init_from: no parameter of {source.path} fits; see `jfreq config params`"
        )
    return fitted, fit


def _below(tree: PyTree, root: str, owner: str, part: Saved) -> dict[str, Any]:
    """Leaves by their path below ``root``."""
    leaves = param_paths.flatten(tree)
    below = {_relative(path, root): leaf for path, leaf in leaves.items()}
    below.pop("", None)
    if not below:
        known = dict.fromkeys(path.split("/")[0] for path in leaves)
        raise InputError(
            f"checkpoint.init_from: {owner} nothing below {root!r} in its {part}; "
            f"there is {', '.join(known) or 'nothing'}"
        )
    return below


def _relative(path: str, root: str) -> str:
    """``path`` relative to ``root``; empty for a path that does not lie below it."""
    if not root:
        return path
    return path.removeprefix(f"{root}/") if path.startswith(f"{root}/") else ""


def describe(source: Source, fit: Fit) -> str:
    """What a source gave, in one line."""
    parts = [f"{len(fit.taken)} arrays taken", f"{len(fit.resized)} resized"]
    names = f" ({shortlist(fit.fresh, 3)})" if fit.fresh else ""
    parts.append(f"{len(fit.fresh)} left fresh{names}")
    where = f" below {source.write}" if source.write else ""
    return f"{source.into}{where} from {source.path}: {', '.join(parts)}"


def _tails(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[i:]) for i in range(max(1, len(parts) - 1))]
