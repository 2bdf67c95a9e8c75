"""FreqMAE (Kara et al., WWW 2024): sensors are reconstructed from their vector, and from the vector
that the other sensors predict."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from torch_refs.parts import Drawn, Given, Reference
from torch_refs.spectra import Sensor
from torch_refs.swin import Decoder, Encoder


class FreqMAE(Reference):
    """The signal-to-error ratio in dB, weighted by the energy of the clip."""

    def __init__(self, cfg: Any):
        super().__init__()
        if (
            cfg.error != "intended"
            or cfg.mask_kind != "random"
            or cfg.mirror
            or cfg.embed != "both"
        ):
            raise ValueError("the reference follows the paper with random masks")
        self.cfg, self.names = cfg, list(cfg.specs)
        self.sensors, self.encoders = nn.ModuleList(), nn.ModuleList()
        self.decoders, self.fused_decoders = nn.ModuleList(), nn.ModuleList()
        self.predictors = nn.ModuleList()
        self.windows, self.units, self.counts = [], [], []
        vector, others = cfg.embedding, (len(cfg.specs) - 1) * cfg.embedding
        for i, spec in enumerate(cfg.specs.values()):
            swin, read = cfg.swin(spec.tokens), cfg.read_tokens(spec)
            valid = None if read.all() else read
            self.sensors.append(Sensor(cfg, spec))
            self.encoders.append(Encoder(swin, spec, vector, valid, masked=True))
            self.decoders.append(Decoder(swin, spec, vector, valid))
            self.fused_decoders.append(Decoder(swin, spec, vector, valid))
            self.predictors.append(
                nn.Sequential(
                    nn.Linear(others, cfg.fusion), nn.GELU(), nn.Linear(cfg.fusion, vector)
                )
            )
            (t, f), (wt, wf) = read.shape, swin.window
            unit = torch.from_numpy(read.reshape(t // wt, wt, f // wf, wf).any((1, 3)))
            self.windows.append(swin.window)
            self.counts.append(int(round(cfg.mask_ratio * int(unit.sum()), 6)))
            self.register_buffer(f"unit{i}", unit)
            weight = 1 - torch.arange(spec.bins) / max(1, spec.bins - 1)
            cells = weight[None].expand(spec.frames, -1)
            self.register_buffer(f"weight{i}", self.sensors[i].values(cells))

    def freeze(self) -> None:
        for encoder in self.encoders:
            encoder.linear.requires_grad_(False)
            encoder.norm.requires_grad_(False)

    def draw(self, *series: Tensor) -> Drawn:
        """Masked patches ``[b t f]`` of every sensor, whole windows."""
        out = []
        for i, (window, count) in enumerate(zip(self.windows, self.counts)):
            unit = getattr(self, f"unit{i}")
            scores = torch.rand(series[i].shape[0], unit.numel())
            order = scores.masked_fill_(~unit.flatten(), 2.0).argsort(dim=1)
            masked = torch.zeros(scores.shape, dtype=torch.bool).scatter_(1, order[:, :count], True)
            masked = masked.unflatten(1, unit.shape)
            for axis, size in enumerate(window, 1):
                masked = masked.repeat_interleave(size, dim=axis)
            out.append(masked)
        return tuple(out)

    def vectors(
        self, patches: list[Tensor], drawn: Drawn | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The vectors of the sensors, and those that the others predict."""
        masks = drawn or (None,) * len(patches)
        own = [encode(x, m) for encode, x, m in zip(self.encoders, patches, masks)]
        fused = [
            predict(torch.cat(own[:i] + own[i + 1 :], dim=-1))
            for i, predict in enumerate(self.predictors)
        ]
        return own, fused

    def forward(self, *series: Tensor, drawn: Drawn) -> Tensor:
        """``series`` ``[b t c]`` of every sensor."""
        spectra = [s(s.standardised(x)) for s, x in zip(self.sensors, series)]
        patches, energy = [x for x, _ in spectra], torch.stack([e for _, e in spectra]).mean(dim=0)
        weight = energy**self.cfg.exponent
        weight = weight / weight.mean()
        own, fused = self.vectors(patches, drawn)
        total = series[0].new_zeros(())
        for i, masked in enumerate(drawn):
            cells = masked.flatten(1)[..., None] * getattr(self, f"weight{i}")
            first = self.error(self.decoders[i](own[i]), patches[i], cells, weight)
            second = self.error(self.fused_decoders[i](fused[i]), patches[i], cells, weight)
            total = total + first + self.cfg.gamma * second
        return total

    def error(self, predicted: Tensor, truth: Tensor, cells: Tensor, weight: Tensor) -> Tensor:
        noise = (cells * (predicted - truth).square()).sum(dim=(1, 2))
        signal = (cells * truth.square()).sum(dim=(1, 2))
        eps = 1e-6 * signal + 1e-12
        decibel = 10 / math.log(10)
        return -(weight * decibel * ((signal + eps).log() - (noise + eps).log())).mean()

    def embed(self, *series: Tensor) -> Tensor:
        patches = [s(s.standardised(x))[0] for s, x in zip(self.sensors, series)]
        own, fused = self.vectors(patches, None)
        return torch.cat(own + fused, dim=-1)

    def copy(self, given: Given) -> None:
        for i, name in enumerate(self.names):
            self.encoders[i].copy(given, f"sensor_{name}")
            self.decoders[i].copy(given, f"unimodal_decoder_{name}")
            self.fused_decoders[i].copy(given, f"fused_decoder_{name}")
            given.linear(self.predictors[i][0], f"predict_{name}/hidden")
            given.linear(self.predictors[i][2], f"predict_{name}/out")
