"""Linear probes on frozen features: ridge in closed form, logistic regression by L-BFGS.

Float64 on the host. The strength of regularisation is chosen on validation rows taken from the
training rows; the test rows take part in nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jfreq.evaluate.knn import one_hot
from jfreq.evaluate.metrics import metrics_for
from jfreq.types import InputError

STRENGTHS = tuple(float(c) for c in np.logspace(-4, 2, 7))
"""Values of C tried, most regularised first; ridge uses l2 = 1 / C."""
INNER_SPLITS = 3
FEW, PLAIN = 4, 1.0
"""With fewer training rows a class, validation says nothing (their classes are hardly in what was
fitted, and the most regularised fit wins by ties): the strength is ``PLAIN``."""
SMALL = 2**28
"""Multiplications of one pass below which BLAS gets one thread: waking several for such small
products made a fit 40 times slower on a busy machine."""


class Linear(NamedTuple):
    """``score = x @ weight + bias``: ``weight [d k]``, ``bias [k]``."""

    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return x @ self.weight + self.bias


Fit = Callable[[np.ndarray, np.ndarray, Sequence[float]], list[Linear]]
"""``(x [n d], target [n k], strengths) -> one Linear for each strength``."""


def standardised(rows: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """``rows`` with zero mean and unit variance in float64, and the others by the same numbers.

    Constant columns keep their scale.
    """
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(rows.astype(np.float64))
    return [np.asarray(scaler.transform(x.astype(np.float64))) for x in (rows, *others)]


def fit_ridge(x: np.ndarray, target: np.ndarray, strengths: Sequence[float]) -> list[Linear]:
    """Least squares with l2 = 1 / strength and a free bias, from one eigen-decomposition.

    Seven strengths take a fifth of the time of seven scikit-learn fits (2000 rows of 768, 50
    classes).

    min |target - x w - b|^2 + l2 |w|^2, solved in whichever of [d d] and [n n] is smaller.
    """
    mean, level = x.mean(0), target.mean(0)
    a, y = x - mean, target - level
    wide = a.shape[1] > a.shape[0]
    values, vectors = np.linalg.eigh(a @ a.T if wide else a.T @ a)
    values = np.maximum(values, 0)
    projected = vectors.T @ (y if wide else a.T @ y)
    back = a.T @ vectors if wide else vectors
    fits = []
    for strength in strengths:
        weight = back @ (projected / (values + 1.0 / strength)[:, None])
        fits.append(Linear(weight, level - mean @ weight))
    return fits


def fit_logistic(x: np.ndarray, target: np.ndarray, strengths: Sequence[float]) -> list[Linear]:
    """Softmax cross-entropy on one-hot ``target``: C sum(loss) + |w|^2 / 2, free bias.

    scikit-learn's convention for C; each strength starts from the solution before.
    """
    return _fit_lbfgs(x, target, strengths, _softmax_loss)


def fit_logistic_multi(
    x: np.ndarray, target: np.ndarray, strengths: Sequence[float]
) -> list[Linear]:
    """The same with one binary cross-entropy per column of multi-hot ``target``.

    All columns are one problem: on 12000 rows of 768 and 40 columns, a scikit-learn fit for each
    takes more than three times as long.
    """
    return _fit_lbfgs(x, target, strengths, _sigmoid_loss)


def _softmax_loss(logits: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
    """Summed loss and its gradient to the logits."""
    from scipy.special import log_softmax

    log_p = log_softmax(logits, axis=1)
    return -float(np.sum(target * log_p)), np.exp(log_p) - target


def _sigmoid_loss(logits: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
    """Summed loss and its gradient to the logits."""
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
        # Divided by the size of the data term: the stopping rule means the same for every C.
        scale = 1.0 / (strength * len(x))
        return scale * (strength * value + 0.5 * float(np.sum(weight**2))), scale * slope

    options = {"maxiter": 500, "gtol": 1e-6, "ftol": 1e-12, "maxcor": 20}
    flat, fits = np.zeros((d + 1) * k), []
    with threadpool_limits(1 if x.size * k < SMALL else None, user_api="blas"):
        for strength in strengths:
            flat = minimize(
                objective, flat, (strength,), jac=True, method="L-BFGS-B", options=options
            ).x
            fits.append(Linear(flat[: d * k].reshape(d, k).copy(), flat[d * k :].copy()))
    return fits


def inner_splits(
    label: np.ndarray, group: np.ndarray | None, *, seed: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """``(fit, validate)`` positions inside the training rows.

    Whole groups (subjects, else folds) where there are at least two, so that validation rows
    are as new as test rows; else stratified by class.
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
        raise InputError("the training rows are too few to hold out a validation part")
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
    """The strength with the best mean validation metric; the most regularised one of equals.
    ``PLAIN`` for fewer than ``FEW`` rows a class on average.

    Features are standardised by the fitting rows of each inner split. Validation parts with
    nothing to score (no positives) are left out.
    """
    if label.ndim == 1 and len(label) < FEW * len(np.unique(label)):
        return PLAIN
    metric = next(iter(metrics_for(label).values()))
    totals, strengths = np.zeros(len(strengths)), sorted(strengths)
    for rows, held in inner_splits(label, group, seed=seed):
        if label.ndim == 2 and not label[held].any():
            continue
        fitting, validation = standardised(x[rows], x[held])
        fits = fit(fitting, one_hot(label[rows], classes), strengths)
        totals += [metric(label[held], linear(validation)) for linear in fits]
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
    """Scores ``[q classes]`` of a probe fitted on the training rows, and the strength chosen."""
    strength = choose_strength(
        train, label, group, classes=classes, fit=fit, strengths=strengths, seed=seed
    )
    rows, queries = standardised(train, query)
    (linear,) = fit(rows, one_hot(label, classes), [strength])
    return linear(queries), strength
