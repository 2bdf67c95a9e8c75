"""A transformer whose attention stays in windows, with cosines as scores: the local decoder of
Audio-MAE (Huang et al., NeurIPS 2022, section 3).

As in Swin V2 (Liu et al., CVPR 2022, section 3) norms come after attention and MLP, scores are
cosines over a temperature, and a small network turns distances into a bias.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Float32

from jfreq.kernels import tpu_cosine
from jfreq.kernels.tpu import LANES
from jfreq.nn.attention import SAVED, by_device
from jfreq.nn.dense import Affine, as_matrix, dense
from jfreq.nn.dropout import dropping
from jfreq.nn.vit import INITIAL, Remat, recomputed
from jfreq.nn.window_attention import Pair, attended, fit, join, split
from jfreq.ops.scale import unit
from jfreq.ranges import BelowOne, Count, Positive, Size, Whole, checked
from jfreq.sharding import BATCH, constrain
from jfreq.types import InputError, TokenGrid

LEAST_TEMPERATURE = 0.01
_NEGATIVE = -1e30


@checked
class WindowDecoder:
    """Config of :class:`WindowDecoderNet`; the defaults are Audio-MAE's. Pairs are (time, freq), in
    tokens."""

    width: Size = 512
    depth: Size = 16
    heads: Size = 16
    window: tuple[Count, Count] = (4, 4)
    shift: tuple[Whole, Whole] = (2, 0)
    """By how much every second block shifts its windows."""
    mlp_ratio: Positive = 4.0
    eps: Positive = 1e-6
    bias_width: Size = 384
    """Hidden units of the network that turns the distance of two tokens into a bias."""
    bias_dropout: BelowOne = 0.1
    """Rate of dropout after both layers of that network in training."""
    initial: Literal["cut", "xavier"] = "cut"
    """Initial values of kernels: normal of standard deviation 0.02, cut at twice that; or Xavier's
    uniform ones."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the matrix products; norms, cosines and softmax stay float32, but that ``whole``
    rounds the unit vectors whose products the cosines are."""
    stream: Literal["float32", "bfloat16"] = "float32"
    """Type of the residual stream between blocks, as in :class:`jfreq.nn.vit.ViT`."""
    attention: Literal["auto", "whole"] = "auto"
    """``auto``: window by window; ``whole``: fused, TPU, all tokens of a clip at once, where the
    windows are a mask: more arithmetic, fewer bytes."""
    remat: Remat = "none"
    """What the backward pass recomputes: nothing, all but matrix products, or every block."""

    def __post_init__(self):
        if self.width % self.heads:
            raise InputError(
                f"decoder.width: {self.width} must be a multiple of heads {self.heads}"
            )
        if any(s >= w for s, w in zip(self.shift, self.window)):
            raise InputError(
                f"decoder.shift: {self.shift} must be smaller than the window {self.window}"
            )
        if self.attention == "whole" and self.width % LANES:
            raise InputError(
                f"decoder.attention: whole wants a width that is a multiple of {LANES}, got "
                f"{self.width}; set it to auto"
            )

    def build(self, name: str | None = None) -> WindowDecoderNet:
        return WindowDecoderNet(self, name=name)


@functools.lru_cache(maxsize=32)
def log_distances(window: Pair) -> Float32[np.ndarray, "n n 2"]:
    """``sign(x) log(1 + |x|)`` of the distance from every key (second axis) to every query (first
    axis) of a window, in time and frequency (Swin V2, equation 4).

    >>> log_distances((2, 1))[:, :, 0].round(2).tolist()
    [[0.0, -0.6899999976158142], [0.6899999976158142, 0.0]]
    """
    at = np.indices(window).reshape(2, -1).T
    distance = (at[:, None] - at[None]).astype(np.float64)
    return (np.sign(distance) * np.log1p(np.abs(distance))).astype(np.float32)


def on_grid(
    grid: Pair, window: Pair, shift: Pair, valid: Bool[np.ndarray, "t f"]
) -> tuple[Float32[np.ndarray, "n p"], Bool[np.ndarray, "n n"]]:
    """Windows on the tokens of a grid, time-major: which place of its window a token has, one of
    ``p``, and which tokens (last axis) a token attends to."""
    n, size = grid[0] * grid[1], window[0] * window[1]
    ids = np.roll(np.arange(n).reshape(grid), (-shift[0], -shift[1]), (0, 1))
    ids = split(ids[None, :, :, None], window)[0, :, :, 0]
    place = np.zeros((n, size), np.float32)
    place[ids, np.arange(size)[None]] = 1
    inside = attended(grid, window, shift, wrap_mask=True, valid=valid)
    allowed = np.zeros((n, n), bool)
    allowed[ids[:, :, None], ids[:, None, :]] = True if inside is None else inside
    return place, allowed


class CosineWindowBlock(nn.Module):
    """``x + norm(attention(x))`` inside windows, then ``x + norm(mlp(x))``; exact GELU.

    It needs no collectives where the batch is sharded.
    """

    cfg: WindowDecoder
    valid: np.ndarray
    """``[t f]`` bool, static: False for tokens in padding, which are not attended to."""
    train: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t f d"], shifted: Bool[Array, ""]
    ) -> Float[Array, "b t f d"]:
        """Tokens with context; ``shifted`` moves the windows by ``cfg.shift``."""
        cfg = self.cfg
        norms = [nn.LayerNorm(epsilon=cfg.eps, name=name) for name in ("norm1", "norm2")]
        attend = self._attention if cfg.attention == "auto" else self._fused_attention
        x = x + norms[0](attend(x, shifted).astype(x.dtype)).astype(x.dtype)
        y = self._dense(round(cfg.width * cfg.mlp_ratio), "fc1")(x.astype(jnp.dtype(cfg.dtype)))
        y = self._dense(cfg.width, "fc2")(nn.gelu(y, approximate=False))
        return x + norms[1](y.astype(x.dtype)).astype(x.dtype)

    def _dense(self, features: int | tuple[int, ...], name: str, **options: Any) -> nn.DenseGeneral:
        cfg = self.cfg
        options = {"dtype": jnp.dtype(cfg.dtype), "kernel_init": INITIAL[cfg.initial], **options}
        return nn.DenseGeneral(features, name=name, **options)

    def _attention(self, x: Array, shifted: Array) -> Array:
        cfg, grid = self.cfg, (x.shape[1], x.shape[2])
        window, shift = fit(grid, cfg.window, cfg.shift)
        moved = any(shift)
        if moved:
            x = jnp.where(shifted, jnp.roll(x, (-shift[0], -shift[1]), (1, 2)), x)
        x = split(x.astype(jnp.dtype(cfg.dtype)), window)

        qkv = self._dense((3, cfg.heads, cfg.width // cfg.heads), "qkv")(x)
        q, k, v = (part.squeeze(3) for part in jnp.split(qkv, 3, axis=3))
        q, k = (unit(part.astype(jnp.float32)) for part in (q, k))
        q = q / self._temperature()[None, None, None, :, None]
        scores = jnp.einsum("bwqhk,bwmhk->bwhqm", q, k) + self._bias(window)[None, None]
        allowed = self._allowed(grid, window, shift, shifted)
        if allowed is not None:
            scores = jnp.where(allowed[None, :, None], scores, _NEGATIVE)
        weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
        y = jnp.einsum("bwhqm,bwmhk->bwqhk", weights, v)
        y = join(self._dense(cfg.width, "proj", axis=(-2, -1))(y), grid, window)
        return jnp.where(shifted, jnp.roll(y, shift, (1, 2)), y) if moved else y

    def _temperature(self) -> Float[Array, " h"]:
        temperature = self.param("temperature", nn.initializers.ones, (self.cfg.heads,))
        return jnp.maximum(temperature, LEAST_TEMPERATURE)

    def _fused_attention(self, x: Array, shifted: Array) -> Array:
        """:meth:`_attention` by the TPU kernel, on the tokens as they lie."""
        cfg, grid = self.cfg, (x.shape[1], x.shape[2])
        window, shift = fit(grid, cfg.window, cfg.shift)
        b, n, shape = x.shape[0], grid[0] * grid[1], (3, cfg.heads, cfg.width // cfg.heads)
        if n > tpu_cosine.MOST_TOKENS:
            raise InputError(
                f"decoder.attention: whole reads up to {tpu_cosine.MOST_TOKENS} tokens, got {n}; "
                "set it to auto"
            )
        self._check_lanes()
        init, x = INITIAL[cfg.initial], x.reshape(b, n, -1).astype(jnp.dtype(cfg.dtype))
        params = Affine((cfg.width,), shape, init, name="qkv")()
        qkv = checkpoint_name(dense(x, as_matrix(params)), SAVED)
        plain, moved = (on_grid(grid, window, by, self.valid) for by in ((0, 0), shift))
        place, allowed = (jnp.where(shifted, a, b) for a, b in zip(moved, plain))
        bias = jnp.einsum(
            "hpq,np,mq->hnm", self._bias(window), place, place, precision=jax.lax.Precision.HIGHEST
        )
        bias = jnp.where(allowed[None], bias, _NEGATIVE)
        y = by_device(
            tpu_cosine.attention,
            (P(BATCH, None, None, "tensor", None), P("tensor"), P("tensor", None, None)),
            *(qkv.reshape(b, n, *shape), 1 / self._temperature(), bias),
        )
        y = checkpoint_name(y.reshape(b, n, cfg.width), SAVED)
        params = Affine(shape[1:], (cfg.width,), init, name="proj")()
        return dense(y, as_matrix(params)).reshape(b, *grid, -1)

    def _check_lanes(self) -> None:
        """Raises ``InputError`` where a device would hold a part of a register's lanes."""
        mesh = jax.sharding.get_abstract_mesh()
        over = 1 if mesh.empty else mesh.shape.get("tensor", 1)
        if self.cfg.width % (LANES * over):
            raise InputError(
                f"decoder.attention: whole wants a multiple of {LANES} channels on each device, "
                f"and mesh.tensor {over} splits {self.cfg.width}; set it to auto"
            )

    def _bias(self, window: Pair) -> Float[Array, "h n n"]:
        """What the distance of two tokens adds to their score."""
        cfg, table = self.cfg, log_distances(window)
        drop = dropping(cfg.bias_dropout, train=self.train)
        x = self._dense(cfg.bias_width, "bias_in", dtype=jnp.float32)(jnp.asarray(table))
        x = self._dense(cfg.heads, "bias_out", dtype=jnp.float32)(drop(nn.relu(x)))
        return drop(x).transpose(2, 0, 1)

    def _allowed(
        self, grid: Pair, window: Pair, shift: Pair, shifted: Array
    ) -> Bool[Array, "w n n"] | None:
        """Which keys (last axis) a query attends to; None: all. Tokens that a shift joins across
        the ends of the grid do not attend to each other."""
        plain, moved = (
            attended(grid, window, by, wrap_mask=True, valid=self.valid) for by in ((0, 0), shift)
        )
        if plain is None and moved is None:
            return None
        shape = (grid[0] * grid[1] // (window[0] * window[1]), *[window[0] * window[1]] * 2)
        plain, moved = (np.ones(shape, bool) if x is None else x for x in (plain, moved))
        return jnp.where(shifted, jnp.asarray(moved), jnp.asarray(plain))


class WindowDecoderNet(nn.Module):
    """``cfg.depth`` blocks with stacked parameters ``[l ...]``, of which every second is shifted,
    and a ``norm`` after them."""

    cfg: WindowDecoder

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], *, grid: TokenGrid, train: bool = False
    ) -> Float[Array, "b n d"]:
        """Tokens of a whole grid with context. Where windows do not tile the grid it is padded at
        its ends, and the padding is not attended to. ``train`` needs the ``dropout`` key."""
        cfg, (b, _, d) = self.cfg, x.shape
        size = (grid.time, grid.freq)
        pad = tuple(-n % w if n > w else 0 for n, w in zip(size, cfg.window))
        valid = np.pad(np.ones(size, bool), [(0, p) for p in pad])
        x = x.reshape(b, *grid.shape, d)
        x = x.swapaxes(1, 2) if grid.order == "freq_major" else x
        x = jnp.pad(x, ((0, 0), (0, pad[0]), (0, pad[1]), (0, 0)))

        stack = nn.scan(
            lambda block, x, shifted: (block(constrain(x), shifted), None),
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            length=cfg.depth,
        )
        block = recomputed(CosineWindowBlock, cfg.remat)(cfg, valid, train, name="blocks")
        x = x.astype(jnp.dtype(cfg.stream))
        x, _ = stack(block, x, jnp.arange(cfg.depth) % 2 == 1)
        x = x[:, : size[0], : size[1]]
        x = x.swapaxes(1, 2) if grid.order == "freq_major" else x
        return nn.LayerNorm(epsilon=cfg.eps, name="norm")(x.reshape(b, grid.size, d))
