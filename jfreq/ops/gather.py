"""Gathers of tokens, without collectives when the batch axis is sharded.

``take_along_axis`` and ``argsort`` keep the batch axis a batch axis for XLA's partitioner;
``x[rows, ids]``, ``.at[].set`` and ``lax.top_k`` do not.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Num


def take_tokens(x: Num[Array, "b n d"], ids: Int[Array, "b k"]) -> Num[Array, "b k d"]:
    """Row ``ids[b, i]`` of every clip: ``[b n d]``, ``[b k]`` to ``[b k d]``.

    Ids must lie in ``[0, n)``; others are clamped to the nearest end.

    >>> take_tokens(jnp.arange(6).reshape(1, 3, 2), jnp.array([[2, 0]])).tolist()
    [[[4, 5], [0, 1]]]
    """
    return jnp.take_along_axis(x, ids[:, :, None], axis=1, mode="clip")


def take_entries(x: Num[Array, "b n"] | Bool[Array, "b n"], ids: Int[Array, "b k"]) -> Array:
    """Entry ``ids[b, i]`` of every row: ``[b n]``, ``[b k]`` to ``[b k]``.

    Ids as in :func:`take_tokens`.

    >>> take_entries(jnp.array([[5, 6, 7]]), jnp.array([[2, 0]])).tolist()
    [[7, 5]]
    """
    return jnp.take_along_axis(x, ids, axis=1, mode="clip")


def restore_tokens(x: Num[Array, "b n d"], restore: Int[Array, "b n"]) -> Num[Array, "b n d"]:
    """Shuffled tokens back in grid order: token ``i`` is ``x[:, restore[i]]``.

    Undoes ``take_tokens(x, order)`` where ``restore`` is ``argsort(order)``.

    >>> order = jnp.array([[2, 0, 1]])
    >>> shuffled = take_tokens(jnp.array([[[5], [6], [7]]]), order)
    >>> restore_tokens(shuffled, jnp.argsort(order, axis=1)).tolist()
    [[[5], [6], [7]]]
    """
    return take_tokens(x, restore)
