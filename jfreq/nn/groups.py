"""A batch in groups of rows, on CPU: what one group needs stays in the cache."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jfreq import sharding

Rows = TypeVar("Rows")
"""Arrays whose first axis is the batch."""


def in_groups(run: Callable[[Rows], Array], batch: Rows, rows: int) -> Array:
    """``run(batch)``, where every row of the result depends on its own row of ``batch`` only.

    A program for one CPU takes at most ``rows`` rows at a time, and in the backward pass computes
    each group again instead of keeping it; any other program takes the batch as it is. The
    platform that the program is lowered for decides. So does one for batches of any size (export).
    """
    total = jax.tree.leaves(batch)[0].shape[0]
    whole = not isinstance(total, int) or total <= rows
    if whole or sharding.devices() > 1:
        return run(batch)
    grouped = functools.partial(_grouped, run, rows)
    return jax.lax.platform_dependent(batch, cpu=grouped, default=run)


def _grouped(run, rows: int, batch):
    """Groups of one size; the last is filled up with zeros."""
    total = jax.tree.leaves(batch)[0].shape[0]
    count = -(-total // rows)
    each = -(-total // count)

    def split(x):
        x = jnp.pad(x, [(0, count * each - total), *[(0, 0)] * (x.ndim - 1)])
        return x.reshape(count, each, *x.shape[1:])

    out = jax.lax.map(jax.checkpoint(run, prevent_cse=False), jax.tree.map(split, batch))
    return out.reshape(-1, *out.shape[2:])[:total]
