"""Both predictors of masked tokens against plain NumPy, and what they may depend on."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate2d
from scipy.special import erf, softmax

from jfreq import masks, param_paths
from jfreq.nn.predictors import ConvDecoder, CrossPredictor
from jfreq.types import InputError, Mask, TokenGrid

CONV = ConvDecoder(width=8, depth=2, groups=2, noise=0.5)
CROSS = CrossPredictor(width=8, depth=2, heads=2, mlp_ratio=1.5)
GRID = TokenGrid(time=5, freq=3, order="time_major")
D, OUT, KEEP = 12, 6, 6
BOTH = pytest.mark.parametrize("cfg", [CONV, CROSS], ids=["conv", "cross"])


def random_mask(rows=3, grid=GRID, seed=0):
    return masks.random(jax.random.key(seed), rows, grid, grid.size - KEEP)


def random_states(rows=3, width=D):
    return jnp.asarray(np.random.default_rng().normal(size=(rows, KEEP, width)), jnp.float32)


@functools.cache
def weights(cfg, width=D, grid=GRID):
    """Large and far from the initial ones, biases too."""
    net = cfg.build(OUT)
    args = random_states(width=width), random_mask(grid=grid), grid, jax.random.key(0)
    params = jax.jit(lambda key: net.init(key, *args)["params"])(jax.random.key(0))
    rng = np.random.default_rng()
    return jax.tree.map(lambda p: p + 0.3 * rng.normal(size=p.shape).astype(np.float32), params)


@functools.cache
def compiled(cfg, grid=GRID):
    net = cfg.build(OUT)
    return jax.jit(lambda p, states, mask, key: net.apply({"params": p}, states, mask, grid, key))


def norm(x, scale=1.0, bias=0.0):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-5) * scale + bias


def gelu(x):
    return x * (1 + erf(x / np.sqrt(2))) / 2


def layer(params, i):
    """Block ``i`` of the stacked parameters, float64."""
    return jax.tree.map(lambda p: np.asarray(p[i], np.float64), params["blocks"])


# ------------------------------------------------------------------ convolutions


def conv_reference(params, states, mask, noise, grid):
    """``noise`` ``[b m d]`` at the masked places; one plane and one pair of channels at a time."""
    params = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    states = np.asarray(states, np.float64)
    blocks = [params["first"]] if "first" in params else []
    blocks += [layer(params, i) for i in range(CONV.depth - len(blocks))]
    keep, drop = np.asarray(mask.visible), np.asarray(mask.masked)
    out = []
    for row in range(len(keep)):
        x = np.zeros((grid.size, states.shape[-1]))
        x[keep[row]], x[drop[row]] = states[row], noise[row]
        x = x.reshape(*grid.shape, -1)
        for p in blocks:
            y = np.zeros((*grid.shape, CONV.width)) + p["bias"]
            size, out_size = x.shape[-1] // CONV.groups, CONV.width // CONV.groups
            for o in range(CONV.width):
                for c in range(size):
                    plane = x[:, :, o // out_size * size + c]
                    y[:, :, o] += correlate2d(plane, p["kernel"][:, :, c, o], mode="same")
            y = gelu(norm(y))
            x = x + y if x.shape == y.shape else y
        flat = x.reshape(grid.size, -1)[drop[row]]
        out.append(flat @ params["out"]["kernel"] + params["out"]["bias"])
    return np.stack(out)


@pytest.mark.parametrize("order", ["freq_major", "time_major"])
@pytest.mark.parametrize("width", [D, CONV.width])
def test_conv_decoder_against_numpy(order, width):
    """With states of another width, and of the same: then the first block is added too."""
    grid, quiet = dataclasses.replace(GRID, order=order), dataclasses.replace(CONV, noise=0.0)
    params, states, mask = weights(quiet, width, grid), random_states(width=width), random_mask()
    assert params["blocks"]["kernel"].shape == (2 if width == CONV.width else 1, 3, 3, 4, 8)
    found = compiled(quiet, grid)(params, states, mask, jax.random.key(1))
    expected = conv_reference(params, states, mask, np.zeros((3, 9, width)), grid)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_noise_is_sampled_from_the_key_at_the_masked_places_only():
    """With 1 x 1 kernels every place stands for itself: the map from noise to output is known."""
    cfg = dataclasses.replace(CONV, kernel=1, depth=1, groups=1, noise=0.3)
    grid = TokenGrid(time=200, freq=2)
    mask = random_mask(2, grid)
    net = cfg.build(8)
    states = random_states(2, 8)
    init = jax.jit(lambda key: net.init(key, states, mask, grid, key)["params"])
    params = init(jax.random.key(0))
    params["out"] = {"kernel": jnp.eye(8), "bias": jnp.zeros(8)}
    params["blocks"] = jax.tree.map(jnp.zeros_like, params["blocks"])  # what remains: the residual

    apply = jax.jit(lambda states, key: net.apply({"params": params}, states, mask, grid, key))

    def run(states, key):
        return np.asarray(apply(states, key))

    one = run(states, jax.random.key(1))
    assert one.std() == pytest.approx(0.3, rel=0.05)
    assert one.mean() == pytest.approx(0, abs=0.02)
    assert abs(np.corrcoef(one[0].ravel(), one[1].ravel())[0, 1]) < 0.1
    np.testing.assert_array_equal(one, run(9 * states, jax.random.key(1)))
    assert np.abs(one - run(states, jax.random.key(2))).max() > 0.1


def test_a_visible_token_reaches_as_far_as_the_kernels():
    """Two layers of 3 x 3: a masked place sees at most two steps away along each axis."""
    grid, key = TokenGrid(time=12, freq=3, order="time_major"), jax.random.key(0)
    mask, states = random_mask(1, grid), random_states(1, CONV.width)
    params, run = weights(CONV, CONV.width), compiled(CONV, grid)
    base, moved = run(params, states, mask, key), run(params, states.at[0, 0].add(1.0), mask, key)
    changed = np.abs(moved - base).max(-1)[0] > 1e-6
    at = np.stack(np.unravel_index(np.asarray(mask.masked[0]), grid.shape))
    source = np.stack(np.unravel_index(np.asarray(mask.visible[0, :1]), grid.shape))
    near = np.abs(at - source).max(axis=0) <= 2
    np.testing.assert_array_equal(changed, near)
    assert near.any()
    assert not near.all()


def test_kernels_are_no_longer_than_the_lattice():
    grid = TokenGrid(time=10, freq=1)
    params = weights(CONV, CONV.width, grid)
    assert params["blocks"]["kernel"].shape == (2, 1, 3, 4, 8)
    found = compiled(CONV, grid)(
        params, random_states(3, 8), random_mask(3, grid), jax.random.key(0)
    )
    assert found.shape == (3, 4, OUT)


# ------------------------------------------------------------------ cross-attention


def sines(grid, width):
    """Frequency in the first half of the width, time in the second; sines, then cosines."""
    table = np.zeros((grid.freq, grid.time, width))
    omega = 10000.0 ** (-np.arange(width // 4) / (width // 4))
    for f in range(grid.freq):
        for t in range(grid.time):
            parts = [g(i * omega) for i in (f, t) for g in (np.sin, np.cos)]
            table[f, t] = np.concatenate(parts)
    table = table if grid.order == "freq_major" else table.transpose(1, 0, 2)
    return table.reshape(grid.size, width)


def cross_reference(params, states, mask, grid):
    params = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    states = np.asarray(states, np.float64)
    table = sines(grid, D)[np.asarray(mask.masked)]
    x = table @ params["embed"]["kernel"] + params["embed"]["bias"]
    for i in range(CROSS.depth):
        p = layer(params, i)
        q = np.einsum("bmw,whk->bmhk", x, p["q"]["kernel"]) + p["q"]["bias"]
        kv = np.einsum("bkd,dchw->cbkhw", states, p["kv"]["kernel"])
        k, v = kv + p["kv"]["bias"][:, None, None]
        scores = softmax(np.einsum("bmhk,bshk->bhms", q, k) / np.sqrt(q.shape[-1]), axis=-1)
        y = np.einsum("bhms,bshk->bmhk", scores, v)
        y = np.einsum("bmhk,hkw->bmw", y, p["proj"]["kernel"]) + p["proj"]["bias"]
        x = norm(y if i == 0 else x + y, **p["norm1"])
        y = gelu(x @ p["fc1"]["kernel"] + p["fc1"]["bias"]) @ p["fc2"]["kernel"] + p["fc2"]["bias"]
        x = norm(x + y, **p["norm2"])
    return x @ params["out"]["kernel"] + params["out"]["bias"]


@pytest.mark.parametrize("order", ["freq_major", "time_major"])
def test_cross_predictor_against_numpy(order):
    grid = dataclasses.replace(GRID, order=order)
    params, states, mask = weights(CROSS, D, grid), random_states(), random_mask()
    found = compiled(CROSS, grid)(params, states, mask, jax.random.key(0))
    expected = cross_reference(params, states, mask, grid)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(
        found, compiled(CROSS, grid)(params, states, mask, jax.random.key(1))
    )


def test_a_place_is_predicted_without_the_other_masked_places():
    """And whatever the order of the states: attention reads a set."""
    params, states, mask = weights(CROSS), random_states(), random_mask()
    whole = compiled(CROSS)(params, states, mask, jax.random.key(0))
    fewer = mask._replace(masked=mask.masked[:, 3:5])
    found = compiled(CROSS)(params, states[:, ::-1], fewer, jax.random.key(0))
    np.testing.assert_allclose(found, whole[:, 3:5], rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------ both


def reordered(mask, order):
    drop = mask.masked[:, order]
    restore = jnp.argsort(jnp.concatenate([mask.visible, drop], axis=1), axis=1)
    return Mask(mask.visible, drop, restore.astype(jnp.int32))


@BOTH
def test_predictions_follow_the_order_of_the_masked_tokens(cfg):
    """Without noise, which is sampled in that order."""
    cfg = dataclasses.replace(cfg, noise=0.0) if isinstance(cfg, ConvDecoder) else cfg
    params, states, mask = weights(cfg), random_states(), random_mask()
    order = np.random.default_rng().permutation(mask.masked.shape[1])
    whole = compiled(cfg)(params, states, mask, jax.random.key(0))
    assert whole.shape == (3, GRID.size - KEEP, OUT)
    found = compiled(cfg)(params, states, reordered(mask, order), jax.random.key(0))
    np.testing.assert_allclose(found, whole[:, order], rtol=1e-5, atol=1e-5)
    rows = compiled(cfg)(params, states[:1], Mask(*(x[:1] for x in mask)), jax.random.key(0))
    np.testing.assert_allclose(rows, whole[:1], rtol=1e-4, atol=1e-5)


@BOTH
def test_gradient_reaches_states_and_all_parameters(cfg):
    net, params, states, mask = cfg.build(OUT), weights(cfg), random_states(), random_mask()
    target = jnp.asarray(np.random.default_rng().normal(size=(3, 9, OUT)), jnp.float32)

    def loss(params, states):
        out = net.apply({"params": params}, states, mask, GRID, jax.random.key(0))
        return jnp.sum(jnp.square(out - target))

    grads, slope = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, states)
    assert np.abs(np.asarray(slope)).max(-1).min() > 0
    for path, leaf in param_paths.flatten(grads).items():
        assert np.abs(leaf).max() > 0, path


@BOTH
def test_bfloat16_is_near_float32_and_returns_float32(cfg):
    params, states, mask = weights(cfg), random_states(), random_mask()
    half = dataclasses.replace(cfg, dtype="bfloat16")
    wide, narrow = (compiled(c)(params, states, mask, jax.random.key(0)) for c in (cfg, half))
    assert narrow.dtype == jnp.float32
    assert 0 < np.abs(narrow - wide).max() < 0.1 * np.abs(wide).max()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ConvDecoder(width=100), r"decoder.width: 100 must be a multiple of groups 16"),
        (lambda: ConvDecoder(kernel=4), "decoder.kernel: must be odd, got 4"),
        (lambda: ConvDecoder(depth=0), "ConvDecoder.depth: must be 1 or more, got 0"),
        (lambda: ConvDecoder(noise=-1.0), "ConvDecoder.noise: must be 0 or more"),
        (lambda: CrossPredictor(width=20), r"decoder.width: 20 must be a multiple of heads 8"),
        (lambda: CrossPredictor(depth=0), "CrossPredictor.depth: must be 1 or more"),
        (lambda: CrossPredictor(mlp_ratio=0.0), "CrossPredictor.mlp_ratio: must be positive"),
        (lambda: CrossPredictor(attention="splash"), r"decoder.attention: splash has no cross"),
        (lambda: CrossPredictor(attention="cudnn"), r"cudnn wants decoder.dtype bfloat16"),
    ],
)
def test_impossible_predictors_are_refused(make, match):
    with pytest.raises(InputError, match=match):
        make()


def test_the_stream_keeps_its_type_where_the_first_block_changes_the_width():
    cfg = dataclasses.replace(CONV, depth=3, stream="bfloat16")
    args = random_states(), random_mask(), GRID, jax.random.key(0)
    params = weights(cfg)
    traced = jax.make_jaxpr(lambda p, s: cfg.build(OUT).apply({"params": p}, s, *args[1:]))
    scans = [e for e in traced(params, args[0]).eqns if e.primitive.name == "scan"]
    assert scans and all(v.aval.dtype == jnp.bfloat16 for e in scans for v in e.outvars)
