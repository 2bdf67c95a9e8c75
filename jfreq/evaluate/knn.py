"""Exact weighted k-nearest-neighbour classification (X-ARES: cosine, k = 10, T = 0.07)."""

from __future__ import annotations

import numpy as np

from jfreq.types import InputError

BLOCK = 1024
"""Queries compared at once."""


def one_hot(label: np.ndarray, classes: int) -> np.ndarray:
    """``[n]`` classes as ``[n k]`` float64; multi-hot rows pass through."""
    return label.astype(np.float64) if label.ndim == 2 else np.eye(classes)[label]


def knn_scores(
    train: np.ndarray,
    label: np.ndarray,
    query: np.ndarray,
    *,
    classes: int,
    k: int = 10,
    temperature: float = 0.07,
) -> np.ndarray:
    """Class scores ``[q classes]``: the labels of the ``k`` most similar rows, weighted by
    softmax(cosine / temperature).

    ``train`` ``[n d]``, ``label`` ``[n]`` int or ``[n classes]`` multi-hot, ``query`` ``[q d]``.
    Fewer than ``k`` training rows are all used. A zero vector is equally far from everything.
    """
    if len(train) == 0:
        raise InputError("kNN needs at least one training row")
    if k < 1 or temperature <= 0:
        raise InputError(f"kNN: k must be 1 or more and temperature positive: {k}, {temperature}")
    k = min(k, len(train))
    targets, bank = one_hot(label, classes), _unit(train)
    scores = np.empty((len(query), classes))
    for start in range(0, len(query), BLOCK):
        similarity = _unit(query[start : start + BLOCK]) @ bank.T
        near = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        logits = np.take_along_axis(similarity, near, axis=1) / temperature
        weight = np.exp(logits - logits.max(1, keepdims=True))
        weight /= weight.sum(1, keepdims=True)
        scores[start : start + BLOCK] = np.einsum("qk,qkc->qc", weight, targets[near])
    return scores


def _unit(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
