import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jfreq.data.loading import index_order


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**63 - 1), st.integers(0, 10**6))
def test_permute_is_a_permutation(size, seed, epoch):
    out = index_order.permute(np.arange(size), size=size, seed=seed, epoch=epoch)
    assert out.dtype == np.int64
    np.testing.assert_array_equal(np.sort(out), np.arange(size))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 100), st.integers(10, 64), st.integers(0, 1000))
def test_every_epoch_holds_every_row_once_across_batches(rows, batch, seed):
    steps = -(-3 * rows // batch)
    ids = [index_order.global_ids(s, batch=batch, rows=rows, seed=seed) for s in range(steps)]
    epochs = np.concatenate(ids)[: 3 * rows].reshape(3, rows)
    np.testing.assert_array_equal(np.sort(epochs, 1), np.tile(np.arange(rows), (3, 1)))


def test_large_sets_take_no_table():
    size = 2_000_000_000
    index = np.arange(10_000) * 199_999
    out = index_order.permute(index, size=size, seed=1, epoch=0)
    assert len(set(out.tolist())) == len(index)
    assert out.min() >= 0
    assert out.max() < size


def test_orders_differ_between_epochs_and_seeds_and_look_random():
    size = 1000
    perms = np.stack(
        [
            index_order.permute(np.arange(size), size=size, seed=s, epoch=e)
            for s in (0, 1)
            for e in (0, 1)
        ]
    )
    centred = perms - perms.mean(1, keepdims=True)
    corr = np.asarray(np.corrcoef(np.concatenate([centred, np.arange(size)[None]])))
    # The standard error of a correlation of 1000 pairs is 0.032.
    assert np.abs(corr[~np.eye(5, dtype=bool)]).max() < 0.15
    (_, neighbours), _ = np.corrcoef(perms[0][:-1], perms[0][1:]).tolist()
    assert abs(neighbours) < 0.15


@pytest.mark.parametrize("size", [2, 3, 5])
def test_small_permutations_are_all_reached_evenly(size):
    trials = 1200
    index, epoch = np.tile(np.arange(size), trials), np.repeat(np.arange(trials), size)
    first: np.ndarray = index_order.permute(index, size=size, seed=4, epoch=epoch).reshape(
        trials, size
    )
    kinds, counts = np.unique(first, axis=0, return_counts=True)
    expected = trials / math.factorial(size)
    assert len(kinds) == math.factorial(size)
    chi2 = np.sum((counts - expected) ** 2 / expected)
    assert chi2 < len(kinds) - 1 + 5 * np.sqrt(2 * len(kinds))


def test_the_order_never_changes_between_versions():
    # A checkpoint resumes by step number alone: these values are part of the format.
    got = index_order.global_ids(7, batch=6, rows=100, seed=3).tolist()
    assert got == GOLDEN


def test_shuffle_off_is_in_order():
    np.testing.assert_array_equal(
        index_order.global_ids(1, batch=4, rows=6, seed=9, shuffle=False), [4, 5, 0, 1]
    )


def test_fractions_are_uniform_and_their_own_stream():
    u = np.concatenate([index_order.fractions(s, batch=100, seed=0) for s in range(50)])
    assert u.min() >= 0
    assert u.max() < 1
    np.testing.assert_allclose(np.quantile(u, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.03)
    assert len(np.unique(u)) == len(u)


GOLDEN = [25, 9, 13, 35, 64, 11]
