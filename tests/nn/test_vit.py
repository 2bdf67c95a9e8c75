"""The encoder against float64 NumPy with the same weights; scan, remat and types change nothing."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf
from scipy.stats import truncnorm

from jfreq import param_paths
from jfreq.nn.bias import ALiBi, RelativeBias
from jfreq.nn.vit import PRODUCTS, SIZES, ViT
from jfreq.types import InputError, TokenGrid

CFG = ViT(width=12, depth=2, heads=3, mlp_ratio=2.5)
GRID = TokenGrid(time=7)
PATHS = {
    "blocks/fc1/bias": (2, 30),
    "blocks/fc1/kernel": (2, 12, 30),
    "blocks/fc2/bias": (2, 12),
    "blocks/fc2/kernel": (2, 30, 12),
    "blocks/norm1/bias": (2, 12),
    "blocks/norm1/scale": (2, 12),
    "blocks/norm2/bias": (2, 12),
    "blocks/norm2/scale": (2, 12),
    "blocks/proj/bias": (2, 12),
    "blocks/proj/kernel": (2, 3, 4, 12),
    "blocks/qkv/bias": (2, 3, 3, 4),
    "blocks/qkv/kernel": (2, 12, 3, 3, 4),
    "norm/bias": (12,),
    "norm/scale": (12,),
}
"""Sharding rules, decay masks, bundles and saved runs name parameters by these paths."""


@functools.cache
def compiled(cfg):
    """``(params, tokens, valid) -> (output, layers)``."""
    net = cfg.build()
    return jax.jit(lambda p, x, v: net.apply({"params": p}, x, grid=GRID, valid=v, layers=True))


def init(cfg, key):
    return cfg.build().init(key, jnp.zeros((1, 7, cfg.width)), grid=GRID)["params"]


def randomised(params, rng):
    """Every parameter, norms and biases too, away from its initial value."""
    return jax.tree.map(lambda p: p + 0.3 * rng.normal(size=p.shape).astype(np.float32), params)


@pytest.fixture(scope="module")
def weights():
    params = jax.jit(lambda key: init(CFG, key))(jax.random.key(0))
    return randomised(params, np.random.default_rng())


@pytest.fixture(scope="module")
def tokens():
    return jnp.asarray(np.random.default_rng().normal(size=(2, 7, 12)), jnp.float32)


def layer_norm(x, p, eps):
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.square(centred).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + eps) * p["scale"] + p["bias"]


def block(x, p, *, heads, eps, valid, bias=None):
    """One pre-norm block in float64: queries, keys and values per head, exact GELU.

    ``bias(q, y, p)`` ``[b h n n]`` of queries ``[b n h k]``, input ``[b n d]`` and parameters."""
    y = layer_norm(x, p["norm1"], eps)
    q, k, v = np.moveaxis(
        np.einsum("bnd,dphk->bnphk", y, p["qkv"]["kernel"]) + p["qkv"]["bias"], 2, 0
    )
    out = np.zeros_like(q)
    added = None if bias is None else bias(q, y, p)
    for h in range(heads):
        scores = q[:, :, h] @ k[:, :, h].transpose(0, 2, 1) / np.sqrt(q.shape[-1])
        if added is not None:
            scores = scores + added[:, h]
        if valid is not None:
            scores = np.where(valid[:, None, :], scores, -np.inf)
        weight = np.exp(scores - scores.max(axis=-1, keepdims=True))
        out[:, :, h] = weight / weight.sum(axis=-1, keepdims=True) @ v[:, :, h]
    x = x + np.einsum("bnhk,hkd->bnd", out, p["proj"]["kernel"]) + p["proj"]["bias"]
    y = layer_norm(x, p["norm2"], eps) @ p["fc1"]["kernel"] + p["fc1"]["bias"]
    y = 0.5 * y * (1 + erf(y / np.sqrt(2)))
    return x + y @ p["fc2"]["kernel"] + p["fc2"]["bias"]


def reference(cfg, params, x, valid, bias=None):
    params = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    x, states = np.asarray(x, np.float64), []
    for i in range(cfg.depth):
        layer = jax.tree.map(lambda p: p[i], params["blocks"])  # noqa: B023
        x = block(x, layer, heads=cfg.heads, eps=cfg.eps, valid=valid, bias=bias)
        states.append(x)
    return layer_norm(x, params["norm"], cfg.eps), np.stack(states)


@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_against_float64(weights, tokens, eps):
    """A large epsilon shows that it is passed on to every norm."""
    cfg = dataclasses.replace(CFG, eps=eps)
    valid = np.ones((2, 7), bool)
    valid[1, 4:] = False
    found, layers = compiled(cfg)(weights, tokens, valid)
    expected, states = reference(cfg, weights, tokens, valid)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(layers, states, rtol=1e-4, atol=2e-5)


def test_invalid_tokens_change_nothing_for_the_others(weights, tokens):
    valid = np.arange(7)[None] < np.array([[5], [3]])
    noisy = jnp.where(valid[..., None], tokens, 7.0)
    one, _ = compiled(CFG)(weights, tokens, valid)
    two, _ = compiled(CFG)(weights, noisy, valid)
    np.testing.assert_array_equal(one[valid], two[valid])
    assert np.abs(one - two).max() > 0.1


def test_tokens_are_a_set(weights, tokens):
    order = np.random.default_rng().permutation(7)
    every = np.ones((2, 7), bool)
    straight, _ = compiled(CFG)(weights, tokens, every)
    mixed, _ = compiled(CFG)(weights, tokens[:, order], every)
    np.testing.assert_allclose(straight[:, order], mixed, rtol=1e-5, atol=1e-5)


def test_layers_only_where_asked_for(weights, tokens):
    out, states = jax.eval_shape(
        lambda p, x: CFG.build().apply({"params": p}, x, grid=GRID), weights, tokens
    )
    assert out.shape == tokens.shape
    assert states is None


def value_and_grad(cfg, params, x):
    """Loss over output and layers, and its gradient by all weights and inputs."""
    valid = jnp.arange(7)[None] < jnp.array([[7], [4]])

    def loss(params, x):
        out, states = cfg.build().apply({"params": params}, x, grid=GRID, valid=valid, layers=True)
        return jnp.sum(jnp.sin(out)) + 0.1 * jnp.sum(jnp.sin(states))

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, x)


@pytest.fixture(scope="module")
def plain(weights, tokens):
    return value_and_grad(CFG, weights, tokens)


@pytest.mark.parametrize("gate", ["query", "input"])
def test_relative_bias_against_float64(gate):
    """Two special tokens, five of seven places, padding; forward, and the gradient of the tables
    along a random direction against central differences of the reference."""
    rng = np.random.default_rng()
    cfg = dataclasses.replace(CFG, bias=RelativeBias(8, 6, gate=gate))
    net, ids = cfg.build(), jnp.asarray([[0, 2, 3, 5, 6], [4, 1, 6, 0, 2]])
    x = jnp.asarray(rng.normal(size=(2, 7, 12)), jnp.float32)
    valid = np.arange(7)[None] < np.array([[7], [5]])
    call = functools.partial(net.apply, grid=GRID, ids=ids, special=2, valid=jnp.asarray(valid))
    shapes = jax.eval_shape(
        lambda key: net.init(key, x, grid=GRID, ids=ids, special=2)["params"], jax.random.key(0)
    )
    params = randomised(jax.tree.map(lambda p: np.zeros(p.shape, np.float32), shapes), rng)

    def bias(params):
        table = np.zeros((2, 3, 7, 7))
        for b, q, k in np.ndindex(2, 5, 5):
            apart = int(ids[b, k] - ids[b, q])
            at = {0: 0, 1: 1}.get(abs(apart), 2 if abs(apart) < 4 else 3)  # 2 * sqrt(3) = 3.5
            at += 4 * (apart > 0)
            table[b, :, q + 2, k + 2] = params["attention_bias"]["sequence"][at]

        def gated(q, y, p):
            source = q if gate == "query" else y.reshape(q.shape)
            logits = source @ p["gate"]["kernel"] + p["gate"]["bias"]
            a, c = np.moveaxis(1 / (1 + np.exp(-logits)), -1, 0)
            gates = 2 + a * (p["gate_scale"] * c - 1)
            return table * gates.transpose(0, 2, 1)[..., None]

        return gated

    weight = rng.normal(size=x.shape) * valid[..., None]

    def loss(params):
        out, _ = call({"params": params}, x)
        return jnp.sum(out * weight), out

    (_, found), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    expected, _ = reference(cfg, params, x, valid, bias(params))
    np.testing.assert_allclose(found[valid], expected[valid], rtol=1e-4, atol=5e-5)

    names = [
        path for path in param_paths.flatten(params) if "attention_bias" in path or "gate" in path
    ]
    way = {
        k: rng.normal(size=v.shape) if k in names else 0.0
        for k, v in param_paths.flatten(params).items()
    }

    def moved(step):
        leaves = {
            k: np.asarray(v, np.float64) + step * way[k]
            for k, v in param_paths.flatten(params).items()
        }
        tree = param_paths.unflatten(leaves)
        return np.sum(reference(cfg, tree, x, valid, bias(tree))[0] * weight)

    slope = sum(np.sum(param_paths.flatten(grads)[k] * way[k]) for k in names)
    assert slope == pytest.approx((moved(1e-4) - moved(-1e-4)) / 2e-4, rel=1e-3, abs=1e-3)


def test_a_bias_needs_the_place_of_every_token(tokens):
    net = dataclasses.replace(CFG, bias=ALiBi()).build()
    with pytest.raises(InputError, match="needs the position of every token on one grid"):
        jax.eval_shape(lambda x: net.init(jax.random.key(0), x[:, :5], grid=GRID), tokens)


def test_deep_norm_is_post_norm_with_smaller_branches(weights, tokens):
    """norm(a x + y) = norm(x + y / a) without an epsilon; a = (2 l)^(1/4), b = (8 l)^(-1/4)."""
    deep = ViT(width=64, depth=2, heads=4, norm="post", eps=1e-12, deep_norm=True)
    plain = dataclasses.replace(deep, deep_norm=False)
    x = jnp.asarray(np.random.default_rng().normal(size=(2, 7, 64)), jnp.float32)
    params = jax.jit(lambda key: init(deep, key))(jax.random.key(0))
    kernels = {name: params["blocks"][name]["kernel"] for name in ("proj", "fc1", "fc2")}
    kernels |= dict(zip("qkv", np.moveaxis(params["blocks"]["qkv"]["kernel"], 2, 0)))
    usual = 0.02 * truncnorm(-2, 2).std()
    for name, kernel in kernels.items():
        scale = 1.0 if name in "qk" else 16**-0.25
        assert np.std(kernel) == pytest.approx(scale * usual, rel=0.05), name

    params = randomised(params, np.random.default_rng())
    less = jax.tree.map(lambda p: p, params)
    for name in ("proj", "fc2"):
        less["blocks"][name] = jax.tree.map(lambda p: p / 4**0.25, params["blocks"][name])
    every = np.ones((2, 7), bool)
    np.testing.assert_allclose(
        compiled(deep)(params, x, every)[0], compiled(plain)(less, x, every)[0], atol=2e-4
    )


def test_drop_path_rises_over_the_blocks(weights):
    """The first of two blocks never skips; half of the rows skip the attention of the last, the
    others move twice as far."""
    cfg = dataclasses.replace(CFG, drop_path=0.5)
    x = jnp.asarray(np.random.default_rng().normal(size=(64, 7, 12)), jnp.float32)
    blocks = weights["blocks"] | {"fc2": jax.tree.map(jnp.zeros_like, weights["blocks"]["fc2"])}
    params = weights | {"blocks": blocks}

    @jax.jit
    def trained(x, key):
        return cfg.build().apply(
            {"params": params}, x, grid=GRID, layers=True, train=True, rngs={"dropout": key}
        )

    _, moved = trained(x, jax.random.key(3))
    _, still = compiled(CFG)(params, x, np.ones((64, 7), bool))
    np.testing.assert_allclose(moved[0], still[0], atol=1e-5)
    step, whole = (np.asarray(s[1] - s[0]) for s in (moved, still))
    skipped = (step == 0).all((1, 2))
    assert 12 <= skipped.sum() <= 52, "half of 64 rows"
    np.testing.assert_allclose(step[~skipped], 2 * whole[~skipped], rtol=1e-3, atol=1e-4)


def test_dropout_is_off_unless_asked_for(weights, tokens):
    """Rates of 0 in training, which need no key, and any rate outside are today's program; each
    rate changes what comes out in training."""

    def lowered(cfg, train):
        net = cfg.build()
        return jax.jit(
            lambda p, x, rngs: net.apply({"params": p}, x, grid=GRID, train=train, rngs=rngs)[0]
        )

    key = {"dropout": jax.random.key(1)}
    rates = {"dropout": 0.3, "attention_dropout": 0.3, "drop_path": 0.3}
    plain = lowered(CFG, False).lower(weights, tokens, None).as_text()
    assert lowered(CFG, True).lower(weights, tokens, None).as_text() == plain
    quiet = dataclasses.replace(CFG, **rates)
    assert lowered(quiet, False).lower(weights, tokens, None).as_text() == plain
    still, _ = compiled(CFG)(weights, tokens, np.ones((2, 7), bool))
    for name in ("dropout", "attention_dropout"):
        out = lowered(dataclasses.replace(CFG, **{name: 0.3}), True)(weights, tokens, key)
        assert np.abs(out - still).max() > 1e-3


def test_without_a_final_norm(weights, tokens):
    cfg = dataclasses.replace(CFG, final_norm=False)
    shapes = jax.eval_shape(lambda key: init(cfg, key), jax.random.key(0))
    assert set(param_paths.flatten(shapes)) == {
        path for path in PATHS if path.startswith("blocks/")
    }
    out, layers = compiled(cfg)({"blocks": weights["blocks"]}, tokens, np.ones((2, 7), bool))
    np.testing.assert_array_equal(out, layers[-1])


@pytest.mark.parametrize(
    "changes",
    [{"unroll": True}, {"remat": "dots"}, {"remat": "full"}],
    ids=str,
)
def test_scan_and_remat_are_the_same_mathematics(weights, tokens, plain, changes):
    other = value_and_grad(dataclasses.replace(CFG, **changes), weights, tokens)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(other)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_remat_recomputes_what_it_says(weights, tokens, remat):
    """``dots`` saves the products with weights and what attention gives, ``full`` no products,
    ``none`` everything."""
    cfg = dataclasses.replace(CFG, remat=remat)

    def loss(params):
        return jnp.sum(cfg.build().apply({"params": params}, tokens, grid=GRID)[0])

    policies = []

    def visit(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name in ("checkpoint", "remat", "remat2"):
                policies.append(eqn.params["policy"])
            for value in eqn.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    visit(inner)

    visit(jax.make_jaxpr(loss)(weights).jaxpr)
    assert policies == {"none": [], "dots": [PRODUCTS], "full": [None]}[remat]


def test_bfloat16_is_close_and_the_stream_stays_float32(weights, tokens):
    cfg = dataclasses.replace(CFG, dtype="bfloat16")
    found, layers = compiled(cfg)(weights, tokens, np.ones((2, 7), bool))
    assert found.dtype == layers.dtype == jnp.float32
    expected, _ = reference(CFG, weights, tokens, None)
    assert 0 < np.abs(found - expected).max() < 0.15
    assert np.abs(found - expected).mean() < 0.02
    params = jax.eval_shape(lambda key: init(cfg, key), jax.random.key(0))
    assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_parameter_paths(weights):
    found = {path: leaf.shape for path, leaf in param_paths.flatten(weights).items()}
    assert found == PATHS, "renamed parameters orphan saved runs and bundles"


def test_initial_weights():
    """Normal of 0.02 cut at two deviations (leaving 0.0176), zero biases, no two blocks alike."""
    cfg = ViT(width=64, depth=2, heads=4)
    params = jax.jit(lambda key: init(cfg, key))(jax.random.key(1))
    deviation = 0.02 * truncnorm(-2, 2).std()
    for path, leaf in param_paths.flatten(params).items():
        kind = path.split("/")[-1]
        if kind == "kernel":
            assert np.std(leaf) == pytest.approx(deviation, rel=0.05), path
            assert np.abs(leaf).max() <= 0.04, path
            assert np.abs(leaf[0] - leaf[1]).max() > 0, path
        else:
            np.testing.assert_array_equal(leaf, {"bias": 0.0, "scale": 1.0}[kind])


def test_sizes_are_deits():
    sizes = {k: (v.width, v.depth, v.heads, v.mlp_ratio) for k, v in SIZES.items()}
    assert sizes["tiny"] == (192, 12, 3, 4.0)
    assert sizes["small"] == (384, 12, 6, 4.0)
    assert sizes["base"] == (768, 12, 12, 4.0) == (ViT().width, ViT().depth, ViT().heads, 4.0)
    x = jax.ShapeDtypeStruct((1, 4, 768), jnp.float32)
    params = jax.eval_shape(
        lambda key, x: ViT().build().init(key, x, grid=TokenGrid(time=4)), jax.random.key(0), x
    )
    assert param_paths.count(params) == 12 * (12 * 768**2 + 13 * 768) + 2 * 768


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"heads": 5}, "multiple of heads 5"),
        ({"depth": 0}, "ViT.depth: must be 1"),
        ({"norm": "post", "final_norm": False}, "only norm 'pre' has one"),
        ({"deep_norm": True}, "set norm 'post'"),
    ],
)
def test_impossible_sizes(changes, match):
    with pytest.raises(InputError, match=match):
        dataclasses.replace(CFG, **changes)
