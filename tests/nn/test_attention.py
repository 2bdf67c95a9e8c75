"""Both paths against float64 NumPy, the hand-written gradient against automatic ones."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq.kernels import cpu, tpu
from jfreq.kernels.cpu import grouped_attention
from jfreq.nn import attention as module
from jfreq.nn.attention import Kind, attention
from jfreq.nn.bias import ALiBi
from jfreq.nn.vit import ViT
from jfreq.types import InputError

SHAPE = (3, 7, 2, 5)
"""[b n h k]; no two axes alike, so that a transposed axis cannot go unseen."""


def softmax(scores):
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def reference(q, k, v, valid):
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    scores = np.einsum("bqhk,bshk->bhqs", q, k) / np.sqrt(q.shape[-1])
    if valid is not None:
        scores = np.where(np.asarray(valid)[:, None, None, :], scores, -np.inf)
    return np.einsum("bhqs,bshk->bqhk", softmax(scores), v)


def splash(q, k, v, *, valid=None):
    """The TPU kernel, interpreted."""
    return module._splash(q, k, v, valid, interpret=True)


def whole(q, k, v, *, valid=None):
    """The TPU kernel for short rows, interpreted."""
    return tpu.attention(jnp.stack((q, k, v), axis=2), valid, interpret=True)


@pytest.fixture(params=["auto", "xla", "splash", "whole"])
def attend(request):
    """The head-major form (CPU), the one every other backend takes, and the fused kernels."""
    fused = {"splash": splash, "whole": whole}
    return fused.get(request.param) or partial(attention, kind=request.param)


@pytest.fixture
def rng():
    return np.random.default_rng()


def inputs(rng, *, gain=1.0):
    q, k, v = (jnp.asarray(gain * rng.normal(size=SHAPE), jnp.float32) for _ in range(3))
    return q, k, v


def validity(rng):
    valid = rng.uniform(size=SHAPE[:2]) < 0.6
    valid[:, 0] = True
    valid[0] = True
    valid[1, 1:] = False
    return jnp.asarray(valid)


def vjp(fn, qkv, weight, valid=None):
    """Output and gradients by q, k, v, in one compilation."""

    def run(qkv, weight):
        out, pull = jax.vjp(lambda q, k, v: fn(q, k, v, valid=valid), *qkv)
        return out, pull(weight)

    return jax.jit(run)(qkv, weight)


def plain(q, k, v, *, valid, bias=0.0):
    """The formula of the paper, [b n h k], differentiated by JAX."""
    scores = jnp.einsum("bqhk,bshk->bhqs", q, k) / np.sqrt(q.shape[-1]) + bias
    if valid is not None:
        scores = jnp.where(valid[:, None, None, :], scores, -1e30)
    return jnp.einsum("bhqs,bshk->bqhk", jax.nn.softmax(scores, axis=-1), v)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("form", ["auto", "heads", "xla"])
@pytest.mark.parametrize(("n", "m"), [(7, 4), (3, 8)])
def test_cross_attention_against_float64(rng, monkeypatch, form, n, m, masked):
    """Other queries than keys, in other numbers; on CPU all heads at once and one by one."""
    attend = partial(attention, kind=form)
    if form == "heads":
        monkeypatch.setattr(grouped_attention, "_CACHE_BYTES", 1)

        def attend(q, k, v, *, valid):
            return cpu.attention(q, k, v, valid, None)

    b, h, size = 3, 2, 5
    q, k, v = (rng.normal(size=(b, s, h, size)) for s in (n, m, m))
    weight = rng.normal(size=(b, n, h, size))
    valid = None
    if masked:
        valid = rng.uniform(size=(b, m)) < 0.6
        valid[:, 1] = True
    narrow, seed = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), ((q, k, v), weight))
    mask = None if valid is None else jnp.asarray(valid)
    out, found = vjp(attend, narrow, seed, mask)
    np.testing.assert_allclose(out, reference(q, k, v, valid), rtol=1e-5, atol=2e-6)
    with jax.enable_x64(True):
        _, expected = vjp(plain, (q, k, v), weight, valid)
        expected = [np.asarray(g) for g in expected]
    where = None if valid is None else valid[:, None, None, :]
    theirs = vjp(
        lambda q, k, v, valid: jax.nn.dot_product_attention(q, k, v, mask=where), narrow, seed
    )
    np.testing.assert_allclose(out, theirs[0], rtol=1e-5, atol=2e-6)
    for mine, truth, other in zip(found, expected, theirs[1]):
        np.testing.assert_allclose(mine, truth, rtol=1e-5, atol=2e-6)
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=5e-6)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("rows", [1, SHAPE[0]], ids=["shared", "own"])
@pytest.mark.parametrize("form", ["auto", "heads", "xla", "drop"])
def test_bias_is_added_to_the_scores(rng, monkeypatch, form, rows, masked):
    """One for all rows or one for each: values and gradients, the bias's too, by float64."""
    b, n, h, size = SHAPE
    attend = partial(attention, kind="auto" if form == "drop" else form)
    if form == "drop":
        attend = partial(attention, drop=lambda weights: weights)
    if form == "heads":
        monkeypatch.setattr(grouped_attention, "_CACHE_BYTES", 4 * n * (n - 1))

        def attend(q, k, v, *, valid, bias):
            return cpu.attention(q, k, v, valid, bias)

    valid = validity(rng)[:, 1:].at[:, 0].set(True) if masked else None
    parts = [rng.normal(size=(b, m, h, size)) for m in (n, n - 1, n - 1)]
    parts.append(rng.normal(size=(rows, h, n, n - 1)))
    weight = rng.normal(size=SHAPE)

    def run(attend, parts, weight):
        out, pull = jax.vjp(lambda q, k, v, bias: attend(q, k, v, valid=valid, bias=bias), *parts)
        return out, pull(weight)

    narrow, seed = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (parts, weight))
    found = jax.jit(partial(run, attend))(narrow, seed)
    with jax.enable_x64(True):
        truth = jax.tree.map(np.asarray, jax.jit(partial(run, plain))(parts, weight))
    for mine, expected in zip(jax.tree.leaves(found), jax.tree.leaves(truth)):
        np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("kind", ["cudnn", "splash", "whole"])
