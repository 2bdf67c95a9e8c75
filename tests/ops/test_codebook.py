from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq.ops import codebook
from jfreq.ops.scale import unit
from jfreq.testing import noise

CODES = 6


@pytest.fixture(scope="module")
def data():
    """Vectors ``[b n d]`` of any length and codes ``[k d]`` among them."""
    return noise(4, 16, 5), codebook.random_codes(jax.random.key(1), CODES, 5)


def test_nearest_against_scikit_learn(data):
    from sklearn.neighbors import NearestNeighbors

    x, codes = data
    finder = NearestNeighbors(n_neighbors=1, metric="cosine").fit(np.asarray(codes))
    expected = finder.kneighbors(np.asarray(x).reshape(-1, 5), return_distance=False)[:, 0]
    ids = codebook.nearest(x, 3 * codes)
    np.testing.assert_array_equal(ids.reshape(-1), expected)
    np.testing.assert_array_equal(codebook.nearest(7 * x, codes), ids)


def test_without_memory_it_is_a_step_of_k_means(data):
    from sklearn.cluster import KMeans

    x, codes = data
    x = unit(x)
    ids = codebook.nearest(x, codes)
    sums, counts = codebook.statistics(x, ids, CODES)
    assert counts.min() > 0
    flat = np.asarray(x, np.float64).reshape(-1, 5)
    options: Any = {"init": np.asarray(codes), "n_init": 1}  # scikit-learn types them as words
    one = KMeans(CODES, max_iter=1, algorithm="lloyd", **options).fit(flat)
    np.testing.assert_allclose(sums / counts[:, None], one.cluster_centers_, atol=1e-6)
    moved, usage = codebook.follow(codes, jnp.ones(CODES), sums, counts, decay=0.0)
    expected = one.cluster_centers_ / np.linalg.norm(one.cluster_centers_, axis=1, keepdims=True)
    np.testing.assert_allclose(moved, expected, atol=1e-6)
    np.testing.assert_allclose(usage, np.bincount(ids.reshape(-1)) * CODES / 64, rtol=1e-6)


def test_moving_average_and_codes_that_nobody_uses(data):
    x, codes = data
    x = unit(x)
    ids = jnp.where(codebook.nearest(x, codes) == 2, 1, codebook.nearest(x, codes))
    sums, counts = codebook.statistics(x, ids, CODES)
    moved, usage = codebook.follow(codes, jnp.full(CODES, 0.5), sums, counts, decay=0.9)
    np.testing.assert_array_equal(moved[2], codes[2])
    assert usage[2] == pytest.approx(0.45)
    for k in (0, 1):
        mean = np.asarray(x)[np.asarray(ids) == k].sum(0)
        step = 0.9 * np.asarray(codes[k]) + 0.1 * mean / np.linalg.norm(mean)
        np.testing.assert_allclose(moved[k], step / np.linalg.norm(step), atol=1e-6)


def test_statistics_of_parts_add_up_and_padding_does_not_count(data):
    x, codes = data
    ids = codebook.nearest(x, codes)
    valid = jnp.arange(16)[None] < jnp.asarray([16, 3, 0, 9])[:, None]
    whole = codebook.statistics(x, ids, CODES, valid=valid)
    parts = [codebook.statistics(x[i], ids[i], CODES, valid=valid[i]) for i in range(4)]
    for total, of_parts in zip(whole, zip(*parts)):
        np.testing.assert_allclose(total, sum(of_parts), atol=1e-5)
    assert whole[1].sum() == valid.sum()
    np.testing.assert_array_equal(codebook.counts(ids, CODES, valid=valid), whole[1])


def test_only_dead_codes_restart(data):
    _, codes = data
    dead = jnp.arange(CODES) % 2 == 0
    new, usage = codebook.restart(codes, jnp.zeros(CODES), 4 * noise(CODES + 2, 5, seed=3), dead)
    np.testing.assert_array_equal(new[1::2], codes[1::2])
    np.testing.assert_allclose(new[::2], unit(noise(CODES + 2, 5, seed=3))[:CODES:2], atol=1e-6)
    np.testing.assert_array_equal(usage, dead.astype(jnp.float32))


@pytest.mark.parametrize("count", [3, 12, 40])
def test_sampled_vectors_are_valid_and_as_different_as_they_can_be(key, count):
    x = jnp.arange(64.0).reshape(4, 16, 1)
    valid = jnp.arange(16)[None] < jnp.asarray([16, 3, 16, 9])[:, None]
    some = codebook.sample_vectors(key, x, count, valid=valid)
    assert some.shape == (4, -(-count // 4), 1)
    ids = np.asarray(some[..., 0], int)
    assert np.asarray(valid).reshape(-1)[ids].all()
    for mine, there in zip(ids, (16, 3, 16, 9)):
        assert len(set(mine)) == min(len(mine), there)
    other = codebook.sample_vectors(jax.random.key(5), x, count)[..., 0]
    assert (ids != np.asarray(other)).any()


def test_straight_through_and_perplexity():
    x, code = noise(3, 5), noise(3, 5, seed=1)
    value, grad = jax.value_and_grad(lambda x: jnp.sum(codebook.straight_through(x, code) ** 2))(x)
    np.testing.assert_allclose(value, jnp.sum(code**2), rtol=1e-5)
    np.testing.assert_allclose(grad, 2 * code, rtol=1e-5)
    assert codebook.perplexity(jnp.asarray([4.0, 4, 0, 4])) == pytest.approx(3, rel=1e-5)
    assert codebook.perplexity(jnp.zeros(4)) == 1
    weights = codebook.random_projection(jax.random.key(0), 256, 64)
    assert float(jnp.std(weights)) == pytest.approx((2 / 320) ** 0.5, rel=0.03)
