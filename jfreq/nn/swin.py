"""Swin over frames and bins: the trunk of FreqMAE and FOCAL, and FreqMAE's decoder.

Liu et al., ICCV 2021; temporal shifting after Kara et al., WWW 2024: windows move along time only,
so that attention is local in frequency and frames interact.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, TypeAlias

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jfreq.nn.heads import torch_kernel, torch_linear
from jfreq.nn.window_attention import EPS, Pair, Valid, WindowBlock
from jfreq.ranges import BelowOne, Count, Positive, Size, Whole, checked
from jfreq.sharding import constrain
from jfreq.types import InputError

Children: TypeAlias = Literal["in_place", "as_released"]
"""Where the four children of a cell go. ``in_place``: to the places and in the order of
:class:`PatchMerge`; ``as_released`` in the code of FreqMAE: next to each other in the time-major
list of all tokens, away from their parent."""


@checked
class Swin:
    """Config of :class:`SwinEncoder`; windows and shifts are (frames, bins) in tokens.

    FreqMAE as released: ``window`` (1, 9), ``shift`` (1, 0), no ``wrap_mask``; a window of one
    frame makes its shift a mere renaming, so two frames are the default. FOCAL: ``window`` (3, 3),
    ``shift`` (1, 1).
    """

    width: Size = 64
    """Width of the first stage; every further stage doubles it and halves both axes."""
    depths: tuple[Size, ...] = (2, 2, 4)
    """Blocks of every stage; the odd ones (second, fourth, ...) are shifted."""
    heads: Size = 4
    """Heads of every stage."""
    window: tuple[Count, Count] = (2, 8)
    shift: tuple[Whole, Whole] = (1, 0)
    """Half a window on both axes is the original Swin. A stage shifts only where every axis that
    has a shift is larger than the window."""
    wrap_mask: bool = True
    """Tokens that a cyclic shift joins do not attend to each other; off in the code of FreqMAE."""
    mlp_ratio: Positive = 4.0
    dropout: BelowOne = 0.2
    """Rate of dropout after the projection of attention and in the MLP."""
    attention_dropout: BelowOne = 0.2
    drop_path: BelowOne = 0.1
    """Probability with which the last block skips a branch; it grows linearly from 0 at the
    first."""

    def __post_init__(self):
        if not self.depths:
            raise InputError("encoder.depths: must name the blocks of one stage or more")
        if self.width % self.heads:
            raise InputError(
                f"encoder.width: {self.width} must be a multiple of heads {self.heads}"
            )
        if any(s > w for s, w in zip(self.shift, self.window)):
            raise InputError(
                f"encoder.shift: {self.shift} must not be larger than the window {self.window}"
            )
        if round(self.width * self.mlp_ratio) < 1:
            raise InputError(
                f"encoder.mlp_ratio: {self.mlp_ratio} of width {self.width} leaves no hidden unit; "
                "take a larger one"
            )

    @property
    def unit(self) -> Pair:
        """The sizes in tokens that both axes must be multiples of: one window of the last stage."""
        return self.window[0] * self.scale, self.window[1] * self.scale

    def padded(self, shape: Pair) -> Pair:
        """The smallest grid (time, freq) of whole windows that holds ``shape``, in tokens."""
        t, f = (-(-max(size, 1) // u) * u for size, u in zip(shape, self.unit))
        return t, f

    @property
    def scale(self) -> int:
        """How many tokens of a side become one at the last stage."""
        return 2 ** (len(self.depths) - 1)

    def fitted(self, shape: Pair) -> Swin:
        """The config with windows no larger than what ``shape`` tokens are at the last stage."""
        window = tuple(min(w, -(-size // self.scale)) for w, size in zip(self.window, shape))
        shift = tuple(map(min, self.shift, window))
        return dataclasses.replace(self, window=window, shift=shift)

    def last(self, padded: Pair) -> tuple[int, int, int]:
        """Frames, bins and width after the last stage."""
        return padded[0] // self.scale, padded[1] // self.scale, self.width * self.scale

    @property
    def rates(self) -> tuple[tuple[float, ...], ...]:
        """The ``drop_path`` rate of every block, by stage."""
        rates = np.linspace(0, self.drop_path, sum(self.depths)).tolist()
        ends = np.cumsum(self.depths).tolist()
        return tuple(tuple(rates[end - depth : end]) for end, depth in zip(ends, self.depths))

    def block(self, index: int, rate: float, name: str) -> WindowBlock:
        """The module of block ``index`` of a stage."""
        return WindowBlock(
            heads=self.heads,
            window=self.window,
            shift=self.shift if index % 2 else (0, 0),
            wrap_mask=self.wrap_mask,
            mlp_ratio=self.mlp_ratio,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            drop_path=rate,
            name=name,
        )

    def build(self, name: str | None = None) -> SwinEncoder:
        return SwinEncoder(self, name=name)

    def decoder(
        self, patch_size: int, children: Children = "in_place", name: str | None = None
    ) -> SwinDecoder:
        """The module that decodes to ``patch_size`` values for every token; ``children`` as in
        :class:`PatchExpand`."""
        return SwinDecoder(self, patch_size, children, name=name)


def valid_by_stage(valid: Valid | None, stages: int) -> list[Valid | None]:
    """``valid`` at every stage, finest first: a merged cell is valid if any of its children is."""
    by_stage = [valid]
    for _ in range(stages - 1):
        if valid is not None:
            t, f = valid.shape
            valid = np.any(valid.reshape(t // 2, 2, f // 2, 2), axis=(1, 3))
        by_stage.append(valid)
    return by_stage


class PatchMerge(nn.Module):
    """2 x 2 neighbours to one cell of twice the width: LayerNorm, then linear without bias.

    Neighbours in the order (row, column) = (even, even), (odd, even), (even, odd), (odd, odd).
    """

    @nn.compact
    def __call__(self, x: Float[Array, "b t f d"]) -> Float[Array, "b t2 f2 e"]:
        b, t, f, d = x.shape
        x = x.reshape(b, t // 2, 2, f // 2, 2, d).transpose(0, 1, 3, 4, 2, 5)
        x = nn.LayerNorm(epsilon=EPS, name="norm")(x.reshape(b, t // 2, f // 2, 4 * d))
        return nn.Dense(2 * d, use_bias=False, kernel_init=torch_kernel, name="linear")(x)


class PatchExpand(nn.Module):
    """One cell to its 2 x 2 children of half the width: linear without bias, then LayerNorm."""

    children: Children = "in_place"

    @nn.compact
    def __call__(self, x: Float[Array, "b t f d"]) -> Float[Array, "b t2 f2 e"]:
        b, t, f, d = x.shape
        x = nn.Dense(2 * d, use_bias=False, kernel_init=torch_kernel, name="linear")(x)
        if self.children == "in_place":
            x = x.reshape(b, t, f, 2, 2, d // 2).transpose(0, 1, 4, 2, 3, 5)
        x = x.reshape(b, 2 * t, 2 * f, d // 2)
        return nn.LayerNorm(epsilon=EPS, name="norm")(x)


class SwinEncoder(nn.Module):
    """Stages of window blocks with merging between them; no norm at the end. Float32."""

    cfg: Swin

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t f d"], *, valid: Valid | None = None, train: bool = False
    ) -> Float[Array, "b t2 f2 e"]:
        """The cells of :meth:`Swin.last` from a grid of :meth:`Swin.padded` tokens.

        With ``valid`` padding is neither attended to nor merged, and cells of padding alone become
        zeros; without it padding is read like signal, as in the code of the authors. ``train``
        needs the ``dropout`` key. Raises ``InputError`` for a grid that is not padded.
        """
        cfg = self.cfg
        _check_grid(cfg, (x.shape[1], x.shape[2]), valid)
        x = _zero_padding(x, valid)
        for s, inside in enumerate(valid_by_stage(valid, len(cfg.depths))):
            if s:
                x = PatchMerge(name=f"merge{s}")(x)
            for i, rate in enumerate(cfg.rates[s]):
                block = cfg.block(i, rate, f"stage{s}_block{i}")
                x = block(constrain(x), valid=inside, train=train)
            x = _zero_padding(x, inside)
        return x


class SwinDecoder(nn.Module):
    """For every merge of the encoder an expansion and two blocks, then linear, GELU, linear.

    ``stage0`` is the finest. Drop path has the rates of the same stage of the encoder. Float32.
    """

    cfg: Swin
    patch_size: int
    children: Children = "in_place"
    """As in :class:`PatchExpand`; ``as_released`` takes no ``valid``, which has places."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t2 f2 e"], *, valid: Valid | None = None, train: bool = False
    ) -> Float[Array, "b t f p"]:
        """``patch_size`` values for every token of the grid, from the cells of :meth:`Swin.last`.

        ``valid`` is that of the resulting grid: padding is not attended to. ``train`` needs the
        ``dropout`` key. Raises ``InputError`` for a grid that windows do not tile.
        """
        cfg, merges = self.cfg, len(self.cfg.depths) - 1
        _check_grid(cfg, (x.shape[1] << merges, x.shape[2] << merges), valid)
        inside = valid_by_stage(valid, len(cfg.depths))
        for s in reversed(range(merges)):
            x = PatchExpand(self.children, name=f"expand{s}")(x)
            for i in range(2):
                block = cfg.block(i, cfg.rates[s][min(i, cfg.depths[s] - 1)], f"stage{s}_block{i}")
                x = block(constrain(x), valid=inside[s], train=train)
        x = nn.gelu(torch_linear(x.shape[-1], x, "hidden"), approximate=False)
        return torch_linear(self.patch_size, x, "out")


def _check_grid(cfg: Swin, grid: Pair, valid: Valid | None) -> None:
    if cfg.padded(grid) != grid:
        raise InputError(
            f"encoder.window: {cfg.window} in {len(cfg.depths)} stages needs grids padded to "
            f"multiples of {cfg.unit}; got {grid}, pad it to {cfg.padded(grid)}"
        )
    if valid is not None and valid.shape != grid:
        raise InputError(f"encoder: valid is {valid.shape}, but the grid is {grid}")


def _zero_padding(x: Array, valid: Valid | None) -> Array:
    return x if valid is None else jnp.where(valid[None, :, :, None], x, 0.0)
