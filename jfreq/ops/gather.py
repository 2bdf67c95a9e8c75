"""Picks and reorders tokens without communication between devices that share a batch.

XLA's partitioner sees that ``take_along_axis`` and ``argsort`` treat every clip by itself, and
computes them on the device that holds the clip. With ``x[rows, ids]``, ``.at[].set`` or
``lax.top_k`` it does not see that, and lets devices exchange their clips.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Num


def take_tokens(x: Num[Array, "b n d"], ids: Int[Array, "b k"]) -> Num[Array, "b k d"]:
    """The tokens ``x[b, ids[b, i]]`` of every clip ``b``.

    Args:
        x: ``n`` tokens of each clip, ``[b n d]``.
        ids: Which of them to take, ``[b k]``, in ``[0, n)``. Others are clamped to the nearest end,
            without an error.

    Returns:
        The tokens ``[b k d]`` in the order of ``ids``.

    >>> take_tokens(jnp.arange(6).reshape(1, 3, 2), jnp.array([[2, 0]])).tolist()
    [[[4, 5], [0, 1]]]
    """
    return jnp.take_along_axis(x, ids[:, :, None], axis=1, mode="clip")


def take_entries(x: Num[Array, "b n"] | Bool[Array, "b n"], ids: Int[Array, "b k"]) -> Array:
    """The entries ``x[b, ids[b, i]]``: :func:`take_tokens` for one number or flag per token.

    ``x`` is ``[b n]``, ``ids`` and the result are ``[b k]``.

    >>> take_entries(jnp.array([[5, 6, 7]]), jnp.array([[2, 0]])).tolist()
    [[7, 5]]
    """
    return jnp.take_along_axis(x, ids, axis=1, mode="clip")


def restore_tokens(x: Num[Array, "b n d"], restore: Int[Array, "b n"]) -> Num[Array, "b n d"]:
    """Puts shuffled tokens ``[b n d]`` back in the order of the grid.

    Token ``i`` of the result is ``x[b, restore[b, i]]``. This undoes ``take_tokens(x, order)`` if
    ``restore`` is ``argsort(order, axis=1)``.

    >>> order = jnp.array([[2, 0, 1]])
    >>> shuffled = take_tokens(jnp.array([[[5], [6], [7]]]), order)
    >>> restore_tokens(shuffled, jnp.argsort(order, axis=1)).tolist()
    [[[5], [6], [7]]]
    """
    return take_tokens(x, restore)
