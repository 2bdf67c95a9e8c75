import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq import losses


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
    np.testing.assert_allclose(losses.nt_xent(*views, temperature=temperature), expected, rtol=2e-5)


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
    np.testing.assert_allclose(losses.nt_xent(b, a), base, rtol=1e-5)
    order = np.random.default_rng().permutation(6)
    np.testing.assert_allclose(losses.nt_xent(a[order], b[order]), base[order], rtol=1e-5)
    np.testing.assert_allclose(losses.nt_xent(3 * a, 0.1 * b), base, rtol=1e-5)


def test_nt_xent_leaves_out_a_view_itself():
    """U8: were a view its own negative, the loss could not fall below log 2."""
    eye = jnp.eye(4)
    assert float(losses.nt_xent(eye, eye, temperature=0.05).max()) < 1e-6


def test_nt_xent_has_finite_gradients_in_float32():
    """U9: two clips, low temperature, equal and opposite embeddings, and zeros."""
    for a in (jnp.ones((2, 4)), jnp.array([[1.0, 0], [-1.0, 0]]), jnp.zeros((2, 3))):
        grad = jax.grad(lambda a: losses.nt_xent(a, a, temperature=0.07).sum())(a)
        assert np.isfinite(grad).all()
