"""MAE (He et al., CVPR 2022) on the spectra of several sensors."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torch_refs.parts import Drawn, Given, Reference, Transformer, by_scores, sines, take
from torch_refs.spectra import Sensor


class MAE(Reference):
    """The encoder reads the visible patches of all sensors as one sequence."""

    def __init__(self, cfg: Any):
        super().__init__()
        self.specs, width = list(cfg.specs.values()), cfg.encoder.width
        if not all(spec.valid_cells.all() for spec in self.specs):
            raise ValueError("the reference takes patches that tile the spectra")
        self.visible = [cfg.visible(spec) for spec in self.specs]
        self.sensors = nn.ModuleList(Sensor(cfg, spec) for spec in self.specs)
        self.embeddings = nn.ModuleList(nn.Linear(s.patch_size, width) for s in self.specs)
        self.encoder, self.decoder = Transformer(cfg.encoder), Transformer(cfg.decoder)
        inner = cfg.decoder.width
        self.decoder_embed = nn.Linear(width, inner)
        self.mask_token = nn.Parameter(torch.zeros(inner))
        self.modality = nn.Parameter(torch.zeros(len(self.specs), inner))
        self.heads = nn.ModuleList(nn.Linear(inner, s.patch_size) for s in self.specs)
        for i, spec in enumerate(self.specs):
            for name, size in (("positions", width), ("decoder_positions", inner)):
                self.register_buffer(f"{name}{i}", sines(spec.grid.time, spec.grid.freq, size))

    def draw(self, *series: Tensor) -> Drawn:
        rows = series[0].shape[0]
        parts = [
            by_scores(torch.rand(rows, spec.grid.size), visible)
            for spec, visible in zip(self.specs, self.visible)
        ]
        return tuple(ids for mask in parts for ids in mask)

    def patches(self, series: tuple[Tensor, ...]) -> list[Tensor]:
        return [sensor(sensor.standardised(x))[0] for sensor, x in zip(self.sensors, series)]

    def tokens(self, patches: list[Tensor]) -> list[Tensor]:
        return [
            embed(x) + getattr(self, f"positions{i}")
            for i, (embed, x) in enumerate(zip(self.embeddings, patches))
        ]

    def forward(self, *series: Tensor, drawn: Drawn) -> Tensor:
        """``series`` ``[b t c]`` of every sensor; ``drawn``: the masks of all sensors."""
        visible, masked, places = drawn[0::3], drawn[1::3], drawn[2::3]
        patches = self.patches(series)
        seen = [take(x, ids) for x, ids in zip(self.tokens(patches), visible)]
        states = self.decoder_embed(self.encoder(torch.cat(seen, dim=1)))
        full = []
        for i, part in enumerate(states.split(self.visible, dim=1)):
            hidden = self.mask_token.expand(*masked[i].shape, -1)
            x = take(torch.cat([part, hidden], dim=1), places[i])
            full.append(x + self.modality[i] + getattr(self, f"decoder_positions{i}"))
        parts = self.decoder(torch.cat(full, dim=1)).split([s.grid.size for s in self.specs], dim=1)
        errors = [
            F.mse_loss(take(head(x), ids), take(truth, ids))
            for head, x, truth, ids in zip(self.heads, parts, patches, masked)
        ]
        return torch.stack(errors).mean()

    def embed(self, *series: Tensor) -> Tensor:
        """Means over time of every frequency row of every sensor."""
        grids = [
            x.unflatten(1, spec.grid.shape)
            for x, spec in zip(self.tokens(self.patches(series)), self.specs)
        ]
        x = torch.cat(grids, dim=2)
        return self.encoder(x.flatten(1, 2)).view(x.shape).mean(dim=1).flatten(1)

    def copy(self, given: Given) -> None:
        for i, spec in enumerate(self.specs):
            given.linear(self.embeddings[i], f"trunk/patch_embed/{spec.signal.name}")
            given.linear(self.heads[i], f"decoder/reconstruct_{spec.signal.name}")
        self.encoder.copy(given, "trunk/encoder")
        self.decoder.copy(given, "decoder/encoder")
        given.linear(self.decoder_embed, "decoder/embed")
        self.mask_token.copy_(given("decoder/mask_token"))
        self.modality.copy_(given("decoder/modality"))
