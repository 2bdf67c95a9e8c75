"""Contrast of many views of a clip, and the targets that a teacher's layers give."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq import losses as functions
from jfreq.testing import Compiled
from jfreq.types import InputError

losses = Compiled(functions)


def multi_view_reference(e, temperature):
    """Float64, one pair of views at a time."""
    e = np.asarray(e, np.float64)
    e = e / np.linalg.norm(e, axis=-1, keepdims=True)
    b, m, _ = e.shape
    out = np.zeros(b)
    for clip in range(b):
        for view in range(m):
            scores = np.einsum("bmd,d->bm", e, e[clip, view]) / temperature
            others = np.delete(scores.reshape(-1), clip * m + view)
            total = others.max() + np.log(np.exp(others - others.max()).sum())
            for partner in set(range(m)) - {view}:
                out[clip] += (total - scores[clip, partner]) / (m * (m - 1))
    return out


@pytest.fixture
def many():
    return jnp.asarray(np.random.default_rng().normal(size=(5, 4, 6)), jnp.float32)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_multi_view_against_float64(many, temperature):
    expected = multi_view_reference(many, temperature)
    found = losses.multi_view(many, temperature=temperature)
    np.testing.assert_allclose(found, expected, rtol=2e-5)
    longer = many * jnp.asarray(np.random.default_rng().uniform(0.1, 9, (5, 4, 1)), jnp.float32)
    np.testing.assert_allclose(
        losses.multi_view(longer, temperature=temperature), expected, rtol=2e-5
    )


def test_multi_view_of_aligned_and_of_collapsed_views():
    """Closed forms: log(BM - 1) where all is one, log(M - 1) where only views of a clip are."""
    np.testing.assert_allclose(losses.multi_view(jnp.ones((3, 5, 2))), np.log(14), rtol=1e-6)
    aligned = jnp.repeat(jnp.eye(6)[:, None], 16, axis=1)
    found = losses.multi_view(aligned, temperature=0.05)
    np.testing.assert_allclose(found, losses.multi_view_minimum(16), rtol=1e-5)
    assert losses.multi_view_minimum(16) == pytest.approx(2.70805, abs=1e-5)
    apart = losses.multi_view(aligned, temperature=0.5)
    np.testing.assert_allclose(apart, np.log(15 + 5 * 16 * np.exp(-1 / 0.5)), rtol=1e-5)


def test_multi_view_of_two_is_nt_xent(many):
    found = losses.multi_view(many[:, :2], temperature=0.2)
    expected = losses.nt_xent(many[:, 0], many[:, 1], temperature=0.2)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert losses.multi_view_minimum(2) == 0


def test_multi_view_leaves_out_clips_that_are_not_valid(many):
    valid = np.array([True, False, True, True, False])
    found = losses.multi_view(many, valid=jnp.asarray(valid))
    np.testing.assert_allclose(found[valid], losses.multi_view(many[valid]), rtol=1e-5)

    def total(e, valid):
        return jnp.sum(jnp.where(valid, losses.multi_view(e, valid=valid), 0))

    grad = np.asarray(jax.jit(jax.grad(total))(many, jnp.asarray(valid)))
    assert np.abs(grad[valid]).max() > 0
    assert not grad[~valid].any()


def test_multi_view_is_finite_where_nothing_is_valid_or_different(many):
    def total(e, valid):
        return losses.multi_view(e, valid=valid).sum()

    slope = jax.jit(jax.value_and_grad(total))
    for e in (many, jnp.zeros_like(many), jnp.ones_like(many)):
        for valid in (jnp.zeros(5, bool), jnp.ones(5, bool)):
            assert all(np.isfinite(x).all() for x in slope(e, valid))


def test_multi_view_needs_two_views(many):
    with pytest.raises(InputError, match="2 views of a clip or more, got 1"):
        losses.multi_view(many[:, :1])


# ------------------------------------------------------------------ layers of a teacher


@pytest.mark.interop
def test_targets_against_torch():
    torch = pytest.importorskip("torch")
    layers = np.random.default_rng(0).normal(2, 3, (4, 2, 7, 6)).astype(np.float32)
    normed = torch.nn.functional.instance_norm(torch.tensor(layers.reshape(8, 7, 6)).mT).mT
    mean = normed.reshape(4, 2, 7, 6).mean(0)
    expected = torch.nn.functional.layer_norm(mean, (6,)).numpy()
    found = jax.jit(losses.instance_norm_targets)(jnp.asarray(layers))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_targets_against_float64_and_are_standardised():
    from scipy.stats import zscore

    layers = np.random.default_rng().normal(5, 9, (3, 2, 50, 16))
    found = np.asarray(losses.instance_norm_targets(jnp.asarray(layers, jnp.float32)))
    np.testing.assert_allclose(found.mean(-1), 0, atol=1e-6)
    np.testing.assert_allclose(found.var(-1), 1, atol=2e-4)
    expected = zscore(np.asarray(zscore(layers, axis=2)).mean(0), axis=-1)
    np.testing.assert_allclose(found, np.asarray(expected), rtol=1e-3, atol=1e-3)
    half = losses.instance_norm_targets(jnp.asarray(layers, jnp.bfloat16))
    assert half.dtype == jnp.float32


def test_targets_of_speech_keep_their_level_and_ignore_padding():
    from scipy.stats import zscore

    layers = np.random.default_rng().normal(5, 9, (3, 2, 9, 16))
    valid = jnp.arange(9)[None] < jnp.array([[7], [9]])
    find = jax.jit(functools.partial(losses.instance_norm_targets, norm_tokens=False))
    found = find(jnp.asarray(layers, jnp.float32), valid=valid)
    for clip, count in enumerate((7, 9)):
        expected = np.asarray(zscore(layers[:, clip, :count], axis=1)).mean(0)
        np.testing.assert_allclose(found[clip, :count], expected, rtol=1e-3, atol=1e-3)
        np.testing.assert_array_equal(found[clip, count:], 0)


@pytest.mark.parametrize("level", [0.0, 0.1, 1e4 / 3])
def test_targets_of_constant_layers_are_zero(level):
    layers = jnp.full((3, 2, 7, 6), level)
    np.testing.assert_allclose(losses.instance_norm_targets(layers), 0, atol=1e-4)


def test_squared_error_against_numpy():
    rng = np.random.default_rng()
    pred, target = (rng.normal(size=(3, 7, 5)) for _ in range(2))
    pair = [jnp.asarray(x, jnp.float32) for x in (pred, target)]
    expected = [((p - t) ** 2).sum(1).mean() / np.sqrt(5) for p, t in zip(pred, target)]
    np.testing.assert_allclose(losses.squared_error(*pair), expected, rtol=1e-5)
    valid = jnp.arange(7)[None] < jnp.array([[7], [4], [0]])
    expected = [
        ((p - t) ** 2).sum(1)[:count].sum() / max(count, 1) / np.sqrt(5)
        for p, t, count in zip(pred, target, (7, 4, 0))
    ]
    np.testing.assert_allclose(losses.squared_error(*pair, valid=valid), expected, rtol=1e-5)
    half = [x.astype(jnp.bfloat16) for x in pair]
    assert losses.squared_error(*half).dtype == jnp.float32
