"""Operations of jax as operators of ONNX: onnxruntime returns what jax returns, for any batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export, lax
from jax.ad_checkpoint import checkpoint_name

from jfreq.export.flat import flatten_function
from jfreq.export.onnx.extra import runner
from jfreq.export.onnx.lower import write
from jfreq.types import InputError

FEW = settings(max_examples=10, deadline=None)
SEEDS = st.integers(0, 2**31)


def in_onnx(function, arrays):
    """The function of arrays by name, traced for an open batch, as onnxruntime runs it."""
    (rows,) = export.symbolic_shape("b")
    window = {k: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype) for k, x in arrays.items()}
    flat = flatten_function(
        lambda _, w: {"result": function(*map(w.get, arrays))}, {}, window, rows
    )
    return runner(write(flat, {}))({}, arrays)["result"]


def same(function, atol=1e-6, **arrays):
    wanted = np.asarray(function(*map(jnp.asarray, arrays.values())))
    found = in_onnx(function, arrays)
    assert found.dtype == wanted.dtype
    np.testing.assert_allclose(found, wanted, atol=atol, rtol=1e-5)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


# ------------------------------------------------------------------ numbers one by one

FUNCTIONS = [
    jnp.abs, jnp.arctan, jnp.ceil, jnp.cos, jnp.cosh, jax.scipy.special.erf,
    jax.scipy.special.erfc, jnp.exp, jnp.exp2, jnp.expm1, jnp.floor, jax.nn.sigmoid, jnp.negative,
    jnp.sign, jnp.sin, jnp.sinh, jnp.tanh, jnp.square, lambda x: x**3, lambda x: x**-2,
    jax.nn.softplus, jax.nn.gelu, jax.nn.silu, lambda x: jnp.clip(x, -1, 0.5), jnp.round,
    lambda x: lax.round(x, lax.RoundingMethod.AWAY_FROM_ZERO), jnp.isfinite,
    lambda x: jax.nn.softmax(x, axis=-1), lambda x: lax.rsqrt(x * x + 1),
    lambda x: (x * 3).astype(jnp.int32), lambda x: (x * 100).astype(jnp.int32) // 7,
    lambda x: (x * 100).astype(jnp.int32) % 7, lambda x: x % 0.7, lambda x: lax.rem(x, 0.7),
    lambda x: (x > 0) ^ (x < 1), lambda x: ~(x > 0), lambda x: x != x[:, :1],
    lambda x: checkpoint_name(x, "kept") + 1,
    lambda x: jnp.where(x > 0, x, 2 * x), lambda x: jnp.maximum(x, 0.2) / (1 + x * x),
]  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_of_numbers(function):
    x = normal(0, 3, 7)
    x[0, :4] = 0.0, 0.5, -0.5, 1.5
    same(function, x=x)


def test_functions_of_positive_numbers():
    x = np.concatenate([10.0 ** np.arange(-30, 31, 3), [0.0, np.inf]]).astype(np.float32)[None]
    for function in (jnp.log, jnp.log1p, jnp.sqrt, lambda x: x**0.3):
        same(function, x=x, atol=0)
    same(jnp.log1p, x=-x[:, 2:10] / 2, atol=0)


def test_not_a_number():
    x = np.array([[np.nan, np.inf, -np.inf, 1.0]], np.float32)
    same(jnp.isnan, x=x)
    same(jnp.isfinite, x=x)
    same(lambda x: jnp.nan_to_num(x), x=x)


def test_what_the_batch_decides():
    x = normal(0, 3, 4)
    same(lambda x: x / x.shape[0], x=x)
    same(lambda x: x.mean(axis=0, keepdims=True) + x, x=x)
    same(lambda x: lax.dynamic_slice(x, (0, x[0, 0].astype(int)), (x.shape[0], 2)), x=x)


def test_the_angle_has_four_quadrants():
    turn = np.linspace(-np.pi, np.pi, 17, dtype=np.float32)
    x = np.concatenate([np.cos(turn), [0, 0, -2, -2, 3, 3]]).astype(np.float32)[None]
    y = np.concatenate([np.sin(turn), [1, -1, 0.0, -0.0, 0.0, -0.0]]).astype(np.float32)[None]
    same(jnp.arctan2, rise=y, run=x)


# ------------------------------------------------------------------ products and sums


@FEW
@given(SEEDS, st.permutations("bhnk"), st.permutations("bhmk"), st.permutations("bhnm"))
def test_products(seed, left, right, out):
    sizes = dict(zip("bhnmk", (2, 3, 4, 5, 6)))
    left, right, out = ("".join(x).replace("b", "") for x in (left, right, out))
    a, b = (normal(seed + i, *(sizes[x] for x in "b" + w)) for i, w in enumerate((left, right)))
    same(lambda a, b: jnp.einsum(f"b{left},b{right}->b{out}", a, b), a=a, b=b, atol=1e-5)
    other = "".join(sorted({*right} - {"h"}))  # without a common axis but the batch
    c = normal(seed, *(sizes[x] for x in other))
    result = "".join(x for x in f"b{out}")
    same(lambda a: jnp.einsum(f"b{left},{other}->{result}", a, c), a=a, atol=1e-5)


def test_products_of_vectors():
    a, w = normal(0, 3, 4), normal(1, 4)
    same(lambda a: a @ w, a=a)
    same(lambda a: jnp.einsum("bi,bi->b", a, a), a=a)
    same(lambda a: jnp.einsum("bi,j->bij", a, w), a=a)
    same(lambda a: jnp.einsum("bi,bj->bij", a, a), a=a)


@FEW
@given(
    SEEDS, st.sampled_from([1, 2, 4]), st.integers(1, 3), st.integers(1, 2), st.integers(0, 3),
    st.booleans(),
)  # fmt: skip
def test_convolutions(seed, groups, stride, dilation, padding, flat):
    numbers = ("NWC", "WIO", "NWC") if flat else ("NHWC", "HWIO", "NCHW")
    sides = (9,) if flat else (9, 8)
    x = normal(seed, 2, *sides, 4)
    kernel = jnp.asarray(normal(seed + 1, *(3,) * len(sides), 4 // groups, 8))

    def conv(x):
        return lax.conv_general_dilated(
            x, kernel, (stride,) * len(sides), [(padding, 1)] * len(sides),
            rhs_dilation=(dilation,) * len(sides), dimension_numbers=numbers,
            feature_group_count=groups,
        )  # fmt: skip

    same(conv, x=x, atol=1e-4)


@pytest.mark.parametrize("axes", [(1,), (-1,), (1, 2), (2, 1)])
@pytest.mark.parametrize("keepdims", [True, False])
def test_reductions(axes, keepdims):
    x = normal(0, 3, 4, 5)
    for reduce in (jnp.sum, jnp.max, jnp.min, jnp.mean, jnp.prod, jnp.var):
        same(lambda x, f=reduce: f(x, axis=axes, keepdims=keepdims), x=x, atol=1e-5)
    for reduce in (jnp.any, jnp.all):
        same(lambda x, f=reduce: f(x > 0.5, axis=axes, keepdims=keepdims), x=x)
    same(lambda x: (x > 0).astype(jnp.int32).sum(axis=axes), x=x)


def test_sums_and_extremes_along_an_axis():
    x = normal(0, 3, 4, 5)
    for axis in (1, 2):
        same(lambda x, axis=axis: jnp.cumsum(x, axis=axis), x=x, atol=1e-5)
        same(lambda x, axis=axis: lax.cumsum(x, axis=axis, reverse=True), x=x, atol=1e-5)
        same(lambda x, axis=axis: jnp.argmax(x, axis=axis), x=x)
        same(lambda x, axis=axis: jnp.argmin(x, axis=axis), x=x)


# ------------------------------------------------------------------ moving numbers


def test_layouts():
    x = normal(0, 3, 4, 6)
    for function in (
        lambda x: x.reshape(-1, 8, 3), lambda x: x.reshape(-1), lambda x: x.transpose(2, 0, 1),
        lambda x: x[:, 1:3, ::2], lambda x: x[:, ::-1], lambda x: x[:, :, 5:1:-2],
        lambda x: x[:, None, :, None], lambda x: jnp.tile(x, (1, 2, 1)),
        lambda x: jnp.concatenate([x, jnp.zeros_like(x), x[:, :1]], axis=1),
        lambda x: jnp.stack([x, 2 * x], axis=2), lambda x: jnp.split(x, [1, 3], axis=1)[1],
        lambda x: jnp.broadcast_to(x[:, :1], x.shape) * 2, lambda x: x[:, :, :0].sum(1),
        lambda x: x + jnp.arange(x.shape[0])[:, None, None],
        lambda x: jnp.broadcast_to(jnp.arange(6.0), x.shape),
        lambda x: x[None] * np.ones((2, 1, 1, 1)),
        lambda x: jnp.arange(2 * x.shape[0]), lambda x: jnp.roll(x, (1, -2), axis=(1, 2)),
        lambda x: x.mean(1, keepdims=True) + jnp.zeros_like(x[:, :1]),
        lambda x: jnp.broadcast_to(x.sum(1, keepdims=True), x.shape) / x.max(2)[..., None],
    ):  # fmt: skip
        same(function, x=x, atol=1e-5)


@FEW
@given(SEEDS, st.lists(st.integers(-2, 3), min_size=4, max_size=4), st.floats(-2, 2, width=32))
def test_padding_and_cutting(seed, config, fill):
    low_t, high_t, low_c, high_c = config
    config = ((0, 0, 0), (low_t, high_t, 0), (low_c, high_c, 0))
    same(lambda x: lax.pad(x, np.float32(fill), config), x=normal(seed, 2, 5, 4))


@FEW
@given(SEEDS, st.integers(-3, 9), st.integers(-3, 9))
def test_slices_at_positions(seed, t, c):
    """Positions that only the window says, and that reach beyond the end."""
    x, y = normal(seed, 2, 6, 5), normal(seed + 1, 2, 2, 3)
    at = np.array([[t, c]] * 2, np.int32)

    def cut(x, at):
        return lax.dynamic_slice(x, (0, at[0, 0], at[0, 1]), (x.shape[0], 2, 3))

    same(cut, x=x, at=at)
    same(lambda x, y, at: lax.dynamic_update_slice(x, y, (0, at[0, 0], at[0, 1])), x=x, y=y, at=at)
    same(lambda x: lax.dynamic_slice_in_dim(x, t, 2, axis=1), x=x)
    same(lambda x, y: lax.dynamic_update_slice(x, y, (0, t, c)), x=x, y=y)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("mode", ["clip", "fill"])
def test_gathers(seed, mode):
    rng = np.random.default_rng(seed)
    x = normal(seed, 3, 5, 4)
    ids = rng.integers(-7, 8, (3, 2)).astype(np.int32)
    fixed = rng.integers(0, 5, (2, 6))
    same(lambda x, ids: jnp.take_along_axis(x, ids[:, :, None], axis=1, mode=mode), x=x, ids=ids)
    same(lambda x, ids: jnp.take_along_axis(x[:, :, 0], ids, axis=1, mode=mode), x=x, ids=ids)
    same(lambda x, ids: jnp.take_along_axis(x > 0, ids[..., None], axis=1, mode=mode), x=x, ids=ids)
    same(lambda x: jnp.take(x, fixed, axis=1, mode=mode), x=x)
    same(lambda x: x[:, fixed], x=x)
    same(lambda x, ids: jnp.take(x, ids, axis=2, mode=mode), x=x, ids=ids)
    same(lambda x: x[:, fixed[0] % 5, fixed[1] % 4], x=x)
    same(lambda x: x[:, 2, 1:], x=x)
    blocks = jax.vmap(lambda x, i: lax.dynamic_slice(x, (i[0], i[1]), (3, 2)))
    same(blocks, x=x, ids=ids)
    same(lambda ids: jnp.take(jnp.arange(20.0).reshape(5, 4), ids, axis=0, mode=mode), ids=ids)
    nested = jax.vmap(lambda x, i: jnp.take(x, i, axis=0, mode=mode))
    same(nested, x=x, ids=ids)
    same(jax.vmap(lambda x, i: x.at[i].get(mode=mode)[:, ::2]), x=x, ids=ids)


# ------------------------------------------------------------------ programs in programs


def test_loops_are_unrolled():
    w = normal(9, 5, 4, 4)

    def forward(x):
        step = lambda h, w: (jnp.tanh(h @ w), h.sum(-1))  # noqa: E731
        h, sums = lax.scan(step, x, w)
        back, _ = lax.scan(step, x, w, reverse=True)
        return h + back + sums.T[:, :4]

    same(forward, x=normal(0, 3, 4))
    same(lambda x: lax.fori_loop(0, 3, lambda i, h: h * 2 + i, x), x=normal(0, 3, 4))


def test_one_form_of_each_platform_is_taken():
    def forms(x):
        return lax.platform_dependent(
            x, cpu=jnp.sin, tpu=lambda x: jnp.cos(x) * 2, default=jnp.tan
        )  # fmt: skip

    x = normal(0, 3, 4)
    np.testing.assert_allclose(in_onnx(forms, {"x": x}), 2 * np.cos(x), atol=1e-5)


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (lambda x: jnp.fft.rfft(x).real, "fft"),
        (lambda x: jnp.sort(x, axis=1), "sort"),
        (lambda x: lax.while_loop(lambda h: h.sum() < 9, lambda h: h + 1.0, x), "while"),
        (lambda x: lax.pad(x, 0.0, ((0, 0, 0), (0, 0, 1))), "pad between entries"),
        (lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), "bfloat16"),
        (lambda x: jnp.linalg.inv(x[:, :, None] * jnp.eye(4)[None]), "onnx: has no form of"),
    ],
)
def test_what_has_no_rule_is_named(function, names):
    with pytest.raises(InputError, match="StableHLO") as error:
        in_onnx(function, {"x": normal(0, 3, 4)})
    assert names in str(error.value) and "\n" not in str(error.value)
