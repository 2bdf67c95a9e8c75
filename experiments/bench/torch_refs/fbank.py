"""Kaldi's log-mel filter bank in PyTorch."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEAN, STD = -4.2677393, 4.5689974


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
