from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jfreq import losses as functions
from jfreq.testing import Compiled
from jfreq.types import InputError

losses = Compiled(functions)


def reference(pred, target, form):
    """Float64 numpy; for ``paper`` equation 1 of SSAST, for ``official`` its transpose."""
    out = []
    for c, x in zip(np.asarray(pred, np.float64), np.asarray(target, np.float64)):
        s = c @ x.T if form == "paper" else x @ c.T
        s = s - s.max(axis=1, keepdims=True)
        out.append(-np.mean(np.diag(s - np.log(np.exp(s).sum(axis=1, keepdims=True)))))
    return np.array(out)


@pytest.fixture
def pair():
    rng = np.random.default_rng()
    pred, target = (jnp.asarray(rng.normal(size=(3, 7, 5)), jnp.float32) for _ in range(2))
    return pred, target


@pytest.mark.parametrize("form", ["paper", "official"])
def test_info_nce_against_float64(pair, form):
    pred, target = pair
    expected = reference(pred, target, form)
    np.testing.assert_allclose(losses.info_nce(pred, target, form=form), expected, rtol=1e-5)


def test_forms_are_transposes_and_differ(pair):
    pred, target = pair
    np.testing.assert_allclose(
        losses.info_nce(pred, target, form="official"),
        losses.info_nce(target, pred, form="paper"),
        rtol=1e-6,
    )
    assert not np.allclose(losses.info_nce(pred, target), losses.info_nce(target, pred))


@pytest.mark.parametrize("form", ["paper", "official"])
def test_constant_scores_give_log_n(form):
    x = jnp.ones((2, 9, 4))
    np.testing.assert_allclose(losses.info_nce(x, x, form=form), np.log(9), rtol=1e-6)


def test_order_of_masked_tokens_and_other_clips_do_not_matter(pair):
    pred, target = pair
    order = np.random.default_rng(1).permutation(7)
    np.testing.assert_allclose(
        losses.info_nce(pred[:, order], target[:, order]), losses.info_nce(pred, target), rtol=1e-5
    )
    np.testing.assert_allclose(
        losses.info_nce(pred[:1], target[:1]), losses.info_nce(pred, target)[:1], rtol=1e-6
    )


def test_accuracy_and_mse(pair):
    pred, target = pair
    np.testing.assert_allclose(losses.match_accuracy(100 * target, target), _hits(target))
    np.testing.assert_allclose(
        losses.mse(pred, target), ((pred - target) ** 2).mean((1, 2)), rtol=1e-5
    )
    np.testing.assert_allclose(losses.mse(0 * target, target), (target**2).mean((1, 2)), rtol=1e-5)


def _hits(target):
    """An own patch wins only if no other one has a larger inner product."""
    return [np.mean((x @ x.T).argmax(1) == np.arange(len(x))) for x in target]


def test_bfloat16_inputs_are_compared_in_float32(pair):
    pred, target = (jnp.asarray(x, jnp.bfloat16) for x in pair)
    loss = losses.info_nce(pred, target)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, reference(pred, target, "paper"), rtol=1e-5)


def test_gradient_is_softmax_minus_one():
    scores = jnp.asarray([[2.0, 0.0], [0.0, 1.0]])
    target = jnp.eye(2)[None]
    grad = jax.grad(lambda c: losses.info_nce(c, target)[0])(scores[None])[0]
    np.testing.assert_allclose(grad, (jax.nn.softmax(scores, axis=1) - jnp.eye(2)) / 2, atol=1e-6)


# ------------------------------------------------------------------ NT-Xent


def nt_xent_reference(a, b, temperature):
    """Float64, by the definition, one view at a time."""
    z = np.concatenate([a, b]).astype(np.float64)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    n, out = len(a), []
    for i in range(2 * n):
        s = z @ z[i] / temperature
        others = np.delete(s, i)
        top = others.max()
        out.append(top + np.log(np.exp(others - top).sum()) - s[(i + n) % (2 * n)])
    return (np.array(out[:n]) + np.array(out[n:])) / 2


