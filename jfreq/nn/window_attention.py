"""Attention inside windows of a time-frequency grid, which may be shifted cyclically (Swin)."""

from __future__ import annotations

import functools
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jfreq.nn.dropout import dropping
from jfreq.nn.heads import torch_bias, torch_kernel, torch_linear, trunc_normal
from jfreq.types import InputError

Pair: TypeAlias = tuple[int, int]
Valid: TypeAlias = Bool[np.ndarray, "_ _"]
"""``[t f]``, static: False for tokens in padding."""

EPS = 1e-5
"""Added to the variance by every layer norm, as in torch."""
_NEGATIVE = -1e30
"""Finite, so that the softmax of a window of padding alone is too."""


def split(x: Any, window: Pair) -> Any:
    """Windows ``[b w n d]`` of ``[b t f d]``, both axes time-major; for NumPy and JAX."""
    b, t, f, d = x.shape
    x = x.reshape(b, t // window[0], window[0], f // window[1], window[1], d)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, window[0] * window[1], d)


def join(x: Any, grid: Pair, window: Pair) -> Any:
    """The inverse of :func:`split`: windows ``[b w n d]`` back to ``[b t f d]``."""
    b, d = x.shape[0], x.shape[-1]
    x = x.reshape(b, grid[0] // window[0], grid[1] // window[1], *window, d)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, *grid, d)


def fit(grid: Pair, window: Pair, shift: Pair) -> tuple[Pair, Pair]:
    """The window and shift that act on a grid.

    On an axis that is no larger than the window, the window is the axis. A shift along such an axis
    is not possible, and then there is none along the other either, as in Swin and FOCAL. A shift by
    whole windows has no effect and becomes 0. Raises ``InputError`` for a grid that windows do not
    tile.

    >>> fit((12, 12), (3, 3), (1, 1)), fit((3, 12), (3, 3), (1, 1)), fit((12, 9), (2, 9), (1, 0))
    (((3, 3), (1, 1)), ((3, 3), (0, 0)), ((2, 9), (1, 0)))
    """
    for size, w in zip(grid, window):
        if size > w and size % w:
            raise InputError(
                f"encoder.window: {window[0]} x {window[1]} tokens do not tile a grid of "
                f"{grid[0]} x {grid[1]}; pad it to Swin.padded"
            )
    if any(s and size <= w for size, w, s in zip(grid, window, shift)):
        shift = (0, 0)
    (wt, wf), (st, sf) = (min(window[0], grid[0]), min(window[1], grid[1])), shift
    return (wt, wf), (st % wt, sf % wf)


def attended(
    grid: Pair, window: Pair, shift: Pair, *, wrap_mask: bool, valid: Valid | None
) -> Bool[np.ndarray, "w n n"] | None:
    """Which keys (last axis) a query (second axis) of a shifted window attends to; None: all.

    With ``wrap_mask``, rows and columns that the cyclic shift moved to the other end, and the other
    rows and columns, do not attend to each other. ``valid`` ``[t f]`` is that before the shift.
    """
    regions = np.zeros(grid, int)
    if wrap_mask:
        wrapped = [np.arange(size) >= size - s for size, s in zip(grid, shift)]
        regions = 2 * wrapped[0].astype(int)[:, None] + wrapped[1][None, :]
    regions = split(regions[None, :, :, None], window)[0, :, :, 0]
    allowed = regions[:, :, None] == regions[:, None, :]
    if valid is not None:
        keys = np.roll(valid, (-shift[0], -shift[1]), (0, 1))
        allowed = allowed & split(keys[None, :, :, None], window)[0, :, None, :, 0]
    return None if allowed.all() else allowed


@functools.lru_cache(maxsize=32)
def offsets(window: Pair) -> np.ndarray:
    """Row of the bias table for every query and key of a window, ``[n n]``: their distance in
    time and frequency, counted from the most negative one, time-major."""
    at = np.indices(window).reshape(2, -1)
    distance = at[:, :, None] - at[:, None, :] + np.array(window)[:, None, None] - 1
    return distance[0] * (2 * window[1] - 1) + distance[1]


class WindowBlock(nn.Module):
    """``x + attention(norm(x))`` inside windows, then ``x + mlp(norm(x))``; exact GELU.

    Liu et al., ICCV 2021, with one shift for each axis. Float32. It needs no collectives where the
    batch is sharded.
    """

    heads: int
    window: Pair
    shift: Pair = (0, 0)
    wrap_mask: bool = True
    """Off: the two ends of the grid attend to each other where the shift joins them."""
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    """Rate of dropout after the projection and after both layers of the MLP."""
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    """Probability with which a row of the batch skips a branch in training."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t f d"], *, valid: Valid | None = None, train: bool = False
    ) -> Float[Array, "b t f d"]:
        """Tokens with context; those that are not ``valid`` are not attended to.

        ``train`` turns dropout on and needs the ``dropout`` key. Raises ``InputError`` for a grid
        that windows do not tile.
        """
        drop = dropping(self.dropout, train=train)
        skip = dropping(self.drop_path, train=train, rows=True)
        y = nn.LayerNorm(epsilon=EPS, name="norm1")(x)
        y = self._attention(y, valid, train)
        x = x + skip(drop(y))

        y = nn.LayerNorm(epsilon=EPS, name="norm2")(x)
        y = nn.gelu(torch_linear(round(x.shape[-1] * self.mlp_ratio), y, "fc1"), approximate=False)
        y = torch_linear(x.shape[-1], drop(y), "fc2")
        return x + skip(drop(y))

    def _attention(self, x: jax.Array, valid: Valid | None, train: bool) -> jax.Array:
        d, grid = x.shape[-1], (x.shape[1], x.shape[2])
        window, shift = fit(grid, self.window, self.shift)
        allowed = attended(grid, window, shift, wrap_mask=self.wrap_mask, valid=valid)
        if any(shift):
            x = jnp.roll(x, (-shift[0], -shift[1]), (1, 2))
        x = split(x, window)

        shape = (3, self.heads, d // self.heads)
        bias = torch_bias(d)
        qkv = nn.DenseGeneral(shape, kernel_init=torch_kernel, bias_init=bias, name="qkv")(x)
        q, k, v = (part.squeeze(3) for part in jnp.split(qkv, 3, axis=3))
        scores = jnp.einsum("bwqhk,bwmhk->bwhqm", q * (d // self.heads) ** -0.5, k)
        rows = (2 * window[0] - 1) * (2 * window[1] - 1)
        bias = self.param("position_bias", trunc_normal, (rows, self.heads))
        scores = scores + bias[offsets(window)].transpose(2, 0, 1)[None, None]
        if allowed is not None:
            scores = jnp.where(allowed[None, :, None], scores, _NEGATIVE)
        weights = jax.nn.softmax(scores, axis=-1)
        weights = dropping(self.attention_dropout, train=train)(weights)
        y = jnp.einsum("bwhqm,bwmhk->bwqhk", weights, v).reshape(x.shape)

        y = join(torch_linear(d, y, "proj"), grid, window)
        return jnp.roll(y, shift, (1, 2)) if any(shift) else y
