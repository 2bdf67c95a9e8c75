"""A convolutional encoder of scalograms that keeps time, and the head for contrastive losses."""

from __future__ import annotations

import math
from typing import Literal

import flax.linen as nn
from jaxtyping import Array, Float

from jfreq.ops import scale
from jfreq.ranges import Count, Size, checked
from jfreq.types import InputError

RowNorm = Literal["learned", "clip", "none"]


@checked
class Conv2d:
    """Config of :class:`Conv2dEncoder`: one block for each width."""

    widths: tuple[Size, ...] = (32, 64, 128, 128)
    time_strides: tuple[Count, ...] = (2, 2, 1, 1)
    """Frames per step of every block."""
    freq_strides: tuple[Count, ...] = (2, 2, 2, 2)
    """Bins per step of every block."""
    groups: Size = 8
    """Groups of the group normalisation, a divisor of every width."""

    def __post_init__(self):
        count = len(self.widths)
        if not count or {len(self.time_strides), len(self.freq_strides)} != {count}:
            raise InputError(
                f"encoder.widths: {count} blocks need as many strides, got {self.time_strides} and "
                f"{self.freq_strides}"
            )
        if any(w % self.groups for w in self.widths):
            raise InputError(f"encoder.groups: {self.groups} must divide all of {self.widths}")

    @property
    def width(self) -> int:
        return self.widths[-1]

    @property
    def stride(self) -> tuple[int, int]:
        """Frames and bins between neighbours of the map."""
        return math.prod(self.time_strides), math.prod(self.freq_strides)

    def shape(self, frames: int, bins: int) -> tuple[int, int]:
        """Cells of the map in time and frequency."""
        return -(-frames // self.stride[0]), -(-bins // self.stride[1])

    def build(self, name: str | None = None) -> Conv2dEncoder:
        return Conv2dEncoder(self, name=name)


class Conv2dEncoder(nn.Module):
    """Spectrograms ``[b t f c]`` to maps ``[b t2 f2 d]``; a block is a 3 x 3 convolution, a group
    norm and a ReLU.

    Blocks pad by one on all sides, so that cell ``(i, j)`` is centred on frame and bin ``(i, j)``
    times :attr:`Conv2d.stride`, and an axis of n becomes ``ceil(n / stride)``. Float32.
    """

    cfg: Conv2d

    @nn.compact
    def __call__(self, x: Float[Array, "b t f c"]) -> Float[Array, "b t2 f2 d"]:
        cfg = self.cfg
        for i, (width, *strides) in enumerate(zip(cfg.widths, cfg.time_strides, cfg.freq_strides)):
            conv = nn.Conv(
                width,
                (3, 3),
                strides=strides,
                padding=((1, 1), (1, 1)),
                use_bias=False,
                kernel_init=nn.initializers.he_normal(),
                name=f"conv{i}",
            )
            x = conv(x)
            x = nn.relu(nn.GroupNorm(num_groups=cfg.groups, name=f"norm{i}")(x))
        return x


class MapNet(nn.Module):
    """Scalograms to tokens: normalised rows, convolutions, the mean over frequency.

    ``rows``: ``learned``, by a scale and an offset for every row and channel; ``clip``, to zero
    mean and unit variance of every row over time; ``none``.
    """

    cfg: Conv2d
    rows: RowNorm = "learned"

    @nn.compact
    def __call__(self, spec: Float[Array, "b t f c"]) -> Float[Array, "b n d"]:
        if self.rows == "clip":
            spec = scale.standardise_clip(spec, axes=1)
        elif self.rows == "learned":
            shape = spec.shape[2:]
            gain = self.param("gain", nn.initializers.ones, shape)
            offset = self.param("offset", nn.initializers.zeros, shape)
            spec = spec * gain[None, None] + offset[None, None]
        return self.cfg.build("encoder")(spec).mean(axis=2)


class Projection(nn.Module):
    """The head before a contrastive loss: linear maps with ReLU in between. Float32."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b out"]:
        for i, width in enumerate(self.widths):
            x = nn.Dense(width, name=f"dense{i}")(nn.relu(x) if i else x)
        return x
