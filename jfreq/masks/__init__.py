"""Which tokens a method masks: pure functions of a key and arrays, with static counts.

``tokens``: ids of visible and masked tokens, for encoders that read the visible ones only; its
functions can be imported from here. ``window_masks``: boolean ``[b t f]`` in whole windows, for
encoders that read every token. ``energy_coherence``: masks sampled by scores of the signal.
"""

from jfreq.masks import energy_coherence, window_masks
from jfreq.masks.tokens import (
    ClusterMode,
    Kind,
    axes,
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
    "axes",
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
