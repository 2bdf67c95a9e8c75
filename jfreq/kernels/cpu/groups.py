"""A batch in groups of rows whose intermediate results stay in the cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array


def in_groups(run: Callable[[Any], Array], rows: int, batch: Any) -> Array:
    """``run(batch)``, computed in groups of rows whose intermediate results stay in the cache.

    Args:
        run: Maps arrays ``[b ...]`` to one; each row of the result depends on its row only.
        rows: The largest number of rows of a group. All have the same; the last is zero-padded.
        batch: A tree of arrays ``[b ...]``.
    """
    total = jax.tree.leaves(batch)[0].shape[0]
    count = -(-total // rows)
    size = -(-total // count)

    def split(x):
        x = jnp.pad(x, [(0, count * size - total), *[(0, 0)] * (x.ndim - 1)])
        return x.reshape(count, size, *x.shape[1:])

    out = jax.lax.map(run, jax.tree.map(split, batch))
    return out.reshape(-1, *out.shape[2:])[:total]
