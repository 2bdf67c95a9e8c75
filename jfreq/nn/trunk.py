"""The trunk of every spectrogram transformer: patches, positions, special tokens, encoder."""

from __future__ import annotations

from typing import Any, TypeAlias

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jfreq.nn.heads import torch_bias, torch_kernel, trunc_normal
from jfreq.ops import patch as patches
from jfreq.types import Grid


class PatchEmbed(nn.Module):
    """Linear map of each ``patch`` = (freq, time) at ``stride``; token order of ``grid``."""

    patch: tuple[int, int]
    stride: tuple[int, int]
    width: int
    grid: Grid

    @nn.compact
    def __call__(self, spec: Float[Array, "b t f c"]) -> Float[Array, "b n d"]:
        size = self.patch[0] * self.patch[1] * spec.shape[-1]
        kernel = self.param("kernel", torch_kernel, (size, self.width))
        bias = self.param("bias", torch_bias(size), (self.width,), jnp.float32)
        tokens = patches.embed_patches(
            spec, kernel, patch=self.patch, stride=self.stride, order=self.grid.order
        )
        return tokens + bias[None, None]


class Positions(nn.Module):
    """Learned positions: ``grid`` ``[f t d]``, so that a table tells its own geometry, and one
    ``special`` ``[s d]`` vector for each special token."""

    grid: Grid
    special: int
    width: int

    @nn.compact
    def __call__(self) -> Float[Array, "1 n d"]:
        table = self.param("grid", trunc_normal, (self.grid.freq, self.grid.time, self.width))
        if self.grid.order == "time_major":
            table = table.transpose(1, 0, 2)
        table = table.reshape(self.grid.size, self.width)
        if self.special:
            special = self.param("special", trunc_normal, (self.special, self.width))
            table = jnp.concatenate([special, table])
        return table[None]


Encoded: TypeAlias = tuple[
    Float[Array, "b s d"], Float[Array, "b n d"], Float[Array, "l b n d"] | None
]


class SpectrogramTrunk(nn.Module):
    """``embed`` a spectrogram into tokens; ``encode`` tokens (masked or not) in context."""

    patch: tuple[int, int]
    stride: tuple[int, int]
    grid: Grid
    special: int
    encoder_cfg: Any

    def setup(self):
        width = self.encoder_cfg.width
        self.patch_embed = PatchEmbed(self.patch, self.stride, width, self.grid)
        self.positions = Positions(self.grid, self.special, width)
        if self.special:
            self.special_tokens = self.param("special_tokens", trunc_normal, (self.special, width))
        self.encoder = self.encoder_cfg.build()

    def embed(self, spec: Float[Array, "b t f c"]) -> Float[Array, "b n d"]:
        return self.patch_embed(spec)

    def encode(
        self,
        tokens: Float[Array, "b n d"],
        *,
        valid: Bool[Array, "b n"] | None = None,
        layers: bool = False,
    ) -> Encoded:
        """Final-norm states of the special tokens and of the patch tokens, and per-layer states.

        ``valid`` False keeps a token out of everyone's attention.
        """
        b, s = tokens.shape[0], self.special
        if s:
            special = jnp.broadcast_to(self.special_tokens[None], (b, s, tokens.shape[-1]))
            tokens = jnp.concatenate([special, tokens], axis=1)
            if valid is not None:
                valid = jnp.concatenate([jnp.ones((b, s), bool), valid], axis=1)
        x, states = self.encoder(
            tokens + self.positions(), grid=self.grid, valid=valid, layers=layers
        )
        return x[:, :s], x[:, s:], None if states is None else states[:, :, s:]
