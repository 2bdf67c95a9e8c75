"""Audio-MAE (Huang et al., NeurIPS 2022): a masked autoencoder with a decoder of local attention."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torch_refs.parts import Drawn, Given, Reference, by_scores, sines, take
from torch_refs.trunk import Trunk
from torch_refs.windows import WindowDecoder


class AudioMAE(Reference):
    """The encoder reads the visible fifth of the patches; time-major tokens, fixed positions."""

    decoder_positions: Tensor

    def __init__(self, cfg: Any):
        super().__init__()
        self.trunk, self.visible, width = Trunk(cfg), cfg.visible, cfg.decoder.width
        grid = (cfg.grid.time, cfg.grid.freq)
        self.decoder_embed = nn.Linear(cfg.encoder.width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.register_buffer("decoder_positions", sines(*grid, width))
        self.decoder = WindowDecoder(cfg.decoder, grid)
        self.reconstruction = nn.Linear(width, cfg.geometry.patch_size)

    def draw(self, spec: Tensor) -> Drawn:
        return by_scores(torch.rand(spec.shape[0], self.trunk.grid.size), self.visible)

    def forward(self, spec: Tensor, *, drawn: Drawn) -> Tensor:
        """``spec`` ``[b 1 t f]``."""
        visible, masked, places = drawn
        tokens = self.trunk.tokens(spec) + self.trunk.positions
        _, states = self.trunk.encode(take(tokens, visible))
        hidden = self.mask_token.expand(*masked.shape, -1)
        x = take(torch.cat([self.decoder_embed(states), hidden], dim=1), places)
        x = self.decoder(x + self.decoder_positions)
        predicted = self.reconstruction(take(x, masked))
        wanted = take(self.trunk.patches(spec), masked)
        var, mean = torch.var_mean(wanted, dim=-1, keepdim=True)
        return F.mse_loss(predicted, (wanted - mean) * (var + 1e-6).rsqrt())

    def embed(self, spec: Tensor) -> Tensor:
        return self.trunk.clip(spec)

    def copy(self, given: Given) -> None:
        self.trunk.copy(given)
        given.linear(self.decoder_embed, "decoder/embed")
        self.mask_token.copy_(given("decoder/mask_token"))
        self.decoder.copy(given, "decoder/transformer")
        given.linear(self.reconstruction, "decoder/reconstruction")
