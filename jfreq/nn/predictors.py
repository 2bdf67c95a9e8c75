"""Predictors of a teacher's states of the masked tokens from the visible ones.

Both map ``(states [b k d], mask, grid, key)`` to ``[b m out]``, in the order of ``mask.masked``.
"""

from __future__ import annotations

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jfreq.nn.attention import Kind, attention
from jfreq.nn.dropout import dropping
from jfreq.nn.grouped_conv import ConvBlock
from jfreq.nn.heads import torch_bias, torch_kernel, trunc_normal
from jfreq.nn.vit import Remat, recomputed
from jfreq.ops.gather import masked_tokens, restore_tokens
from jfreq.ops.posemb import sincos_tokens
from jfreq.ranges import BelowOne, NonNegative, Positive, Size, checked
from jfreq.sharding import constrain
from jfreq.types import InputError, Mask, TokenGrid


@checked
class ConvDecoder:
    """Config of :class:`ConvDecoderNet`; the defaults are EAT's."""

    width: Size = 768
    depth: Size = 6
    kernel: Size = 3
    groups: Size = 16
    noise: NonNegative = 0.01
    """Standard deviation of the noise that replaces masked tokens."""
    dropout: BelowOne = 0.0
    """Rate of dropout of the visible states in training."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the matrix products; norms stay float32."""
    stream: Literal["float32", "bfloat16"] = "float32"
    """Type of the residual stream, as in :class:`jfreq.nn.vit.ViT`."""
    remat: Remat = "none"
    """What the backward pass recomputes: nothing, all but convolutions, or every block."""

    def __post_init__(self):
        if self.width % self.groups:
            raise InputError(
                f"decoder.width: {self.width} must be a multiple of groups {self.groups}"
            )
        if self.kernel % 2 == 0:
            raise InputError(f"decoder.kernel: must be odd, got {self.kernel}")

    def build(self, out: int, name: str | None = None) -> ConvDecoderNet:
        return ConvDecoderNet(self, out, name=name)


