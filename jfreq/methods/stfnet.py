"""STFNets: supervised learning on spectra of several resolutions (Yao et al., WWW 2019).

The same harness trains the baselines it is compared with: a plain CNN and a DeepSense-style
network are other encoders of the same config.
"""

from __future__ import annotations

from typing import Self

from jfreq.config import replace
from jfreq.methods.base import Method
from jfreq.methods.classify import Head, Supervised, supervise
from jfreq.methods.series import SeriesConfig, features, init_encoder
from jfreq.ranges import checked
from jfreq.types import DataSpec


@checked
class STFNet(Supervised, SeriesConfig):
    """An encoder of raw sensor series, by default an STFNet, under a linear classifier."""

    head: Head = Head(norm=False)

    def bind(self, spec: DataSpec) -> Self:
        return replace(super().bind(spec), head=self.head.bind(spec))

    def unbind(self) -> Self:
        return replace(super().unbind(), head=self.head.unbind())


def stfnet(cfg: STFNet) -> Method:
    """The method of a bound config; parameters ``backbone/encoder`` and ``head``."""

    def loss(params, target, batch, key, step):
        raise TypeError("an encoder without a head has no loss")

    backbone = Method(
        init=lambda key, batch_spec: {"encoder": init_encoder(cfg, key)},
        loss=loss,
        encode=lambda params, batch: features(cfg, params["encoder"], batch),
        forward=lambda params, batch, key: features(cfg, params["encoder"], batch, key),
    )
    return supervise(backbone, cfg.head)
