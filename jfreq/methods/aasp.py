"""AaSP: masked teacher and student behind an aliasing-aware patch embedding (Yamamoto and Okusa
2025, arXiv 2512.03637, whose first version called all of it AaPE).

Of the paper only the outline is public: the patch embedding (:mod:`jfreq.nn.sblu`), a predictor by
cross-attention, a special token that predicts the clip, an average teacher, and contrast between
the masked views of a clip and other clips. Forms and sizes here are our reading of it, on the
framework of :mod:`jfreq.methods.eat`.
"""

from __future__ import annotations

from typing import Literal, cast

import jax

from jfreq import losses
from jfreq.config import check
from jfreq.methods.base import Method
from jfreq.methods.eat import EAT, Net, Terms, distil
from jfreq.nn.heads import MLPHead
from jfreq.nn.predict import ConvDecoder, CrossPredictor
from jfreq.ranges import NonNegative, Positive, Size, checked
from jfreq.types import Array, Batch, PyTree


@checked
class AaSP(EAT):
    """EAT with the alias branch, a cross-attention predictor and multi-mask contrast."""

    embed: Literal["plain", "aape"] = "aape"
    decoder: ConvDecoder | CrossPredictor = CrossPredictor()
    utterance_weight: NonNegative = 10.0
    contrast_weight: NonNegative = 0.1
    """Views of a clip are pulled together, other clips' pushed away."""
    temperature: Positive = 0.1
    projection: tuple[Size, Size] = (512, 128)
    """Hidden and output width of the MLP that contrast is computed after."""

    def __post_init__(self):
        super().__post_init__()
        check(self.contrast_weight == 0 or self.clones >= 2, "method.clones",
              "contrast compares the views of a clip: take 2, or contrast_weight 0")  # fmt: skip


class _Net(Net):
    """With the projection head that contrast is computed after."""

    def setup(self):
        super().setup()
        cfg = cast(AaSP, self.cfg)
        if cfg.contrast_weight:
            self.project = MLPHead(*cfg.projection)

    def __call__(self, spec, mask, key):
        special, pred = super().__call__(spec, mask, key)
        if self.is_initializing() and cast(AaSP, self.cfg).contrast_weight:
            self.project(special)
        return special, pred

    def projected(self, special: Array) -> Array:
        return self.project(special)


def aasp(cfg: AaSP) -> Method:
    """The method of a bound config; ``contrast`` is counted above its floor, log(clones - 1)."""
    net = _Net(cfg)

    def contrast(params: PyTree, special: Array, batch: Batch) -> Terms:
        if not cfg.contrast_weight:
            return {}
        views = cast(jax.Array, net.apply({"params": params}, special, method=_Net.projected))
        valid = batch["_mask"] > 0 if "_mask" in batch else None
        value = losses.multi_view(views, temperature=cfg.temperature, valid=valid)
        return {"contrast": (cfg.contrast_weight, value - losses.view_floor(cfg.clones))}

    return distil(cfg, net, contrast)
