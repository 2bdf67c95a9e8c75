"""Parameter trees by path: ``trunk/encoder/blocks/qkv/kernel``. Paths are the interface of
sharding rules, decay masks, freezing and bundles."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from typing import Any

import jax

from jfreq.types import InputError, PyTree

_name = functools.partial(jax.tree_util.keystr, simple=True, separator="/")


def map_paths(fn: Callable[[str, Any], Any], tree: PyTree) -> PyTree:
    """``fn(path, leaf)`` for every leaf."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: fn(_name(path), leaf), tree)


def flatten(tree: PyTree) -> dict[str, Any]:
    """Leaves by path."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def unflatten(leaves: dict[str, Any]) -> PyTree:
    """The nested dict that :func:`flatten` came from."""
    from flax.traverse_util import unflatten_dict

    return unflatten_dict(leaves, sep="/")


def first_match(path: str, patterns: tuple[str, ...] | list[str]) -> int | None:
    """Number of the first pattern that matches the whole path or its end, or None."""
    for i, pattern in enumerate(patterns):
        if re.fullmatch(pattern, path) or re.search(f"(^|/)(?:{pattern})$", path):
            return i
    return None


def check_patterns(field: str, patterns: Iterable[str], params: PyTree) -> None:
    """Raises ``InputError`` naming the config field for a pattern that matches no path."""
    for pattern in patterns:
        if all(first_match(path, [pattern]) is None for path in flatten(params)):
            raise InputError(
                f"{field}: {pattern!r} matches no parameter; see `jfreq config params`"
            )


def count(tree: PyTree) -> int:
    """Number of scalars in all leaves."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
