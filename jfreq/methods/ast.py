"""AST: the audio spectrogram transformer, supervised (Gong, Chung, Glass, Interspeech 2021)."""

from __future__ import annotations

from typing import Literal, Self

from jfreq.config import replace
from jfreq.methods.base import Method
from jfreq.methods.classify import Head, Supervised, supervise
from jfreq.methods.spectrogram import (
    SpectrogramConfig,
    example_spectrogram,
    features,
    spectrogram,
    trunk,
)
from jfreq.nn.trunk import SpectrogramTrunk
from jfreq.ranges import Count, checked
from jfreq.types import Array, DataSpec


@checked
class AST(Supervised, SpectrogramConfig):
    """Overlapping patches (16 x 16 at stride 10), cls and dist tokens, linear classifier."""

    stride: tuple[Count, Count] | None = (10, 10)
    pool: Literal["mean", "special"] = "special"
    head: Head = Head()

    def bind(self, spec: DataSpec) -> Self:
        return replace(super().bind(spec), head=self.head.bind(spec))

    def unbind(self) -> Self:
        return replace(super().unbind(), head=self.head.unbind())


def _forward(net: SpectrogramTrunk, spec: Array):
    return net.encode(net.embed(spec))


def ast(cfg: AST) -> Method:
    """The method of a bound config; parameters ``backbone/trunk`` and ``head``."""
    assert cfg.frontend is not None
    net = trunk(cfg)

    def init(key, batch_spec):
        del batch_spec
        return {"trunk": net.init(key, example_spectrogram(cfg), method=_forward)["params"]}

    def loss(params, target, batch, key, step):
        raise TypeError("an encoder without a head has no loss")

    backbone = Method(
        init=init,
        loss=loss,
        encode=lambda params, batch: features(cfg, net, params["trunk"], batch),
        frontend=lambda batch: spectrogram(cfg, batch),
    )
    return supervise(backbone, cfg.head, fill=cfg.frontend.fill)
