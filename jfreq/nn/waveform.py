"""From raw waveforms to tokens: strided convolutions (wav2vec 2.0, Baevski et al. 2020) and
positions from convolutions (data2vec 2.0, Baevski et al. 2022, arXiv 2212.07525)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jfreq.nn.cnn1d import conv_grid, one_length
from jfreq.nn.grouped_conv import ConvBlock
from jfreq.ops.conv import receptive_field
from jfreq.ranges import Count, Size, checked
from jfreq.types import InputError, SignalSpec, TokenGrid

he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
"""Normal of variance ``2 / fan_in``: torch's ``kaiming_normal_``."""


@checked
class ConvFeatures:
    """Config of :class:`ConvFeatureEncoder`; the defaults are wav2vec 2.0's and data2vec's.

    A token sees 400 samples and the next one starts 320 later: 25 and 20 ms at 16 kHz.
    """

    widths: tuple[Size, ...] = (512,) * 7
    kernels: tuple[Size, ...] = (10, 3, 3, 3, 3, 2, 2)
    strides: tuple[Count, ...] = (5, 2, 2, 2, 2, 2, 2)
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the convolutions; norms stay float32."""

    def __post_init__(self):
        if not len(self.widths) == len(self.kernels) == len(self.strides) > 0:
            raise InputError(
                f"features: widths {self.widths}, kernels {self.kernels} and strides "
                f"{self.strides} must name the same layers, one number for each"
            )

    @property
    def field(self) -> tuple[int, int]:
        """Samples that one token sees, and those between two tokens."""
        return receptive_field(self.kernels, self.strides)

    def check(self, signals: Sequence[SignalSpec]) -> None:
        """Raises ``InputError`` for windows that hold no token."""
        samples, (size, _) = one_length(signals), self.field
        if samples < size:
            raise InputError(
                f"features: windows of {samples} samples are shorter than the {size} that one "
                "token sees; prepare longer windows with --seconds, or take fewer layers"
            )

    def grid(self, samples: int) -> TokenGrid:
        """Tokens of ``samples``, each centred on what it sees."""
        return conv_grid(samples, self.field)

    def valid(self, length: Int[Array, " b"], tokens: int) -> Bool[Array, "b n"]:
        """True for those of ``tokens`` tokens that see only the first ``length`` samples, and for
        the first token."""
        size, hop = self.field
        last = jnp.maximum(length, size) - size
        return jnp.arange(tokens)[None] * hop <= last[:, None]

    def build(self, name: str | None = None) -> ConvFeatureEncoder:
        return ConvFeatureEncoder(self, name=name)


class ConvFeatureEncoder(nn.Module):
    """Convolutions over time without padding and without bias, each with a layer norm over the
    channels and a GELU (the ``layer_norm`` mode of wav2vec 2.0's feature encoder)."""

    cfg: ConvFeatures

    @nn.compact
    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b n d"]:
        cfg, dtype = self.cfg, jnp.dtype(self.cfg.dtype)
        for i, (width, kernel, stride) in enumerate(zip(cfg.widths, cfg.kernels, cfg.strides)):
            conv = nn.Conv(
                width,
                (kernel,),
                (stride,),
                padding="VALID",
                use_bias=False,
                dtype=dtype,
                kernel_init=he_normal,
                name=f"conv{i}",
            )
            x = nn.LayerNorm(epsilon=1e-5, name=f"norm{i}")(conv(x).astype(jnp.float32))
            x = nn.gelu(x, approximate=False)
        return x


@checked
class ConvPositions:
    """Config of :class:`ConvPositionEncoder`; the defaults are data2vec 2.0's for speech."""

    depth: Size = 5
    kernel: Size = 19
    """An odd number; 5 layers of 19 are released as a width of 95."""
    groups: Size = 16
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        if self.kernel % 2 == 0:
            raise InputError(f"positions.kernel: must be odd, got {self.kernel}")

    def build(self, name: str | None = None) -> ConvPositionEncoder:
        return ConvPositionEncoder(self, name=name)


class ConvPositionEncoder(nn.Module):
    """Positions from the content of tokens: a stack of :class:`ConvBlock` over time.

    Padding is zero to every layer, so that a clip gets the same positions in a window of any
    length. Parameters are stacked ``[l ...]``.
    """

    cfg: ConvPositions

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], *, valid: Bool[Array, "b n"] | None = None
    ) -> Float[Array, "b n d"]:
        """Positions of tokens ``x``, where masked ones are zeros; ``valid`` is False in padding."""
        cfg = self.cfg
        inside = None if valid is None else valid[:, None, :, None]
        stack = nn.scan(
            lambda block, x, _: (block(x if inside is None else jnp.where(inside, x, 0)), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=cfg.depth,
        )
        block = ConvBlock(x.shape[-1], cfg.kernel, cfg.groups, cfg.dtype, name="blocks")
        return stack(block, x[:, None], None)[0][:, 0]
