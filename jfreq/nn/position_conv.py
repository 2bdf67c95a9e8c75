"""Positions from one convolution over the sequence of tokens (wav2vec 2.0, Baevski et al. 2020,
section 2), as WavLM and BEATs have them."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jfreq.ops.conv import sequence_conv
from jfreq.ops.gather import take_tokens
from jfreq.ranges import Size, checked
from jfreq.types import TokenGrid


@checked
class PositionConv:
    """Config of :class:`PositionConvolution`; the defaults are those of WavLM and BEATs."""

    kernel: Size = 128
    """Tokens that a position is computed from."""
    groups: Size = 16
    """Groups of channels, each of which is convolved by itself; they divide the width."""

    def build(self, width: int, name: str | None = None) -> PositionConvolution:
        return PositionConvolution(self, width, name=name)


class PositionConvolution(nn.Module):
    """``gelu(conv(x))``, whose kernel is ``scale`` ``[k]`` times the direction of ``kernel``
    ``[k c d]``, for each place by itself (weight norm, Salimans and Kingma 2016)."""

    cfg: PositionConv
    width: int

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        *,
        grid: TokenGrid,
        ids: Int[Array, "b n"] | None = None,
    ) -> Float[Array, "b n d"]:
        """The positions of tokens at ``ids``, by default the whole ``grid``; other places count as
        zeros."""
        taps, groups = self.cfg.kernel, self.cfg.groups
        if ids is not None:
            here = ids[:, None, :] == jnp.arange(grid.size)[None, :, None]
            x = take_tokens(x, jnp.argmax(here, axis=-1)) * here.any(axis=-1)[..., None]
        # As released: a variance of 4 / (taps * width), which dropout would have lowered.
        init = nn.initializers.normal((4 / (taps * self.width)) ** 0.5)
        kernel = self.param("kernel", init, (taps, self.width // groups, self.width))
        length = jnp.sqrt(jnp.sum(jnp.square(kernel), axis=(1, 2)))
        scale = self.param("scale", lambda key: length)
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        kernel = kernel * (scale / length)[:, None, None]
        y = nn.gelu(sequence_conv(x, kernel) + bias[None, None], approximate=False)
        return y if ids is None else take_tokens(y, ids)
