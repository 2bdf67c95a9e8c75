"""Spectra of short intervals of a sensor, and their patches."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Sensor(nn.Module):
    """``[b t c]`` to patches ``[b n p]`` and the energy ``[b]``, of a sensor that is never absent."""

    mean: Tensor
    std: Tensor
    taper: Tensor

    def __init__(self, cfg: Any, spec: Any):
        """``cfg``: a bound ``SpectraMethod``; ``spec``: the ``SpectrogramSpec`` of the sensor."""
        super().__init__()
        frontend, signal = cfg.frontend, spec.signal
        if frontend.form == "magnitude_phase" or cfg.standardise == "clip":
            raise ValueError("the reference has neither phases in radians nor standardised clips")
        self.spec, self.form, self.two_sided = spec, frontend.form, frontend.two_sided
        self.size, self.hop = frontend.sizes(signal)
        self.remove_mean, self.gain, self.phase = (
            frontend.remove_mean,
            frontend.gain,
            frontend.phase,
        )
        known = bool(signal.mean) and cfg.standardise == "data"
        ones = (1.0,) * signal.channels
        self.register_buffer("mean", torch.tensor(signal.mean if known else (0.0,) * len(ones)))
        self.register_buffer("std", torch.tensor(signal.std if known else ones))
        hann = frontend.taper == "hann"
        taper = torch.hann_window(self.size) if hann else torch.ones(self.size)
        scale = taper.square().sum().sqrt() if frontend.normalise else 1.0
        self.register_buffer("taper", taper / scale)

    def standardised(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` is standardised."""
        frames = x.unfold(1, self.size, self.hop)  # [b n c size]
        if self.remove_mean:
            frames = frames - frames.mean(dim=-1, keepdim=True)
        frames = frames * self.taper
        if self.two_sided:
            z = torch.fft.fft(frames)
        else:
            z = torch.fft.rfft(frames)[..., : self.size // 2]
        z = z.transpose(2, 3)  # [b n f c]
        parts = torch.view_as_real(z)
        energy = parts.square().sum(dim=(1, 2, 3, 4))
        if self.form == "log_phase":
            size = z.abs()[..., None]
            loud = torch.log1p(self.gain * size)
            gain = self.phase * loud / torch.where(size > 0, size, 1.0)
            parts = torch.cat([loud, parts * gain], dim=-1)
        return self.patches(parts.flatten(-2)), energy

    def patches(self, x: Tensor) -> Tensor:
        """``[b n p]`` of ``[b t f k]``; the values of a patch run (frequency, time, channel)."""
        (pt, pf), (t, f) = self.spec.patch, self.spec.grid.shape
        x = F.pad(x, (0, 0, 0, f * pf - x.shape[2], 0, t * pt - x.shape[1]))
        x = x.view(x.shape[0], t, pt, f, pf, -1).permute(0, 1, 3, 4, 2, 5)
        return x.reshape(x.shape[0], t * f, -1)

    def values(self, weight: Tensor) -> Tensor:
        """``weight`` ``[t f]`` of the cells as the weight ``[n p]`` of every value of a patch."""
        return self.patches(weight[None, :, :, None].expand(-1, -1, -1, self.spec.channels))[0]
