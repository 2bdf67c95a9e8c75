"""ConvNeXt blocks over the token grid: an encoder without attention."""

from __future__ import annotations

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jfreq.nn.heads import trunc_normal
from jfreq.ranges import Positive, Size, checked
from jfreq.types import InputError, TokenGrid


@checked
class ConvNeXt:
    """Config of :class:`ConvNeXtEncoder`. It needs the whole grid and no special tokens."""

    width: Size = 192
    depth: Size = 6
    kernel: Size = 7
    mlp_ratio: Positive = 4.0
    eps: Positive = 1e-6
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        if self.kernel % 2 == 0:
            raise InputError(f"encoder.kernel: must be odd, got {self.kernel}")

    @property
    def stem(self) -> tuple[str, ...]:
        """Patterns of the paths of its parameters before the first block."""
        return ()

    def build(self, name: str | None = None) -> ConvNeXtEncoder:
        return ConvNeXtEncoder(self, name=name)


class ConvNeXtEncoder(nn.Module):
    """Depthwise convolution over time and frequency, then an MLP per token (Liu et al. 2022).

    Tokens in padding are set to zero before each convolution, so that they do not leak.
    """

    cfg: ConvNeXt

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        *,
        grid: TokenGrid,
        ids: Int[Array, "b n"] | None = None,
        special: int = 0,
        valid: Bool[Array, "b n"] | None = None,
        layers: bool = False,
        train: bool = False,
    ) -> tuple[Float[Array, "b n d"], Float[Array, "l b n d"] | None]:
        """Encoded tokens and, if asked for, the stream after each block. The arguments are those of
        :class:`jfreq.nn.vit.ViTEncoder`; there is no dropout. Raises ``InputError`` for anything
        but a whole grid."""
        del train
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.dtype)
        if x.shape[1] != grid.size or special or ids is not None:
            raise InputError(
                f"encoder: ConvNeXt reads a whole grid of {grid.size} tokens, got {x.shape[1]}; "
                "set special_tokens and registers to 0"
            )
        states = []
        for i in range(cfg.depth):
            y = x if valid is None else jnp.where(valid[..., None], x, 0.0)
            y = y.reshape(x.shape[0], *grid.shape, cfg.width).astype(dtype)
            # Kernel sides no longer than reach across the grid: the rest would only meet padding.
            side = tuple(min(cfg.kernel, 2 * s - 1) for s in grid.shape)
            depthwise = nn.Conv(
                cfg.width,
                side,
                feature_group_count=cfg.width,
                dtype=dtype,
                kernel_init=trunc_normal,
                name=f"depthwise{i}",
            )
            y = depthwise(y).reshape(x.shape)
            y = nn.LayerNorm(epsilon=cfg.eps, name=f"norm{i}")(y.astype(x.dtype)).astype(dtype)
            hidden = round(cfg.width * cfg.mlp_ratio)
            y = nn.Dense(hidden, dtype=dtype, kernel_init=trunc_normal, name=f"fc1_{i}")(y)
            y = nn.gelu(y, approximate=False)
            y = nn.Dense(cfg.width, dtype=dtype, kernel_init=trunc_normal, name=f"fc2_{i}")(y)
            x = x + y.astype(x.dtype)
            states.append(x)
        stacked = jnp.stack(states) if layers else None
        return nn.LayerNorm(epsilon=cfg.eps, name="norm")(x), stacked
