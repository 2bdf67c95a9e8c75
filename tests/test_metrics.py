"""Metrics against closed forms and numpy; intervals against scipy and their coverage."""

import numpy as np
import pytest
import scipy.stats

from jfreq import metrics
from jfreq.types import InputError


def test_single_label_by_hand():
    label = np.array([0, 0, 0, 1, 2])
    score = np.eye(4)[[0, 0, 1, 1, 3]]
    assert metrics.accuracy(label, score) == pytest.approx(3 / 5)
    assert metrics.balanced_accuracy(label, score) == pytest.approx((2 / 3 + 1 + 0) / 3)
    f1 = (2 * 2 / (2 * 2 + 0 + 1) + 2 / (2 + 1) + 0) / 3
    assert metrics.macro_f1(label, score) == pytest.approx(f1)


def test_confusion_by_counting():
    """Also of classes that are never there or never said."""
    rng = np.random.default_rng()
    label, said = rng.integers(0, 4, 200), rng.integers(1, 5, 200)
    found = metrics.confusion(label, np.eye(5)[said])
    assert found.shape == (5, 5)
    for i, j in np.ndindex(5, 5):
        assert found[i, j] == np.sum((label == i) & (said == j))


def test_mean_average_precision_by_ranks():
    rng = np.random.default_rng(0)
    label, score = rng.random((50, 6)) < 0.2, rng.normal(size=(50, 6))
    label[:, 4] = False
    expected = []
    for k in (0, 1, 2, 3, 5):
        hits = label[np.argsort(-score[:, k]), k]
        expected.append(np.mean(np.cumsum(hits)[hits] / (np.flatnonzero(hits) + 1)))
    found = metrics.mean_average_precision(label, score)
    assert found == pytest.approx(np.mean(expected), abs=1e-12)


def test_d_prime_of_two_gaussians():
    rng = np.random.default_rng(1)
    label = np.arange(200_000)[:, None] % 2 == 1
    score = rng.normal(size=label.shape) + 1.5 * label
    assert metrics.d_prime(label, score) == pytest.approx(1.5, abs=0.02)


def test_nothing_to_score():
    empty = np.zeros((4, 2), bool)
    with pytest.raises(InputError, match="positive"):
        metrics.mean_average_precision(empty, np.zeros((4, 2)))
    with pytest.raises(InputError, match="positive and negative"):
        metrics.d_prime(~empty, np.zeros((4, 2)))


def test_interval_is_student_t():
    values = np.random.default_rng(2).normal(size=5)
    low, high = scipy.stats.t.interval(0.95, 4, values.mean(), scipy.stats.sem(values))
    assert metrics.interval(values) == pytest.approx((values.mean(), low, high))
    one = metrics.interval([0.5])
    assert one.mean == 0.5
    assert np.isnan([one.low, one.high]).all()
    with pytest.raises(InputError):
        metrics.interval([])


def test_intervals_of_shares_stay_inside():
    """Two folds that differ say nothing; d' and losses have no bounds."""
    found = metrics.interval_of("accuracy", [0.90, 0.95, 1.0])
    plain = metrics.interval([0.90, 0.95, 1.0])
    assert plain.high > 1 and (found.low, found.high) == (plain.low, 1.0)
    few = metrics.interval_of("macro_f1", [0.1, 0.9])
    assert few.mean == 0.5 and np.isnan([few.low, few.high]).all()
    for name in ("d_prime", "pretext_loss"):
        assert metrics.interval_of(name, [0.1, 0.9]) == metrics.interval([0.1, 0.9])
    gap = metrics.interval_of("accuracy", [-0.2, -0.1], low=-1.0)
    assert gap.low < 0 < gap.high and gap.low >= -1
    assert metrics.interval_of("mAP", [0.4, 0.5, 0.6]) == metrics.interval([0.4, 0.5, 0.6])


def test_wilson_closed_form():
    z, n, p = scipy.stats.norm.ppf(0.975), 40, 0.9
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert metrics.wilson(36, 40) == pytest.approx((p, centre - half, centre + half))
    assert metrics.wilson(40, 40).high == pytest.approx(1)
    with pytest.raises(InputError):
        metrics.wilson(1, 0)


def test_bootstrap_agrees_with_wilson_and_is_repeatable():
    rng = np.random.default_rng(3)
    label = rng.integers(0, 2, 400)
    score = np.eye(2)[np.where(rng.random(400) < 0.8, label, 1 - label)]
    found = metrics.bootstrap(metrics.accuracy, label, score)
    hits = int((score.argmax(1) == label).sum())
    np.testing.assert_allclose(found, metrics.wilson(hits, 400), atol=0.015)
    assert found == metrics.bootstrap(metrics.accuracy, label, score)
    # Some resamples of a rare class hold no positive: they are left out, not counted as anything.
    rare = np.zeros((5, 1), bool)
    rare[0] = True
    assert np.isfinite(
        metrics.bootstrap(metrics.mean_average_precision, rare, -score[:5, :1])
    ).all()
