"""AaSP (Yamamoto and Okusa 2025): EAT behind patches that measure what they alias, with a predictor
by cross-attention and contrast between the clones of a clip."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torch_refs.eat import EAT
from torch_refs.parts import Drawn, Given, Transformer, copy_block, sines
from torch_refs.trunk import Trunk


def high_pass(taps: int, cutoff: float) -> Tensor:
    """``[taps]``: one minus a windowed sinc of sum 1."""
    half = taps // 2
    at = torch.arange(-half, half + 1, dtype=torch.float64)
    window = 0.54 + 0.46 * torch.cos(math.pi * at / half)
    low = window * torch.sinc(2 * cutoff * at)
    h = -low / low.sum()
    h[half] += 1
    return h.float()


class AliasTrunk(Trunk):
    """The branch filters the band that patches alias, by kernels that a small transformer predicts
    for every patch. Tokens are time-major, patches do not overlap."""

    centre: Tensor
    reach_of_cell: Tensor
    taps: Tensor
    alias_positions: Tensor

    def __init__(self, cfg: Any):
        super().__init__(cfg)
        a, (pt, pf), width = cfg.aape, self.patch, cfg.encoder.width
        if not self.time_major or (a.phase, a.context, a.fusion, a.adaptive, a.magnitude, a.unit_gain) != (
            "even", "full", "concat", True, False, False
        ):  # fmt: skip
            raise ValueError("the reference has the published branch alone")
        self.decay, self.band, self.reach = a.decay, a.range(pt), a.taps // 2
        inner = type(cfg.encoder)(width=a.width, depth=a.depth, heads=a.heads)
        self.alias_embed, self.alias_encoder = nn.Linear(pt * pf, a.width), Transformer(inner)
        self.alpha, self.beta = nn.Linear(a.width, a.kernels), nn.Linear(a.width, a.kernels)
        g = self.grid.freq
        self.bands = nn.Parameter(torch.zeros(g, pf, a.kernels))
        self.mix = nn.Parameter(torch.zeros(g, 2 * a.kernels, a.kernels))
        self.project = nn.Linear(pt * a.kernels, a.out)
        self.norm_alias, self.norm_plain = (
            nn.LayerNorm(a.out, eps=1e-6),
            nn.LayerNorm(width, eps=1e-6),
        )
        self.fuse = nn.Linear(width + a.out, width)
        low, high = (math.log(edge) for edge in self.band)
        edges = torch.linspace(low, high, a.kernels + 1, dtype=torch.float64).exp()
        self.register_buffer("centre", (edges[1:] * edges[:-1]).sqrt().float())
        self.register_buffer("reach_of_cell", 0.75 * edges.diff().float())
        self.register_buffer("taps", high_pass(a.high_pass, 1 / (2 * pt)))
        self.register_buffer("alias_positions", sines(self.grid.time, g, a.width))

    def kernels(self, spec: Tensor) -> Tensor:
        """Real and imaginary part ``[b p g s taps 2]`` of the kernels of every patch."""
        x = self.alias_encoder(self.alias_embed(self.patches(spec)) + self.alias_positions)
        low, high = self.decay
        alpha = low * (high / low) ** torch.sigmoid(self.alpha(x))
        beta = self.centre + self.reach_of_cell * torch.tanh(self.beta(x))
        rate = torch.complex(alpha, 2 * math.pi * beta.clamp(*self.band))
        rate = rate.unflatten(1, (self.grid.time, self.grid.freq))
        scale = torch.sinh(rate / 2) / (rate / 2)
        m = torch.arange(-self.reach, self.reach + 1).abs()
        return torch.view_as_real(scale[..., None] * torch.exp(-rate[..., None] * m))

    def measured(self, spec: Tensor) -> Tensor:
        """Tokens ``[b n e]`` of the band."""
        b, (pt, pf), g = spec.shape[0], self.patch, self.grid.freq
        half = len(self.taps) // 2
        x = F.pad(spec[:, 0].transpose(1, 2), (half, half), mode="reflect")  # [b f t]
        x = F.conv1d(x.flatten(0, 1)[:, None], self.taps[None, None]).view(b, g, pf, -1)
        x = torch.einsum("bgit,gis->bgst", x, self.bands)
        x = F.pad(x, (self.reach, self.reach)).unfold(3, pt + 2 * self.reach, pt)  # [b g s p w]
        frames = x.permute(0, 3, 1, 2, 4).unfold(4, 2 * self.reach + 1, 1)  # [b p g s m taps]
        y = (frames @ self.kernels(spec)).permute(0, 1, 2, 4, 5, 3)  # [b p g m 2 s]
        y = F.gelu(torch.einsum("bpgmi,gio->bpgmo", y.flatten(4), self.mix))
        return self.project(y.reshape(b, self.grid.size, -1))

    def tokens(self, spec: Tensor) -> Tensor:
        plain, alias = super().tokens(spec), self.measured(spec)
        return self.fuse(torch.cat([self.norm_plain(plain), self.norm_alias(alias)], dim=-1))

    def copy(self, given: Given, path: str = "trunk") -> None:
        super().copy(given, path)
        alias = f"{path}/alias"
        given.linear(self.alias_embed, f"{alias}/encoder/embed")
        self.alias_encoder.copy(given, f"{alias}/encoder/encoder")
        given.linear(self.alpha, f"{alias}/encoder/alpha")
        given.linear(self.beta, f"{alias}/encoder/beta")
        self.bands.copy_(given(f"{alias}/bands/kernel"))
        self.mix.copy_(given(f"{alias}/mix/kernel"))
        given.linear(self.project, f"{alias}/project")
        given.norm(self.norm_alias, f"{alias}/fuse/norm_alias")
        given.norm(self.norm_plain, f"{alias}/fuse/norm_plain")
        given.linear(self.fuse, f"{alias}/fuse/linear")


class CrossBlock(nn.Module):
    """Attention from queries to the visible states, then an MLP; norms after the sums."""

    def __init__(self, cfg: Any, states: int, *, first: bool):
        super().__init__()
        width, hidden = cfg.width, round(cfg.width * cfg.mlp_ratio)
        self.heads, self.first = cfg.heads, first
        self.q, self.kv = nn.Linear(width, width), nn.Linear(states, 2 * width)
        self.proj = nn.Linear(width, width)
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=cfg.eps) for _ in range(2))
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor, states: Tensor) -> Tensor:
        q = self.q(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
        kv = self.kv(states).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, kv[0], kv[1]).transpose(1, 2).flatten(2)
        y = self.proj(y)
        x = self.norm1(y if self.first else x + y)
        return self.norm2(x + self.fc2(F.gelu(self.fc1(x))))


class CrossPredictor(nn.Module):
    """Predicts masked tokens from their positions and the visible states."""

    table: Tensor

    def __init__(self, cfg: Any, width: int, grid: tuple[int, int]):
        super().__init__()
        self.register_buffer("table", sines(*grid, width))
        self.embed, self.out = nn.Linear(width, cfg.width), nn.Linear(cfg.width, width)
        self.blocks = nn.ModuleList(CrossBlock(cfg, width, first=i == 0) for i in range(cfg.depth))

    def forward(self, states: Tensor, masked: Tensor, places: Tensor, noise: Tensor) -> Tensor:
        del places, noise
        # Positions are few and shared by all clones.
        x = self.embed(self.table)[masked]
        for block in self.blocks:
            x = block(x, states)
        return self.out(x)

    def copy(self, given: Given, path: str) -> None:
        given.linear(self.embed, f"{path}/embed")
        given.linear(self.out, f"{path}/out")
        for i, block in enumerate(self.blocks):
            copy_block(given, block, f"{path}/blocks", i)


class AaSP(EAT):
    """EAT and the contrast of the special tokens of all clones."""

    def __init__(self, cfg: Any):
        super().__init__(cfg)
        hidden, out = cfg.projection
        self.head = nn.Sequential(
            nn.Linear(cfg.encoder.width, hidden), nn.ReLU(), nn.Linear(hidden, out)
        )
        self.contrast_weight, self.temperature = cfg.contrast_weight, cfg.temperature

    def trunk_of(self, cfg: Any) -> Trunk:
        return AliasTrunk(cfg)

    def decoder_of(self, cfg: Any) -> nn.Module:
        return CrossPredictor(cfg.decoder, cfg.encoder.width, (cfg.grid.time, cfg.grid.freq))

    def forward(self, spec: Tensor, *, drawn: Drawn) -> Tensor:
        loss, special = self.terms(spec, drawn)
        z = F.normalize(self.head(special), dim=-1)  # [b r d]
        rows, views, _ = z.shape
        within = z @ z.transpose(1, 2) / self.temperature
        same = torch.eye(views, dtype=torch.bool)
        pull = within.masked_fill(same, 0.0).sum(-1) / (views - 1)
        flat = z.flatten(0, 1)
        scores = flat @ flat.T / self.temperature
        own = torch.eye(rows * views, dtype=torch.bool)
        push = scores.masked_fill(own, -torch.inf).logsumexp(-1)
        contrast = (push.view(rows, views) - pull).mean() - math.log(views - 1)
        return loss + self.contrast_weight * contrast

    def copy(self, given: Given) -> None:
        super().copy(given)
        given.linear(self.head[0], "project/hidden")
        given.linear(self.head[2], "project/out")