@pytest.fixture
def views():
    rng = np.random.default_rng()
    return [jnp.asarray(rng.normal(size=(6, 5)), jnp.float32) for _ in range(2)]


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_nt_xent_against_float64(views, temperature):
    expected = nt_xent_reference(np.asarray(views[0]), np.asarray(views[1]), temperature)
    found = losses.nt_xent(*views, temperature=temperature)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


def test_nt_xent_of_orthogonal_and_of_collapsed_views():
    """U6: closed forms for identical views of orthogonal clips, and for full collapse."""
    eye = jnp.eye(8)
    expected = np.log(1 + 2 * 7 * np.exp(-1 / 0.1))
    assert expected == pytest.approx(6.354e-4, rel=1e-3)
    np.testing.assert_allclose(losses.nt_xent(eye, eye, temperature=0.1), expected, rtol=1e-3)
    ones = jnp.ones((8, 3))
    np.testing.assert_allclose(losses.nt_xent(ones, ones), np.log(15), rtol=1e-6)


def test_nt_xent_symmetries(views):
    """U7: views may be swapped, clips permuted, embeddings rescaled."""
    a, b = views
    base = losses.nt_xent(a, b)
    np.testing.assert_allclose(losses.nt_xent(b, a), base, rtol=1e-5, atol=1e-6)
    order = np.random.default_rng().permutation(6)
    np.testing.assert_allclose(
        losses.nt_xent(a[order], b[order]), base[order], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(losses.nt_xent(3 * a, 0.1 * b), base, rtol=1e-5, atol=1e-6)


def test_nt_xent_leaves_out_a_view_itself():
    """U8: were a view its own negative, the loss could not fall below log 2."""
    eye = jnp.eye(4)
    assert float(losses.nt_xent(eye, eye, temperature=0.05).max()) < 1e-6


def test_nt_xent_has_finite_gradients_in_float32():
    """U9: two clips, low temperature, equal and opposite embeddings, and zeros."""
    for a in (jnp.ones((2, 4)), jnp.array([[1.0, 0], [-1.0, 0]]), jnp.zeros((2, 3))):
        grad = jax.grad(lambda a: losses.nt_xent(a, a, temperature=0.07).sum())(a)
        assert np.isfinite(grad).all()


def test_nt_xent_leaves_out_clips_that_are_not_valid(views):
    """Valid clips get what they would get without the others."""
    a, b = views
    valid = np.array([True, True, False, True, False, True])
    found = losses.nt_xent(a, b, valid=jnp.asarray(valid))
    np.testing.assert_allclose(found[valid], losses.nt_xent(a[valid], b[valid]), rtol=1e-5)
    assert np.isfinite(losses.nt_xent(a, b, valid=jnp.zeros(6, bool))).all()


# ------------------------------------------------------------------ FOCAL


def test_nt_xent_by_position_compares_like_places_only(views):
    """By hand: rows 0, 2, 4 among themselves, and rows 1, 3, 5."""
    a, b = views
    found = losses.nt_xent_by_position(a, b, sequence=2, temperature=0.2)
    for place in (0, 1):
        expected = losses.nt_xent(a[place::2], b[place::2], temperature=0.2)
        np.testing.assert_allclose(found[place::2], expected, rtol=1e-5)
    whole = losses.nt_xent_by_position(a, b, sequence=1, temperature=0.2)
    np.testing.assert_allclose(whole, losses.nt_xent(a, b, temperature=0.2), rtol=1e-5)


def test_identical_embeddings_of_64_sub_sequences():
    """3.f: each view has one partner among the 127 others; no sub-sequence is tighter."""
    same = jnp.ones((256, 16))
    found = losses.nt_xent_by_position(same, same, sequence=4, temperature=0.07)
    np.testing.assert_allclose(found, np.log(127), rtol=1e-6)
    value, counts = losses.temporal_order(same, sequence=4)
    np.testing.assert_allclose(value, 1.0, rtol=1e-6)
    assert counts.all()


def test_orthogonality_of_equal_opposite_and_upright_vectors():
    a = jnp.asarray(np.random.default_rng(0).normal(size=(7, 8)), jnp.float32)
    upright = jnp.concatenate([-a[:, 4:], a[:, :4]], axis=1)
    forms: dict[Literal["hinge", "absolute"], tuple[int, ...]]
    forms = {"hinge": (1, 0, 0), "absolute": (1, 1, 0)}
    for form, expected in forms.items():
        found = [losses.orthogonality(a, 3 * b, form=form) for b in (a, -a, upright)]
        for value, one in zip(found, expected):
            np.testing.assert_allclose(value, np.full(7, one), atol=1e-6)
    silent = jax.grad(lambda a: losses.orthogonality(a, a).sum())(jnp.zeros((2, 3)))
    assert np.isfinite(silent).all()


def test_constant_sub_sequences_far_apart_are_in_order():
    """3.f; at a distance of half the margin, half of it is missing."""
    for distance, missing in ((1.5, 0.0), (0.5, 0.5)):
        z = jnp.repeat(jnp.array([[0.0, 0.0], [distance, 0.0]]), 4, axis=0)
        np.testing.assert_allclose(
            losses.temporal_order(z, sequence=4)[0], np.full(8, missing), atol=1e-6
        )


def temporal_reference(z, sequence, margin, valid):
    """Float64, pair by pair of rows; the value of every sub-sequence, None where it has none."""
    runs = np.asarray(z, np.float64).reshape(-1, sequence, z.shape[1])
    kept = valid.reshape(-1, sequence)

    def mean(i, j):
        found = [
            np.linalg.norm(runs[i, p] - runs[j, q])
            for p in range(sequence)
            for q in range(sequence)
            if kept[i, p] and kept[j, q] and (i, p) != (j, q)
        ]
        return np.mean(found) if found else None

    out = []
    for i in range(len(runs)):
        others = [mean(i, j) for j in range(len(runs)) if j != i]
        own = mean(i, i)
        hinges = [] if own is None else [max(0, own - d + margin) for d in others if d is not None]
        out.append(np.mean(hinges) if hinges else None)
    return out


@pytest.mark.parametrize("missing", [(), (1, 4, 5, 9, 10, 11)])
def test_temporal_order_against_float64(missing):
    """Without and with missing rows: the second sub-sequence keeps one row, the fourth none."""
    z = np.random.default_rng(3).normal(size=(15, 6))
    valid = np.ones(15, bool)
    valid[list(missing)] = False
    value, counts = losses.temporal_order(
        jnp.asarray(z, jnp.float32), sequence=3, margin=0.8, valid=jnp.asarray(valid)
    )
    expected = np.repeat(temporal_reference(z, 3, 0.8, valid), 3)
    known = np.array([v is not None for v in expected]) & valid
    np.testing.assert_array_equal(counts, known)
    np.testing.assert_allclose(value[known], expected[known].astype(float), rtol=1e-5)
    assert not np.asarray(value[~known]).any()


def test_temporal_order_has_finite_gradients_on_equal_rows():
    """Repeated rows, as at the end of a recording, and a batch of one row over and over."""
    rng = np.random.default_rng(0)
    tail = np.repeat(rng.normal(size=(4, 5)), 3, axis=0)
    for z in (tail, 100 + 0 * tail, 1e-3 * tail):
        grad = jax.grad(lambda z: losses.temporal_order(z, sequence=3)[0].sum())(jnp.asarray(z))
        assert np.isfinite(grad).all()


def test_temporal_order_pulls_together_and_pushes_apart():
    """The gradient is that of float64 differences."""
    z = np.random.default_rng(5).normal(size=(6, 4))
    grad = jax.grad(lambda z: losses.temporal_order(z, sequence=2)[0].mean())(
        jnp.asarray(z, jnp.float32)
    )
    every, step = np.ones(6, bool), 1e-5
    for at in np.ndindex(z.shape):
        ends = []
        for sign in (1, -1):
            moved = z.copy()
            moved[at] += sign * step
            ends.append(np.mean(temporal_reference(moved, 2, 1.0, every)))
        np.testing.assert_allclose(grad[at], (ends[0] - ends[1]) / (2 * step), atol=1e-5)


def test_sub_sequences_that_do_not_fill_the_batch_are_refused():
    z = jnp.ones((6, 3))
    with pytest.raises(InputError, match="6 rows are not whole sub-sequences of 4"):
        losses.temporal_order(z, sequence=4)
    with pytest.raises(InputError, match="6 rows are not whole sub-sequences of 4"):
        losses.nt_xent_by_position(z, z, sequence=4)
    with pytest.raises(InputError, match="needs 2 rows or more"):
        losses.temporal_order(z, sequence=1)


# ------------------------------------------------------------------ errors with weights


def test_weighted_mse_against_numpy():
    rng = np.random.default_rng(0)
    pred, target, weight = (rng.uniform(size=(3, 5, 4)) for _ in range(3))
    weight[1] = 0.0
    found = losses.weighted_mse(*(jnp.asarray(x, jnp.float32) for x in (pred, target, weight)))
    wanted = [
        np.average((p - t) ** 2, weights=w) if w.any() else 0.0
        for p, t, w in zip(pred, target, weight)
    ]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_standardised_patches_against_scipy():
    from scipy.stats import zscore

    x = np.random.default_rng(0).normal(3, 5, (2, 6, 8))
    x[0, 0] = 7.0  # a flat patch has no variance to divide by
    found = np.asarray(losses.standardise_patches(jnp.asarray(x, jnp.float32)))
    wanted = np.asarray(zscore(x[0, 1:], axis=-1, ddof=1))
    np.testing.assert_allclose(found[0, 1:], wanted, rtol=1e-4, atol=1e-5)
    assert not found[0, 0].any()


def test_absent_sensors_are_left_out_of_the_mean():
    values = {"a": jnp.array([1.0, jnp.nan, 5.0]), "b": jnp.array([3.0, 4.0, jnp.nan])}
    present = {"a": jnp.array([True, False, False]), "b": jnp.array([True, True, False])}
    assert losses.mean_present(values, present).tolist() == [2.0, 4.0, 0.0]


def test_ratio_in_decibels_is_finite_where_something_is_perfect_or_silent():
    error, signal = jnp.array([0.0, 1.0, 0.0]), jnp.array([2.0, 0.0, 0.0])
    energy = jnp.array([1.0, 0.0, 0.0])

    def total(error):
        return losses.snr_weighted(error, signal, energy, exponent=0.3).sum()

    assert np.isfinite(total(error)) and np.isfinite(jax.grad(total)(error)).all()
    assert float(total(error)) == pytest.approx(-3 * 60, rel=1e-3)  # 1e-6 of the signal at best


def test_losses_over_codes_against_optax(pair):
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(3, 7, 5)), jnp.float32)
    codes = jnp.asarray(rng.integers(0, 5, (3, 7)))
    valid = jnp.arange(7)[None] < jnp.asarray([7, 2, 0])[:, None]
    each = optax.softmax_cross_entropy_with_integer_labels(logits, codes)
    total, count = losses.code_cross_entropy(logits, codes, valid=valid)
    np.testing.assert_allclose(total, (each * valid).sum(1), rtol=1e-5)
    np.testing.assert_array_equal(count, [7, 2, 0])
    right, _ = losses.code_accuracy(logits, codes, valid=valid)
    np.testing.assert_array_equal(right, ((logits.argmax(-1) == codes) & valid).sum(1))
    pred, target = pair
    total, count = losses.cosine_distance(pred, target)
    np.testing.assert_allclose(total, optax.cosine_distance(pred, target).sum(1), rtol=1e-5)
    np.testing.assert_array_equal(count, [7, 7, 7])
