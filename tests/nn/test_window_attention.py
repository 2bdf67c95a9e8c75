"""Window attention against float64 loops and another's implementation; what a shift reaches."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from jfreq.nn.dropout import Dropout
from jfreq.nn.window_attention import WindowBlock, attended, join, split
from jfreq.testing import forward, frames, made, noise, trained
from jfreq.types import InputError


def layer_norm(x, p):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def mlp(x, p):
    y = layer_norm(x, p["norm2"]) @ p["fc1"]["kernel"] + p["fc1"]["bias"]
    y = 0.5 * y * (1 + erf(y / np.sqrt(2)))
    return x + y @ p["fc2"]["kernel"] + p["fc2"]["bias"]


def block_reference(x, p, *, window, shift, wrap_mask, valid):
    """One row ``[t f d]`` in float64, token by token: a token's keys are those whose shifted
    coordinates fall into its window; with the mask only those that are near in the plane."""
    (T, F, _), (wt, wf) = x.shape, window
    y = layer_norm(x, p["norm1"])
    q, k, v = np.moveaxis(
        np.einsum("tfd,dphk->tfphk", y, p["qkv"]["kernel"]) + p["qkv"]["bias"], 2, 0
    )
    out = np.zeros_like(q)
    for t, f in np.argwhere(valid):
        a, b = (t - shift[0]) % T, (f - shift[1]) % F
        keys, rows = [], []
        for u, g in np.argwhere(valid):
            c, e = (u - shift[0]) % T, (g - shift[1]) % F
            near = not wrap_mask or (abs(t - u) < wt and abs(f - g) < wf)
            if (a // wt, b // wf) == (c // wt, e // wf) and near:
                keys.append((u, g))
                rows.append((a - c + wt - 1) * (2 * wf - 1) + b - e + wf - 1)
        at = tuple(np.array(keys).T)
        for h in range(q.shape[2]):
            score = k[at][:, h] @ q[t, f, h] / np.sqrt(q.shape[-1]) + p["position_bias"][rows, h]
            weight = np.exp(score - score.max())
            out[t, f, h] = weight / weight.sum() @ v[at][:, h]
    return mlp(x + out.reshape(x.shape) @ p["proj"]["kernel"] + p["proj"]["bias"], p)


@pytest.mark.parametrize("wrap_mask", [True, False])
@pytest.mark.parametrize(
    ("window", "shift", "grid", "padding"),
    [
        ((2, 3), (0, 0), (4, 6), 0),
        ((2, 3), (1, 0), (6, 6), 0),
        ((2, 3), (1, 0), (6, 6), 2),
        ((3, 2), (2, 1), (6, 4), 0),
        ((1, 3), (1, 0), (4, 3), 0),
        ((2, 4), (2, 3), (4, 8), 3),
    ],
)
def test_block_equals_loops_over_tokens(window, shift, grid, padding, wrap_mask):
    net = WindowBlock(2, window, shift, wrap_mask=wrap_mask, mlp_ratio=1.5)
    x = noise(2, *grid, 6)
    params = made(net, x)
    valid = np.ones(grid, bool)
    valid[grid[0] - padding :] = valid[:, grid[1] - padding :] = False
    found = forward(net, valid=valid if padding else None)(params, x)
    assert np.isfinite(found).all()
    p = jax.tree.map(lambda v: np.asarray(v, np.float64), params)
    for row in range(2):
        expected = block_reference(
            np.asarray(x[row], np.float64), p, window=window, shift=shift, wrap_mask=wrap_mask,
            valid=valid,
        )  # fmt: skip
        np.testing.assert_allclose(found[row][valid], expected[valid], rtol=2e-4, atol=2e-4)


def test_a_grid_within_the_window_is_one_window():
    """Three frames, window of four: the window shrinks to the grid."""
    x = noise(1, 3, 8, 6)
    wide, exact = WindowBlock(2, (4, 4)), WindowBlock(2, (3, 4))
    params = made(wide, x)
    assert params["position_bias"].shape == (5 * 7, 2)
    np.testing.assert_array_equal(forward(wide)(params, x), forward(exact)(params, x))


@pytest.mark.parametrize("grid", [(3, 12), (12, 3)])
def test_a_block_shifts_where_both_axes_can(grid):
    """As in FOCAL, whose last stage is 3 x 12 on a microphone; a shift along one axis alone, as in
    FreqMAE, needs room on that axis only."""
    x = noise(2, *grid, 8)
    still, both, rows, columns = (
        WindowBlock(2, (3, 3), shift) for shift in ((0, 0), (1, 1), (1, 0), (0, 1))
    )
    params = made(still, x)
    plain, *others = (forward(net)(params, x) for net in (still, both, rows, columns))
    moved = [not np.allclose(plain, other) for other in others]
    assert moved == [False, grid[0] > 3, grid[1] > 3]


@pytest.mark.parametrize("wrap_mask", [True, False])
def test_frames_alone_do_not_see_a_shift(wrap_mask):
    """Windows of one frame, as released: the temporal shift is a mathematical no-op."""
    x = noise(2, 12, 18, 8)
    still, shifted = (WindowBlock(2, (1, 9), (s, 0), wrap_mask=wrap_mask) for s in (0, 1))
    params = made(still, x)
    np.testing.assert_array_equal(forward(still)(params, x), forward(shifted)(params, x))
    assert frames(shifted, params, x, 5) == [5]


def test_windows_are_parts_of_the_plane():
    x = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    parts = split(x, (2, 3))
    assert parts.shape == (2, 4, 6, 3)
    np.testing.assert_array_equal(parts[1, 1], x[1, :2, 3:].reshape(6, 3))
    np.testing.assert_array_equal(join(parts, (4, 6), (2, 3)), x)


def test_no_mask_where_everything_is_seen():
    whole = np.ones((4, 6), bool)
    assert attended((4, 6), (2, 3), (0, 0), wrap_mask=True, valid=whole) is None
    assert attended((4, 6), (2, 3), (1, 0), wrap_mask=False, valid=whole) is None
    found = attended((4, 6), (2, 3), (1, 0), wrap_mask=True, valid=None)
    assert found is not None
    assert found[:2].all() and (found[2:].sum((1, 2)) == 2 * 3 * 3).all()


@pytest.mark.parametrize(("wrap_mask", "reached"), [(True, [0]), (False, [0, 10, 11])])
def test_wrap_around_of_a_shifted_block(wrap_mask, reached):
    net = WindowBlock(2, (3, 9), (1, 0), wrap_mask=wrap_mask)
    x = noise(1, 12, 9, 8)
    assert frames(net, made(net, x), x, 0) == reached


def test_a_skipped_branch_leaves_the_row():
    """Rows that skip both branches come out as they went in, the others scaled up."""
    net = WindowBlock(2, (2, 3), drop_path=0.5)
    x = noise(64, 2, 3, 4)
    params = made(net, x)
    run = trained(net)
    out = run(params, x, jax.random.key(4))
    same = (np.asarray(out) == np.asarray(x)).all((1, 2, 3))
    assert 6 <= same.sum() <= 28, "a quarter of 64 rows"
    params["fc2"] = jax.tree.map(jnp.zeros_like, params["fc2"])
    branch = forward(net)(params, x) - x
    out = run(params, x, jax.random.key(4)) - x
    twice = np.abs(np.asarray(out)).max((1, 2, 3)) > 0
    np.testing.assert_allclose(out[twice], 2 * branch[twice], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(40, 999), (40, 9, 9, 11)])
def test_dropout_draws_bytes(shape):
    """Rate to 1/256, mean kept, every value on its own; off in evaluation."""
    x = jnp.ones(shape)
    net = Dropout(0.2)

    def sampled(key):
        return net.apply({}, x, deterministic=False, rngs={"dropout": key})

    out: Any = jax.jit(sampled)(jax.random.key(0))
    kept = np.asarray(out) > 0
    np.testing.assert_allclose(np.unique(out), [0, 256 / 205])
    sigma = np.sqrt(0.2 * 0.8 / kept.size)
    assert abs(kept.mean() - 205 / 256) < 4 * sigma
    flat = kept.reshape(40, -1)
    for lag in (1, 2, 4):
        pairs = flat[:, :-lag] & flat[:, lag:]
        assert abs(pairs.mean() - (205 / 256) ** 2) < 8 * sigma, lag
    assert net.apply({}, x, deterministic=True) is x
    assert Dropout(0.0).apply({}, x, deterministic=False) is x


def test_rows_are_dropped_as_a_whole():
    """Drop path keeps the mean; its rate may be traced, and 0 then drops nothing."""

    @jax.jit
    def sampled(rate, key):
        net = Dropout(rate, rows=True)
        return net.apply({}, jnp.ones((4000, 3)), deterministic=False, rngs={"dropout": key})

    out = np.asarray(sampled(0.3, jax.random.key(0)))
    np.testing.assert_allclose(np.unique(out), [0, 1 / 0.7], rtol=1e-6)
    np.testing.assert_array_equal(out.min(1), out.max(1))
    assert out.mean() == pytest.approx(1, abs=4 * np.sqrt(0.3 / 0.7 / 4000))
    assert (sampled(0.0, jax.random.key(1)) == 1).all()


def tensors(params):
    """Weights as torch's modules hold them: linear maps transposed."""
    import torch  # pyright: ignore[reportMissingImports]

    names = {"norm1": "layernorm_before", "norm2": "layernorm_after", "fc1": "mlp.fc1",
             "fc2": "mlp.fc2", "proj": "attention.o_proj"}  # fmt: skip
    p, out = jax.tree.map(np.asarray, params), {}
    for mine, theirs in names.items():
        weight = p[mine]["kernel"].T if "kernel" in p[mine] else p[mine]["scale"]
        out |= {f"{theirs}.weight": weight, f"{theirs}.bias": p[mine]["bias"]}
    d = len(p["norm1"]["scale"])
    for i, name in enumerate("qkv"):
        theirs = f"attention.{name}_proj"
        out[f"{theirs}.weight"] = p["qkv"]["kernel"][:, i].reshape(d, d).T
        out[f"{theirs}.bias"] = p["qkv"]["bias"][i].reshape(d)
    table = "attention.relative_position_bias.relative_position_bias_table"
    out[table] = p["position_bias"]
    return {name: torch.tensor(value) for name, value in out.items()}


@pytest.mark.interop
@pytest.mark.parametrize("shift", [0, 1])
def test_ordinary_swin_equals_transformers(shift):
    swin: Any = pytest.importorskip("transformers.models.swin.modeling_swin")
    import torch  # pyright: ignore[reportMissingImports]

    cfg = swin.SwinConfig(
        window_size=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, mlp_ratio=4.0
    )
    theirs = swin.SwinLayer(cfg, 8, (6, 9), 2, shift_size=shift).eval()
    net = WindowBlock(2, (3, 3), (shift, shift))
    x = noise(2, 6, 9, 8)
    params = made(net, x)
    theirs.load_state_dict(tensors(params))
    with torch.no_grad():
        expected, _ = theirs(torch.tensor(np.asarray(x)).reshape(2, 54, 8), (6, 9))
    np.testing.assert_allclose(
        forward(net)(params, x), expected.numpy().reshape(x.shape), rtol=1e-4, atol=1e-4
    )


def test_a_plane_that_windows_do_not_tile():
    with pytest.raises(InputError, match="do not tile a grid of 5 x 6"):
        jax.eval_shape(WindowBlock(2, (2, 3)).init, jax.random.key(0), jnp.zeros((1, 5, 6, 8)))
