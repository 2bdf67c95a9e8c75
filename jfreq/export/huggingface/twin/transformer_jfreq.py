"""Transformer blocks, with norms before or after attention and MLP."""

# pyright: reportMissingImports=false

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Transformer(nn.Module):
    """``depth`` blocks, and a norm before them (``post``) or after them (``pre``)."""

    def __init__(
        self,
        width,
        depth,
        heads,
        hidden,
        *,
        eps=1e-6,
        norm="pre",
        final_norm=True,
        residual_scale=1.0,
        dropout=0.0,
        attention_dropout=0.0,
        drop_path=0.0,
    ):
        super().__init__()
        self.first = norm == "post"
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(
                width,
                heads,
                hidden,
                eps=eps,
                norm=norm,
                residual_scale=residual_scale,
                dropout=dropout,
                attention_dropout=attention_dropout,
                drop_path=drop_path * i / max(1, depth - 1),
            )
            for i in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=eps) if final_norm else nn.Identity()

    def forward(self, x, attended=None):
        """Tokens ``[b n d]`` in context, and those before the first block and after each; tokens
        that are not ``attended`` ``[b n]`` are read by none."""
        mask = None if attended is None else attended[:, None, None]
        x = self.dropout(self.norm(x) if self.first else x)
        states = [x]
        for block in self.blocks:
            x = block(x, mask)
            states.append(x)
        return x if self.first else self.norm(x), tuple(states)


class Block(nn.Module):
    """Attention, then an MLP, each added to the stream."""

    def __init__(
        self,
        width,
        heads,
        hidden,
        *,
        eps,
        norm,
        residual_scale,
        dropout,
        attention_dropout,
        drop_path,
    ):
        super().__init__()
        self.post, self.scale, self.drop_path = norm == "post", residual_scale, drop_path
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads, attention_dropout)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = MLP(width, hidden, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, mask):
        if self.post:
            x = self.norm1(self.scale * x + self.skipped(self.attn(x, mask)))
            return self.norm2(self.scale * x + self.skipped(self.mlp(x)))
        x = x + self.skipped(self.attn(self.norm1(x), mask))
        return x + self.skipped(self.mlp(self.norm2(x)))

    def skipped(self, y):
        """What a branch adds; in training some rows skip it."""
        y = self.dropout(y)
        if not self.training or not self.drop_path:
            return y
        kept = 1.0 - self.drop_path
        return y * torch.empty(len(y), 1, 1, device=y.device).bernoulli_(kept).to(y.dtype) / kept


class Attention(nn.Module):
    """Attention with several heads."""

    def __init__(self, width, heads, dropout):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x, mask):
        b, n, d = x.shape
        qkv = self.qkv(x).view(b, n, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        drop = self.dropout if self.training else 0.0
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=drop)
        return self.proj(y.transpose(1, 2).reshape(b, n, d))


class MLP(nn.Module):
    """Two layers with GELU between them."""

    def __init__(self, width, hidden, dropout):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x):
        return self.fc2(self.dropout(functional.gelu(self.fc1(x))))
