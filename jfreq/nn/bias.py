"""Attention biases: what is added to the score of two tokens for their positions on the grid.

A token's position is its id on the :class:`~jfreq.types.TokenGrid`, so that any subset of the
tokens gets the bias of its pairs. All biases are float32 and shared by the blocks of an encoder.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jfreq.nn.heads import trunc_normal
from jfreq.ranges import Size, checked
from jfreq.types import InputError, TokenGrid

Initializer = nn.initializers.Initializer
Axis = Literal["sequence", "time", "freq"]
Gate = Literal["none", "query", "input"]


@checked
class RelativeBias:
    """Config of :class:`RelativeBiasTable`: a learned value for each bucket of distances and each
    head (T5, Raffel et al. 2020, section 2.1). The defaults are WavLM's and BEATs', but for
    ``gate``."""

    buckets: Size = 320
    """Half of them for keys before the query, half for keys after it."""
    max_distance: Size = 800
    """All distances from here on are in the last bucket."""
    axes: Literal["sequence", "time", "both"] = "sequence"
    """What distances are measured along. ``sequence``: the order of the tokens (BEATs); ``time``:
    the frames of the grid; ``both``: time and frequency, whose tables are added."""
    gate: Gate = "none"
    """A learned gate of each query scales its row of the bias (Chen et al. 2022, WavLM, section
    III-A). It is computed from the ``query``, as in the paper and in BEATs, or from the ``input``
    of the attention, as WavLM was released, with other weights in each block."""

    def __post_init__(self):
        if self.buckets < 4 or self.buckets % 2:
            raise InputError(
                f"encoder.bias.buckets: must be an even number of 4 or more, got {self.buckets}"
            )
        if self.max_distance <= self.buckets // 4:
            raise InputError(
                f"encoder.bias.max_distance: must be above {self.buckets // 4}, the distances that "
                f"have a bucket each, got {self.max_distance}"
            )

    def build(
        self, heads: int, name: str | None = None, initial: Initializer = trunc_normal
    ) -> RelativeBiasTable:
        return RelativeBiasTable(self, heads, initial, name=name)


@checked
class ALiBi:
    """Config of :class:`ALiBiBias`: a penalty in proportion to the distance in both directions, by
    a slope that differs between heads (Press et al. 2022, section 3)."""

    distance: Literal["time", "manhattan", "euclidean"] = "time"
    """Distance in steps of the grid: in time alone, or over both axes (all as in data2vec 2.0)."""
    learned_scale: bool = True
    """Multiply by a learned factor for each head, 1 at first and never below 0 (data2vec 2.0)."""
    gate: ClassVar[Gate] = "none"

    def build(
        self, heads: int, name: str | None = None, initial: Initializer = trunc_normal
    ) -> ALiBiBias:
        """It has no ``initial`` values to choose."""
        del initial
        return ALiBiBias(self, heads, name=name)


class RelativeBiasTable(nn.Module):
    """Tables ``[buckets h]`` named ``sequence``, or ``time`` and ``freq``."""

    cfg: RelativeBias
    heads: int
    initial: Initializer = trunc_normal

    @nn.compact
    def __call__(
        self, grid: TokenGrid, ids: Int[Array, "b n"] | None = None
    ) -> Float[Array, "#b h n n"]:
        """The bias of queries (third axis) and keys (last) at ``ids``, by default the whole grid;
        without ``ids`` the first axis is 1."""
        cfg = self.cfg
        axes: tuple[Axis, ...] = ("time", "freq") if cfg.axes == "both" else (cfg.axes,)
        total = jnp.zeros(())
        for axis in axes:
            table = self.param(axis, self.initial, (cfg.buckets, self.heads))
            distance, largest = distances(grid, ids, axis)
            possible = np.arange(-largest, largest + 1)
            buckets = relative_buckets(possible, cfg.buckets, cfg.max_distance)
            total = total + table[buckets][distance + largest]
        return total.transpose(0, 3, 1, 2)


class ALiBiBias(nn.Module):
    """``-slope * scale * distance``; ``scale`` ``[h]`` is a parameter where it is learned."""

    cfg: ALiBi
    heads: int

    @nn.compact
    def __call__(
        self, grid: TokenGrid, ids: Int[Array, "b n"] | None = None
    ) -> Float[Array, "#b h n n"]:
        """The bias of queries and keys; arguments and axes as in :class:`RelativeBiasTable`."""
        slopes = jnp.asarray(alibi_slopes(self.heads), jnp.float32)
        if self.cfg.learned_scale:
            scale = self.param("scale", nn.initializers.ones, (self.heads,))
            slopes = slopes * jnp.maximum(scale, 0.0)
        distance = jnp.abs(distances(grid, ids, "time")[0]).astype(jnp.float32)
        if self.cfg.distance != "time":
            freq = jnp.abs(distances(grid, ids, "freq")[0]).astype(jnp.float32)
            euclidean = self.cfg.distance == "euclidean"
            distance = jnp.hypot(distance, freq) if euclidean else distance + freq
        return -slopes[None, :, None, None] * distance[:, None]


def distances(
    grid: TokenGrid, ids: Int[Array, "b n"] | None, axis: Axis
) -> tuple[Int[Array, "#b n n"], int]:
    """Position of the key (last axis) minus that of the query along ``axis``, and the largest
    difference there can be."""
    ids = jnp.arange(grid.size)[None] if ids is None else ids
    slow, fast = jnp.divmod(ids, grid.shape[1])
    freq, time = (slow, fast) if grid.order == "freq_major" else (fast, slow)
    position = {"sequence": ids, "time": time, "freq": freq}[axis]
    size = {"sequence": grid.size, "time": grid.time, "freq": grid.freq}[axis]
    return position[:, None, :] - position[:, :, None], size - 1


def relative_buckets(
    distance: Int[np.ndarray, "*d"], buckets: int, max_distance: int
) -> Int[np.ndarray, "*d"]:
    """Bucket of each signed distance, key minus query (T5, Raffel et al. 2020, section 2.1; WavLM,
    Chen et al. 2022, section III-A).

    Half of the buckets belong to each direction. Of these, half hold a single distance, and the
    others widen logarithmically up to ``max_distance``.

    >>> relative_buckets(np.array([-40, -3, 0, 3, 40, 4000]), 32, 128).tolist()
    [12, 3, 0, 19, 28, 31]
    """
    side = buckets // 2
    exact = side // 2
    far = np.abs(distance)
    # The small number keeps a distance that lies on an edge from falling below it by rounding.
    steps = np.log(np.maximum(far, exact) / exact) / np.log(max_distance / exact) + 1e-9
    wide = np.minimum(exact + (steps * (side - exact)).astype(np.int64), side - 1)
    return np.where(far < exact, far, wide) + side * (distance > 0)


def alibi_slopes(heads: int) -> Float[np.ndarray, " h"]:
    """The slopes of ALiBi: a geometric sequence whose first term and ratio are ``2^(-8/h)`` (Press
    et al. 2022, section 3). Where ``h`` is no power of 2, as released, the sequence of the next
    lower power, then every other term of that of the next higher one.

    >>> alibi_slopes(3).tolist()
    [0.0625, 0.00390625, 0.25]
    """
    lower = 2 ** int(np.log2(heads))

    def sequence(n: int) -> np.ndarray:
        return 2.0 ** (-8 / n * np.arange(1, n + 1))

    return np.concatenate([sequence(lower), sequence(2 * lower)[::2][: heads - lower]])
