"""AaSP: masked teacher and student behind an aliasing-aware patch embedding (Yamamoto and Okusa
2025, arXiv 2512.03637, whose first version called all of it AaPE).

Of the paper only the outline is public: the patch embedding (:mod:`jfreq.nn.aape`), a predictor by
cross-attention, a special token that predicts the clip, an EMA teacher, and contrast between
the masked views of a clip and other clips. Forms and sizes here are our reading of it, on the
framework of :mod:`jfreq.methods.eat`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, cast

from jfreq import losses
from jfreq.config import check
from jfreq.methods.eat import EAT, Net, Terms
from jfreq.nn.apply import apply
from jfreq.nn.heads import MLPHead
from jfreq.nn.predictors import ConvDecoder, CrossPredictor
from jfreq.ranges import NonNegative, Positive, Size, checked
from jfreq.types import Array, Batch, PyTree


@checked
class AaSP(EAT):
    """EAT with the alias branch, a cross-attention predictor and multi-mask contrast."""

    headline: ClassVar[tuple[str, ...]] = ("frame", "utterance", "contrast", "rankme")

    embed: Literal["plain", "aape"] = "aape"
    decoder: ConvDecoder | CrossPredictor = CrossPredictor()
    utterance_weight: NonNegative = 10.0
    contrast_weight: NonNegative = 0.1
    """Weight of the contrast, which pulls views of a clip together and other clips apart."""
    temperature: Positive = 0.1
    projection: tuple[Size, Size] = (512, 128)
    """Hidden and output width of the MLP that contrast is computed after."""

    def __post_init__(self):
        super().__post_init__()
        check(
            self.contrast_weight == 0 or self.clones >= 2,
            "method.clones",
            "contrast compares the views of a clip: take 2 or more, or set contrast_weight to 0",
        )

    @property
    def higher_is_better(self) -> Mapping[str, bool]:
        return {**super().higher_is_better, "contrast": False}

    # ------------------------------------------------------------------ the paper

    @property
    def net(self) -> Net:
        return _Net(self)

    def more_terms(self, params: PyTree, special: Array, batch: Batch) -> Terms:
        """``contrast`` of the views of a clip, less its smallest possible value."""
        if not self.contrast_weight:
            return {}
        views = apply(self.net, params, special, method=_Net.projected)
        valid = batch["_mask"] > 0 if "_mask" in batch else None
        value = losses.multi_view(views, temperature=self.temperature, valid=valid)
        return {"contrast": (self.contrast_weight, value - losses.multi_view_minimum(self.clones))}


class _Net(Net):
    """The network of EAT and the projection head that contrast is computed after."""

    def setup(self):
        super().setup()
        cfg = cast(AaSP, self.cfg)
        if cfg.contrast_weight:
            self.project = MLPHead(*cfg.projection)

    def __call__(self, spec, mask, key, *, train=False):
        special, pred = super().__call__(spec, mask, key, train=train)
        if self.is_initializing() and cast(AaSP, self.cfg).contrast_weight:
            self.project(special)
        return special, pred

    def projected(self, special: Array) -> Array:
        return self.project(special)
