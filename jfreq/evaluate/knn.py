"""Exact weighted k-nearest-neighbour classification."""

from __future__ import annotations

import numpy as np

from jfreq.types import InputError


def one_hot(label: np.ndarray, classes: int) -> np.ndarray:
    """Labels as ``[n classes]`` float64, whether they are classes ``[n]`` or multi-hot already."""
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
    """Scores rows by the labels of their most similar training rows.

    A zero vector is equally far from all rows.

    Args:
      train: features ``[n d]`` of the training rows.
      label: their classes ``[n]`` int, or multi-hot ``[n classes]``.
      query: features ``[q d]`` of the rows to score.
      classes: how many classes there are.
      k: neighbours of a row; all training rows where there are fewer.
      temperature: neighbours are weighted by softmax(cosine similarity / temperature).

    Returns:
      ``[q classes]`` float64, the weighted mean of the labels.

    Raises:
      InputError: for no training rows, or a ``k`` or ``temperature`` that is not positive.

    Reference:
      X-ARES, which uses cosine similarity, k = 10 and T = 0.07.
    """
    from scipy.special import softmax
    from sklearn.neighbors import KNeighborsRegressor

    if len(train) == 0:
        raise InputError("kNN: there are no training rows; check the split and the folds")
    if k < 1 or temperature <= 0:
        raise InputError(
            f"kNN: k must be 1 or more, got {k}; temperature positive, got {temperature}"
        )

    def weights(distance: np.ndarray) -> np.ndarray:
        return softmax(-distance / temperature, axis=1)

    # A regression on one-hot rows is the weighted mean of the neighbours' labels, of any kind.
    model = KNeighborsRegressor(min(k, len(train)), metric="cosine", weights=weights)  # type: ignore
    return model.fit(train, one_hot(label, classes)).predict(query)
