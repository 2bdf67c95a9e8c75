"""kNN against scikit-learn's classifier with the same weights, and by hand."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from jfreq.evaluate.knn import knn_scores
from jfreq.types import InputError


def test_equals_scikit_learns_classifier():
    rng = np.random.default_rng(0)
    train, query = rng.normal(size=(90, 8)), rng.normal(size=(40, 8))
    label = rng.integers(0, 4, 90)
    oracle = KNeighborsClassifier(n_neighbors=10, metric="cosine", algorithm="brute")
    oracle.set_params(weights=lambda d: np.exp((1 - d) / 0.07)).fit(train, label)
    found = knn_scores(train.astype(np.float32), label, query.astype(np.float32), classes=4)
    np.testing.assert_allclose(found, oracle.predict_proba(query), atol=1e-5)


def test_multi_label_is_the_weighted_mean_of_the_neighbours():
    rng = np.random.default_rng(1)
    train, query = rng.normal(size=(30, 5)), rng.normal(size=(6, 5))
    label = (rng.random((30, 3)) < 0.4).astype(np.float32)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, query)]
    for row, score in zip(unit[1] @ unit[0].T, knn_scores(train, label, query, classes=3, k=4)):
        near = np.argsort(-row)[:4]
        np.testing.assert_allclose(
            score, np.average(label[near], axis=0, weights=np.exp(row[near] / 0.07)), atol=1e-12
        )


def test_scale_does_not_matter_and_few_rows_are_all_used():
    rng = np.random.default_rng(2)
    train, query, label = (
        rng.normal(size=(5, 3)),
        rng.normal(size=(9, 3)),
        np.array([0, 1, 1, 0, 2]),
    )
    scores = knn_scores(train, label, query, classes=3)
    np.testing.assert_allclose(scores, knn_scores(9 * train, label, query / 7, classes=3))
    np.testing.assert_allclose(scores.sum(1), 1)
    uniform = knn_scores(train, label, np.zeros((1, 3)), classes=3)
    np.testing.assert_allclose(uniform, [[0.4, 0.4, 0.2]])


@pytest.mark.parametrize(("rows", "options"), [(0, {}), (3, {"k": 0}), (3, {"temperature": 0.0})])
def test_refusals(rows, options):
    with pytest.raises(InputError):
        knn_scores(np.ones((rows, 2)), np.zeros(rows, int), np.ones((1, 2)), classes=1, **options)
