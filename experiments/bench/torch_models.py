"""SSAST and its front end as a PyTorch user would write them; for the benches only.

The same model as ``jfreq.methods.ssast`` with ``ssast_tiny``'s sizes: 1024 frames x 128 mel bins in
patches of 16 x 16, two special tokens, a pre-norm ViT, clusters of masked patches sampled for each
clip and each task, and InfoNCE + 10 MSE. ``load_jfreq`` copies parameters, so that both losses can be
compared on the same masks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEAN, STD = -4.2677393, 4.5689974
TIME, FREQ, PATCH = 64, 8, 16
"""The grid of tokens over 1024 frames x 128 bins."""


class Fbank(nn.Module):
    """Kaldi log-mel filter bank of ``[b t]`` in [-1, 1] by the formula of torchaudio 2
    (``compliance.kaldi.fbank``: Hann, no dither, no energy), batched, with the tables made once."""

    window: Tensor
    bank: Tensor

    def __init__(self, rate: int = 16000, n_mels: int = 128, frames: int = 1024):
        super().__init__()
        self.length, self.hop, self.frames = rate * 25 // 1000, rate * 10 // 1000, frames
        self.n_fft = 1 << (self.length - 1).bit_length()
        self.register_buffer("window", torch.hann_window(self.length, periodic=False))
        self.register_buffer("bank", mel_banks(n_mels, self.n_fft, rate))

    def raw(self, x: Tensor) -> Tensor:
        """``[b frames n_mels]``, complete frames only."""
        x = x - x.mean(dim=1, keepdim=True)
        frames = x.unfold(1, self.length, self.hop)
        frames = frames - frames.mean(dim=2, keepdim=True)
        before = F.pad(frames, (1, 0), mode="replicate")[..., :-1]
        frames = (frames - 0.97 * before) * self.window
        power = torch.fft.rfft(frames, n=self.n_fft).abs().pow(2.0)
        energy = power[..., :-1] @ self.bank
        return energy.clamp_min(torch.finfo(torch.float32).eps).log()

    def forward(self, x: Tensor) -> Tensor:
        """``[b 1 n_mels frames]`` normalised as AST does, zeros of the raw scale at the end."""
        spec = self.raw(x)
        spec = F.pad(spec, (0, 0, 0, self.frames - spec.shape[1]))
        return ((spec - MEAN) / (2 * STD)).transpose(1, 2)[:, None]


def mel_banks(n_mels: int, n_fft: int, rate: int, low_hz: float = 20.0) -> Tensor:
    """``[n_fft // 2, n_mels]``: triangles in mel (``torchaudio``'s ``get_mel_banks``)."""

    def mel(hz):
        return 1127.0 * np.log(1.0 + np.asarray(hz, np.float64) / 700.0)

    low, high = mel(low_hz), mel(rate / 2)
    step = (high - low) / (n_mels + 1)
    left = low + np.arange(n_mels) * step
    at = mel(rate / n_fft * np.arange(n_fft // 2))[:, None]
    up, down = (at - left) / step, (left + 2 * step - at) / step
    return torch.from_numpy(np.maximum(0.0, np.minimum(up, down)).astype(np.float32))


class Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        b, n, d = x.shape
        qkv = self.qkv(self.norm1(x)).view(b, n, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.proj(y.transpose(1, 2).reshape(b, n, d))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Encoder(nn.Module):
    """Tokens ``[b n d]`` in context; two special tokens come first."""

    def __init__(self, width: int, depth: int, heads: int):
        super().__init__()
        self.special = nn.Parameter(torch.randn(2, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(2 + FREQ * TIME, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.embed = nn.Conv2d(1, width, PATCH, PATCH)

    def patches(self, spec: Tensor) -> Tensor:
        """``[b 1 f t]`` to ``[b n d]``, frequency-major."""
        return self.embed(spec).flatten(2).transpose(1, 2)

    def forward(self, tokens: Tensor, valid: Tensor | None = None) -> Tensor:
        """``valid`` ``[b n]``: nobody attends to the others."""
        special = self.special.expand(tokens.shape[0], -1, -1)
        x = torch.cat([special, tokens], dim=1) + self.positions
        mask = None if valid is None else F.pad(valid, (2, 0), value=True)[:, None, None]
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)[:, 2:]


class SSAST(nn.Module):
    """``model(spec) -> (loss, accuracy)``, one mask for each of the two tasks."""

    def __init__(self, width: int = 192, depth: int = 12, heads: int = 3, masked: int = 400):
        super().__init__()
        self.masked = masked
        self.encoder = Encoder(width, depth, heads)
        self.mask_token = nn.Parameter(torch.randn(1, width) * 0.02)
        self.classification_head, self.reconstruction_head = (
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, PATCH * PATCH))
            for _ in range(2)
        )

    def forward(self, spec: Tensor, masked: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``spec`` ``[b 1 f t]``; ``masked`` ``[2b m]``: ids of the masked tokens, by turns for
        classification and reconstruction, sampled here unless given."""
        if masked is None:
            masked = cluster_masks(2 * spec.shape[0], self.masked, spec.device)
        tokens = self.encoder.patches(spec).repeat_interleave(2, dim=0)
        is_masked = torch.zeros(masked.shape[0], FREQ * TIME, dtype=torch.bool, device=spec.device)
        is_masked = is_masked.scatter(1, masked, True)
        states = self.encoder(torch.where(is_masked[..., None], self.mask_token, tokens))
        states = states.gather(1, masked[..., None].expand(-1, -1, states.shape[-1]))
        truth = F.unfold(spec, PATCH, stride=PATCH).transpose(1, 2)
        wanted = truth.repeat_interleave(2, dim=0)
        wanted = wanted.gather(1, masked[..., None].expand(-1, -1, wanted.shape[-1]))
        scores = self.classification_head(states[0::2]) @ wanted[0::2].transpose(1, 2)
        diagonal = torch.arange(scores.shape[-1], device=spec.device).expand(scores.shape[0], -1)
        nce = F.cross_entropy(scores.transpose(1, 2), diagonal)
        mse = F.mse_loss(self.reconstruction_head(states[1::2]), wanted[1::2])
        accuracy = (scores.argmax(-1) == diagonal).float().mean()
        return nce + 10.0 * mse, accuracy


def cluster_masks(rows: int, masked: int, device: torch.device | str) -> Tensor:
    """``[rows masked]`` ids: square clusters of a side of 3 to 5 that arrive in random order."""
    starts = torch.rand(rows, 1, FREQ + 4, TIME + 4, device=device)
    side = torch.randint(3, 6, (rows, 1, 1), device=device)
    arrival = torch.full((rows, FREQ, TIME), torch.inf, device=device)
    for size in (3, 4, 5):
        first = -F.max_pool2d(-starts, size, stride=1)[:, 0, :FREQ, :TIME]
        arrival = torch.where(side == size, first, arrival)
    scores = arrival.flatten(1) + 1e-4 * torch.rand(rows, FREQ * TIME, device=device)
    return scores.argsort(dim=1)[:, :masked]


def adamw(model: nn.Module, *, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """Decay on the weights of matrices only, one fused kernel."""
    decayed = [m.weight for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    ids = {id(p) for p in decayed}
    rest = [p for p in model.parameters() if id(p) not in ids]
    groups = [{"params": decayed}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, fused=True)


def load_jfreq(model: SSAST, params: Mapping[str, np.ndarray]) -> None:
    """Copies jfreq's SSAST parameters, by path (``jfreq.param_paths.flatten``)."""
    width = model.mask_token.shape[-1]
    trunk = "trunk/encoder/blocks"
    state = {
        "mask_token": params["mask_token"],
        "encoder.special": params["trunk/special_tokens"],
        "encoder.positions": np.concatenate([
            params["trunk/positions/special"],
            params["trunk/positions/grid"].reshape(-1, width),
        ]),
        "encoder.embed.weight": params["trunk/patch_embed/kernel"].T.reshape(
            width, 1, PATCH, PATCH
        ),
        "encoder.embed.bias": params["trunk/patch_embed/bias"],
        "encoder.norm.weight": params["trunk/encoder/norm/scale"],
        "encoder.norm.bias": params["trunk/encoder/norm/bias"],
    }  # fmt: skip
    for head in ("classification_head", "reconstruction_head"):
        for mine, theirs in (("0", "hidden"), ("2", "out")):
            state[f"{head}.{mine}.weight"] = params[f"{head}/{theirs}/kernel"].T
            state[f"{head}.{mine}.bias"] = params[f"{head}/{theirs}/bias"]
    for i in range(len(model.encoder.blocks)):
        for name in ("norm1", "norm2"):
            state[f"encoder.blocks.{i}.{name}.weight"] = params[f"{trunk}/{name}/scale"][i]
            state[f"encoder.blocks.{i}.{name}.bias"] = params[f"{trunk}/{name}/bias"][i]
        for name in ("qkv", "proj", "fc1", "fc2"):
            kernel, bias = (params[f"{trunk}/{name}/{part}"][i] for part in ("kernel", "bias"))
            size = math.prod(bias.shape)
            state[f"encoder.blocks.{i}.{name}.weight"] = kernel.reshape(-1, size).T
            state[f"encoder.blocks.{i}.{name}.bias"] = bias.reshape(-1)
    tensors = {name: torch.from_numpy(np.array(leaf, order="C")) for name, leaf in state.items()}
    model.load_state_dict(tensors)
