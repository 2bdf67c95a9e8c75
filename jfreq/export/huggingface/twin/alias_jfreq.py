"""The branch beside the patch embedding that measures modulations which patches alias (AaPE,
Yamamoto and Okusa 2025, arXiv 2512.03637, as jfreq reads it).

Letters of axes: ``t`` frames, ``p`` patches in time, ``g`` patches in frequency, ``s`` kernels,
``m`` frames of a patch, ``k`` taps.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from .transformer_jfreq import Transformer

MAX_OFFSET = 1.5
"""Largest distance of a kernel from the centre of its cell, in half widths of the cell."""


class AliasBranch(nn.Module):
    """Adds what patches alias to their tokens."""

    def __init__(self, config):
        super().__init__()
        alias, (frames, bins), (_, freq) = config.alias, config.patch, config.grid
        self.config, kernels, out = config, alias["kernels"], alias["out"]
        self.encoder = LambdaEncoder(config)
        parts = 3 if alias["magnitude"] else 2
        self.bands = nn.Parameter(torch.zeros(freq, bins, kernels))
        self.mix = nn.Parameter(torch.zeros(freq, parts * kernels, kernels))
        self.project = nn.Linear(frames * kernels, out)
        self.norm_alias = nn.LayerNorm(out, eps=1e-6)
        self.concat = alias["fusion"] == "concat"
        if self.concat:
            self.norm_plain = nn.LayerNorm(config.hidden_size, eps=1e-6)
        inputs = out + config.hidden_size * self.concat
        self.linear = nn.Linear(inputs, config.hidden_size, bias=self.concat)

    def forward(self, spec, tokens, attended):
        """``tokens`` ``[b n d]`` of spectrograms ``[b t f]`` combined with the branch."""
        found = self.norm_alias(self.measure(spec.float(), attended))
        if not self.concat:
            return tokens + self.linear(found)
        return self.linear(torch.cat([self.norm_plain(tokens), found], dim=-1))

    def measure(self, spec, attended):
        """Tokens ``[b n e]`` of the band that patches alias."""
        config, alias = self.config, self.config.alias
        (frames, bins), (hop, step), (time, freq) = config.patch, config.stride, config.grid
        local, reach = alias["context"] == "local", alias["taps"] // 2
        alpha, beta = self.encoder(cut(spec, config), attended)  # [b p g s]
        if not local:
            spec = high_passed(spec, alias["high_pass"], 1 / (2 * frames))
        x = spec.unfold(2, bins, step)[:, :, :freq]  # [b t g i]
        x = torch.einsum("btgi,gio->bgot", x, self.bands.float())
        if local:  # a patch by itself, less its mean
            x = x.unfold(-1, frames, hop)[..., :time, :]
            x = functional.pad(x - x.mean(dim=-1, keepdim=True), (reach, reach))
        else:
            x = functional.pad(x, (reach, reach)).unfold(-1, frames + 2 * reach, hop)
        x = x.unfold(-1, alias["taps"], 1)  # [b g s p m k]
        kernel = kernels(alpha, beta, alias).permute(0, 3, 4, 2, 5, 1)  # [b g s p k 2]
        parts = (x @ kernel).unbind(-1)  # [b g s p m] each
        if alias["magnitude"]:
            power = parts[0].square() + parts[1].square()
            parts = (*parts, 0.5 * torch.log(power + 1e-6))
        y = torch.einsum("bgjpm,gjo->bgpmo", torch.cat(parts, dim=2), self.mix.float())
        y = functional.gelu(y)
        if config.token_order == "time_major":
            y = y.transpose(1, 2)
        return self.project(y.flatten(1, 2).flatten(2).to(self.project.weight.dtype))


class LambdaEncoder(nn.Module):
    """Predicts decay and frequency of the kernels of every patch."""

    def __init__(self, config):
        super().__init__()
        alias, (time, freq) = config.alias, config.grid
        self.config, width, count = config, alias["hidden_size"], alias["kernels"]
        self.adaptive = alias["adaptive"]
        if not self.adaptive:
            self.alpha = nn.Parameter(torch.zeros(freq, count))
            self.beta = nn.Parameter(torch.zeros(freq, count))
            return
        self.embed = nn.Linear(config.patch[0] * config.patch[1], width)
        self.register_buffer("positions", torch.zeros(1, time * freq, width))
        depth, heads = alias["num_hidden_layers"], alias["num_attention_heads"]
        self.transformer = Transformer(width, depth, heads, 4 * width)
        self.alpha = nn.Linear(width, count)
        self.beta = nn.Linear(width, count)

    def forward(self, patches, attended):
        """``alpha`` per frame and ``beta`` in cycles per frame ``[b p g s]``, float32."""
        if self.adaptive:
            x = self.embed(patches.to(self.embed.weight.dtype)) + self.positions
            if self.config.alias["context"] == "local":  # every token by itself
                x = self.transformer(x.reshape(-1, 1, x.shape[-1]))[0].reshape(x.shape)
            else:
                x = self.transformer(x, attended)[0]
            alpha, beta = (by_time(head(x), self.config) for head in (self.alpha, self.beta))
        else:
            shape = (len(patches), self.config.grid[0], -1, -1)
            alpha, beta = (head.expand(shape) for head in (self.alpha, self.beta))
        return bounded(alpha.float(), beta.float(), self.config.alias)


def bounded(alpha, beta, alias):
    """Any numbers as decays and frequencies in their ranges."""
    low, high = alias["decay"]
    start, end = alias["band"]
    edges = np.geomspace(start, end, alias["kernels"] + 1)
    centre, half = np.sqrt(edges[1:] * edges[:-1]), np.diff(edges) / 2
    centre, half = (
        torch.tensor(x, dtype=torch.float32, device=beta.device) for x in (centre, half)
    )
    alpha = low * (high / low) ** torch.sigmoid(alpha)
    return alpha, (centre + MAX_OFFSET * half * torch.tanh(beta)).clamp(start, end)


def kernels(alpha, beta, alias):
    """Real and imaginary part of two-sided exponentials, ``[b 2 p g s k]``."""
    reach = alias["taps"] // 2
    m = torch.arange(-reach, reach + 1, dtype=torch.float32, device=alpha.device)
    alpha, beta = alpha[..., None], beta[..., None]
    size = torch.exp(-alpha * m.abs())
    if alias["phase"] == "hermitian":
        angle = 2 * math.pi * beta * m
        size = torch.tanh(alpha / 2) * size
        return torch.stack([size * torch.cos(angle), size * torch.sin(angle)], dim=1)
    angle = -2 * math.pi * beta * m.abs()
    real, imag = size * torch.cos(angle), size * torch.sin(angle)
    a, b = sinhc(alpha / 2, math.pi * beta)
    if alias["unit_gain"]:
        a, b = alpha * a, alpha * b
    return torch.stack([a * real - b * imag, a * imag + b * real], dim=1)


def sinhc(a, b):
    """``sinh(z) / z`` of ``z = a + i b``, away from 0."""
    size = a * a + b * b
    real, imag = torch.sinh(a) * torch.cos(b), torch.cosh(a) * torch.sin(b)
    return (a * real + b * imag) / size, (a * imag - b * real) / size


def cut(spec, config):
    """The patches ``[b n p]`` of spectrograms ``[b t f]``, values in the order of frequency."""
    (frames, bins), (hop, step) = config.patch, config.stride
    x = spec.unfold(1, frames, hop).unfold(2, bins, step).transpose(-1, -2)  # [b p g f t]
    if config.token_order == "freq_major":
        x = x.transpose(1, 2)
    return x.flatten(1, 2).flatten(2)


def by_time(x, config):
    """Values ``[b n s]`` of tokens as ``[b p g s]``."""
    time, freq = config.grid
    if config.token_order == "time_major":
        return x.unflatten(1, (time, freq))
    return x.unflatten(1, (freq, time)).transpose(1, 2)


def high_passed(spec, taps, cutoff):
    """Spectrograms ``[b t f]`` above ``cutoff`` cycles per frame, reflected at their ends."""
    h = torch.from_numpy(high_pass(taps, cutoff)).to(spec.device)
    x = functional.pad(spec.transpose(1, 2), (taps // 2, taps // 2), mode="reflect")
    return (x.unfold(-1, taps, 1) @ h).transpose(1, 2)


@functools.lru_cache
def high_pass(taps, cutoff):
    """One minus a windowed sinc, ``[taps]`` float32."""
    half = taps // 2
    low = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(taps) / (taps - 1))
    low = low * np.sinc(2 * cutoff * np.arange(-half, half + 1))
    h = -low / low.sum()
    h[half] += 1
    return h.astype(np.float32)
