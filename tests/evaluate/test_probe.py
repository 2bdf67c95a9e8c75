"""Probes against scikit-learn, and proofs that the choice of C sees training rows only."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from jfreq.evaluate.knn import one_hot
from jfreq.evaluate.probe import (
    DEFAULT_STRENGTH,
    MIN_ROWS_PER_CLASS,
    choose_strength,
    fit_logistic,
    fit_logistic_multi,
    fit_ridge,
    inner_splits,
    probe_scores,
    standardised,
)

STRENGTHS = (1e-3, 0.1, 1.0, 10.0)


def blobs(rng, n=120, d=6, classes=3, spread=1.0):
    label = rng.integers(0, classes, n)
    return rng.normal(size=(n, d)) + spread * np.eye(classes, d)[label], label


@pytest.mark.parametrize(("n", "d"), [(60, 7), (20, 50), (30, 30)])
def test_ridge_equals_scikit_learn(n, d):
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(n, d)) + 3, rng.normal(size=(n, 4)) - 2
    for strength, linear in zip(STRENGTHS, fit_ridge(x, y, STRENGTHS)):
        oracle = Ridge(alpha=1 / strength).fit(x, y)
        np.testing.assert_allclose(linear.weight, oracle.coef_.T, atol=1e-8)
        np.testing.assert_allclose(linear(x), oracle.predict(x), atol=1e-8)


def test_logistic_equals_scikit_learn():
    x, label = blobs(np.random.default_rng(0))
    for strength, linear in zip(STRENGTHS, fit_logistic(x, one_hot(label, 3), STRENGTHS)):
        oracle = LogisticRegression(C=strength, tol=1e-10, max_iter=5000).fit(x, label)
        logits = linear(x)
        found = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
        np.testing.assert_allclose(found, oracle.predict_proba(x), atol=2e-4)
        np.testing.assert_allclose(linear.weight, oracle.coef_.T, atol=2e-3)


def test_multi_label_logistic_equals_one_scikit_learn_fit_for_each_label():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(150, 5))
    target = (x @ rng.normal(size=(5, 3)) + rng.normal(size=(150, 3)) > 0.5).astype(float)
    for strength, linear in zip(STRENGTHS, fit_logistic_multi(x, target, STRENGTHS)):
        for k in range(3):
            oracle = LogisticRegression(C=strength, tol=1e-10, max_iter=5000).fit(x, target[:, k])
            np.testing.assert_allclose(linear(x)[:, k], oracle.decision_function(x), atol=3e-3)


def test_logistic_stays_finite_on_hopeless_rows():
    x = np.random.default_rng(2).normal(size=(20, 4))
    single = fit_logistic(x, one_hot(np.zeros(20, int), 3), STRENGTHS)
    separable = fit_logistic(100 * x, one_hot((x[:, 0] > 0).astype(int), 2), [1e6])
    for linear in (*single, *separable):
        assert np.isfinite(linear(100 * x)).all()


def test_standardised_rows_and_constants():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(50, 3)) * [1, 1e-6, 1e6] + [0, 5, 0]
    x = np.hstack([x, np.full((50, 1), 1e8)]).astype(np.float64)
    (scaled,) = standardised(x)
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-8)
    np.testing.assert_allclose(scaled.std(0), [1, 1, 1, 0], atol=1e-9)


def test_inner_splits_keep_groups_whole():
    rng = np.random.default_rng(4)
    label, group = rng.integers(0, 3, 60), rng.integers(0, 7, 60)
    seen = []
    for rows, held in inner_splits(label, group):
        assert not set(group[rows]) & set(group[held])
        assert sorted([*rows, *held]) == list(range(60))
        seen += list(held)
    assert sorted(seen) == list(range(60))
    for rows, _ in inner_splits(label, np.zeros(60)):
        assert set(label[rows]) == {0, 1, 2}


@pytest.mark.parametrize("fit", [fit_logistic, fit_ridge])
def test_noise_is_regularised_and_signal_is_not(fit):
    rng = np.random.default_rng(5)
    # Half as many features as fitting rows: the free fit follows the noise.
    x, label = blobs(rng, n=150, d=50, spread=1.5)
    noisy = choose_strength(x, label, None, classes=3, fit=fit, strengths=(0.02, 1e6))
    assert noisy == 0.02
    # Two thin, tilted classes: only a nearly free fit separates them.
    u = rng.normal(size=200)
    y = (np.arange(200) % 2).astype(int)
    thin = np.stack([100 * u, 100 * u + (y - 0.5) * 0.5, *rng.normal(size=(2, 200))], 1)
    assert choose_strength(thin, y, None, classes=2, fit=fit, strengths=(1e-4, 1e6)) == 1e6


def test_equals_prefer_more_regularisation():
    x = np.repeat(np.eye(2), 30, axis=0)
    label = np.repeat([0, 1], 30)
    found = choose_strength(x, label, None, classes=2, fit=fit_ridge, strengths=(10.0, 0.1, 1.0))
    assert found == 0.1


@pytest.mark.parametrize("fit", [fit_logistic, fit_ridge])
def test_one_row_a_class_is_enough_to_learn_from(fit):
    """Nothing can be validated then: a choice would take the fit that predicts a constant."""
    rng = np.random.default_rng()
    x, label = blobs(rng, n=600, d=4, classes=4, spread=20.0)
    _, first = np.unique(label, return_index=True)
    first = np.append(first, np.flatnonzero(label == 0)[1])  # a class with one row more
    scores, strength = probe_scores(x[first], label[first], x, classes=4, fit=fit)
    assert strength == DEFAULT_STRENGTH
    assert (scores.argmax(1) == label).mean() > 0.9
    given = {"classes": 2, "fit": fit, "strengths": (0.1,)}
    for count, expected in ((MIN_ROWS_PER_CLASS - 1, DEFAULT_STRENGTH), (MIN_ROWS_PER_CLASS, 0.1)):
        rows = np.concatenate([np.flatnonzero(label == k)[:count] for k in (0, 1)])
        assert choose_strength(x[rows], label[rows], None, **given) == expected


@pytest.mark.parametrize("fit", [fit_logistic, fit_ridge])
def test_test_rows_change_nothing_in_the_choice(fit):
    """A column that gives the class away in the test rows only, constant in training."""
    rng = np.random.default_rng(6)
    x, label = blobs(rng, n=150, d=20, spread=0.7)
    train, query = np.arange(100), np.arange(100, 150)
    leak = np.zeros((150, 1))
    leak[query, 0] = 100.0 * label[query]
    options = {"classes": 3, "fit": fit, "strengths": STRENGTHS}
    plain, strength = probe_scores(x[train], label[train], x[query], **options)
    leaky = np.hstack([x, leak])
    scores, again = probe_scores(leaky[train], label[train], leaky[query], **options)
    assert again == strength
    np.testing.assert_allclose(scores, plain, atol=1e-6)


@pytest.mark.parametrize("fit", [fit_logistic, fit_ridge])
def test_permuted_labels_are_at_chance(fit):
    rng = np.random.default_rng(7)
    hits, n = 0, 0
    for _ in range(5):
        x, label = blobs(rng, n=240, d=10, classes=4, spread=3.0)
        wrong = rng.permutation(label)
        scores, _ = probe_scores(
            x[:160], wrong[:160], x[160:], classes=4, fit=fit, strengths=STRENGTHS
        )
        hits += int((scores.argmax(1) == wrong[160:]).sum())
        n += 80
    assert abs(hits / n - 0.25) < 4 * np.sqrt(0.25 * 0.75 / n)
    scores, _ = probe_scores(x[:160], label[:160], x[160:], classes=4, fit=fit)
    assert (scores.argmax(1) == label[160:]).mean() > 0.8
