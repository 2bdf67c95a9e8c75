"""EAT (Chen et al., IJCAI 2024): masked clones predict what an average teacher makes of a clip."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torch_refs.parts import Drawn, Given, Reference, by_scores, take
from torch_refs.trunk import Trunk


class ConvDecoder(nn.Module):
    """Residual blocks of a grouped convolution, a layer norm and GELU over the grid, then a linear
    map of the masked tokens (the image decoder of data2vec 2.0)."""

    def __init__(self, cfg: Any, width: int, grid: tuple[int, int]):
        super().__init__()
        self.grid = grid
        self.convs = nn.ModuleList(
            nn.Conv2d(width, cfg.width, cfg.kernel, padding=cfg.kernel // 2, groups=cfg.groups)
            for _ in range(cfg.depth)
        )
        self.out = nn.Linear(cfg.width, width)

    def forward(self, states: Tensor, masked: Tensor, places: Tensor, noise: Tensor) -> Tensor:
        """Predictions ``[r m d]``; ``noise`` ``[r m d]`` takes the place of masked tokens."""
        x = take(torch.cat([states, noise], dim=1), places)
        x = x.view(len(x), *self.grid, -1)
        for conv in self.convs:
            y = conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            x = x + F.gelu(F.layer_norm(y, y.shape[-1:]))
        return self.out(take(x.flatten(1, 2), masked))

    def copy(self, given: Given, path: str) -> None:
        for i, conv in enumerate(self.convs):
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            conv.weight.copy_(given(f"{path}/blocks/kernel", i).permute(3, 2, 0, 1))
            conv.bias.copy_(given(f"{path}/blocks/bias", i))
        given.linear(self.out, f"{path}/out")


class EAT(Reference):
    """The errors of masked tokens, and of the special token, whose target is the mean of the
    clip."""

    def __init__(self, cfg: Any):
        super().__init__()
        self.clones, self.visible = cfg.clones, cfg.visible
        self.blocks, self.block = cfg.blocks, cfg.block
        self.decoder_noise = getattr(cfg.decoder, "noise", 0.0)
        self.weights = cfg.frame_weight, cfg.utterance_weight
        self.ema, self.ema_steps, self.steps = cfg.ema, cfg.ema_steps, 0
        self.trunk = self.trunk_of(cfg)
        self.teacher = copy.deepcopy(self.trunk).requires_grad_(False)
        self.decoder = self.decoder_of(cfg)

    def trunk_of(self, cfg: Any) -> Trunk:
        return Trunk(cfg)

    def decoder_of(self, cfg: Any) -> nn.Module:
        return ConvDecoder(cfg.decoder, cfg.encoder.width, (cfg.grid.time, cfg.grid.freq))

    def draw(self, spec: Tensor) -> Drawn:
        """The masks of all clones, those of a clip side by side, and the noise in place of masked
        tokens. Tokens in square blocks around random centres are visible, at random among these."""
        time, freq = self.trunk.grid.time, self.trunk.grid.freq
        rows, width = spec.shape[0] * self.clones, self.trunk.special.shape[1]
        centres = torch.randint(0, time * freq, (rows, self.blocks))
        sides = []
        for centre, size in ((centres // freq, time), (centres % freq, freq)):
            first = (centre - self.block // 2)[..., None]
            at = torch.arange(size)
            sides.append(((at >= first) & (at < first + self.block)).float())
        hits = torch.bmm(sides[0].transpose(1, 2), sides[1]).flatten(1) > 0
        mask = by_scores(hits + torch.rand(rows, time * freq), self.visible)
        return *mask, self.decoder_noise * torch.randn(*mask[1].shape, width)

    def forward(self, spec: Tensor, *, drawn: Drawn) -> Tensor:
        """``spec`` ``[b 1 t f]``."""
        return self.terms(spec, drawn)[0]

    def terms(self, spec: Tensor, drawn: Drawn) -> tuple[Tensor, Tensor]:
        """The loss, and the states ``[b r d]`` of the special token."""
        rows, clones = spec.shape[0], self.clones
        visible, masked, places, noise = drawn
        with torch.no_grad():
            target = self.targets(spec)
        tokens = self.trunk.tokens(spec) + self.trunk.positions
        seen = take(tokens, visible.reshape(rows, -1)).view(*visible.shape, -1)
        special, states = self.trunk.encode(seen)
        predicted = self.decoder(states, masked, places, noise)
        wanted = take(target, masked.reshape(rows, -1)).view(predicted.shape)
        scale = target.shape[-1] ** -0.5
        frame = scale * (predicted - wanted).square().sum(-1).mean()
        clip = target.mean(dim=1, keepdim=True)
        special = special[:, 0].view(rows, clones, -1)
        utterance = scale * (special - clip).square().sum(-1).mean()
        return self.weights[0] * frame + self.weights[1] * utterance, special

    def targets(self, spec: Tensor) -> Tensor:
        """What the MLPs of the teacher add, standardised over the clip and averaged."""
        teacher = self.teacher
        x = teacher.with_special(teacher.tokens(spec) + teacher.positions)
        layers = [y[:, len(teacher.special) :].transpose(1, 2) for y in teacher.encoder.added(x)]
        mean = torch.stack([F.instance_norm(y) for y in layers]).mean(dim=0).transpose(1, 2)
        return F.layer_norm(mean, mean.shape[-1:])

    @torch.no_grad()
    def after_step(self) -> None:
        """Moves the teacher towards the student."""
        low, high = self.ema
        decay = low + (high - low) * min(self.steps / self.ema_steps, 1.0)
        pairs = list(zip(self.teacher.parameters(), self.trunk.parameters()))
        torch._foreach_lerp_([a for a, _ in pairs], [b for _, b in pairs], 1 - decay)
        self.steps += 1

    def embed(self, spec: Tensor) -> Tensor:
        return self.trunk.clip(spec)

    def copy(self, given: Given) -> None:
        self.trunk.copy(given)
        self.decoder.copy(given, "decoder")
        pairs = itertools.zip_longest(self.teacher.parameters(), self.trunk.parameters())
        for theirs, ours in pairs:
            theirs.copy_(ours)
