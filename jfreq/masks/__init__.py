"""Which tokens a method hides; pure functions of a key and arrays, with static counts.

``tokens``: ids of kept and masked tokens, for encoders that see the kept ones only; its names stand
here. ``window_masks``: boolean planes in whole windows, for encoders that see every token.
``energy_coherence``: what a signal says about its tokens, and masks drawn by it.
"""

from jfreq.masks import energy_coherence, window_masks
from jfreq.masks.tokens import (
    ClusterMode,
    Kind,
    block,
    check_count,
    cluster,
    from_scores,
    inverse_block,
    lines,
    random,
    sample,
)

__all__ = [
    "ClusterMode",
    "Kind",
    "block",
    "check_count",
    "cluster",
    "energy_coherence",
    "from_scores",
    "inverse_block",
    "lines",
    "random",
    "sample",
    "window_masks",
]
