"""Position tables: fixed sines and cosines, and resizing of learned ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from jfreq.types import InputError, TokenGrid

Table = Float[Array | np.ndarray, "f t d"]
"""A learned table as it is in the parameters: frequency first, as in released weights."""


def sincos_1d(n: int, d: int) -> Float32[np.ndarray, "n d"]:
    """``[n d]``: sines then cosines of ``i * 10000 ** (-k / (d / 2))``, ``k < d / 2`` (MAE).

    Raises ``InputError`` for odd ``d``.

    >>> print(sincos_1d(2, 4).round(2))
    [[0.   0.   1.   1.  ]
     [0.84 0.01 0.54 1.  ]]
    """
    if d % 2:
        raise InputError(f"positions: a 1-D table of sines needs an even width, got {d}")
    omega = 10000.0 ** (-np.arange(d // 2) / (d / 2))
    angle = np.arange(n)[:, None] * omega
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)


def sincos_2d(
    grid_time: int, grid_freq: int, d: int
) -> Float32[np.ndarray, "grid_time grid_freq d"]:
    """``[t f d]``: the first half of the width codes frequency, the second time (Audio-MAE).

    Each half is :func:`sincos_1d`. Raises ``InputError`` unless ``d`` is a multiple of 4.

    >>> table = sincos_2d(3, 2, 8)
    >>> table.shape, bool((table[0, :, :4] == table[2, :, :4]).all())
    ((3, 2, 8), True)
    """
    if d % 4:
        raise InputError(f"positions: a 2-D table of sines needs a multiple of 4 as width, got {d}")
    shape = (grid_time, grid_freq, d // 2)
    freq = np.broadcast_to(sincos_1d(grid_freq, d // 2)[None], shape)
    time = np.broadcast_to(sincos_1d(grid_time, d // 2)[:, None], shape)
    return np.concatenate([freq, time], axis=-1)


def sincos_tokens(grid: TokenGrid, d: int) -> Float32[np.ndarray, "n d"]:
    """:func:`sincos_2d` in the order of a grid's tokens, ``[n d]``.

    >>> sincos_tokens(TokenGrid(time=3, freq=2), 8).shape
    (6, 8)
    """
    table = sincos_2d(grid.time, grid.freq, d)
    table = table.transpose(1, 0, 2) if grid.order == "freq_major" else table
    return table.reshape(grid.size, d)


def resize_positions(table: Table, shape: tuple[int, int]) -> Float[Array, "f2 t2 d"]:
    """``[f t d]`` to ``[*shape d]`` as AST and SSAST do: cut or grown in time, then in frequency.

    To a shorter axis the table is cut from ``old // 2 - new // 2`` on, to a longer one it is
    interpolated linearly between the centres of its cells.

    >>> table = jnp.arange(4.0).reshape(1, 4, 1)
    >>> resize_positions(table, (1, 2)).ravel().tolist()
    [1.0, 2.0]
    """
    freq, time = shape
    for axis, size in ((1, time), (0, freq)):
        old = table.shape[axis]
        if size < old:
            start = old // 2 - size // 2
            table = jax.lax.slice_in_dim(jnp.asarray(table), start, start + size, axis=axis)
        elif size > old:
            longer = (*table.shape[:axis], size, *table.shape[axis + 1 :])
            table = jax.image.resize(table, longer, "linear")
    return jnp.asarray(table)
