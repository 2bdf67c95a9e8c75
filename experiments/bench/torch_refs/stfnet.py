"""STFNets (Yao et al., WWW 2019) with native complex numbers: `torch.fft.rfft` of the blocks,
interleaving with softmax weights, complex layer norm, one `einsum` for each resolution,
`torch.fft.irfft`."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torch_refs.parts import Drawn, Given, Reference


class Layer(nn.Module):
    """``[b t c]`` to ``[b t o]``; ``pooled``: shorter series of the low bins."""

    def __init__(self, cfg: Any, inputs: int, outputs: int, *, pool: bool = False):
        super().__init__()
        self.windows, self.sizes = cfg.windows, cfg.pooled if pool else cfg.windows
        self.eps, self.both = cfg.eps, cfg.eps_in_covariance
        each = outputs // len(self.windows)
        self.shape = (inputs, each)
        limit = math.sqrt(6 / (inputs * each + cfg.taps))
        self.base = nn.Parameter(torch.empty(cfg.taps, inputs * each).uniform_(-limit, limit))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.gains = nn.ParameterList(
            torch.tensor([[0.5**0.5], [0.0], [0.5**0.5], [0.0], [0.0]]).repeat(1, inputs)
            for _ in self.windows
        )
        self.kernel, self.shift = nn.ParameterDict(), nn.ParameterDict()
        for j, n in enumerate(self.windows):
            free = torch.ones(self.sizes[j] // 2 + 1, dtype=torch.bool)
            for i in range(j):
                r = n // self.windows[i]
                bins = torch.arange(0, len(free), r)
                bins = bins[free[bins]]
                free[bins] = False
                self.register_buffer(f"bins{i}_{j}", bins)
                weight = nn.init.xavier_uniform_(torch.empty(r, 2 * (r + 1)))
                self.kernel[f"{self.windows[i]}_{n}"] = nn.Parameter(weight)
                self.shift[f"{self.windows[i]}_{n}"] = nn.Parameter(torch.zeros(2, r))

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        spectra = [
            torch.fft.rfft(x.view(b, t // n, n, c), dim=2)[:, :, : size // 2 + 1]
            for n, size in zip(self.windows, self.sizes)
        ]
        response = torch.fft.rfft(self.base, dim=0)
        series = []
        for j, size in enumerate(self.sizes):
            z = self.normalise(self.interleave(spectra, j), j)
            weight = resize(response, size // 2 + 1).view(-1, *self.shape)
            z = torch.einsum("bmfc,fca->bmfa", z, weight)
            series.append(torch.fft.irfft(z, n=size, dim=2).reshape(b, -1, self.shape[1]))
        return F.leaky_relu(torch.cat(series, dim=2) + self.bias, 0.2)

    def interleave(self, spectra: list[Tensor], j: int) -> Tensor:
        out = spectra[j].clone()
        for i in range(j):
            r, bins = self.windows[j] // self.windows[i], getattr(self, f"bins{i}_{j}")
            parts = spectra[i][:, :, bins // r]
            b, m, k, c = parts.shape
            parts = parts.reshape(b, m // r, r, k, c)
            name = f"{self.windows[i]}_{self.windows[j]}"
            weight = torch.fft.rfft(self.kernel[name], dim=1)[:, 1 : r + 1]
            score = torch.einsum("bmpkc,qp->bmqkc", parts, weight)
            bias = torch.complex(*self.shift[name])
            weights = torch.softmax((score + bias.view(r, 1, 1)).abs(), dim=2)
            out[:, :, bins] = r * (weights * parts).sum(dim=2)
        return out

    def normalise(self, z: Tensor, j: int) -> Tensor:
        z = z - z.mean(dim=(1, 2, 3), keepdim=True)
        real, imag = z.real, z.imag
        rr, ii = (v.square().mean(dim=(1, 2, 3), keepdim=True) + self.eps for v in (real, imag))
        ri = (real * imag).mean(dim=(1, 2, 3), keepdim=True) + (self.eps if self.both else 0.0)
        s = torch.sqrt(rr * ii - ri.square())
        scale = 1 / (s * torch.sqrt(rr + ii + 2 * s))
        real, imag = (
            scale * ((ii + s) * real - ri * imag),
            scale * ((rr + s) * imag - ri * real),
        )
        g_rr, g_ri, g_ii, b_r, b_i = self.gains[j]
        return torch.complex(g_rr * real + g_ri * imag + b_r, g_ri * real + g_ii * imag + b_i)

    def copy(self, given: Given, path: str) -> None:
        given.left.discard(f"{path}/bias_unread")
        self.base.copy_(given(f"{path}/operator/base"))
        self.bias.copy_(given(f"{path}/bias"))
        for j, gains in enumerate(self.gains):
            rows = [given(f"{path}/norm{j}/scale_{part}") for part in ("rr", "ri", "ii")]
            gains.copy_(torch.stack([*rows, *given(f"{path}/norm{j}/shift")]))
        for pair in self.kernel:
            self.kernel[pair].copy_(given(f"{path}/merge{pair}/kernel"))
            self.shift[pair].copy_(given(f"{path}/merge{pair}/bias"))


def resize(response: Tensor, bins: int) -> Tensor:
    """Complex ``[f p]`` to ``[bins p]``, linear with aligned corners."""
    parts = torch.view_as_real(response).permute(1, 2, 0)
    parts = F.interpolate(parts, size=bins, mode="linear", align_corners=True)
    return torch.view_as_complex(parts.permute(2, 0, 1).contiguous())


class STFNet(Reference):
    """Sensors of one length to class scores, without dropout; the loss of a batch."""

    def __init__(self, cfg: Any):
        super().__init__()
        e = cfg.encoder
        if e.dropout or e.operator != "filter" or e.activation != "time" or not e.pooled:
            raise ValueError("the reference has the released filters alone, without dropout")
        shapes = [e.width] * (e.depth - 1) + [e.sensor_width]
        self.towers = nn.ModuleList(
            nn.Sequential(*(Layer(e, a, b) for a, b in zip([s.channels, *shapes], shapes)))
            for s in cfg.signals
        )
        inputs = e.sensor_width * len(cfg.signals)
        self.fused = nn.Sequential(
            *(Layer(e, e.width if j else inputs, e.width, pool=not j) for j in range(e.depth))
        )
        self.head = nn.Linear(e.width, cfg.head.classes)

    def forward(self, *inputs: Tensor, drawn: Drawn) -> Tensor:
        """``[b t c]`` of every sensor, and the label ``[b]``."""
        del drawn
        return F.cross_entropy(self.head(self.embed(*inputs)), inputs[-1])

    def embed(self, *inputs: Tensor) -> Tensor:
        x = torch.cat([tower(x) for tower, x in zip(self.towers, inputs)], dim=2)
        return self.fused(x).mean(dim=1)

    def copy(self, given: Given) -> None:
        layers = {f"sensor{i}_{j}": layer for i, tower in enumerate(self.towers.children())
                  for j, layer in enumerate(tower.children())}  # fmt: skip
        layers |= {f"fused{j}": layer for j, layer in enumerate(self.fused.children())}
        for name, layer in layers.items():
            assert isinstance(layer, Layer)
            layer.copy(given, f"backbone/encoder/{name}")
        given.linear(self.head, "head/linear")
