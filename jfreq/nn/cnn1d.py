"""A convolutional encoder of raw sensor series, and what encoders of series share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jfreq.ops.conv import receptive_field
from jfreq.ranges import BelowOne, Count, Size, checked
from jfreq.types import InputError, SignalSpec, TokenGrid


@checked
class Conv1d:
    """Config of :class:`Conv1dEncoder`; the defaults are TPN (Saeed et al. 2019, Tang et al. 2020):
    32 x 24, 64 x 16, 96 x 8, the maximum over time as the clip vector."""

    widths: tuple[Size, ...] = (32, 64, 96)
    kernels: tuple[Size, ...] = (24, 16, 8)
    strides: tuple[Count, ...] | None = None
    dropout: BelowOne = 0.1
    pool: Literal["mean", "max"] = "max"

    def __post_init__(self):
        lengths = {len(self.widths), len(self.kernels), len(self.strides or self.widths)}
        if len(lengths) > 1 or not self.widths:
            raise InputError(
                f"encoder: widths {self.widths}, kernels {self.kernels} and strides "
                f"{self.strides} must name the same layers, one number for each"
            )

    @property
    def layers(self) -> list[tuple[int, int, int]]:
        """Width, kernel and stride of every layer."""
        return list(zip(self.widths, self.kernels, self.strides or (1,) * len(self.kernels)))

    @property
    def field(self) -> tuple[int, int]:
        """Samples that one token sees, and those between two tokens."""
        _, kernels, strides = zip(*self.layers)
        return receptive_field(kernels, strides)

    def check(self, signals: Sequence[SignalSpec]) -> None:
        """Raises ``InputError`` for sensors of different length, or shorter than the kernels."""
        samples, (span, _) = one_length(signals), self.field
        if samples < span:
            raise InputError(
                f"encoder: windows of {samples} samples are shorter than the {span} that the "
                "kernels span; prepare longer windows with --seconds, or set encoder.kernels"
            )

    def grid(self, samples: int) -> TokenGrid:
        """Tokens of the last layer, centred on what they see."""
        return conv_grid(samples, self.field)

    def build(self, name: str | None = None) -> Conv1dEncoder:
        return Conv1dEncoder(self, name=name)


class Conv1dEncoder(nn.Module):
    """Convolutions over time without padding, ReLU and dropout; the channels of all sensors are
    concatenated."""

    cfg: Conv1d

    @nn.compact
    def __call__(
        self, sensors: Sequence[Float[Array, "b t c"]], *, train: bool = False
    ) -> Float[Array, "b n d"]:
        """Dropout is on in ``train`` and needs the ``dropout`` key."""
        x = jnp.concatenate(list(sensors), axis=-1).astype(jnp.float32)
        for i, (width, kernel, stride) in enumerate(self.cfg.layers):
            x = nn.relu(nn.Conv(width, (kernel,), (stride,), padding="VALID", name=f"conv{i}")(x))
            x = nn.Dropout(self.cfg.dropout)(x, deterministic=not train)
        return x


def conv_grid(samples: int, field: tuple[int, int]) -> TokenGrid:
    """Tokens of convolutions without padding, each centred on the samples that it sees; ``field``
    as :func:`jfreq.ops.conv.receptive_field` gives it."""
    span, hop = field
    return TokenGrid(time=(samples - span) // hop + 1, first=(span - 1) / 2, hop=float(hop))


def one_length(signals: Sequence[SignalSpec]) -> int:
    """The samples of a window; ``InputError`` for sensors that differ."""
    lengths = {s.name: s.samples for s in signals}
    if len(set(lengths.values())) > 1:
        raise InputError(
            f"encoder: reads sensors of one length, got {lengths}; prepare them at one rate, or "
            "choose method.modalities"
        )
    return signals[0].samples
