"""What the references share: how they are used, transformers, positions, masks, parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Arrays = Mapping[str, Any]
Drawn = tuple[Tensor, ...]
"""What a step draws at random: masks, noise, views."""


class Given:
    """Parameters of jfreq by path, which must all be taken."""

    def __init__(self, params: Arrays):
        self.params, self.left = params, set(params)

    def __call__(self, path: str, index: int | None = None) -> Tensor:
        """The parameter at ``path``, or that of one block of a stack."""
        self.left.discard(path)
        value = np.asarray(self.params[path])
        return torch.from_numpy(np.array(value if index is None else value[index], order="C"))

    def linear(self, layer: nn.Linear, path: str, index: int | None = None) -> None:
        layer.weight.copy_(self(f"{path}/kernel", index).reshape(layer.in_features, -1).T)
        if layer.bias is not None:
            layer.bias.copy_(self(f"{path}/bias", index).reshape(-1))

    def norm(self, layer: nn.LayerNorm, path: str, index: int | None = None) -> None:
        layer.weight.copy_(self(f"{path}/scale", index))
        layer.bias.copy_(self(f"{path}/bias", index))

    def check(self) -> None:
        """Raises ``ValueError`` where parameters were left over."""
        if self.left:
            raise ValueError(f"parameters without a place: {', '.join(sorted(self.left))}")


class Reference(nn.Module):
    """A method: ``model(*inputs, drawn=model.draw(*inputs))`` is the loss of a batch,
    ``model.embed(*inputs)`` its clip vectors."""

    def draw(self, *inputs: Tensor) -> Drawn:
        """What a step draws at random: masks, noise, views; nothing by default."""
        del inputs
        return ()

    def forward(self, *inputs: Tensor, drawn: Drawn) -> Tensor:
        """The loss of a batch."""
        raise NotImplementedError

    def embed(self, *inputs: Tensor) -> Tensor:
        """Clip vectors ``[b d]`` of the frozen encoder."""
        raise NotImplementedError

    def copy(self, given: Given) -> None:
        """Copies jfreq's parameters."""
        raise NotImplementedError

    def freeze(self) -> None:
        """Takes parameters that a recipe never changes out of the training."""

    def after_step(self) -> None:
        """What follows an update, such as that of a teacher."""

    def load(self, params: Arrays) -> None:
        """Takes jfreq's parameters, by path; ``ValueError`` unless all have a place."""
        given = Given(params)
        with torch.no_grad():
            self.copy(given)
        given.check()


# ------------------------------------------------------------------ a transformer


