"""Effective rank and deviation against NumPy's singular values."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jfreq.ops import collapse as functions
from jfreq.testing import Compiled

collapse = Compiled(functions)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(6, 9), (16, 5)]))
def test_rankme_is_the_entropy_of_singular_values(seed, shape):
    x = np.random.default_rng(seed).normal(size=shape)
    share = np.linalg.svd(x, compute_uv=False)
    share /= share.sum()
    expected = np.exp(-(share * np.log(share)).sum())
    assert float(collapse.rankme(jnp.asarray(x, jnp.float32))) == pytest.approx(expected, rel=1e-3)


def test_rankme_of_known_spectra():
    rng = np.random.default_rng()
    basis = np.linalg.qr(rng.normal(size=(32, 32)))[0]
    assert float(collapse.rankme(jnp.asarray(basis, jnp.float32))) == pytest.approx(32, rel=1e-3)
    one = np.outer(rng.normal(size=64), rng.normal(size=20))
    assert float(collapse.rankme(jnp.asarray(one, jnp.float32))) == pytest.approx(1, abs=1e-2)
    assert float(collapse.rankme(jnp.zeros((4, 3)))) == 1


def test_deviation_is_numpys():
    x = np.random.default_rng().normal(2, 3, size=(50, 4))
    found = float(collapse.mean_std(jnp.asarray(x, jnp.float32)))
    assert found == pytest.approx(x.std(0).mean(), rel=1e-4)
    assert float(collapse.mean_std(jnp.ones((5, 3)))) == 0


@pytest.mark.parametrize(("shape", "count"), [((3, 10, 2), 6), ((3, 10, 2), 64), ((9, 4, 2), 5)])
def test_sample_takes_evenly_from_every_row(shape, count):
    x = jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)
    sample = np.asarray(collapse.sample_evenly(x, count))
    per_row = min(shape[1], -(-count // shape[0]))
    assert len(sample) == min(count, shape[0] * per_row)
    assert len(np.unique(sample, axis=0)) == len(sample)
    rows = (sample[:, 0] // (shape[1] * shape[2])).astype(int)
    assert np.bincount(rows, minlength=1).max() <= per_row


def test_sample_meets_every_line_of_a_lattice():
    """Of 16 x 8 tokens, all eight frequencies are met, not one of them 64 times."""
    token = jnp.broadcast_to(jnp.arange(128.0)[None, :, None], (16, 128, 1))
    sample = np.asarray(collapse.sample_evenly(token, 64))[:, 0].astype(int)
    assert set(sample % 8) == set(range(8)) and len(set(sample // 8)) == 8
