"""Exact weighted k-nearest-neighbour classification (X-ARES: cosine, k = 10, T = 0.07)."""

from __future__ import annotations

import numpy as np

from jfreq.types import InputError


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
    from scipy.special import softmax
    from sklearn.neighbors import KNeighborsRegressor

    if len(train) == 0:
        raise InputError("kNN needs at least one training row")
    if k < 1 or temperature <= 0:
        raise InputError(f"kNN: k must be 1 or more and temperature positive: {k}, {temperature}")

    def weights(distance: np.ndarray) -> np.ndarray:
        return softmax(-distance / temperature, axis=1)

    # A regression on one-hot rows is the weighted mean of the neighbours' labels, of any kind.
    model = KNeighborsRegressor(min(k, len(train)), metric="cosine", weights=weights)  # type: ignore
    return model.fit(train, one_hot(label, classes)).predict(query)
