"""FOCAL (Liu et al., NeurIPS 2023): contrast of sensors and of views, in shared and private halves."""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torch_refs.parts import Drawn, Given, Reference
from torch_refs.spectra import Sensor
from torch_refs.swin import Encoder
from torch_refs.views import Views


class FOCAL(Reference):
    """An encoder for each sensor; rows come in sub-sequences of neighbours."""

    def __init__(self, cfg: Any):
        super().__init__()
        if cfg.orthogonality != "hinge":
            raise ValueError("the reference has the hinge of the released code")
        self.cfg, self.names, self.views = cfg, list(cfg.specs), Views(cfg.views)
        self.sensors, self.encoders = nn.ModuleList(), nn.ModuleList()
        self.projections, (hidden, out) = nn.ModuleList(), cfg.projection
        for spec in cfg.specs.values():
            valid = None if spec.valid_tokens.all() else spec.valid_tokens
            swin = cfg.encoder.fitted(spec.tokens)
            self.sensors.append(Sensor(cfg, spec))
            self.encoders.append(Encoder(swin, spec, cfg.embedding, valid, masked=False))
            self.projections.append(
                nn.Sequential(nn.Linear(cfg.embedding, hidden), nn.ReLU(), nn.Linear(hidden, out))
            )

    def freeze(self) -> None:
        for encoder in self.encoders:
            encoder.linear.requires_grad_(False)
            encoder.norm.requires_grad_(False)

    def draw(self, *series: Tensor) -> Drawn:
        """Two views of every row, one after the other: ``[2b t c]`` of every sensor."""
        known = [s.standardised(x) for s, x in zip(self.sensors, series)]
        return tuple(self.views([x.repeat_interleave(2, dim=0) for x in known]))

    def encode(self, series: Drawn) -> list[Tensor]:
        return [
            encode(sensor(x)[0]) for encode, sensor, x in zip(self.encoders, self.sensors, series)
        ]

    def forward(self, *series: Tensor, drawn: Drawn) -> Tensor:
        """``series`` ``[b t c]`` of every sensor."""
        cfg, sensors = self.cfg, range(len(self.names))
        z = [project(x) for project, x in zip(self.projections, self.encode(drawn))]
        views = [[x[view::2] for x in z] for view in (0, 1)]
        halves = [[x.chunk(2, dim=-1) for x in view] for view in views]
        pairs = list(itertools.combinations(sensors, 2))
        shared = [self.contrast(v[m][0], v[n][0]) for v in halves for m, n in pairs]
        private = [self.contrast(halves[0][m][1], halves[1][m][1]) for m in sensors]
        apart = [self.angle(*v[m]) for v in halves for m in sensors]
        apart += [self.angle(v[m][1], v[n][1]) for v in halves for m, n in pairs]
        order = [self.order(x) for view in views for x in view]
        return (
            cfg.shared_weight * sum(shared) + cfg.private_weight * sum(private)
            + cfg.orthogonality_weight * sum(apart) + cfg.temporal_weight * sum(order)
        )  # fmt: skip

    def contrast(self, a: Tensor, b: Tensor) -> Tensor:
        """NT-Xent among rows at the same position of their sub-sequences."""
        parts = [x.unflatten(0, (-1, self.cfg.sequence)) for x in (a, b)]
        z = F.normalize(torch.cat(parts), dim=-1).transpose(0, 1)  # [position 2s d]
        scores = z @ z.transpose(1, 2) / self.cfg.temperature
        count = z.shape[1]
        scores = scores.masked_fill(torch.eye(count, dtype=torch.bool), -torch.inf)
        partner = torch.arange(count).roll(count // 2).expand(len(z), -1)
        return F.cross_entropy(scores.flatten(0, 1), partner.flatten())

    def angle(self, a: Tensor, b: Tensor) -> Tensor:
        return F.relu(F.cosine_similarity(a, b, dim=-1)).mean()

    def order(self, z: Tensor) -> Tensor:
        """Rows of a sub-sequence are closer to each other than to those of others."""
        length = self.cfg.sequence
        count = z.shape[0] // length
        sums = torch.cdist(z, z).view(count, length, count, length).sum(dim=(1, 3))
        inside = sums.diagonal() / (length * (length - 1))
        hinge = F.relu(inside[:, None] - sums / length**2 + self.cfg.margin)
        others = ~torch.eye(count, dtype=torch.bool)
        return (hinge * others).sum() / (count * (count - 1))

    def embed(self, *series: Tensor) -> Tensor:
        known = [s.standardised(x) for s, x in zip(self.sensors, series)]
        return torch.cat(self.encode(tuple(known)), dim=-1)

    def copy(self, given: Given) -> None:
        for name, encoder, project in zip(self.names, self.encoders, self.projections):
            encoder.copy(given, f"encoder/{name}")
            given.linear(project[0], f"projection/{name}/hidden")
            given.linear(project[2], f"projection/{name}/out")
