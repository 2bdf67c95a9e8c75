"""AST (Gong et al., Interspeech 2021): a classifier on overlapping patches."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from torch_refs.parts import Drawn, Given, Reference
from torch_refs.trunk import Trunk


class AST(Reference):
    """Binary cross-entropy of several labels ``[b classes]``, or cross-entropy of one ``[b]``."""

    def __init__(self, cfg: Any):
        super().__init__()
        self.trunk = Trunk(cfg)
        self.norm = nn.LayerNorm(cfg.encoder.width, eps=cfg.head.eps)
        self.head = nn.Linear(cfg.encoder.width, cfg.head.classes)

    def forward(self, spec: Tensor, label: Tensor, *, drawn: Drawn) -> Tensor:
        del drawn
        logits = self.head(self.norm(self.trunk.clip(spec)))
        if label.ndim == 2:
            return F.binary_cross_entropy_with_logits(logits, label)
        return F.cross_entropy(logits, label)

    def embed(self, spec: Tensor, label: Tensor) -> Tensor:
        del label
        return self.trunk.clip(spec)

    def copy(self, given: Given) -> None:
        self.trunk.copy(given, "backbone/trunk")
        given.norm(self.norm, "head/norm")
        given.linear(self.head, "head/linear")
