"""Counted arithmetic against closed forms."""

import jax
import jax.numpy as jnp
import pytest

from jfreq.monitoring import flops
from jfreq.nn.dense import mlp
from jfreq.nn.vit import ViT
from jfreq.types import TokenGrid

A, B = jax.ShapeDtypeStruct((3, 5), jnp.float32), jax.ShapeDtypeStruct((5, 7), jnp.float32)
DENSE = 2 * 3 * 5 * 7


def test_products():
    assert flops.count(jnp.matmul, A, B) == DENSE
    q = jax.ShapeDtypeStruct((2, 4, 6, 8), jnp.bfloat16)
    assert flops.count(lambda q: jnp.einsum("bhqd,bhkd->bhqk", q, q), q) == 2 * 2 * 4 * 6 * 6 * 8
    assert flops.count(lambda a: jnp.sin(a) + a, A) == 0


@pytest.mark.parametrize("groups", [1, 4])
def test_convolutions(groups):
    """2 x outputs x taps x input channels of one group."""
    x = jax.ShapeDtypeStruct((2, 10, 9, 4), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 2, 4 // groups, 8), jnp.float32)

    def conv(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (2, 1),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    assert flops.count(conv, x, kernel) == 2 * (2 * 4 * 8 * 8) * (3 * 2 * 4 // groups)


def test_loops_branches_and_nesting():
    w = jax.ShapeDtypeStruct((5, 5), jnp.float32)
    square = 2 * 3 * 5 * 5

    def looped(a, w):
        return jax.lax.scan(lambda c, _: (c @ w, None), a, None, length=11)[0]

    assert flops.count(looped, A, w) == 11 * square
    assert flops.count(jax.jit(lambda a, w: jax.jit(looped)(a, w) @ w), A, w) == 12 * square

    def branched(a, w):
        return jax.lax.cond(jnp.sum(a) > 0, lambda: a @ w @ w, lambda: a @ w)

    assert flops.count(branched, A, w) == 2 * square
    assert (
        flops.count(
            jax.vmap(looped, in_axes=(0, None)), jax.ShapeDtypeStruct((4, 3, 5), jnp.float32), w
        )
        == 44 * square
    )


def test_training_counts_what_parameters_reach_three_times():
    """A student's product thrice, a teacher's once, whatever the backward pass recomputes."""
    w = jax.ShapeDtypeStruct((5, 5), jnp.float32)
    square = 2 * 3 * 5 * 5

    def loss(params, target, a):
        truth = jnp.sin(a @ target) @ target
        pred = jax.checkpoint(lambda p: jnp.sin(a @ p["one"]) @ p["two"])(params)
        return jnp.sum((pred - truth) ** 2)

    found = flops.training(loss, {"one": w, "two": w}, w, A)
    assert found == 2 * square + 3 * 2 * square


def test_recomputation_counts_again():
    """Forward, forward again, and two products for the gradients of ``sin(a @ w) @ v``."""
    w = jax.ShapeDtypeStruct((5, 5), jnp.float32)

    def fn(a, w, v):
        return jnp.sum(jnp.sin(jnp.sin(a @ w) @ v))

    square = 2 * 3 * 5 * 5
    grad = jax.grad(fn, argnums=(0, 1, 2))
    again = jax.grad(jax.checkpoint(fn), argnums=(0, 1, 2))
    assert flops.count(fn, A, w, w) == 2 * square
    assert flops.count(grad, A, w, w) == 6 * square
    assert flops.count(again, A, w, w) == 8 * square


@pytest.mark.parametrize("remat", ["none", "full"])
def test_vit_base_at_514_tokens(remat):
    """12 blocks of 24 n d^2 + 4 n^2 d; the rest is below one per cent."""
    n, d = 514, 768
    net = ViT(remat=remat).build()
    x, grid = jax.ShapeDtypeStruct((2, n, d), jnp.float32), TokenGrid(time=n)
    params = jax.eval_shape(lambda k, x: net.init(k, x, grid=grid), jax.random.key(0), x)
    counted = flops.count(lambda p, x: net.apply(p, x, grid=grid)[0], params, x)
    assert counted == pytest.approx(2 * 12 * (24 * n * d**2 + 4 * n**2 * d), rel=0.01)


def test_the_gradient_of_attention_is_counted():
    """Scores and values forward, and two products back for each: the form of accelerators."""
    from jfreq.nn.attention import attention

    q = jax.ShapeDtypeStruct((2, 9, 3, 4), jnp.float32)
    one = 2 * 2 * 3 * 9 * 9 * 4
    assert flops.count(attention, q, q, q) == 2 * one
    grad = jax.grad(lambda *qkv: jnp.sum(jnp.sin(attention(*qkv))), argnums=(0, 1, 2))
    assert flops.count(grad, q, q, q) == 6 * one


def test_agrees_with_xla_on_plain_products():
    """XLA's own analysis of a compiled two-layer network."""
    a, w = jnp.ones((64, 96)), jnp.ones((96, 96))

    def fn(a, w):
        return a @ w @ w

    analysis = jax.jit(fn).lower(a, w).compile().cost_analysis()
    if not analysis or "flops" not in analysis:
        pytest.skip("this backend has no cost analysis")
    assert flops.count(fn, a, w) == pytest.approx(analysis["flops"], rel=0.02)


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA H200", 989.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("TPU v5 lite", 197.0),
        ("TPU v5p", 459.0),
        ("TPU v6 lite", 918.0),
        ("cpu", None),
    ],
)
def test_peaks(kind, peak):
    assert flops.peak_tflops(kind) == peak


@pytest.mark.parametrize("heads_first", [False, True])
def test_the_attention_of_cudnn_is_counted(monkeypatch, heads_first):
    """Two products forward, five backward; traced as if the library was there."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91002)
    shape = (2, 4, 128, 64) if heads_first else (2, 128, 4, 64)
    q = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    layout = "BNTH" if heads_first else "BTNH"

    def fn(q, k, v):
        out = cudnn.dot_product_attention(q, k, v, qkv_layout=layout)
        return out.astype(jnp.float32).sum()

    product = 2 * 2 * 4 * 128 * 128 * 64
    assert flops.count(fn, q, q, q) == 2 * product
    assert flops.count(jax.grad(fn, (0, 1, 2)), q, q, q) == 7 * product
    assert flops.training(fn, q, q, q) == 6 * product


def test_of_forms_by_platform_the_one_of_accelerators_counts():
    """The form for CPUs computes the first layer again; six products are those of the formula."""
    x, kernel, bias = jnp.ones((5, 4)), jnp.ones((4, 8)), jnp.ones(8)

    def loss(x, kernel):
        return mlp(x, (kernel, bias), (kernel.T, bias[:4])).sum()

    assert flops.count(jax.grad(loss, (0, 1)), x, kernel) == 6 * 2 * 5 * 4 * 8
