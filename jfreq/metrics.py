"""Metrics and their confidence intervals, computed by scikit-learn and scipy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jfreq.types import InputError

Metric = Callable[[np.ndarray, np.ndarray], float]
"""``(label, score [n k]) -> float``; label ``[n]`` int or ``[n k]`` 0/1."""


class Interval(NamedTuple):
    """An estimate with its 95 % interval."""

    mean: float
    low: float
    high: float


def accuracy(label: np.ndarray, score: np.ndarray) -> float:
    """The fraction of rows whose highest score is that of their class."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(label, score.argmax(1)))


def balanced_accuracy(label: np.ndarray, score: np.ndarray) -> float:
    """Mean recall over the classes that occur in ``label``."""
    from sklearn.metrics import recall_score

    present = np.unique(label)
    return float(recall_score(label, score.argmax(1), labels=present, average="macro"))


def macro_f1(label: np.ndarray, score: np.ndarray) -> float:
    """Mean F1 over the classes that occur in ``label``; 0 for a class that is never predicted."""
    from sklearn.metrics import f1_score

    present = np.unique(label)
    predicted = score.argmax(1)
    score = f1_score(label, predicted, labels=present, average="macro", zero_division=0)  # type: ignore
    return float(score)


def mean_average_precision(label: np.ndarray, score: np.ndarray) -> float:
    """Unweighted mean of average precision over the classes that have a positive row.

    Raises:
      InputError: where no class has one.
    """
    from sklearn.metrics import average_precision_score

    present = label.any(0)
    if not present.any():
        raise InputError("mAP: no test row has a positive label; check the split and the folds")
    return float(average_precision_score(label[:, present], score[:, present], average="macro"))


def d_prime(label: np.ndarray, score: np.ndarray) -> float:
    """d' = sqrt(2) Phi^-1(mean AUC), over the classes that have positive and negative rows.

    Raises:
      InputError: where no class has both.

    Reference:
      AST (Gong et al., 2021).
    """
    from scipy.stats import norm
    from sklearn.metrics import roc_auc_score

    mixed = label.any(0) & ~label.all(0)
    if not mixed.any():
        raise InputError("d': no class has both positive and negative test rows; check the folds")
    auc = roc_auc_score(label[:, mixed], score[:, mixed], average="macro")
    return float(np.sqrt(2) * norm.ppf(auc))


SINGLE_LABEL: dict[str, Metric] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
}
MULTI_LABEL: dict[str, Metric] = {"mAP": mean_average_precision, "d_prime": d_prime}


def metrics_for(label: np.ndarray) -> dict[str, Metric]:
    """The metrics for labels ``[n]`` or multi-hot ``[n k]``, by name, the main one first."""
    return SINGLE_LABEL if label.ndim == 1 else MULTI_LABEL


def confusion(label: np.ndarray, score: np.ndarray) -> np.ndarray:
    """The confusion matrix of ``label`` ``[n]`` and ``score`` ``[n k]``.

    Returns:
      ``[k k]`` int64: how many rows of class i (row) are predicted as class j (column).
    """
    from sklearn.metrics import confusion_matrix

    return confusion_matrix(label, score.argmax(1), labels=np.arange(score.shape[1]))


def interval(values: Sequence[float] | np.ndarray) -> Interval:
    """The mean of values and its 95 % Student-t interval; its bounds are NaN for a single value.

    Raises:
      InputError: for no values.
    """
    from scipy.stats import t

    values = np.asarray(values, np.float64)
    if values.size == 0:
        raise InputError("an interval needs at least one value")
    mean = float(values.mean())
    if values.size == 1:
        return Interval(mean, float("nan"), float("nan"))
    half = float(t.ppf(0.975, values.size - 1) * values.std(ddof=1) / np.sqrt(values.size))
    return Interval(mean, mean - half, mean + half)


def bounded(estimate: Interval, low: float = 0.0, high: float = 1.0) -> Interval:
    """Cuts an interval at the range of its metric.

    Its bounds are NaN where it would be cut at both ends, because it then excludes nothing.
    """
    if estimate.low <= low and estimate.high >= high:
        return Interval(estimate.mean, float("nan"), float("nan"))
    return Interval(estimate.mean, max(estimate.low, low), min(estimate.high, high))


ZERO_TO_ONE = ("accuracy", "balanced_accuracy", "macro_f1", "mAP")
"""Metrics that range from 0 to 1."""


def interval_of(metric: str, values: Sequence[float] | np.ndarray, low: float = 0.0) -> Interval:
    """The interval of values of ``metric`` within its range; ``low`` is -1 for differences."""
    estimate = interval(values)
    return bounded(estimate, low) if metric in ZERO_TO_ONE else estimate


def wilson(hits: int, n: int) -> Interval:
    """The fraction ``hits / n`` and its 95 % score interval.

    Raises:
      InputError: unless ``0 <= hits <= n`` and ``n > 0``.

    Reference:
      Wilson, Probable inference, the law of succession, and statistical inference, 1927.
    """
    from scipy.stats import binomtest

    if not 0 <= hits <= n or n == 0:
        raise InputError(f"a fraction needs 0 <= hits <= n and n > 0, got {hits} of {n}")
    bounds = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    return Interval(hits / n, float(bounds.low), float(bounds.high))


def bootstrap(
    metric: Metric, label: np.ndarray, score: np.ndarray, *, resamples: int = 200, seed: int = 0
) -> Interval:
    """A metric on one test set and its 95 % percentile interval over resampled rows.

    Resamples on which the metric is undefined (without positive rows) are left out.
    """
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(resamples):
        rows = rng.integers(len(label), size=len(label))
        try:
            values.append(metric(label[rows], score[rows]))
        except InputError:
            continue
    finite = np.asarray(values)[np.isfinite(values)]
    low, high = np.percentile(finite, [2.5, 97.5]) if finite.size else (np.nan, np.nan)
    return Interval(metric(label, score), float(low), float(high))
