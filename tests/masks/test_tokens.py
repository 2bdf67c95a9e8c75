import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jfreq import masks as functions
from jfreq.testing import Compiled
from jfreq.types import InputError, TokenGrid

masks = Compiled(functions)
PATCHES = TokenGrid(time=64, freq=8)
OFFICIAL_ROWS = {
    400: [0.415, 0.671, 0.816, 0.874, 0.888, 0.884, 0.884, 0.818],
    250: [0.199, 0.366, 0.497, 0.566, 0.594, 0.594, 0.592, 0.499],
}
"""P(masked) of each frequency row, measured on the released code (4000 samples)."""


def check_partition(mask, batch, n, count):
    keep, drop, restore = (np.asarray(x) for x in mask)
    assert keep.shape == (batch, n - count)
    assert drop.shape == (batch, count)
    both = np.concatenate([keep, drop], axis=1)
    np.testing.assert_array_equal(np.sort(both, axis=1), np.tile(np.arange(n), (batch, 1)))
    np.testing.assert_array_equal(
        np.take_along_axis(both, restore, 1), np.tile(np.arange(n), (batch, 1))
    )
    flags = np.zeros((batch, n), bool)
    np.put_along_axis(flags, drop, True, axis=1)
    np.testing.assert_array_equal(np.asarray(mask.is_masked), flags)


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(["cluster", "random", "time", "frequency"]),
    st.integers(2, 6), st.integers(2, 9), st.integers(1, 4),
    st.sampled_from(["freq_major", "time_major"]), st.floats(0.1, 0.9), st.integers(0, 2**31 - 1),
)  # fmt: skip
def test_exact_partition(kind, freq, time, batch, order, share, seed):
    grid = TokenGrid(time=time, freq=freq, order=order)
    line = {"time": freq, "frequency": time}.get(kind, 1)
    count = max(line, int(share * grid.size) // line * line)
    if count >= grid.size:
        count -= line
    mask = masks.sample(jax.random.key(seed), batch, grid, count, kind=kind, sizes=(1, 3))
    check_partition(mask, batch, grid.size, count)
    planes = np.asarray(mask.is_masked).reshape(batch, *grid.shape)
    if kind == "time":
        axis = 1 if order == "freq_major" else 2
        assert (planes.all(axis) == planes.any(axis)).all()
    if kind == "frequency":
        axis = 2 if order == "freq_major" else 1
        assert (planes.all(axis) == planes.any(axis)).all()


@settings(max_examples=8, deadline=None)
@given(
    st.integers(2, 9), st.integers(2, 6), st.sampled_from(["freq_major", "time_major"]),
    st.integers(0, 2**31 - 1),
)  # fmt: skip
def test_axes_leave_whole_columns_and_rows(time, freq, order, seed):
    """Visible is what lies in a kept column and in a kept row, in the order of the grid."""
    grid, kept = TokenGrid(time, freq, order), (max(1, time // 2), freq - 1)
    mask = masks.axes(jax.random.key(seed), 3, grid, kept)
    check_partition(mask, 3, grid.size, grid.size - kept[0] * kept[1])
    visible = ~np.asarray(mask.is_masked).reshape(3, *grid.shape)
    visible = visible.swapaxes(1, 2) if order == "freq_major" else visible
    columns, rows = (np.asarray(visible.any(axis)) for axis in (2, 1))
    np.testing.assert_array_equal(visible, columns[:, :, None] & rows[:, None])
    assert (columns.sum(1) == kept[0]).all() and (rows.sum(1) == kept[1]).all()
    ids = np.asarray(mask.visible)
    assert (ids[:, 1:] > ids[:, :-1]).all()


def test_axes_keep_every_line_equally_often(key):
    mask = masks.axes(key, 4000, PATCHES, (19, 5))
    visible = ~np.asarray(mask.is_masked).reshape(-1, 8, 64)
    np.testing.assert_allclose(visible.any(2).mean(0), 5 / 8, atol=0.04)
    np.testing.assert_allclose(visible.any(1).mean(0), 19 / 64, atol=0.04)


@pytest.mark.parametrize("kept", [(0, 3), (64, 8), (65, 1)])
def test_impossible_axes_are_refused(key, kept):
    with pytest.raises(InputError, match="cannot be visible"):
        functions.axes(key, 1, PATCHES, kept)


@pytest.mark.parametrize("count", [100, 250, 400])
@pytest.mark.parametrize("mode", ["uniform", "official"])
def test_published_counts(key, mode, count):
    mask = masks.cluster(key, 6, PATCHES, count, mode=mode)
    check_partition(mask, 6, 512, count)
    assert len({tuple(sorted(row)) for row in np.asarray(mask.masked).tolist()}) == 6
    again = masks.cluster(key, 6, PATCHES, count, mode=mode)
    np.testing.assert_array_equal(mask.masked, again.masked)


@pytest.mark.parametrize("count", [250, 400])
def test_official_reproduces_the_bias(key, count):
    mask = jax.jit(lambda k: masks.cluster(k, 4000, PATCHES, count, mode="official"))(key)
    flags = np.asarray(mask.is_masked).reshape(4000, 8, 64)
    np.testing.assert_allclose(flags.mean((0, 2)), OFFICIAL_ROWS[count], atol=0.02)
    assert not flags[:, 0, 0].any()
    assert not flags[:, -1, -1].any()


@pytest.mark.parametrize("count", [100, 250, 400])
def test_uniform_is_uniform(key, count):
    mask = jax.jit(lambda k: masks.cluster(k, 3000, PATCHES, count))(key)
    flags = np.asarray(mask.is_masked).reshape(3000, 8, 64)
    np.testing.assert_allclose(flags.mean((0, 2)), count / 512, atol=0.02)
    columns = flags.mean((0, 1))
    np.testing.assert_allclose(columns, count / 512, atol=0.03)


def test_clusters_of_one_are_random_masks(key):
    """Neighbours are masked together as often as in a draw without replacement."""
    n, count = PATCHES.size, 250
    mask = jax.jit(lambda k: masks.cluster(k, 2000, PATCHES, count, sizes=(1, 1)))(key)
    flags = np.asarray(mask.is_masked).reshape(2000, 8, 64)
    together = (flags[:, :, 1:] & flags[:, :, :-1]).mean()
    assert together == pytest.approx(count * (count - 1) / (n * (n - 1)), abs=0.005)
    clustered = masks.cluster(key, 500, PATCHES, count)
    flags = np.asarray(clustered.is_masked).reshape(500, 8, 64)
    assert (flags[:, :, 1:] & flags[:, :, :-1]).mean() > together + 0.1


@pytest.mark.parametrize("count", [100, 250])
def test_official_against_a_plain_reading_of_the_code(key, count):
    """The same family as the released loop, sampled in Python: counts per row agree."""
    rng, rows = np.random.default_rng(0), np.zeros(8)
    for _ in range(400):
        side, chosen = rng.integers(3, 6), set()
        while len(chosen) <= count:
            start = rng.integers(512)
            cells = {start + 64 * i + j for i in range(side) for j in range(side)}
            chosen |= {k for k in cells if 0 < k < 512}
        picked = np.array(sorted(chosen)[:count])
        rows += np.bincount(picked // 64, minlength=8) / 64 / 400
    mask = jax.jit(lambda k: masks.cluster(k, 2000, PATCHES, count, mode="official"))(key)
    ours = np.asarray(mask.is_masked).reshape(2000, 8, 64).mean((0, 2))
    np.testing.assert_allclose(ours, rows, atol=0.025)


def test_spans_keep_lines_together(key):
    grid = TokenGrid(time=64, freq=8)
    spans = masks.lines(key, 500, grid, 8 * 24, axis="time", sizes=(4, 4))
    single = masks.lines(key, 500, grid, 8 * 24, axis="time", sizes=(1, 1))

    def pairs(mask):
        columns = np.asarray(mask.is_masked).reshape(500, 8, 64)[:, 0]
        return (columns[:, 1:] & columns[:, :-1]).mean()

    assert pairs(spans) > pairs(single) + 0.1


@pytest.mark.parametrize(
    ("kind", "mode", "count", "match"),
    [
        ("random", "uniform", 512, "choose 1 to 511"),
        ("random", "uniform", 0, "choose 1 to 511"),
        ("cluster", "official", 511, "choose 1 to 510"),
        ("time", "uniform", 100, "take 96"),
        ("frequency", "uniform", 63, "take 64"),
    ],
)
def test_impossible_counts_are_refused_at_once(key, kind, mode, count, match):
    with pytest.raises(InputError, match=match):
        masks.sample(key, 2, PATCHES, count, kind=kind, mode=mode)


# ------------------------------------------------------------------ EAT's inverse blocks

SPANS = TokenGrid(time=64, freq=8, order="time_major")
"""16 x 16 patches of 10 s: 512 tokens, of which EAT keeps 102."""


def trimmed_or_filled(rng, samples, shape, keep, block, centres):
    """The definition, one draw at a time: blocks, then tokens taken away or added at random."""
    flags = np.zeros((samples, *shape), bool)
    for plane in flags:
        for _ in range(centres):
            at = [rng.integers(s) for s in shape]
            low = [max(0, a - block // 2) for a in at]
            plane[tuple(slice(lo, a - block // 2 + block) for lo, a in zip(low, at))] = True
        flat = plane.reshape(-1)
        surplus = int(flat.sum()) - keep
        pool = np.flatnonzero(flat == (surplus > 0))
        flat[rng.choice(pool, abs(surplus), replace=False)] = surplus < 0
    return flags


@pytest.fixture(scope="module")
def kept():
    """``[samples t f]``: which tokens stay."""
    mask = jax.jit(lambda k: masks.inverse_block(k, 4000, SPANS, 102))(jax.random.key(5))
    check_partition(mask, 4000, 512, 410)
    return ~np.asarray(mask.is_masked).reshape(4000, *SPANS.shape)


def test_inverse_blocks_have_the_marginals_of_their_definition(kept):
    """Every token, and every pair of neighbours along each axis; differences in standard errors."""
    plain = trimmed_or_filled(np.random.default_rng(0), 2000, SPANS.shape, 102, 5, 5)
    assert (plain.sum((1, 2)) == 102).all()
    for ours, theirs in (
        (kept, plain),
        (kept[:, 1:] & kept[:, :-1], plain[:, 1:] & plain[:, :-1]),
        (kept[:, :, 1:] & kept[:, :, :-1], plain[:, :, 1:] & plain[:, :, :-1]),
    ):
        p = ours.mean(0)
        error = np.sqrt(p * (1 - p) * (1 / len(ours) + 1 / len(theirs)))
        z = (theirs.mean(0) - p) / error
        assert np.abs(z).max() < 5
        assert np.square(z).mean() == pytest.approx(1, abs=0.3)


def test_inverse_blocks_lie_together_and_shun_the_borders(kept):
    """Published side effects: .15 in the outer mel columns, .23 in the centre; .13 in the first and
    last rows of time, .20 in the others."""
    share = kept.mean(0)
    np.testing.assert_allclose(share[:, [0, -1]].mean(0), 0.15, atol=0.01)
    np.testing.assert_allclose(share[:, 3:5].mean(0), 0.23, atol=0.01)
    np.testing.assert_allclose(share[[0, -1]].mean(1), 0.13, atol=0.01)
    np.testing.assert_allclose(share[4:-4].mean(), 0.20, atol=0.01)
    single = 102 * 101 / (512 * 511)  # two neighbours kept, without blocks
    assert (kept[:, 1:] & kept[:, :-1]).mean() > 2 * single


@pytest.mark.parametrize("order", ["freq_major", "time_major"])
@pytest.mark.parametrize("block", [2, 5])
def test_inverse_blocks_are_where_they_are_on_the_plane(key, order, block):
    """One centre and as few tokens as its block: a square of that side, wherever it is not cut."""
    grid = TokenGrid(time=9, freq=7, order=order)
    mask = jax.jit(lambda k: masks.inverse_block(k, 300, grid, block**2, block=block, adjust=0))(
        key
    )
    kept = ~np.asarray(mask.is_masked).reshape(300, *grid.shape)
    inner = 0
    for plane in kept:
        rows, columns = np.flatnonzero(plane.any(1)), np.flatnonzero(plane.any(0))
        inner += np.ptp(rows) == np.ptp(columns) == block - 1
    places = [s - block + 1 for s in grid.shape]
    share = np.prod(places) / grid.size
    assert inner / 300 == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 300))


@pytest.mark.parametrize("shape", [(40, 1), (1, 40), (12, 3), (2, 2)])
def test_inverse_blocks_on_grids_narrower_than_a_block(key, shape):
    time, freq = shape
    grid = TokenGrid(time=time, freq=freq)
    keep = max(1, grid.size // 4)
    mask = jax.jit(lambda k: masks.inverse_block(k, 500, grid, keep))(key)
    check_partition(mask, 500, grid.size, grid.size - keep)
    if 1 in shape:  # on a line, neighbours stay together more often than at random
        kept = ~np.asarray(mask.is_masked)
        assert (kept[:, 1:] & kept[:, :-1]).mean() > 2 * (keep / grid.size) ** 2


def test_masked_blocks_have_the_marginals_of_their_definition():
    """data2vec 2.0 on 50 tokens: int(50 * .55 / 5) spans of 5, then 25 masked tokens."""
    grid = TokenGrid(time=50)
    mask = jax.jit(lambda k: masks.block(k, 4000, grid, 25))(jax.random.key(5))
    check_partition(mask, 4000, 50, 25)
    ours = np.asarray(mask.is_masked)
    theirs = trimmed_or_filled(np.random.default_rng(0), 2000, (50,), 25, 5, 5)
    for a, b in ((ours, theirs), (ours[:, 1:] & ours[:, :-1], theirs[:, 1:] & theirs[:, :-1])):
        p = a.mean(0)
        z = (b.mean(0) - p) / np.sqrt(p * (1 - p) * (1 / len(a) + 1 / len(b)))
        assert np.abs(z).max() < 5
        assert np.square(z).mean() == pytest.approx(1, abs=0.5)


@pytest.mark.parametrize("sample", [masks.block, masks.inverse_block])
def test_padding_takes_no_part_in_blocks(key, sample):
    """Half of the signal's tokens are visible in every row, rounded up, however short it is."""
    grid, length = TokenGrid(time=20), np.array([1, 2, 7, 19, 20])
    valid = np.arange(20) < length[:, None]
    mask = jax.jit(lambda k: sample(k, 5, grid, 10, valid=jnp.asarray(valid)))(key)
    check_partition(mask, 5, 20, 10)
    visible = valid & ~np.asarray(mask.is_masked)
    np.testing.assert_array_equal(visible.sum(1), [1, 1, 4, 10, 10])
    whole = jax.jit(lambda k: sample(k, 5, grid, 10))(key)
    np.testing.assert_array_equal(mask.is_masked[4], whole.is_masked[4])


@pytest.mark.parametrize(
    ("keep", "options", "match"),
    [
        (0, {}, "0 of 512 tokens cannot lie in blocks; choose 1 to 511"),
        (512, {}, "512 of 512 tokens cannot lie in blocks"),
        (102, {"block": 0}, "block must be 1 or more"),
        (102, {"adjust": -0.1}, "adjust 0 or more"),
    ],
)
def test_impossible_inverse_blocks_are_refused(key, keep, options, match):
    with pytest.raises(InputError, match=match):
        masks.inverse_block(key, 2, SPANS, keep, **options)