def test_fused_kernels_refuse_bias_and_dropout(rng, kind):
    q, k, v = (x.astype(jnp.bfloat16) for x in inputs(rng))
    match = f"{kind} has neither a bias nor dropout"
    with pytest.raises(InputError, match=match):
        attention(q, k, v, bias=jnp.zeros((1, 2, 7, 7)), kind=kind)
    with pytest.raises(InputError, match=match):
        attention(q, k, v, drop=lambda x: x, kind=kind)
    with pytest.raises(InputError, match=match):
        ViT(attention=kind, dtype="bfloat16", bias=ALiBi())


@pytest.mark.parametrize("kind", ["splash", "whole"])
def test_tpu_kernels_are_for_as_many_queries_as_keys(rng, kind):
    q, k, v = inputs(rng)
    with pytest.raises(InputError, match=f"{kind} wants as many queries as keys, got 3 and 7"):
        attention(q[:, :3], k, v, kind=kind)


def test_whole_is_for_short_rows():
    qkv = jnp.zeros((1, tpu.MOST_TOKENS + 1, 3, 1, 2))
    with pytest.raises(InputError, match=r"up to \d+ tokens, got \d+; choose splash"):
        module.self_attention(qkv, kind="whole")


@pytest.mark.parametrize("masked", [False, True])
def test_value_and_gradient_against_float64(attend, rng, masked):
    """Values by NumPy and by JAX's own attention, gradients by autodiff in float64."""
    qkv, valid = inputs(rng), validity(rng) if masked else None
    weight = jnp.asarray(rng.normal(size=SHAPE), jnp.float32)
    out, found = vjp(attend, qkv, weight, valid)
    np.testing.assert_allclose(out, reference(*qkv, valid), rtol=1e-5, atol=2e-6)
    mask = None if valid is None else valid[:, None, None, :]
    theirs = jax.jit(lambda q, k, v: jax.nn.dot_product_attention(q, k, v, mask=mask))(*qkv)
    np.testing.assert_allclose(out, theirs, rtol=1e-5, atol=2e-6)
    with jax.enable_x64(True):
        wide, seed = jax.tree.map(lambda x: np.asarray(x, np.float64), (qkv, weight))
        _, expected = vjp(plain, wide, seed, valid)
        assert all(g.dtype == jnp.float64 for g in expected)
        expected = [np.asarray(g) for g in expected]
    for mine, truth in zip(found, expected):
        np.testing.assert_allclose(mine, truth, rtol=1e-5, atol=2e-6)
    if valid is not None:
        for grad in found[1:]:
            np.testing.assert_array_equal(np.asarray(grad)[~np.asarray(valid)], 0.0)


def test_masked_keys_have_no_influence_at_all(attend, rng):
    q, k, v = inputs(rng)
    valid = validity(rng)
    hidden = ~valid[:, :, None, None]
    run = jax.jit(lambda k, v: attend(q, k, v, valid=valid))
    out = run(k, v)
    other = run(jnp.where(hidden, 50.0, k), jnp.where(hidden, -1e4, v))
    np.testing.assert_array_equal(out, other)
    np.testing.assert_allclose(out[1], np.broadcast_to(v[1, :1], v[1].shape), rtol=1e-6)


def test_large_scores_stay_finite(attend, rng):
    qkv = inputs(rng, gain=60.0)
    out, grads = vjp(attend, qkv, jnp.ones(SHAPE))
    np.testing.assert_allclose(out, reference(*qkv, None), rtol=1e-3, atol=1e-3)
    assert all(np.isfinite(g).all() for g in grads)


def test_bfloat16_is_near_float32_and_stays_bfloat16(attend, rng):
    valid = validity(rng)
    qkv = jax.tree.map(lambda x: x.astype(jnp.bfloat16), inputs(rng))
    weight = jnp.asarray(rng.normal(size=SHAPE), jnp.bfloat16)
    out, found = vjp(attend, qkv, weight, valid)
    assert out.dtype == jnp.bfloat16
    wide, seed = jax.tree.map(lambda x: x.astype(jnp.float32), (qkv, weight))
    expected = vjp(plain, wide, seed, valid)
    for mine, truth in zip((out, *found), (expected[0], *expected[1])):
        assert mine.dtype == jnp.bfloat16
        np.testing.assert_allclose(mine.astype(jnp.float32), truth, rtol=5e-2, atol=5e-2)


def test_gradient_under_vmap(rng):
    """The hand-written rule batches, and equals the other path."""
    qkv = inputs(rng)

    def loss(q, k, v, kind: Kind = "auto"):
        return jnp.sum(jnp.square(attention(q, k, v, kind=kind)))

    def rows(*qkv):
        return jax.vmap(jax.grad(loss, argnums=1))(*(x[:, None] for x in qkv))[:, 0]

    mine = jax.jit(rows)(*qkv)
    other = jax.jit(jax.grad(partial(loss, kind="xla"), argnums=1))(*qkv)
    np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-5)


def test_cudnn_wants_half_precision(rng):
    with pytest.raises(InputError, match="cudnn computes in bfloat16, not float32"):
        attention(*inputs(rng), kind="cudnn")
    with pytest.raises(InputError, match=r"cudnn wants encoder\.dtype bfloat16"):
        ViT(attention="cudnn")
