"""Linear probes on frozen features: ridge in closed form, logistic regression by L-BFGS.

They run in float64 on the host. The regularisation is chosen on validation rows held out from the
training rows; the test rows are used for nothing but the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jfreq.evaluate.knn import one_hot
from jfreq.metrics import metrics_for
from jfreq.types import InputError

STRENGTHS = tuple(float(c) for c in np.logspace(-4, 2, 7))
"""The values of C that are tried, the most regularised first; ridge uses l2 = 1 / C."""
INNER_SPLITS = 3
MIN_ROWS_PER_CLASS, DEFAULT_STRENGTH = 4, 1.0
"""With fewer training rows a class, validation says nothing: the fitted rows hardly contain the
classes of the validation rows, and ties would select the most regularised fit. The default strength
is then used."""
SINGLE_THREAD_BELOW = 2**28
"""With fewer multiplications in one pass, BLAS uses a single thread: several threads made such
small fits 40 times slower on a busy machine."""


class Linear(NamedTuple):
    """A linear classifier: ``weight [d k]``, ``bias [k]``; called with ``x [n d]``."""

    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return x @ self.weight + self.bias


Fit = Callable[[np.ndarray, np.ndarray, Sequence[float]], list[Linear]]
"""``(x [n d], target [n k], strengths)`` to one :class:`Linear` for each strength."""


def standardised(rows: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Standardises features ``[n d]``; constant columns keep their scale.

    Args:
      rows: those that give the mean and the standard deviation.
      others: standardised by the same numbers.

    Returns:
      All of them in float64.
    """
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(rows.astype(np.float64))
    return [np.asarray(scaler.transform(x.astype(np.float64))) for x in (rows, *others)]


def fit_ridge(x: np.ndarray, target: np.ndarray, strengths: Sequence[float]) -> list[Linear]:
    """Ridge regression: min |target - x w - b|^2 + l2 |w|^2 with l2 = 1 / strength.

    One eigen-decomposition, of ``[d d]`` or ``[n n]``, serves all strengths: seven of them take a
    fifth of the time of seven scikit-learn fits (2000 rows of 768 features, 50 classes).
    """
    mean, target_mean = x.mean(0), target.mean(0)
    a, y = x - mean, target - target_mean
    wide = a.shape[1] > a.shape[0]
    values, vectors = np.linalg.eigh(a @ a.T if wide else a.T @ a)
    values = np.maximum(values, 0)
    projected = vectors.T @ (y if wide else a.T @ y)
    back = a.T @ vectors if wide else vectors
    fits = []
    for strength in strengths:
        weight = back @ (projected / (values + 1.0 / strength)[:, None])
        fits.append(Linear(weight, target_mean - mean @ weight))
    return fits


def fit_ridge_left_out(
    x: np.ndarray, target: np.ndarray, strengths: Sequence[float] = STRENGTHS
) -> tuple[Linear, float]:
    """Ridge regression whose strength is chosen by leaving out one row at a time, in closed form.

    With the hat matrix H of all rows, row i is predicted from the others with the error
    (y_i - (H y)_i) / (1 - H_ii), so that no row is ever left out. It takes a tenth of the time of
    :func:`choose_strength`; a probe that is fitted inside a training does so.

    Args:
      x: features ``[n d]``, standardised.
      target: ``[n k]``.
      strengths: the candidates.

    Returns:
      The fit, and the strength with the smallest mean squared error.

    Reference:
      Golub, Heath and Wahba, Technometrics 1979 (GCV), whose PRESS this is.
    """
    a, y = x - x.mean(0), target - target.mean(0)
    left, singular, _ = np.linalg.svd(a, full_matrices=False)
    power, projected = singular**2, left.T @ y
    errors = []
    for strength in strengths:
        kept = power / (power + 1.0 / strength)
        leverage = (left**2) @ kept + 1.0 / len(x)  # the mean of all rows is fitted too
        errors.append(np.mean(((y - left @ (kept[:, None] * projected)).T / (1 - leverage)) ** 2))
    best = float(strengths[int(np.argmin(errors))])
    return fit_ridge(x, target, [best])[0], best


def fit_logistic(x: np.ndarray, target: np.ndarray, strengths: Sequence[float]) -> list[Linear]:
    """Softmax regression on one-hot targets: min C sum(cross-entropy) + |w|^2 / 2.

    C is the strength, as in scikit-learn. Each fit starts from the solution of the one before.
    """
    return _fit_lbfgs(x, target, strengths, _softmax_loss)


def fit_logistic_multi(
    x: np.ndarray, target: np.ndarray, strengths: Sequence[float]
) -> list[Linear]:
    """As :func:`fit_logistic` with a binary cross-entropy for each column of multi-hot targets.

    All columns are one problem: a scikit-learn fit for each takes more than three times as long
    (12000 rows of 768 features, 40 columns).
    """
    return _fit_lbfgs(x, target, strengths, _sigmoid_loss)


