"""The local decoder of Audio-MAE: attention by cosines in shifted windows (Swin V2)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torch_refs.parts import Given, copy_block


def split(x: Tensor, window: tuple[int, int]) -> Tensor:
    """Windows ``[b w n d]`` of ``[b t f d]``."""
    b, t, f, d = x.shape
    x = x.view(b, t // window[0], window[0], f // window[1], window[1], d)
    return x.transpose(2, 3).reshape(b, -1, window[0] * window[1], d)


def join(x: Tensor, grid: tuple[int, int], window: tuple[int, int]) -> Tensor:
    """The inverse of :func:`split`."""
    b, d = x.shape[0], x.shape[-1]
    x = x.view(b, grid[0] // window[0], grid[1] // window[1], *window, d)
    return x.transpose(2, 3).reshape(b, *grid, d)


def heads_of_windows(block: Any, x: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys and values ``[b w h n k]`` of the windows of a block, on a grid that it
    shifts."""
    if any(block.shift):
        x = x.roll((-block.shift[0], -block.shift[1]), (1, 2))
    x = split(x, block.window)
    b, w, n, d = x.shape
    qkv = block.qkv(x).view(b, w, n, 3, block.heads, d // block.heads)
    return qkv.permute(3, 0, 1, 4, 2, 5).unbind(0)


def back_on_grid(block: Any, y: Tensor) -> Tensor:
    """What attention gives ``[b w h n k]``, projected and back in its place ``[b t f d]``."""
    y = join(block.proj(y.transpose(2, 3).flatten(3)), block.grid, block.window)
    return y.roll(block.shift, (1, 2)) if any(block.shift) else y


def seam(grid: tuple[int, int], window: tuple[int, int], shift: tuple[int, int]) -> Tensor | None:
    """``[w n n]``: 0 for pairs of a shifted window that were neighbours before, else -inf."""
    if not any(shift):
        return None
    side = [(torch.arange(n) >= n - s).float() for n, s in zip(grid, shift)]
    region = split((2 * side[0][:, None] + side[1])[None, :, :, None], window)[0, :, :, 0]
    differ = region[:, :, None] != region[:, None, :]
    return torch.zeros(differ.shape).masked_fill(differ, -torch.inf)


class CosineBlock(nn.Module):
    """``x + norm(attention(x))``, then ``x + norm(mlp(x))``, on ``[b t f d]``."""

    distance: Tensor
    mask: Tensor | None

    def __init__(self, cfg: Any, grid: tuple[int, int], *, shifted: bool):
        super().__init__()
        width = cfg.width
        self.heads, self.grid, self.window = cfg.heads, grid, cfg.window
        self.shift = cfg.shift if shifted else (0, 0)
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=cfg.eps) for _ in range(2))
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        hidden = round(width * cfg.mlp_ratio)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.bias_in, self.bias_out = (
            nn.Linear(2, cfg.bias_width),
            nn.Linear(cfg.bias_width, cfg.heads),
        )
        self.temperature = nn.Parameter(torch.ones(cfg.heads))
        at = torch.cartesian_prod(*(torch.arange(n) for n in cfg.window)).float()
        distance = at[:, None] - at[None]
        self.register_buffer("distance", distance.sign() * distance.abs().log1p())
        self.register_buffer("mask", seam(grid, cfg.window, self.shift))

    def attention(self, x: Tensor) -> Tensor:
        q, k, v = heads_of_windows(self, x)
        q = F.normalize(q, dim=-1) / self.temperature.clamp_min(0.01)[:, None, None]
        bias = self.bias_out(F.relu(self.bias_in(self.distance))).permute(2, 0, 1)
        scores = q @ F.normalize(k, dim=-1).transpose(-2, -1) + bias
        if self.mask is not None:
            scores = scores + self.mask[:, None]
        return back_on_grid(self, scores.softmax(-1) @ v)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.norm1(self.attention(x))
        return x + self.norm2(self.fc2(F.gelu(self.fc1(x))))


class WindowDecoder(nn.Module):
    """Blocks, of which every second is shifted, on a grid that windows tile."""

    def __init__(self, cfg: Any, grid: tuple[int, int]):
        super().__init__()
        self.grid = grid
        self.blocks = nn.ModuleList(
            CosineBlock(cfg, grid, shifted=i % 2 == 1) for i in range(cfg.depth)
        )
        self.norm = nn.LayerNorm(cfg.width, eps=cfg.eps)

    def forward(self, x: Tensor) -> Tensor:
        """Time-major tokens ``[b n d]``."""
        b, n, d = x.shape
        x = x.view(b, *self.grid, d)
        for block in self.blocks:
            x = block(x)
        return self.norm(x.view(b, n, d))

    def copy(self, given: Given, path: str) -> None:
        given.norm(self.norm, f"{path}/norm")
        for i, block in enumerate(self.blocks):
            assert isinstance(block, CosineBlock)
            copy_block(given, block, f"{path}/blocks", i)
            block.temperature.copy_(given(f"{path}/blocks/temperature", i))
