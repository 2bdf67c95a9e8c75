"""SSAST (Gong et al., AAAI 2022): clusters of masked patches are told apart and reconstructed."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torch_refs.parts import Drawn, Given, Reference, take
from torch_refs.trunk import Trunk


class SSAST(Reference):
    """One mask of a clip for each of the two tasks, InfoNCE + 10 MSE."""

    def __init__(self, cfg: Any):
        super().__init__()
        self.trunk, width, size = Trunk(cfg), cfg.encoder.width, cfg.geometry.patch_size
        self.masked, self.weight = cfg.mask, cfg.generative_weight
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.classification_head, self.reconstruction_head = (
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, size))
            for _ in range(2)
        )

    def draw(self, spec: Tensor) -> Drawn:
        """Ids ``[2b m]`` of the masked tokens, by turns for classification and reconstruction."""
        grid = self.trunk.grid
        return (cluster_masks(2 * spec.shape[0], self.masked, (grid.freq, grid.time)),)

    def forward(self, spec: Tensor, *, drawn: Drawn) -> Tensor:
        """``spec`` ``[b 1 f t]``."""
        (masked,), trunk = drawn, self.trunk
        tokens = trunk.tokens(spec).repeat_interleave(2, dim=0)
        is_masked = torch.zeros(tokens.shape[:2], dtype=torch.bool).scatter(1, masked, True)
        tokens = torch.where(is_masked[..., None], self.mask_token, tokens)
        states = take(trunk.encode(tokens + trunk.positions)[1], masked)
        wanted = take(trunk.patches(spec).repeat_interleave(2, dim=0), masked)
        scores = self.classification_head(states[0::2]) @ wanted[0::2].transpose(1, 2)
        diagonal = torch.arange(scores.shape[-1]).expand(scores.shape[0], -1)
        nce = F.cross_entropy(scores.transpose(1, 2), diagonal)
        mse = F.mse_loss(self.reconstruction_head(states[1::2]), wanted[1::2])
        return nce + self.weight * mse

    def embed(self, spec: Tensor) -> Tensor:
        return self.trunk.clip(spec)

    def copy(self, given: Given) -> None:
        self.trunk.copy(given)
        self.mask_token.copy_(given("mask_token"))
        for name in ("classification_head", "reconstruction_head"):
            head = getattr(self, name)
            given.linear(head[0], f"{name}/hidden")
            given.linear(head[2], f"{name}/out")


def cluster_masks(rows: int, masked: int, grid: tuple[int, int]) -> Tensor:
    """``[rows masked]`` ids: square clusters of a side of 3 to 5 that arrive in random order, on a
    grid of (frequency, time)."""
    freq, time = grid
    starts = torch.rand(rows, 1, freq + 4, time + 4)
    side = torch.randint(3, 6, (rows, 1, 1))
    arrival = torch.full((rows, freq, time), torch.inf)
    for size in (3, 4, 5):
        first = -F.max_pool2d(-starts, size, stride=1)[:, 0, :freq, :time]
        arrival = torch.where(side == size, first, arrival)
    scores = arrival.flatten(1) + 1e-4 * torch.rand(rows, freq * time)
    return scores.argsort(dim=1)[:, :masked]
