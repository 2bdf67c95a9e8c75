"""Transformer encoder over tokens, pre- or post-norm (Dosovitskiy et al. 2021; sizes of DeiT)."""

from __future__ import annotations

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jfreq.nn.attention import Kind, attention
from jfreq.nn.heads import trunc_normal
from jfreq.ranges import Positive, Size, checked
from jfreq.sharding import constrain
from jfreq.types import Grid, InputError

Remat = Literal["none", "dots", "full"]
Layers = bool | Literal["ffn"]
"""What an encoder returns of its blocks: nothing, the stream after each, or what the MLP of each
adds to the stream (the targets of data2vec 2.0)."""


@checked
class ViT:
    """Config of :class:`ViTEncoder`; the defaults are ViT-B."""

    width: Size = 768
    depth: Size = 12
    heads: Size = 12
    mlp_ratio: Positive = 4.0
    eps: Positive = 1e-6
    norm: Literal["pre", "post"] = "pre"
    """``pre``: norms before attention and MLP, one more at the end; ``post``: after each sum, and
    one more at the input (data2vec 2.0, EAT)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the blocks' matrix products; norms, softmax, residual stream stay float32."""
    attention: Kind = "auto"
    """``auto``: XLA's; ``cudnn``: fused, GPU, bfloat16; ``splash``: fused, TPU, long clips."""
    remat: Remat = "none"
    """What the backward pass recomputes: nothing, all but matrix products, or every block."""
    unroll: bool = False
    """Unroll the scan over blocks: longer compilation, faster steps on CPU; same parameters."""

    def __post_init__(self):
        if self.width % self.heads:
            raise InputError(
                f"encoder.width: {self.width} must be a multiple of heads {self.heads}"
            )
        if self.attention == "cudnn" and self.dtype != "bfloat16":
            raise InputError("encoder.attention: cudnn wants encoder.dtype bfloat16")

    def build(self, name: str | None = None) -> ViTEncoder:
        return ViTEncoder(self, name=name)


SIZES = {
    "nano": ViT(width=96, depth=4, heads=3),
    "tiny": ViT(width=192, depth=12, heads=3),
    "small": ViT(width=384, depth=12, heads=6),
    "base": ViT(width=768, depth=12, heads=12),
}
"""``nano`` is ours, for tests and demonstrations; the others are DeiT's."""


class Block(nn.Module):
    """Attention, then an MLP, each added to the stream; exact GELU, biases everywhere.

    ``pre``: ``x + f(norm(x))``; ``post``: ``norm(x + f(x))``. Second value: what the MLP adds.
    """

    cfg: ViT

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], valid: Bool[Array, "b n"] | None
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b n d"]]:
        cfg = self.cfg
        dtype = jnp.dtype(cfg.dtype)
        shape = (cfg.heads, cfg.width // cfg.heads)
        norms = [nn.LayerNorm(epsilon=cfg.eps, name=name) for name in ("norm1", "norm2")]

        def before(x, norm):
            return (norm(x) if cfg.norm == "pre" else x).astype(dtype)

        def after(x, norm):
            return norm(x) if cfg.norm == "post" else x

        y = before(x, norms[0])
        qkv = nn.DenseGeneral((3, *shape), dtype=dtype, kernel_init=trunc_normal, name="qkv")(y)
        q, k, v = (part.squeeze(2) for part in jnp.split(qkv, 3, axis=2))
        y = attention(q, k, v, valid=valid, kind=cfg.attention)
        y = nn.DenseGeneral(
            cfg.width, axis=(-2, -1), dtype=dtype, kernel_init=trunc_normal, name="proj"
        )(y)
        x = after(x + y.astype(x.dtype), norms[0])

        y = before(x, norms[1])
        hidden = round(cfg.width * cfg.mlp_ratio)
        y = nn.Dense(hidden, dtype=dtype, kernel_init=trunc_normal, name="fc1")(y)
        y = nn.gelu(y, approximate=False)
        y = nn.Dense(cfg.width, dtype=dtype, kernel_init=trunc_normal, name="fc2")(y)
        y = y.astype(x.dtype)
        return after(x + y, norms[1]), y


class ViTEncoder(nn.Module):
    """``cfg.depth`` blocks with stacked parameters ``[l ...]``; ``norm`` at their end (``pre``) or
    before them (``post``)."""

    cfg: ViT

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        *,
        grid: Grid,
        valid: Bool[Array, "b n"] | None = None,
        layers: Layers = False,
    ) -> tuple[Float[Array, "b n d"], Float[Array, "l b n d"] | None]:
        """Encoded tokens and, if asked for, :data:`Layers`.

        ``grid`` is unused: attention sees a set of tokens.
        """
        cfg = self.cfg
        block: type[nn.Module] = Block
        if cfg.remat != "none":
            policy = None
            if cfg.remat == "dots":
                policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
            block = nn.remat(Block, prevent_cse=False, policy=policy)

        def body(module, carry, _):
            carry, added = module(constrain(carry), valid)
            return carry, (added if layers == "ffn" else carry if layers else None)

        stack = nn.scan(
            body,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=cfg.depth,
            unroll=cfg.depth if cfg.unroll else 1,
        )
        norm = nn.LayerNorm(epsilon=cfg.eps, name="norm")
        x = norm(x) if cfg.norm == "post" else x
        x, states = stack(block(cfg, name="blocks"), x, None)
        return norm(x) if cfg.norm == "pre" else x, states