def _softmax_loss(logits: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
    """The summed loss, and its gradient with respect to the logits."""
    from scipy.special import log_softmax

    log_p = log_softmax(logits, axis=1)
    return -float(np.sum(target * log_p)), np.exp(log_p) - target


def _sigmoid_loss(logits: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
    """The summed loss, and its gradient with respect to the logits."""
    from scipy.special import expit

    return float(np.sum(np.logaddexp(0, logits) - target * logits)), expit(logits) - target


def _fit_lbfgs(x, target, strengths, loss) -> list[Linear]:
    from scipy.optimize import minimize
    from threadpoolctl import threadpool_limits

    d, k = x.shape[1], target.shape[1]

    def objective(flat: np.ndarray, strength: float) -> tuple[float, np.ndarray]:
        weight, bias = flat[: d * k].reshape(d, k), flat[d * k :]
        value, gradient = loss(x @ weight + bias, target)
        slope = np.concatenate(
            [(strength * (x.T @ gradient) + weight).ravel(), strength * gradient.sum(0)]
        )
        # Divided by the size of the data term, so that the stopping rule is the same for every C.
        scale = 1.0 / (strength * len(x))
        return scale * (strength * value + 0.5 * float(np.sum(weight**2))), scale * slope

    options = {"maxiter": 500, "gtol": 1e-6, "ftol": 1e-12, "maxcor": 20}
    flat, fits = np.zeros((d + 1) * k), []
    with threadpool_limits(1 if x.size * k < SINGLE_THREAD_BELOW else None, user_api="blas"):
        for strength in strengths:
            flat = minimize(
                objective, flat, (strength,), jac=True, method="L-BFGS-B", options=options
            ).x
            fits.append(Linear(flat[: d * k].reshape(d, k).copy(), flat[d * k :].copy()))
    return fits


def inner_splits(
    label: np.ndarray, group: np.ndarray | None, *, seed: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Divides the training rows for validation.

    Whole groups are held out where there are at least two, so that the probe knows validation rows
    as little as test rows; otherwise rows, stratified by class.

    Args:
      label: of the training rows, ``[n]`` or ``[n k]``.
      group: which rows stay together, ``[n]`` (subjects, else folds).
      seed: of the division.

    Returns:
      Pairs of positions: rows to fit on, and rows to validate on.

    Raises:
      InputError: for fewer than two rows.
    """
    from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold

    n = len(label)
    positions = np.zeros((n, 1))
    groups = 0 if group is None else len(np.unique(group))
    if groups >= 2:
        splitter = GroupKFold(min(INNER_SPLITS, groups), shuffle=True, random_state=seed)
        return list(splitter.split(positions, groups=group))
    rarest = min(np.bincount(label)[np.unique(label)]) if label.ndim == 1 else 0
    if rarest >= 2:
        count = min(INNER_SPLITS, int(rarest))
        splitter = StratifiedKFold(count, shuffle=True, random_state=seed)
        return list(splitter.split(positions, label))
    if n < 2:
        raise InputError(
            "a fold has a single training row, and none can be held out for validation"
        )
    return list(KFold(min(INNER_SPLITS, n), shuffle=True, random_state=seed).split(positions))


def choose_strength(
    x: np.ndarray,
    label: np.ndarray,
    group: np.ndarray | None,
    *,
    classes: int,
    fit: Fit,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
) -> float:
    """Chooses the strength of regularisation by validation.

    Features are standardised by the fitted rows of each split. Validation rows without a positive
    label cannot be scored and are left out.

    Args:
      x: features of the training rows, ``[n d]``.
      label: ``[n]``, or multi-hot ``[n k]``.
      group: which rows stay together, see :func:`inner_splits`.
      classes: how many classes there are.
      fit: the kind of probe.
      strengths: the candidates.
      seed: of the inner splits.

    Returns:
      The strength with the best mean validation metric, the most regularised one of equals;
      ``DEFAULT_STRENGTH`` for fewer than ``MIN_ROWS_PER_CLASS`` rows a class on average.
    """
    if label.ndim == 1 and len(label) < MIN_ROWS_PER_CLASS * len(np.unique(label)):
        return DEFAULT_STRENGTH
    metric = next(iter(metrics_for(label).values()))
    totals, strengths = np.zeros(len(strengths)), sorted(strengths)
    for rows, held_out in inner_splits(label, group, seed=seed):
        if label.ndim == 2 and not label[held_out].any():
            continue
        fitted, validation = standardised(x[rows], x[held_out])
        fits = fit(fitted, one_hot(label[rows], classes), strengths)
        totals += [metric(label[held_out], linear(validation)) for linear in fits]
    return strengths[int(np.argmax(totals))]


def probe_scores(
    train: np.ndarray,
    label: np.ndarray,
    query: np.ndarray,
    *,
    classes: int,
    fit: Fit,
    group: np.ndarray | None = None,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
) -> tuple[np.ndarray, float]:
    """Fits a probe and scores rows.

    Args:
      train: features of the training rows, ``[n d]``.
      label: their labels, ``[n]`` or multi-hot ``[n k]``.
      query: features of the rows to score, ``[q d]``.
      classes, fit, group, strengths, seed: as :func:`choose_strength`.

    Returns:
      Scores ``[q classes]`` float64, and the strength.
    """
    strength = choose_strength(
        train, label, group, classes=classes, fit=fit, strengths=strengths, seed=seed
    )
    rows, queries = standardised(train, query)
    (linear,) = fit(rows, one_hot(label, classes), [strength])
    return linear(queries), strength
