"""A window transformer over frames and bins (Liu et al., ICCV 2021): the trunk of FreqMAE and
FOCAL, and FreqMAE's decoder."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torch_refs.parts import Given, copy_block
from torch_refs.windows import back_on_grid, heads_of_windows, split

Pair = tuple[int, int]


def fitted(grid: Pair, window: Pair, shift: Pair) -> tuple[Pair, Pair]:
    """The window is no larger than the grid, and nothing is shifted where it is one window."""
    if any(s and n <= w for n, w, s in zip(grid, window, shift)):
        shift = (0, 0)
    (wt, wf), (st, sf) = (min(window[0], grid[0]), min(window[1], grid[1])), shift
    return (wt, wf), (st % wt, sf % wf)


def hidden_pairs(grid: Pair, window: Pair, shift: Pair, valid: np.ndarray | None) -> Tensor | None:
    """``[w 1 n n]``: a large negative number for keys that a query of a shifted window does not
    see: those from beyond a seam, and padding."""
    side = [np.arange(n) >= n - s for n, s in zip(grid, shift)]
    region = torch.from_numpy(2 * side[0][:, None] + side[1][None].astype(np.int64))
    region = split(region[None, :, :, None], window)[0, :, :, 0]
    seen = region[:, :, None] == region[:, None, :]
    if valid is not None:
        keys = torch.from_numpy(np.roll(valid, (-shift[0], -shift[1]), (0, 1)).copy())
        seen = seen & split(keys[None, :, :, None], window)[0, :, None, :, 0]
    if bool(seen.all()):
        return None
    return torch.zeros(seen.shape).masked_fill(~seen, -1e30)[:, None]


class DropPath(nn.Module):
    """Drops a branch for a row of the batch."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.rate or not self.training:
            return x
        kept = x.new_empty((x.shape[0], 1, 1, 1)).bernoulli_(1 - self.rate)
        return x * kept.div_(1 - self.rate)


class WindowBlock(nn.Module):
    """``x + attention(norm(x))`` in windows, then ``x + mlp(norm(x))``, on ``[b t f d]``."""

    index: Tensor
    hidden: Tensor | None

    def __init__(self, cfg: Any, width: int, grid: Pair, valid: np.ndarray | None, *, shifted: bool,
                 rate: float):  # fmt: skip
        super().__init__()
        self.heads, self.grid = cfg.heads, grid
        self.window, self.shift = fitted(grid, cfg.window, cfg.shift if shifted else (0, 0))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        inner = round(width * cfg.mlp_ratio)
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)
        self.drop, self.skip = nn.Dropout(cfg.dropout), DropPath(rate)
        self.attention_dropout = cfg.attention_dropout
        (t, f) = self.window
        self.table = nn.Parameter(torch.zeros((2 * t - 1) * (2 * f - 1), cfg.heads))
        at = torch.cartesian_prod(torch.arange(t), torch.arange(f)).view(-1, 2)
        apart = at[:, None] - at[None] + torch.tensor([t - 1, f - 1])
        self.register_buffer("index", apart[..., 0] * (2 * f - 1) + apart[..., 1])
        self.register_buffer("hidden", hidden_pairs(grid, self.window, self.shift, valid))

    def attention(self, x: Tensor) -> Tensor:
        q, k, v = heads_of_windows(self, x)
        n = q.shape[-2]
        bias = self.table[self.index.flatten()].view(n, n, -1).permute(2, 0, 1)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias
        if self.hidden is not None:
            scores = scores + self.hidden
        weights = F.dropout(scores.softmax(-1), self.attention_dropout, self.training)
        return back_on_grid(self, weights @ v)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.skip(self.drop(self.attention(self.norm1(x))))
        y = self.fc2(self.drop(F.gelu(self.fc1(self.norm2(x)))))
        return x + self.skip(self.drop(y))

    def copy(self, given: Given, path: str) -> None:
        copy_block(given, self, path)
        self.table.copy_(given(f"{path}/position_bias"))