class Block(nn.Module):
    """Attention and an MLP; ``post``: norms after the sums. Returns what the MLP adds, too."""

    def __init__(self, width: int, heads: int, *, hidden: int, eps: float, post: bool = False):
        super().__init__()
        self.heads, self.post = heads, post
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=eps) for _ in range(2))
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def attention(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        qkv = self.qkv(x).view(b, n, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(b, n, d))

    def mlp(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.post:
            x = self.norm1(x + self.attention(x))
            y = self.mlp(x)
            return self.norm2(x + y), y
        x = x + self.attention(self.norm1(x))
        y = self.mlp(self.norm2(x))
        return x + y, y


class Transformer(nn.Module):
    """``[b n d]`` in context: blocks, a norm after them, or before them where ``cfg.norm`` is
    ``post``; of a ``jfreq.nn.vit.ViT``."""

    def __init__(self, cfg: Any):
        super().__init__()
        self.post, hidden = cfg.norm == "post", round(cfg.width * cfg.mlp_ratio)
        self.blocks = nn.ModuleList(
            Block(cfg.width, cfg.heads, hidden=hidden, eps=cfg.eps, post=self.post)
            for _ in range(cfg.depth)
        )
        self.norm = nn.LayerNorm(cfg.width, eps=cfg.eps)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x) if self.post else x
        for block in self.blocks:
            x, _ = block(x)
        return x if self.post else self.norm(x)

    def added(self, x: Tensor) -> list[Tensor]:
        """What the MLP of every block adds."""
        x, out = self.norm(x) if self.post else x, []
        for block in self.blocks:
            x, y = block(x)
            out.append(y)
        return out

    def copy(self, given: Given, path: str) -> None:
        given.norm(self.norm, f"{path}/norm")
        for i, block in enumerate(self.blocks):
            copy_block(given, block, f"{path}/blocks", i)


def copy_block(given: Given, block: nn.Module, path: str, index: int | None = None) -> None:
    """All linear maps and norms of a block, which have jfreq's names."""
    for name, layer in block.named_children():
        if isinstance(layer, nn.Linear):
            given.linear(layer, f"{path}/{name}", index)
        elif isinstance(layer, nn.LayerNorm):
            given.norm(layer, f"{path}/{name}", index)


# ------------------------------------------------------------------ tokens


def sines(time: int, freq: int, width: int, *, time_major: bool = True) -> Tensor:
    """Fixed positions ``[n d]`` of a grid: half of the width codes frequency, half time, each by
    sines and cosines (MAE, on two axes)."""

    def axis(n: int) -> Tensor:
        rate = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
        angle = torch.arange(n, dtype=torch.float64)[:, None] * rate
        return torch.cat([angle.sin(), angle.cos()], dim=1).float()

    f, t = axis(freq), axis(time)
    table = torch.cat(
        [f[None].expand(time, -1, -1), t[:, None].expand(-1, freq, -1)], dim=2
    )  # [t f d]
    return (table if time_major else table.transpose(0, 1)).reshape(time * freq, width)


def take(x: Tensor, ids: Tensor) -> Tensor:
    """Tokens ``ids`` ``[b k]`` of ``[b n d]``."""
    return x.gather(1, ids[..., None].expand(-1, -1, x.shape[2]))


def by_scores(scores: Tensor, visible: int) -> Drawn:
    """The ids of the ``visible`` highest ``scores`` ``[b n]``, of the others, and where each token
    is in both, one after the other."""
    order = scores.argsort(dim=1, descending=True)
    return order[:, :visible], order[:, visible:], order.argsort(dim=1)


def mask_of(mask: Any) -> Drawn:
    """The tensors of a ``jfreq.types.Mask``, in the order of :func:`by_scores`."""
    return tuple(torch.from_numpy(np.array(ids, np.int64)) for ids in mask)


# ------------------------------------------------------------------ training


def optimiser(model: nn.Module, cfg: Any) -> torch.optim.Optimizer:
    """Adam in one fused kernel with the rates of a ``jfreq.config.Optim``; decay on the weights of
    linear maps and convolutions, or on everything where ``decay`` says so."""
    trained = [p for p in model.parameters() if p.requires_grad]
    kind = {"adam_l2": torch.optim.Adam, "adamw": torch.optim.AdamW}[cfg.kind]
    options = {"lr": cfg.lr, "betas": (cfg.b1 or 0.9, cfg.b2 or 0.999), "fused": True}
    if cfg.decay == (".*",):
        return kind(trained, weight_decay=cfg.weight_decay, **options)
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    ids = {id(layer.weight) for layer in layers}
    groups = [
        {"params": [p for p in trained if id(p) in ids], "weight_decay": cfg.weight_decay},
        {"params": [p for p in trained if id(p) not in ids], "weight_decay": 0.0},
    ]
    return kind(groups, **options)


def training_step(
    model: Reference, forward: Callable[..., Tensor], inputs: tuple[Tensor, ...], cfg: Any
) -> Callable[[], float]:
    """Takes one step of ``model``, whose loss ``forward`` computes: the model itself, or compiled."""
    model.freeze()
    optim = optimiser(model, cfg)
    trained = [p for p in model.parameters() if p.requires_grad]

    def take_step() -> float:
        optim.zero_grad(set_to_none=True)
        with torch.no_grad():
            drawn = model.draw(*inputs)
        loss = forward(*inputs, drawn=drawn)
        loss.backward()
        if cfg.clip is not None:
            nn.utils.clip_grad_norm_(trained, cfg.clip, foreach=True)
        optim.step()
        model.after_step()
        return loss.item()

    return take_step
