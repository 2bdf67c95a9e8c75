"""Dense layers, MLPs and layer norms against flax's own: values, gradients and initial values."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq.kernels import cpu
from jfreq.nn import dense

from ..kernels.test_cpu import assert_equal


@pytest.fixture(params=[1, 8], ids=["cpu", "plain"], autouse=True)
def devices(request, monkeypatch):
    """On one device the form for CPUs, on more the plain formula."""
    monkeypatch.setattr(dense.sharding, "devices", lambda: request.param)


@pytest.fixture
def rng():
    return np.random.default_rng()


def random(rng, *shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


@pytest.mark.parametrize(
    ("inputs", "outputs"), [((6,), (9,)), ((9,), (4,)), ((6,), (3, 2, 4)), ((2, 4), (6,))]
)
def test_a_dense_layer(rng, inputs, outputs):
    x = random(rng, 3, 5, *inputs)
    axes = tuple(range(-len(inputs), 0))
    theirs = nn.DenseGeneral(outputs, axis=axes)
    params = {"kernel": random(rng, *inputs, *outputs), "bias": random(rng, *outputs)}

    def mine(x, params):
        return dense.dense(x, (params["kernel"], params["bias"]))

    assert_equal(mine, lambda x, p: theirs.apply({"params": p}, x), (x, params), rng)


def test_initial_values_are_those_of_flax(rng):
    init = nn.initializers.xavier_uniform()
    x = random(rng, 1, 2, 4)
    theirs = nn.DenseGeneral((6,), axis=(-2, -1), kernel_init=init)
    mine = dense.Affine((2, 4), (6,), init)
    key = jax.random.key(int(rng.integers(2**31)))
    a, b = mine.init(key)["params"], theirs.init(key, x)["params"]
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("dropped", [False, True])
def test_an_mlp(rng, dropped):
    x = random(rng, 3, 5, 6)
    sizes = {"fc1": (6, 11), "fc2": (11, 6)}
    params = {n: {"kernel": random(rng, *s), "bias": random(rng, s[1])} for n, s in sizes.items()}
    mask = jnp.asarray(rng.uniform(size=(3, 5, 11)) < 0.5, jnp.float32)
    drop = (lambda y: y * mask) if dropped else None

    def mine(x, params):
        layers = [(params[name]["kernel"], params[name]["bias"]) for name in sizes]
        return dense.mlp(x, *layers, drop)

    def theirs(x, params):
        y = nn.gelu(nn.Dense(11).apply({"params": params["fc1"]}, x), approximate=False)
        return nn.Dense(6).apply({"params": params["fc2"]}, y * mask if dropped else y)

    assert_equal(mine, theirs, (x, params), rng)


def test_a_layer_norm(rng):
    x = 3 + 2 * random(rng, 3, 5, 8)
    params = {"scale": random(rng, 8), "bias": random(rng, 8)}
    forms = [module.apply for module in (dense.LayerNorm(1e-6), nn.LayerNorm(epsilon=1e-6))]
    mine, theirs = (lambda x, p, f=f: f({"params": p}, x) for f in forms)
    assert_equal(mine, theirs, (x, params), rng)


def test_an_mlp_on_a_cpu_keeps_its_input_only(rng):
    x = random(rng, 7, 6)
    params = random(rng, 6, 50), random(rng, 50), random(rng, 50, 6), random(rng, 6)
    kept = jax.vjp(cpu.mlp, x, *params)[1]
    sizes = {leaf.shape for leaf in jax.tree.leaves(kept)}
    assert (7, 6) in sizes
    assert (7, 50) not in sizes