def stages(valid: np.ndarray | None, count: int) -> list[np.ndarray | None]:
    """``valid`` at every stage: a merged cell is valid if any of its four cells is."""
    out = [valid]
    for _ in range(count - 1):
        if valid is not None:
            cells = valid.reshape(valid.shape[0] // 2, 2, valid.shape[1] // 2, 2)
            valid = np.max(cells, axis=(1, 3))
        out.append(valid)
    return out


class Encoder(nn.Module):
    """Patches ``[b n p]`` of a sensor to a vector ``[b d]``; masked ones become the mask token."""

    def __init__(self, cfg: Any, spec: Any, out: int, valid: np.ndarray | None, *, masked: bool):
        super().__init__()
        self.grid = spec.grid.shape
        self.linear, self.norm = nn.Linear(spec.patch_size, cfg.width), nn.LayerNorm(cfg.width)
        self.mask_token = nn.Parameter(torch.zeros(cfg.width)) if masked else None
        self.blocks, self.merges = nn.ModuleList(), nn.ModuleList()
        for s, inside in enumerate(stages(valid, len(cfg.depths))):
            grid = (self.grid[0] >> s, self.grid[1] >> s)
            width = cfg.width << s
            self.blocks.append(nn.Sequential(*(
                WindowBlock(cfg, width, grid, inside, shifted=i % 2 == 1, rate=rate)
                for i, rate in enumerate(cfg.rates[s])
            )))  # fmt: skip
            merge = nn.Sequential(nn.LayerNorm(2 * width), nn.Linear(2 * width, width, bias=False))
            self.merges.append(merge if s else nn.Identity())
            inside = None if inside is None else torch.from_numpy(inside)[..., None].float()
            self.register_buffer(f"inside{s}", inside)
        time, freq, last = cfg.last(self.grid)
        self.out = nn.Linear(time * freq * last, out)

    def forward(self, patches: Tensor, masked: Tensor | None = None) -> Tensor:
        x = self.norm(self.linear(patches)).unflatten(1, self.grid)
        if masked is not None:
            x = torch.where(masked[..., None], self.mask_token, x)
        x = self.only_inside(x, 0)
        for s, (blocks, merge) in enumerate(zip(self.blocks, self.merges)):
            if s:
                b, t, f, d = x.shape
                x = x.view(b, t // 2, 2, f // 2, 2, d).permute(0, 1, 3, 4, 2, 5)
                x = merge(x.reshape(b, t // 2, f // 2, 4 * d))
            x = self.only_inside(blocks(x), s)
        return self.out(x.flatten(1))

    def only_inside(self, x: Tensor, stage: int) -> Tensor:
        inside = getattr(self, f"inside{stage}")
        return x if inside is None else x * inside

    def copy(self, given: Given, path: str) -> None:
        given.linear(self.linear, f"{path}/patch_embed/linear")
        given.norm(self.norm, f"{path}/patch_embed/norm")
        if self.mask_token is not None:
            self.mask_token.copy_(given(f"{path}/mask_token"))
        for s, (blocks, merge) in enumerate(zip(self.blocks, self.merges)):
            if s:
                given.norm(merge[0], f"{path}/swin/merge{s}/norm")
                given.linear(merge[1], f"{path}/swin/merge{s}/linear")
            for i, block in enumerate(blocks):
                block.copy(given, f"{path}/swin/stage{s}_block{i}")
        given.linear(self.out, f"{path}/out")


class Decoder(nn.Module):
    """A vector ``[b d]`` to the patches ``[b n p]`` of a sensor."""

    def __init__(self, cfg: Any, spec: Any, vector: int, valid: np.ndarray | None):
        super().__init__()
        self.cells = cfg.last(spec.grid.shape)
        self.spread = nn.Linear(vector, int(np.prod(self.cells)))
        self.blocks, self.expands, count = nn.ModuleList(), nn.ModuleList(), len(cfg.depths)
        inside = stages(valid, count)
        for s in reversed(range(count - 1)):
            grid, width = (spec.grid.shape[0] >> s, spec.grid.shape[1] >> s), cfg.width << s
            rates = [cfg.rates[s][min(i, cfg.depths[s] - 1)] for i in range(2)]
            self.expands.append(
                nn.ModuleList([nn.Linear(2 * width, 4 * width, bias=False), nn.LayerNorm(width)])
            )
            self.blocks.append(nn.Sequential(*(
                WindowBlock(cfg, width, grid, inside[s], shifted=i == 1, rate=rate)
                for i, rate in enumerate(rates)
            )))  # fmt: skip
        self.hidden = nn.Linear(cfg.width, cfg.width)
        self.out = nn.Linear(cfg.width, spec.patch_size)

    def forward(self, x: Tensor) -> Tensor:
        x = self.spread(x).unflatten(1, self.cells)
        for (linear, norm), blocks in zip(self.expands, self.blocks):
            b, t, f, d = x.shape
            x = linear(x).view(b, t, f, 2, 2, d // 2).permute(0, 1, 4, 2, 3, 5)
            x = blocks(norm(x.reshape(b, 2 * t, 2 * f, d // 2)))
        return self.out(F.gelu(self.hidden(x))).flatten(1, 2)

    def copy(self, given: Given, path: str) -> None:
        given.linear(self.spread, f"{path}/spread")
        for s, (expand, blocks) in enumerate(reversed(list(zip(self.expands, self.blocks)))):
            given.linear(expand[0], f"{path}/swin/expand{s}/linear")
            given.norm(expand[1], f"{path}/swin/expand{s}/norm")
            for i, block in enumerate(blocks):
                block.copy(given, f"{path}/swin/stage{s}_block{i}")
        given.linear(self.hidden, f"{path}/swin/hidden")
        given.linear(self.out, f"{path}/swin/out")