@checked
class CrossPredictor:
    """Config of :class:`CrossPredictorNet`; no size is published, the defaults are our choice."""

    width: Size = 512
    depth: Size = 4
    heads: Size = 8
    mlp_ratio: Positive = 4.0
    eps: Positive = 1e-5
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the matrix products; norms, softmax and residual stream stay float32."""
    attention: Kind = "auto"
    """As in :class:`jfreq.nn.vit.ViT`, but neither ``splash`` nor ``whole``."""

    def __post_init__(self):
        if self.width % self.heads:
            raise InputError(
                f"decoder.width: {self.width} must be a multiple of heads {self.heads}"
            )
        if self.attention in ("splash", "whole"):
            raise InputError(
                f"decoder.attention: {self.attention} has no cross-attention; set it to auto"
            )
        if self.attention == "cudnn" and self.dtype != "bfloat16":
            raise InputError("decoder.attention: cudnn wants decoder.dtype bfloat16")

    def build(self, out: int, name: str | None = None) -> CrossPredictorNet:
        return CrossPredictorNet(self, out, name=name)


class ConvDecoderNet(nn.Module):
    """Convolutions over the whole grid, with noise in place of masked tokens (EAT, data2vec 2.0).

    It has no mask token and no positions: borders and visible tokens tell where a token is. Blocks
    are residual, but for a first one where the states and the decoder differ in width. Parameters
    of the residual blocks are stacked ``[l ...]``.
    """

    cfg: ConvDecoder
    out: int

    @nn.compact
    def __call__(
        self,
        states: Float[Array, "b k d"],
        mask: Mask,
        grid: TokenGrid,
        key: Key[Array, ""],
        *,
        train: bool = False,
    ) -> Float[Array, "b m out"]:
        """Predictions in the order of ``mask.masked``; ``key`` samples the noise. ``train`` turns
        dropout on and needs the ``dropout`` key."""
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.dtype)
        rows, masked = mask.masked.shape
        width = states.shape[-1]
        states = dropping(cfg.dropout, train=train)(states)
        noise = cfg.noise * jax.random.normal(key, (rows, masked, width), states.dtype)
        states, noise = (part.astype(jnp.dtype(cfg.stream)) for part in (states, noise))
        x = restore_tokens(jnp.concatenate([states, noise], axis=1), mask.restore)
        x = x.reshape(rows, *grid.shape, width)

        def block(name: str) -> ConvBlock:
            kind = recomputed(ConvBlock, cfg.remat)
            return kind(cfg.width, cfg.kernel, cfg.groups, cfg.dtype, name=name)

        x = x if width == cfg.width else block("first")(x).astype(x.dtype)
        depth = cfg.depth if width == cfg.width else cfg.depth - 1
        if depth:
            stack = _stack(lambda block, x, _: (_added(block, constrain(x)), None), depth)
            x, _ = stack(block("blocks"), x, None)
        x = masked_tokens(x.reshape(rows, grid.size, cfg.width), mask)
        return _dense(self.out, x, dtype, torch_kernel, "out")


class _CrossBlock(nn.Module):
    """``x = norm(r + attention(x, states))``, then ``norm(x + mlp(x))``; ``r`` is 0 where
    ``first``, else ``x``."""

    cfg: CrossPredictor

    @nn.compact
    def __call__(
        self, x: Float[Array, "b m w"], first: Array, states: Float[Array, "b k d"]
    ) -> Float[Array, "b m w"]:
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.dtype)
        shape = (cfg.heads, cfg.width // cfg.heads)

        def dense(features, y, name, axis: int | tuple[int, ...] = -1):
            return nn.DenseGeneral(
                features, axis=axis, dtype=dtype, kernel_init=trunc_normal, name=name
            )(y)

        q = dense(shape, x, "q")
        kv = dense((2, *shape), states, "kv")
        k, v = (part.squeeze(2) for part in jnp.split(kv, 2, axis=2))
        y = dense(cfg.width, attention(q, k, v, kind=cfg.attention), "proj", axis=(-2, -1))
        x = jnp.where(first, 0.0, x) + y.astype(x.dtype)
        x = nn.LayerNorm(epsilon=cfg.eps, name="norm1")(x)

        y = nn.gelu(dense(round(cfg.width * cfg.mlp_ratio), x, "fc1"), approximate=False)
        x = x + dense(cfg.width, y, "fc2").astype(x.dtype)
        return nn.LayerNorm(epsilon=cfg.eps, name="norm2")(x)


class CrossPredictorNet(nn.Module):
    """Cross-attention from the fixed positions of the masked tokens to the visible states.

    This is the form of the unused ``EncDecTransformerDecoder`` of data2vec 2.0, our reading of the
    predictor of AaSP (Yamamoto and Okusa 2025, arXiv 2512.03637): norms after each sum, no residual
    around the first attention, keys and values of every block linear in the states. The positions
    are sines of the width of the states, the same as in their encoder. Parameters are stacked
    ``[l ...]``.
    """

    cfg: CrossPredictor
    out: int

    @nn.compact
    def __call__(
        self,
        states: Float[Array, "b k d"],
        mask: Mask,
        grid: TokenGrid,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b m out"]:
        """Predictions in the order of ``mask.masked``; ``key`` is not used."""
        del key
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.dtype)
        # Selected before the linear map: else its gradient would need a scattered sum.
        positions = jnp.take(sincos_tokens(grid, states.shape[-1]), mask.masked, axis=0)
        x = _dense(cfg.width, positions, dtype, trunc_normal, "embed")
        stack = _stack(
            lambda block, x, first: (block(constrain(x), first, states), None), cfg.depth
        )
        x, _ = stack(_CrossBlock(cfg, name="blocks"), x, jnp.arange(cfg.depth) == 0)
        return _dense(self.out, x, dtype, trunc_normal, "out")


def _added(block: nn.Module, x: Array) -> Array:
    """``x`` and what a block adds, in the type of ``x``."""
    return x + block(x).astype(x.dtype)


def _stack(body, depth: int):
    """``body(block, carry, x) -> (carry, y)`` over ``depth`` blocks with stacked parameters."""
    return nn.scan(body, variable_axes={"params": 0}, split_rngs={"params": True}, length=depth)


def _dense(features: int, x: Array, dtype, kernel_init, name: str) -> Array:
    """A linear map in ``dtype`` with a float32 result; torch's kernel comes with torch's bias."""
    torch = kernel_init is torch_kernel
    bias_init = torch_bias(x.shape[-1]) if torch else nn.initializers.zeros
    layer = nn.Dense(features, dtype=dtype, kernel_init=kernel_init, bias_init=bias_init, name=name)
    return layer(x).astype(jnp.float32)
