"""Spectrograms to tokens and these in context: what the references on patches share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torch_refs.parts import Given, Transformer, sines


class Trunk(nn.Module):
    """Patches, positions, special tokens and encoder of a ``jfreq.methods.common.patches.PatchMethod``.

    Spectrograms are ``[b 1 f t]`` where tokens are frequency-major, ``[b 1 t f]`` where they are
    time-major (:meth:`layout`).
    """

    positions: Tensor

    def __init__(self, cfg: Any):
        super().__init__()
        geometry, width, self.pool = cfg.geometry, cfg.encoder.width, cfg.pool
        self.grid, self.patch = geometry.grid, geometry.patch
        self.time_major = cfg.order == "time_major"
        sizes = geometry.patch, geometry.stride
        kernel, stride = sizes if self.time_major else (pair[::-1] for pair in sizes)
        self.embed = nn.Conv2d(1, width, kernel, stride)
        self.special = nn.Parameter(torch.zeros(cfg.special_tokens, width))
        self.learned = cfg.positions == "learned"
        if self.learned:
            self.positions = nn.Parameter(torch.zeros(self.grid.size, width))
            self.special_positions = nn.Parameter(torch.zeros(cfg.special_tokens, width))
        else:
            table = sines(self.grid.time, self.grid.freq, width, time_major=self.time_major)
            self.register_buffer("positions", table)
        self.encoder = Transformer(cfg.encoder)

    def layout(self, spec: np.ndarray) -> Tensor:
        """A spectrogram ``[b t f 1]`` as this model reads it."""
        x = spec[..., 0] if self.time_major else spec[..., 0].transpose(0, 2, 1)
        return torch.from_numpy(np.array(x[:, None], order="C"))

    def tokens(self, spec: Tensor) -> Tensor:
        """``[b n d]`` without positions."""
        return self.embed(spec).flatten(2).transpose(1, 2)

    def with_special(self, tokens: Tensor) -> Tensor:
        special = self.special + self.special_positions if self.learned else self.special
        return torch.cat([special.expand(tokens.shape[0], -1, -1), tokens], dim=1)

    def encode(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """States of the special tokens and of ``tokens``, which have their positions."""
        x = self.encoder(self.with_special(tokens))
        return x[:, : len(self.special)], x[:, len(self.special) :]

    def clip(self, spec: Tensor) -> Tensor:
        """Clip vectors ``[b d]``."""
        special, tokens = self.encode(self.tokens(spec) + self.positions)
        return (special if self.pool == "special" else tokens).mean(dim=1)

    def patches(self, spec: Tensor) -> Tensor:
        """Patches ``[b n p]`` side by side, whose values run (frequency, time) as in jfreq."""
        (pt, pf), b = self.patch, spec.shape[0]
        if self.time_major:
            cells = spec.view(b, self.grid.time, pt, self.grid.freq, pf).permute(0, 1, 3, 4, 2)
        else:
            cells = spec.view(b, self.grid.freq, pf, self.grid.time, pt).permute(0, 1, 3, 2, 4)
        return cells.reshape(b, self.grid.size, pf * pt)

    def copy(self, given: Given, path: str = "trunk") -> None:
        pt, pf = self.patch
        kernel = given(f"{path}/patch_embed/kernel").T.reshape(-1, 1, pf, pt)
        self.embed.weight.copy_(kernel.transpose(2, 3) if self.time_major else kernel)
        assert self.embed.bias is not None
        self.embed.bias.copy_(given(f"{path}/patch_embed/bias"))
        self.special.copy_(given(f"{path}/special_tokens"))
        if self.learned:
            table = given(f"{path}/positions/grid")
            table = table.transpose(0, 1) if self.time_major else table
            self.positions.copy_(table.reshape(self.positions.shape))
            self.special_positions.copy_(given(f"{path}/positions/special"))
        self.encoder.copy(given, f"{path}/encoder")
