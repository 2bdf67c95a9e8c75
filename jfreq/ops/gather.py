"""Picks and reorders tokens without communication between devices that share a batch.

XLA's partitioner sees that ``take_along_axis`` and ``argsort`` treat every clip by itself, and
computes them on the device that holds the clip. With ``x[rows, ids]``, ``.at[].set`` or
``lax.top_k`` it does not see that, and lets devices exchange their clips.

The gradient of ``take_along_axis`` is a scatter, which XLA:CPU computes token by token: 25 times as
slow. Where all ids of a clip are known to differ, its gradient is taken by the inverse ids.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Num

from jfreq.types import Mask


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
    return _reordered(x, restore)


@jax.custom_vjp
def _reordered(x: Array, restore: Array) -> Array:
    return take_tokens(x, restore)


def _reordered_forward(x: Array, restore: Array) -> tuple[Array, Array]:
    return take_tokens(x, restore), restore


def _reordered_backward(restore: Array, grad: Array) -> tuple[Array, None]:
    return take_tokens(grad, jnp.argsort(restore, axis=1)), None


_reordered.defvjp(_reordered_forward, _reordered_backward)


def visible_tokens(x: Num[Array, "b n d"], mask: Mask) -> Num[Array, "b k d"]:
    """The visible tokens of every clip, in the order of ``mask.visible``.

    >>> mask = Mask(jnp.array([[2]]), jnp.array([[0, 1]]), jnp.array([[1, 2, 0]]))
    >>> visible_tokens(jnp.array([[[5], [6], [7]]]), mask).tolist()
    [[[7]]]
    """
    return _part(x, mask.visible, mask.restore, 0)


def masked_tokens(x: Num[Array, "b n d"], mask: Mask) -> Num[Array, "b m d"]:
    """The masked tokens of every clip, in the order of ``mask.masked``.

    >>> mask = Mask(jnp.array([[2]]), jnp.array([[0, 1]]), jnp.array([[1, 2, 0]]))
    >>> masked_tokens(jnp.array([[[5], [6], [7]]]), mask).tolist()
    [[[5], [6]]]
    """
    return _part(x, mask.masked, mask.restore, mask.visible.shape[1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _part(x: Array, ids: Array, restore: Array, first: int) -> Array:
    """Tokens ``ids``, which are the entries from ``first`` on of the order that ``restore``
    undoes."""
    del restore, first
    return take_tokens(x, ids)


def _part_forward(x: Array, ids: Array, restore: Array, first: int) -> tuple[Array, Array]:
    return _part(x, ids, restore, first), restore


def _part_backward(first: int, restore: Array, grad: Array) -> tuple[Array, None, None]:
    last = restore.shape[1] - first - grad.shape[1]
    full = jnp.pad(grad, ((0, 0), (first, last), (0, 0)))
    return take_tokens(full, restore), None, None


_part.defvjp(_part_forward, _part_backward)
