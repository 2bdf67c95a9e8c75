"""The alias branch: nothing changes before training, nothing leaks where it must not."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

from jfreq import param_paths
from jfreq.monitoring import flops
from jfreq.nn.aape import AaPE, AliasBranch, bounded, zero_masked
from jfreq.nn.patch_encoder import PatchEmbed, SpectrogramTrunk
from jfreq.nn.vit import SIZES, ViT
from jfreq.types import InputError, TokenGrid

PATCH, WIDTH = (8, 4), 12
GRID = TokenGrid(time=6, freq=2, order="time_major")
SMALL = AaPE(kernels=3, taps=9, high_pass=17, width=8, depth=1, heads=2, out=6)
LOCAL = AaPE(**{**vars(SMALL), "context": "local"})
MASKED = AaPE(**{**vars(SMALL), "context": "masked"})


def trunk(cfg, grid=GRID, patch=PATCH, stride=None, width=WIDTH):
    encoder = ViT(width=width, depth=1, heads=2)
    return SpectrogramTrunk(patch, stride or patch, grid, 1, encoder, cfg, "sincos")


def noise(*shape, seed=None):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@functools.cache
def built(cfg):
    """Parameters, replaced by random values, and the embedding compiled."""
    net = trunk(cfg)
    spec = jnp.zeros((1, 48, 8, 1))
    params = jax.jit(lambda key: net.init(key, spec, method=net.embed)["params"])(jax.random.key(0))
    random = param_paths.map_paths(lambda path, x: 0.3 * noise(*x.shape, seed=len(path)), params)

    def embed(params, spec, visible, valid):
        return net.apply({"params": params}, spec, visible=visible, valid=valid, method=net.embed)

    return params, random, jax.jit(embed)


def compiled(module, method) -> Any:
    return jax.jit(functools.partial(module.apply, method=method))


def plain_tokens(params, spec) -> Any:
    net = PatchEmbed(PATCH, PATCH, WIDTH, GRID)
    return jax.jit(net.apply)({"params": params["patch_embed"]}, spec)


@pytest.mark.parametrize("cfg", [SMALL, LOCAL, MASKED], ids=lambda c: c.context)
def test_an_untrained_branch_leaves_the_plain_tokens_alone(cfg):
    spec = noise(2, 48, 8, 1)
    params, _, embed = built(cfg)
    plain = plain_tokens(params, spec)
    tokens = embed(params, spec, None, None)
    mean, var = plain.mean(-1, keepdims=True), plain.var(-1, keepdims=True)
    np.testing.assert_allclose(tokens, (plain - mean) / jnp.sqrt(var + 1e-6), atol=1e-5)
    residual = AaPE(**{**vars(cfg), "fusion": "residual"})
    params, _, embed = built(residual)
    plain = plain_tokens(params, spec)
    np.testing.assert_array_equal(embed(params, spec, None, None), plain)


@functools.cache
def energies(cfg):
    """Gradient energy of one visible token in its own patch, other visible and masked patches."""
    _, params, embed = built(cfg)
    visible = np.zeros((1, 12), bool)
    visible[0, [2, 5, 7, 8]] = True
    token = 5
    spec = noise(1, 48, 8, 1, seed=3)
    pull = noise(WIDTH, seed=4)

    def pulled(spec):
        return embed(params, spec, jnp.asarray(visible), None)[0, token] @ pull

    grad = jax.jit(jax.grad(pulled))(spec)
    cells = np.square(np.asarray(grad))[0, :, :, 0].reshape(6, 8, 2, 4).sum((1, 3)).reshape(-1)
    own = np.arange(12) == token
    return cells[own].sum(), cells[visible[0] & ~own].sum(), cells[~visible[0]].sum()


def test_what_a_visible_token_sees_of_masked_patches():
    """The table of leaks: only `full` reads what is masked; `local` reads nothing but its patch."""
    own, visible, masked = energies(SMALL)
    assert min(own, visible, masked) > 0
    own, visible, masked = energies(MASKED)
    assert min(own, visible) > 0 and masked == 0
    own, visible, masked = energies(LOCAL)
    assert own > 0 and visible == 0 and masked == 0


def test_padding_chooses_no_kernels():
    """A token that is not valid is attended to by nobody in the Lambda Encoder."""
    _, params, _ = built(SMALL)
    branch = AliasBranch(SMALL, PATCH, PATCH, GRID)
    one, two = noise(1, 48, 8, 1, seed=1), noise(1, 48, 8, 1, seed=2)
    both = jnp.concatenate([one, one.at[:, 40:].set(two[:, 40:])])
    valid = jnp.asarray(np.arange(12) < 10)[None].repeat(2, 0)

    def rates(valid):
        return compiled(branch, branch.rates)({"params": params["alias"]}, both, valid)

    for seen, same in ((valid, True), (None, False)):
        for value in rates(seen):
            first, second = np.asarray(value)[:, :5]
            assert np.allclose(first, second, atol=1e-6) == same


@settings(max_examples=10, deadline=None)
@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4), st.sampled_from([2, 4, 16]))
def test_any_input_gives_kernels_within_bounds(a, b, patch):
    cfg = AaPE(kernels=5)
    alpha, beta = bounded(cfg, patch, jnp.full((1, 5), a), jnp.full((1, 5), b))
    low, high = cfg.range(patch)
    assert ((alpha >= 0.125 * (1 - 1e-6)) & (alpha <= 1 + 1e-6)).all()
    assert ((beta >= low - 1e-7) & (beta <= high + 1e-7)).all()


def test_untrained_kernels_are_a_fixed_bank_on_the_band_that_folds():
    """Sixteen log-spaced cells of 3.125 to 50 Hz at 100 frames a second."""
    cfg = AaPE()
    alpha, beta = bounded(cfg, 16, jnp.zeros((1, 16)), jnp.zeros((1, 16)))
    np.testing.assert_allclose(alpha, 0.125**0.5, rtol=1e-5)
    listed = [3.41, 4.05, 4.82, 5.73, 6.82, 8.11, 9.64, 11.5, 13.6, 16.2, 19.3, 22.9, 27.3, 32.4,
              38.6, 45.9]  # fmt: skip
    np.testing.assert_allclose(100 * beta[0], listed, rtol=6e-3)


def naive(cfg, params, spec, alpha, beta):
    """Alias tokens ``[n e]`` of one clip in float64, kernels written out, by patch and sub-band."""
    x = np.asarray(spec, np.float64)[0, :, :, 0]
    low = scipy.signal.firwin(cfg.high_pass, 2 / (2 * PATCH[0]), window="hamming", scale=True)
    taps = -np.asarray(low)
    taps[cfg.high_pass // 2] += 1
    wide = np.pad(x, ((cfg.high_pass // 2,) * 2, (0, 0)), mode="reflect")
    x = np.stack([np.convolve(row, taps, "valid") for row in wide.T], 1)
    reach, out = cfg.taps // 2, []
    m = np.arange(-reach, reach + 1)
    get = {k: np.asarray(v, np.float64) for k, v in param_paths.flatten(params).items()}
    erf = np.vectorize(__import__("math").erf)
    for p in range(GRID.time):
        for g in range(GRID.freq):
            u = np.pad(x[:, 4 * g : 4 * g + 4] @ get["bands/kernel"][g], ((reach, reach), (0, 0)))
            seen = u[8 * p : 8 * p + 8 + 2 * reach]
            rate = alpha[p, g] + 2j * np.pi * beta[p, g]
            k = 2 * np.sinh(rate / 2) / rate * np.exp(-rate * np.abs(m)[:, None])
            y: Any = np.stack([(k * seen[n : n + cfg.taps]).sum(0) for n in range(8)])
            h = np.concatenate([y.real, y.imag], 1) @ get["mix/kernel"][g]
            h = 0.5 * h * (1 + erf(h / np.sqrt(2)))
            out.append(h.reshape(-1) @ get["project/kernel"] + get["project/bias"])
    return np.stack(out)


def test_alias_tokens_equal_kernels_written_out():
    _, params, _ = built(SMALL)
    params, spec = params["alias"], noise(1, 48, 8, 1)
    branch = AliasBranch(SMALL, PATCH, PATCH, GRID)
    alpha, beta = compiled(branch, branch.rates)({"params": params}, spec)
    assert alpha.shape == (1, 6, 2, 3) and float(jnp.std(beta, axis=1).min()) > 0
    tokens = compiled(branch, branch.measure)({"params": params}, spec, None, None)
    expected = naive(SMALL, params, spec, np.asarray(alpha[0]), np.asarray(beta[0]))
    np.testing.assert_allclose(tokens[0], expected, atol=2e-5)


def test_orders_and_overlaps_are_the_same_branch():
    """The same parameters in the other order are renumbered; a stride picks from denser patches."""
    _, params, _ = built(SMALL)
    spec = noise(1, 48, 8, 1)

    def measured(grid, stride=PATCH) -> Any:
        fixed = AaPE(**{**vars(SMALL), "adaptive": False})
        branch = AliasBranch(fixed, PATCH, stride, grid)
        rates = {k: noise(grid.freq, 3, seed=i) for i, k in enumerate(("alpha", "beta"))}
        variables = {"params": {**params["alias"], "encoder": rates}}
        return compiled(branch, branch.measure)(variables, spec, None, None)

    tokens = measured(GRID).reshape(6, 2, -1)
    other = measured(TokenGrid(6, 2)).reshape(2, 6, -1).transpose(1, 0, 2)
    np.testing.assert_allclose(tokens, other, atol=1e-6)
    dense = measured(TokenGrid(21, 2, "time_major"), (2, 4)).reshape(21, 2, -1)
    np.testing.assert_allclose(tokens, dense[::4], atol=1e-5)


def test_the_batch_may_stay_open():
    """An exported encoder does not know how many clips it will see."""
    (rows,) = jax.export.symbolic_shape("b")
    params, _, embed = built(SMALL)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    spec = jax.ShapeDtypeStruct((rows, 48, 8, 1), jnp.float32)
    valid = jax.ShapeDtypeStruct((rows, 12), bool)
    found = jax.export.export(embed)(shapes, spec, None, valid)
    assert found.out_avals[0].shape == (rows, 12, WIDTH)


def test_size_and_arithmetic_on_vit_base():
    """1.74 M parameters and less than 3 % of the arithmetic of ViT-B on 10 s."""
    grid = TokenGrid(64, 8, "time_major")
    sizes, work = {}, {}
    for name, cfg in {"plain": None, "aape": AaPE()}.items():
        net = SpectrogramTrunk((16, 16), (16, 16), grid, 1, SIZES["base"], cfg, "sincos")
        spec = jax.ShapeDtypeStruct((1, 1024, 128, 1), jnp.float32)

        def forward(module, spec):
            return module.encode(module.embed(spec))[1]

        start = functools.partial(net.init, method=forward)
        variables = jax.eval_shape(start, jax.random.key(0), spec)
        sizes[name] = param_paths.count(variables)
        work[name] = flops.count(functools.partial(net.apply, method=forward), variables, spec)
    assert sizes["aape"] - sizes["plain"] == pytest.approx(1.74e6, rel=0.01)
    assert 1 < work["aape"] / work["plain"] < 1.03


@pytest.mark.parametrize(("change", "message"), [
    ({"taps": 8}, "aape.taps: must be odd"),
    ({"width": 10}, "aape.width"),
    ({"band": (0.0, 0.5)}, "band: must be positive"),
    ({"decay": (1.0, 0.5)}, "aape.decay"),
    ({"kernels": 0}, "AaPE.kernels"),
])  # fmt: skip
def test_configs_that_make_no_sense(change, message):
    with pytest.raises(InputError, match=message):
        AaPE(**change)


@pytest.mark.parametrize(("cfg", "frames", "patch", "message"), [
    (AaPE(taps=65, high_pass=33), 48, 8, "aape.taps: 65 taps are too long for clips of 48"),
    (AaPE(taps=9), 48, 8, "aape.high_pass: 97 taps"),
    (AaPE(context="local"), 512, 16, "'local' takes 17 or fewer"),
    (AaPE(), 512, 1, "patches of one frame alias nothing"),
])  # fmt: skip
def test_clips_that_kernels_do_not_go_with(cfg, frames, patch, message):
    with pytest.raises(InputError, match=message):
        cfg.check(frames, patch)


def test_masks_need_patches_that_touch():
    with pytest.raises(InputError, match="do not overlap"):
        zero_masked(noise(1, 48, 8, 1), jnp.ones((1, 12), bool), PATCH, (4, 4), GRID)
