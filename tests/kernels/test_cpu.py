"""Forms for XLA:CPU against the plain formulas: values and gradients, on fresh random inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jfreq.kernels import cpu
from jfreq.kernels.cpu import grouped_attention, products
from jfreq.nn import attention as plain
from jfreq.nn import dense, dropout
from jfreq.ops import conv
from jfreq.sharding import make_mesh

SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module", autouse=True)
def one_device():
    with jax.set_mesh(make_mesh((1, 1, 1), jax.devices()[:1])):
        yield


def assert_equal(form, formula, args, rng):
    """Values and gradients by every argument, for a random gradient of the output."""
    weight = jnp.asarray(rng.normal(size=jax.eval_shape(formula, *args).shape), jnp.float32)

    def run(f):
        def both(args, weight):
            out, pull = jax.vjp(f, *args)
            return out, pull(weight)

        return jax.jit(both)(args, weight)

    for mine, theirs in zip(jax.tree.leaves(run(form)), jax.tree.leaves(run(formula)), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


@settings(max_examples=6, deadline=None)
@given(
    seed=SEEDS,
    sizes=st.tuples(*[st.integers(1, 4)] * 5),
    masked=st.booleans(),
    bias=st.sampled_from([None, "one", "rows"]),
    tables=st.sampled_from([0.3, 0.6, 1, 2, 4, 6]),
)
@example(seed=0, sizes=(2, 70, 101, 2, 48), masked=True, bias=None, tables=1)  # several tiles
def test_attention(seed, sizes, masked, bias, tables):
    """``tables``: how many score tables fit into the cache."""
    (b, n, m, h, d), rng = sizes, np.random.default_rng(seed)
    shapes = [(b, n, h, d), (b, m, h, d), (b, m, h, d)]
    shapes += [] if bias is None else [(1 if bias == "one" else b, h, n, m)]
    args = [jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes]
    valid = None
    if masked:
        valid = jnp.asarray(rng.uniform(size=(b, m)) < 0.6).at[:, 0].set(True)

    def form(q, k, v, bias=None):
        return cpu.attention(q, k, v, valid, bias)

    def formula(q, k, v, bias=None):
        return plain._plain(q, k, v, valid, bias, drop=lambda weights: weights)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grouped_attention, "_CACHE_BYTES", max(1, int(4 * n * m * tables)))
        assert_equal(form, formula, args, rng)


@settings(max_examples=3, deadline=None)
@given(seed=SEEDS, sizes=st.tuples(*[st.integers(1, 20)] * 4), masked=st.booleans())
@example(seed=0, sizes=(2, 103, 3, 64), masked=True)
def test_self_attention(seed, sizes, masked):
    (b, n, h, d), rng = sizes, np.random.default_rng(seed)
    qkv = jnp.asarray(rng.normal(size=(b, n, 3, h, d)), jnp.float32)
    valid = jnp.asarray(rng.uniform(size=(b, n)) < 0.6).at[:, 0].set(True) if masked else None

    def formula(qkv):
        return plain._plain(*plain.split_qkv(qkv), valid, None, drop=lambda weights: weights)

    assert_equal(lambda qkv: cpu.self_attention(qkv, valid, None), formula, [qkv], rng)


@settings(max_examples=5, deadline=None)
@given(
    seed=SEEDS,
    sizes=st.tuples(*[st.integers(1, 4)] * 6),
    sides=st.tuples(*[st.sampled_from([1, 3, 5])] * 2),
    form=st.sampled_from([cpu.grouped_conv, products.grouped_conv, cpu.conv_as_products]),
)
@example(seed=0, sizes=(2, 9, 8, 2, 13, 37), sides=(3, 5), form=cpu.grouped_conv)  # several tiles
def test_grouped_conv(seed, sizes, sides, form):
    (b, h, t, groups, inputs, outputs), rng = sizes, np.random.default_rng(seed)
    shapes = [(b, h, t, groups * inputs), (*sides, inputs, groups * outputs)]
    args = [jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes]
    assert_equal(form, conv._conv, args, rng)


@settings(max_examples=5, deadline=None)
@given(seed=SEEDS, sizes=st.tuples(*[st.integers(1, 5)] * 5), taps=st.integers(1, 9))
def test_sequence_conv(seed, sizes, taps):
    (b, n, groups, inputs, outputs), rng = sizes, np.random.default_rng(seed)
    shapes = [(b, n, groups * inputs), (taps, inputs, groups * outputs)]
    args = [jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes]
    assert_equal(cpu.sequence_conv, conv._sequence_conv, args, rng)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), rate=st.floats(0.01, 0.99))
def test_dropout(seed, rate):
    """Other bits, the same law: the fraction of zeros, factors of the others, gradients."""
    x, key = jnp.ones((50, 7, 30)), jax.random.key(seed)
    rounded = 1 - max(1, round((1 - rate) * 256)) / 256
    for form, rate_of_form in ((cpu.dropout, rounded), (dropout._dropout, rate)):
        out, pull = jax.vjp(lambda x, form=form: form(key, x, rate), x)
        zeros = np.mean(np.asarray(out) == 0)
        assert abs(zeros - rate_of_form) < 5 * np.sqrt(rate * (1 - rate) / x.size) + 1e-6
        np.testing.assert_allclose(out[out != 0], 1 / (1 - rate_of_form), rtol=1e-5)
        np.testing.assert_array_equal(pull(x)[0], out)


@settings(max_examples=5, deadline=None)
@given(seed=SEEDS, total=st.integers(1, 7), rows=st.integers(1, 4))
def test_a_batch_in_groups(seed, total, rows):
    rng = np.random.default_rng(seed)
    args = [jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((total, 2), (total,))]

    def formula(x, gain):
        return jnp.sin(x) * gain[:, None]

    def form(*args):
        return cpu.in_groups(lambda batch: formula(*batch), rows, args)

    assert_equal(form, formula, args, rng)


CALLS = {
    "attention": (plain.attention, [(3, 5, 2, 4)] * 3),
    "affine": (
        lambda x, kernel, bias: dense.dense(x, (kernel, bias)),
        [(3, 5, 6), (6, 2, 4), (2, 4)],
    ),
    "layer_norm": (
        lambda x, *params: dense.LayerNorm(1e-6).apply(
            {"params": dict(zip(("scale", "bias"), params))}, x
        ),
        [(3, 5, 6), (6,), (6,)],
    ),
    "mlp": (
        lambda x, *params: dense.mlp(x, params[:2], params[2:]),
        [(3, 5, 6), (6, 9), (9,), (9, 6), (6,)],
    ),
    "grouped_conv": (conv.grouped_conv, [(3, 5, 4, 6), (3, 3, 3, 4)]),
    "sequence_conv": (conv.sequence_conv, [(3, 5, 4), (6, 2, 4)]),
    "dropout": (
        lambda x: dropout.Dropout(0.3).apply(
            {}, x, deterministic=False, rngs={"dropout": jax.random.key(0)}
        ),
        [(3, 5, 4)],
    ),
}

MARKS = {
    "attention": "batching_dims = [0, 2] x [0, 2]",  # heads, axis 2 of [b n h k]
    "affine": "tensor<15x8xf32>",
    "layer_norm": "tensor<15x6xf32>",
    "mlp": "chlo.erfc",
    "grouped_conv": "stablehlo.convolution",
    "sequence_conv": "stablehlo.convolution",
    "dropout": "tensor<3x5xui32>",
}
"""Text that the program for CPUs has and no other, or the other way round."""


@pytest.mark.parametrize("name", CALLS)
def test_the_platform_of_the_program_decides(name):
    call, shapes = CALLS[name]
    args = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
    traced = jax.jit(call).trace(*args)
    texts = [traced.lower(lowering_platforms=(p,)).as_text() for p in ("cpu", "cuda", "tpu")]
    assert [MARKS[name] in text for text in texts] in ([True, False, False], [False, True, True])
