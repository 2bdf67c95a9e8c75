"""AST: the audio spectrogram transformer, supervised (Gong, Chung, Glass, Interspeech 2021)."""

from __future__ import annotations

import functools
from typing import Literal

from jfreq.method import Method, part_of
from jfreq.methods.common.patches import PatchMethod
from jfreq.methods.supervised import Head, Supervised
from jfreq.ranges import Count, checked


@checked
class AST(Supervised, PatchMethod):
    """Overlapping patches (16 x 16 at stride 10), cls and dist tokens, linear classifier.

    Parameters ``backbone/trunk`` and ``head``.
    """

    stride: tuple[Count, Count] | None = (10, 10)
    pool: Literal["mean", "special"] = "special"
    head: Head = Head()

    @functools.cached_property
    def backbone(self) -> Method:
        return part_of(PatchMethod, self)
