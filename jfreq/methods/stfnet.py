"""STFNets: supervised learning on spectra of several resolutions (Yao et al., WWW 2019).

The baselines that it is compared with, a plain CNN and a DeepSense-style network, are other
encoders of the same method.
"""

from __future__ import annotations

import functools

from jfreq.method import Method, part_of
from jfreq.methods.common.raw_sensors import RawSensorMethod
from jfreq.methods.supervised import Head, Supervised
from jfreq.ranges import checked


@checked
class STFNet(Supervised, RawSensorMethod):
    """An encoder of raw sensor series, by default an STFNet, under a linear classifier.

    Parameters ``backbone/encoder`` and ``head``.
    """

    head: Head = Head(norm=False)

    @functools.cached_property
    def backbone(self) -> Method:
        return part_of(RawSensorMethod, self)
