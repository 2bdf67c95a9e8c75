"""Features of a batch: encoding and training by one function, valid tokens, clip vectors."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
import numpy as np

from jfreq.method import Method, Streams
from jfreq.types import Array, Batch, Features, PyTree, TokenGrid


class FeatureMethod(Method):
    """A method whose :meth:`encode` and :meth:`forward` differ by dropout alone."""

    def features_of(self, params: PyTree, batch: Batch, dropout: Array | None = None) -> Features:
        """Features of a batch; dropout is on where its key is given."""
        raise NotImplementedError

    def encode(self, params: PyTree, batch: Batch) -> Features:
        return self.features_of(params, batch)

    def forward(self, params: PyTree, batch: Batch, rngs: Streams) -> Features:
        return self.features_of(params, batch, rngs("dropout"))


def valid_tokens(grid: TokenGrid, batch: Batch, rows: int) -> Array:
    """``[b n]`` bool: tokens whose centre lies inside the signal; the first always does."""
    if "length" not in batch:
        return jnp.ones((rows, grid.size), bool)
    # In whole samples: formats that store tables in float16 leave integers alone.
    centre = np.float32(grid.first) + np.float32(grid.hop) * np.arange(grid.time, dtype=np.float32)
    inside = np.ceil(centre).astype(np.int32)[None] <= batch["length"][:, None]
    return on_grid(grid, inside | (np.arange(grid.time) == 0)[None])


def on_grid(grid: TokenGrid, columns: Array) -> Array:
    """``[b n]``: the value of its column ``[b t]`` for every token."""
    if grid.order == "freq_major":
        return jnp.tile(columns, (1, grid.freq))
    return jnp.repeat(columns, grid.freq, axis=1)


def pooled(tokens: Array, valid: Array, how: Literal["mean", "max"]) -> Array:
    """The mean or the maximum ``[b d]`` of the valid ones of ``tokens`` ``[b n d]``."""
    if how == "max":
        return jnp.max(jnp.where(valid[..., None], tokens, -jnp.inf), axis=1)
    weight = valid[..., None].astype(tokens.dtype)
    return jnp.sum(tokens * weight, axis=1) / jnp.sum(weight, axis=1)
