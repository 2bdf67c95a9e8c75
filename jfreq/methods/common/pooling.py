"""Which tokens hold signal, and clip vectors of these."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp

from jfreq.types import Array, Batch, TokenGrid


def valid_tokens(grid: TokenGrid, batch: Batch, rows: int) -> Array:
    """``[b n]`` bool: tokens whose centre lies inside the signal; the first always does."""
    if "length" not in batch:
        return jnp.ones((rows, grid.size), bool)
    centre = grid.first + grid.hop * jnp.arange(grid.time, dtype=jnp.float32)
    inside = centre[None] <= batch["length"][:, None].astype(jnp.float32)
    inside = inside | (jnp.arange(grid.time) == 0)[None]
    if grid.order == "freq_major":
        return jnp.tile(inside, (1, grid.freq))
    return jnp.repeat(inside, grid.freq, axis=1)


def pooled(tokens: Array, valid: Array, how: Literal["mean", "max"]) -> Array:
    """The mean or the maximum ``[b d]`` of the valid ones of ``tokens`` ``[b n d]``."""
    if how == "max":
        return jnp.max(jnp.where(valid[..., None], tokens, -jnp.inf), axis=1)
    weight = valid[..., None].astype(tokens.dtype)
    return jnp.sum(tokens * weight, axis=1) / jnp.sum(weight, axis=1)
