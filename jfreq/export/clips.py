"""Windows of recordings, on which written formats are compared with the JAX encoder."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jfreq.config import Experiment
from jfreq.encoder.batches import empty_batch, put
from jfreq.encoder.encoder import Encoder
from jfreq.encoder.inputs import Options, Recordings
from jfreq.encoder.windowing import InputWindow, cut_windows
from jfreq.types import PyTree, SignalSpec

MOST = 32
"""Windows that are compared; every recording gives equally many."""


def clip_windows(
    experiment: Experiment, params: PyTree, paths: Sequence[str | Path]
) -> list[dict[str, np.ndarray]]:
    """Batches of one window, read and cut as :func:`jfreq.load_encoder` reads and cuts them.

    Args:
      experiment: what trained the encoder.
      params: its parameters.
      paths: sound files, recordings of sensors, folders of them, shards.

    Returns:
      At most ``MOST`` windows, laid out as in :class:`jfreq.export.portable.Adapter`.

    Raises:
      InputError: for a recording that cannot be read.
    """
    cfg = experiment.method
    encoder = Encoder(cfg, params, signals=cfg.signals, gaps=cfg.allows_gaps)
    recordings = Recordings(paths, encoder, Options(strict=True))
    each = max(1, MOST // len(recordings.jobs))
    found: list[InputWindow] = []
    for blocks in itertools.islice(recordings.blocks(), MOST):
        windows = cut_windows(blocks, encoder.plan)
        found += itertools.islice(windows, each)
    return [_batch(window, encoder.signals) for window in found]


def _batch(window: InputWindow, signals: Sequence[SignalSpec]) -> dict[str, np.ndarray]:
    rows = empty_batch(signals, 1)
    put(rows, 0, window)
    return rows
