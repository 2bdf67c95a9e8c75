"""STFNets as a PyTorch user would write them; for the benches only.

The released HHAR network with native complex numbers: `torch.fft.rfft` of the blocks, interleaving
with softmax weights, complex layer norm, one `einsum` for each resolution, `torch.fft.irfft`.
``load_jfreq`` copies parameters, so that both losses can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

WINDOWS, POOLED = (16, 32, 64, 128), (12, 24, 48, 96)
TAPS = 32


class Layer(nn.Module):
    """``[b t c]`` to ``[b t o]``; ``pooled``: shorter series of the low bins."""

    def __init__(self, inputs: int, outputs: int, *, pool: bool = False):
        super().__init__()
        self.sizes = POOLED if pool else WINDOWS
        each = outputs // len(WINDOWS)
        self.shape = (inputs, each)
        limit = math.sqrt(6 / (inputs * each + TAPS))
        self.base = nn.Parameter(torch.empty(TAPS, inputs * each).uniform_(-limit, limit))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.gains = nn.ParameterList(
            torch.tensor([[0.5**0.5], [0.0], [0.5**0.5], [0.0], [0.0]]).repeat(1, inputs)
            for _ in WINDOWS
        )
        self.kernel, self.shift = nn.ParameterDict(), nn.ParameterDict()
        for j, n in enumerate(WINDOWS):
            for i in range(j):
                r = n // WINDOWS[i]
                weight = nn.init.xavier_uniform_(torch.empty(r, 2 * (r + 1)))
                self.kernel[f"{WINDOWS[i]}_{n}"] = nn.Parameter(weight)
                self.shift[f"{WINDOWS[i]}_{n}"] = nn.Parameter(torch.zeros(2, r))

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        spectra = [
            torch.fft.rfft(x.view(b, t // n, n, c), dim=2)[:, :, : size // 2 + 1]
            for n, size in zip(WINDOWS, self.sizes)
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
        out, taken = spectra[j].clone(), torch.zeros(spectra[j].shape[2], dtype=torch.bool)
        for i in range(j):
            r = WINDOWS[j] // WINDOWS[i]
            bins = torch.arange(0, len(taken), r)
            bins = bins[~taken[bins]]
            taken[bins] = True
            parts = spectra[i][:, :, bins // r]
            b, m, k, c = parts.shape
            parts = parts.reshape(b, m // r, r, k, c)
            name = f"{WINDOWS[i]}_{WINDOWS[j]}"
            weight = torch.fft.rfft(self.kernel[name], dim=1)[:, 1 : r + 1]
            score = torch.einsum("bmpkc,qp->bmqkc", parts, weight)
            bias = torch.complex(*self.shift[name])
            weights = torch.softmax((score + bias.view(r, 1, 1)).abs(), dim=2)
            out[:, :, bins] = r * (weights * parts).sum(dim=2)
        return out

    def normalise(self, z: Tensor, j: int, eps: float = 1e-4) -> Tensor:
        z = z - z.mean(dim=(1, 2, 3), keepdim=True)
        real, imag = z.real, z.imag
        rr, ii = (v.square().mean(dim=(1, 2, 3), keepdim=True) + eps for v in (real, imag))
        ri = (real * imag).mean(dim=(1, 2, 3), keepdim=True)
        s = torch.sqrt(rr * ii - ri.square())
        scale = 1 / (s * torch.sqrt(rr + ii + 2 * s))
        real, imag = (
            scale * ((ii + s) * real - ri * imag),
            scale * ((rr + s) * imag - ri * real),
        )
        g_rr, g_ri, g_ii, b_r, b_i = self.gains[j]
        return torch.complex(g_rr * real + g_ri * imag + b_r, g_ri * real + g_ii * imag + b_i)


def resize(response: Tensor, bins: int) -> Tensor:
    """Complex ``[f p]`` to ``[bins p]``, linear with aligned corners."""
    parts = torch.view_as_real(response).permute(1, 2, 0)
    parts = F.interpolate(parts, size=bins, mode="linear", align_corners=True)
    return torch.view_as_complex(parts.permute(2, 0, 1).contiguous())


class STFNet(nn.Module):
    """Two sensors of three channels to class scores, without dropout; the loss of a batch."""

    def __init__(self, channels: int = 3, width: int = 64, classes: int = 6):
        super().__init__()
        half = width // 2
        self.towers = nn.ModuleList(
            nn.Sequential(Layer(channels, width), Layer(width, width), Layer(width, half))
            for _ in range(2)
        )
        self.fused = nn.Sequential(
            Layer(width, width, pool=True), Layer(width, width), Layer(width, width)
        )
        self.head = nn.Linear(width, classes)

    def forward(self, first: Tensor, second: Tensor, label: Tensor) -> Tensor:
        x = torch.cat([tower(x) for tower, x in zip(self.towers, (first, second))], dim=2)
        return F.cross_entropy(self.head(self.fused(x).mean(dim=1)), label)


def load_jfreq(model: STFNet, params: Mapping[str, np.ndarray]) -> None:
    """Copies the flat parameters of a jfreq ``STFNet`` (``backbone/encoder/...``, ``head/...``)."""
    layers = {f"sensor{i}_{j}": layer for i, tower in enumerate(model.towers.children())
              for j, layer in enumerate(tower.children())}  # fmt: skip
    layers |= {f"fused{j}": layer for j, layer in enumerate(model.fused.children())}

    def put(target: Tensor, value: np.ndarray) -> None:
        with torch.no_grad():
            target.copy_(torch.from_numpy(np.array(value)))

    for name, layer in layers.items():
        assert isinstance(layer, Layer)
        layer_params = {k.split(f"/{name}/")[1]: v for k, v in params.items() if f"/{name}/" in k}
        put(layer.base, layer_params["operator/base"])
        put(layer.bias, layer_params["bias"])
        for j, gains in enumerate(layer.gains):
            rows = [layer_params[f"norm{j}/scale_{part}"] for part in ("rr", "ri", "ii")]
            put(gains, np.stack([*rows, *layer_params[f"norm{j}/shift"]]))
        for pair in layer.kernel:
            put(layer.kernel[pair], layer_params[f"merge{pair}/kernel"])
            put(layer.shift[pair], layer_params[f"merge{pair}/bias"])
    put(model.head.weight, params["head/linear/kernel"].T)
    put(model.head.bias, params["head/linear/bias"])
