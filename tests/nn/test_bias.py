"""Biases of attention against loops over pairs of tokens and the papers' closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq.nn.bias import ALiBi, RelativeBias, alibi_slopes, relative_buckets
from jfreq.types import InputError, TokenGrid

GRIDS = [TokenGrid(time=4, freq=3), TokenGrid(4, 3, "time_major"), TokenGrid(time=7)]
HEADS = 3


def bucket(distance: int, buckets: int, longest: int) -> int:
    """T5's bucket in whole numbers: how many edges lie at or below the distance."""
    side, far = buckets // 2, abs(distance)
    exact = side // 2
    steps = side - exact
    edges = [
        k for k in range(1, steps)
        # far / exact >= (longest / exact)^(k / steps), without a root
        if far**steps * exact**k >= longest**k * exact**steps
    ]  # fmt: skip
    return (side if distance > 0 else 0) + (far if far < exact else exact + len(edges))


@pytest.mark.parametrize(("buckets", "longest"), [(32, 128), (320, 800), (4, 2), (12, 50)])
def test_buckets_of_t5_and_wavlm(buckets, longest):
    apart = np.arange(-longest - 40, longest + 41)
    expected = [bucket(int(d), buckets, longest) for d in apart]
    np.testing.assert_array_equal(relative_buckets(apart, buckets, longest), expected)


def test_slopes_of_alibi():
    """Section 3 of the paper: 1/2 to 1/256 for 8 heads; 12 take four from the sequence of 16."""
    eight = [2.0**-i for i in range(1, 9)]
    np.testing.assert_allclose(alibi_slopes(8), eight)
    np.testing.assert_allclose(alibi_slopes(12), eight + [2.0**-p for p in (0.5, 1.5, 2.5, 3.5)])
    np.testing.assert_allclose(alibi_slopes(1), [2.0**-8])


def places(grid):
    """(sequence, time, freq) of every token."""
    order = [(f, t) for f in range(grid.freq) for t in range(grid.time)]
    if grid.order == "time_major":
        order = [(f, t) for t in range(grid.time) for f in range(grid.freq)]
    return [(i, t, f) for i, (f, t) in enumerate(order)]


def expected_bias(cfg, params, query, key):
    """``[h]`` of one pair, from the places of its tokens."""
    apart = np.subtract(key, query)
    if isinstance(cfg, ALiBi):
        far = {"time": abs(apart[1]), "manhattan": abs(apart[1]) + abs(apart[2]),
               "euclidean": math.hypot(*apart[1:])}[cfg.distance]  # fmt: skip
        scale = np.maximum(params["scale"], 0) if cfg.learned_scale else 1.0
        return -far * scale * alibi_slopes(HEADS)
    return sum(
        table[bucket(int(apart[("sequence", "time", "freq").index(axis)]), 8, 6)]
        for axis, table in params.items()
    )


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize(
    "cfg",
    [
        RelativeBias(8, 6), RelativeBias(8, 6, "time"), RelativeBias(8, 6, "both"),
        ALiBi(), ALiBi("manhattan"), ALiBi("euclidean", learned_scale=False),
    ],
    ids=str,
)  # fmt: skip
def test_the_bias_of_a_pair_follows_its_places(cfg, grid):
    """On the whole grid and for tokens that are some of it, others in each row."""
    rng = np.random.default_rng()
    net = cfg.build(HEADS)
    shapes = jax.eval_shape(net.init, jax.random.key(0), grid).get("params", {})
    params = {k: rng.normal(size=v.shape).astype(np.float32) for k, v in shapes.items()}
    ids = np.stack([rng.permutation(grid.size)[:5] for _ in range(2)])
    whole, some = jax.jit(
        lambda p, ids: (net.apply({"params": p}, grid), net.apply({"params": p}, grid, ids))
    )(params, jnp.asarray(ids))
    at = places(grid)
    expected = np.array([[expected_bias(cfg, params, q, k) for k in at] for q in at])
    expected = expected.transpose(2, 0, 1)
    assert whole.shape == (1, HEADS, grid.size, grid.size)
    np.testing.assert_allclose(whole[0], expected, rtol=1e-5, atol=1e-6)
    for row in range(2):
        pairs = expected[:, ids[row][:, None], ids[row][None]]
        np.testing.assert_allclose(some[row], pairs, rtol=1e-5, atol=1e-6)


def test_impossible_buckets():
    with pytest.raises(InputError, match=r"bias\.buckets: must be an even number of 4 or more"):
        RelativeBias(buckets=7)
    with pytest.raises(InputError, match=r"bias\.max_distance: must be above 80"):
        RelativeBias(max_distance=80)
