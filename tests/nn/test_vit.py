"""The encoder against float64 NumPy with the same weights; scan, remat and types change nothing."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf
from scipy.stats import truncnorm

from jfreq import trees
from jfreq.nn.vit import SIZES, ViT
from jfreq.types import Grid, InputError

CFG = ViT(width=12, depth=2, heads=3, mlp_ratio=2.5)
GRID = Grid(time=7)
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


def block(x, p, *, heads, eps, valid):
    """One pre-norm block in float64: queries, keys and values per head, exact GELU."""
    y = layer_norm(x, p["norm1"], eps)
    q, k, v = np.moveaxis(
        np.einsum("bnd,dphk->bnphk", y, p["qkv"]["kernel"]) + p["qkv"]["bias"], 2, 0
    )
    out = np.zeros_like(q)
    for h in range(heads):
        scores = q[:, :, h] @ k[:, :, h].transpose(0, 2, 1) / np.sqrt(q.shape[-1])
        if valid is not None:
            scores = np.where(valid[:, None, :], scores, -np.inf)
        weight = np.exp(scores - scores.max(axis=-1, keepdims=True))
        out[:, :, h] = weight / weight.sum(axis=-1, keepdims=True) @ v[:, :, h]
    x = x + np.einsum("bnhk,hkd->bnd", out, p["proj"]["kernel"]) + p["proj"]["bias"]
    y = layer_norm(x, p["norm2"], eps) @ p["fc1"]["kernel"] + p["fc1"]["bias"]
    y = 0.5 * y * (1 + erf(y / np.sqrt(2)))
    return x + y @ p["fc2"]["kernel"] + p["fc2"]["bias"]


def reference(cfg, params, x, valid):
    params = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    x, states = np.asarray(x, np.float64), []
    for i in range(cfg.depth):
        layer = jax.tree.map(lambda p: p[i], params["blocks"])  # noqa: B023
        x = block(x, layer, heads=cfg.heads, eps=cfg.eps, valid=valid)
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
    """``dots`` saves the products with weights, ``full`` no products, ``none`` everything."""
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
    dots = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    assert policies == {"none": [], "dots": [dots], "full": [None]}[remat]


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
    found = {path: leaf.shape for path, leaf in trees.flatten(weights).items()}
    assert found == PATHS, "renamed parameters orphan saved runs and bundles"


def test_initial_weights():
    """Normal of 0.02 cut at two deviations (leaving 0.0176), zero biases, no two blocks alike."""
    cfg = ViT(width=64, depth=2, heads=4)
    params = jax.jit(lambda key: init(cfg, key))(jax.random.key(1))
    deviation = 0.02 * truncnorm(-2, 2).std()
    for path, leaf in trees.flatten(params).items():
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
        lambda key, x: ViT().build().init(key, x, grid=Grid(time=4)), jax.random.key(0), x
    )
    assert trees.count(params) == 12 * (12 * 768**2 + 13 * 768) + 2 * 768


@pytest.mark.parametrize(
    ("changes", "match"),
    [({"heads": 5}, "multiple of heads 5"), ({"depth": 0}, "ViT.depth: must be 1")],
)
def test_impossible_sizes(changes, match):
    with pytest.raises(InputError, match=match):
        dataclasses.replace(CFG, **changes)
