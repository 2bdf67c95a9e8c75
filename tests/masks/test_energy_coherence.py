import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jfreq.masks import energy_coherence
from jfreq.ops.coherence import pair_coherence, pairs_to_frames
from jfreq.types import InputError

PATCH = (1, 20)
ENERGY = jax.jit(energy_coherence.energy, static_argnames="patch")
COHERENCE = jax.jit(energy_coherence.coherence, static_argnames=("patch", "taps"))
ENTROPY = jax.jit(energy_coherence.entropy, static_argnames="patch")
SAMPLE = jax.jit(
    energy_coherence.sample_by_importance, static_argnames=("visible", "floor", "sign")
)


def noise(rng, *shape):
    z = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    return z.astype(np.complex64)


def parts(z):
    return jnp.asarray(z.real), jnp.asarray(z.imag)


def energy(z, patch=PATCH):
    return np.asarray(ENERGY(*parts(z), patch=patch))


def coherence(z, patch=PATCH, **options):
    return np.asarray(COHERENCE(*parts(z), patch=patch, **options))


def entropy(z, patch=PATCH):
    return np.asarray(ENTROPY(*parts(z), patch=patch))


@pytest.fixture(scope="module")
def white():
    return noise(np.random.default_rng(0), 8, 10, 600, 1)


@pytest.fixture(scope="module")
def narrow(white):
    """Noise ``[4 10 120 1]``."""
    return white[:4, :, :120]


# ------------------------------------------------------------------ scores


def test_white_noise_has_the_figures_of_the_sheet(white):
    """Section 2.d: .06/.14/.32 of the energy in the top 4/10/25 %, entropy .995, coherence .32."""
    e = np.sort(np.asarray(energy_coherence.patch_energy(*parts(white), PATCH)).reshape(8, 300))[
        :, ::-1
    ]
    shares = [e[:, : round(300 * top)].sum() / e.sum() for top in (0.04, 0.1, 0.25)]
    np.testing.assert_allclose(shares, [0.06, 0.14, 0.32], atol=0.01)
    h = entropy(white) / np.log(300)
    np.testing.assert_allclose(h, 0.995, atol=0.002)
    gamma = jax.jit(lambda re, im: pairs_to_frames(*pair_coherence(re, im)))(*parts(white))
    assert float(gamma.mean()) == pytest.approx(0.32, abs=0.01)
    assert coherence(white).mean() < 0.05


def test_energy_against_numpy():
    z = noise(np.random.default_rng(1), 3, 5, 14, 2)
    e = (abs(z.astype(np.complex128)) ** 2).sum(-1)
    cells = np.stack([e[:, :, i : i + 4].mean(2) for i in range(0, 14, 4)], axis=2)
    cells = np.stack([cells[:, i : i + 2].mean(1) for i in range(0, 5, 2)], axis=1)
    loud = np.log1p(cells / np.median(cells, axis=(1, 2), keepdims=True))
    low, high = loud.min((1, 2), keepdims=True), loud.max((1, 2), keepdims=True)
    found = energy(z, (2, 4))
    assert found.shape == (3, 3, 4)  # the last patches hang over and lose nothing by it
    np.testing.assert_allclose(found, (loud - low) / (high - low), atol=1e-5)
    np.testing.assert_allclose(found.min((1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(found.max((1, 2)), 1, atol=1e-6)


def test_repeated_frames_are_coherent_and_values_stay_in_range(white):
    repeated = np.repeat(white[:, :1], 10, axis=1)
    np.testing.assert_allclose(coherence(repeated), 1.0, atol=1e-5)
    half = np.concatenate([repeated[:, :, :300], white[:, :, 300:]], axis=2)
    found = coherence(half)
    assert found[..., :14].min() > 0.99 and found[..., 16:].mean() < 0.05
    assert found.min() >= 0 and found.max() <= 1


def test_scores_do_not_know_the_volume(narrow):
    z = narrow
    for scale in (1e-10, 30.0, 1e7):
        louder = z * np.float32(scale)
        np.testing.assert_allclose(energy(louder), energy(z), atol=1e-5)
        np.testing.assert_allclose(coherence(louder), coherence(z), atol=1e-5)


def test_energy_ignores_phase_and_coherence_a_gain_for_each_frame(narrow):
    rng, z = np.random.default_rng(2), narrow
    turned = (z * np.exp(2j * np.pi * rng.random(z.shape))).astype(np.complex64)
    gained = z * rng.uniform(0.01, 100, (4, 10, 1, 1)).astype(np.float32)

    def score(z, alpha):
        return np.asarray(
            energy_coherence.importance(jnp.asarray(energy(z)), jnp.asarray(coherence(z)), alpha)
        )

    np.testing.assert_allclose(score(turned, 1), score(z, 1), atol=1e-5)
    np.testing.assert_allclose(score(gained, 0), score(z, 0), atol=1e-5)
    assert abs(score(turned, 0.5) - score(z, 0.5)).max() > 0.01
    assert abs(score(gained, 0.5) - score(z, 0.5)).max() > 0.1
    flat = score(z, 0.25).reshape(4, 10, 6)
    np.testing.assert_allclose(flat, 0.25 * energy(z) + 0.75 * coherence(z), atol=1e-6)


def test_silence_and_planes_without_neighbours_score_zero():
    silent = np.zeros((2, 4, 24, 2), np.complex64)
    flat = np.full((2, 4, 24, 2), 0.3 + 0.1j, np.complex64)
    lone = noise(np.random.default_rng(3), 2, 1, 24, 1)
    for zero in (
        energy(silent, (1, 4)), coherence(silent, (1, 4)), energy(flat, (1, 4)),
        coherence(lone, (1, 4)), coherence(flat[:, :, :1, :], (1, 1)),
        coherence(silent, (1, 4), other=parts(flat)),
    ):  # fmt: skip
        assert (zero == 0).all()
    assert (entropy(silent, (1, 4)) == 0).all()
    np.testing.assert_allclose(entropy(flat, (1, 4)), np.log(24), atol=1e-5)
    mostly = flat.copy()
    mostly[:, 1:] = 0  # the median is 0
    expected = np.repeat([[1.0], [0.0], [0.0], [0.0]], 6, axis=1)
    np.testing.assert_allclose(energy(mostly, (1, 4))[0], expected, atol=1e-6)


def test_coherence_with_another_sensor(narrow):
    rng, z = np.random.default_rng(4), narrow
    both = np.concatenate([2j * z, z], axis=-1)
    np.testing.assert_allclose(coherence(z, other=parts(both)), 1.0, atol=1e-5)
    assert coherence(z, other=parts(noise(rng, 4, 10, 120, 2))).mean() < 0.05
    alone = coherence(z[:, :1, :40], other=parts(both[:, :1, :40]))
    assert alone.shape == (4, 1, 2) and alone.min() > 0.99
    with pytest.raises(InputError, match="one rate"):
        coherence(z, other=parts(both[:, :5]))
    with pytest.raises(InputError, match="taps"):
        coherence(z, taps=2)


def test_scores_carry_no_gradient():
    def total(x):
        planes = energy_coherence.energy(x, x, (1, 4)), energy_coherence.coherence(x, x, (1, 4))
        return (
            energy_coherence.importance(*planes, 0.5).sum()
            + energy_coherence.entropy(x, x, (1, 4)).sum()
        )

    assert (jax.jit(jax.grad(total))(jnp.zeros((1, 3, 16, 1))) == 0).all()


# ------------------------------------------------------------------ masks


def sampled(rows, scores, keep, temperature, seed=0, **options):
    scores = jnp.asarray(np.tile(np.asarray(scores, np.float32), (rows, 1)))
    mask = SAMPLE(jax.random.key(seed), scores, visible=keep, temperature=temperature, **options)
    return mask, np.asarray(mask.restore) < keep


def uniformity(kept):
    """p of equal chances for every column, for rows that keep k of n without replacement."""
    rows, n = kept.shape
    p = kept.mean()
    statistic = ((kept.sum(0) - rows * p) ** 2).sum() / (rows * p * (1 - p)) * (n - 1) / n
    return stats.chi2.sf(statistic, n - 1)


@settings(max_examples=16, deadline=None)
@given(
    st.sampled_from([(2, 1, 0.0, 1), (9, 8, 0.1, 1), (12, 5, 0.5, -1), (12, 5, 1.0, 1)]),
    st.sampled_from([0.0, 0.1, 10.0]), st.integers(0, 2**31 - 1),
)  # fmt: skip
def test_exact_partition(how, temperature, seed):
    n, keep, floor, sign = how
    scores = np.random.default_rng(seed).random(n)
    mask, kept = sampled(3, scores, keep, temperature, seed, floor=floor, sign=sign)
    assert mask.visible.shape == (3, keep) and mask.masked.shape == (3, n - keep)
    both = np.concatenate([mask.visible, mask.masked], axis=1)
    every = np.tile(np.arange(n), (3, 1))
    np.testing.assert_array_equal(np.sort(both, axis=1), every)
    np.testing.assert_array_equal(np.take_along_axis(both, np.asarray(mask.restore), 1), every)
    assert all(ids.dtype == jnp.int32 for ids in mask)
    assert (kept.sum(1) == keep).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_cold_is_top_k(sign):
    scores = np.random.default_rng(5).permutation(24) / 24
    best = np.argsort(-sign * scores)[:6]
    for temperature in (0.0, 1e-4):
        _, kept = sampled(50, scores, 6, temperature, sign=sign)
        assert kept[:, best].all()


def test_hot_is_uniform():
    scores = np.linspace(0, 1, 24)
    assert uniformity(sampled(3000, scores, 6, 1e6)[1]) > 1e-3
    assert uniformity(sampled(3000, scores, 6, jnp.inf)[1]) > 1e-3
    assert uniformity(sampled(3000, scores, 6, 1.0)[1]) < 1e-6


def test_one_token_is_sampled_by_softmax():
    """Gumbel-max: the first token kept has the odds of a softmax of the scores."""
    scores, temperature = np.array([0.0, 0.3, 0.6, 1.0]), 0.5
    counts = sampled(8000, scores, 1, temperature)[1].sum(0)
    odds = np.exp(scores / temperature)
    assert stats.chisquare(counts, 8000 * odds / odds.sum()).pvalue > 1e-3


def test_floor_of_few_tokens_is_rounded_at_random():
    """A tenth of three is one of them in three samples of ten."""
    _, kept = sampled(3000, np.linspace(0, 1, 32), 3, 0.0, floor=0.1)
    outside = kept[:, :29].sum(1)
    assert set(outside) == {0, 1}
    assert abs(outside.mean() - 0.3 * 29 / 30) < 0.03


def test_floor_is_sampled_from_what_is_left():
    scores = np.arange(32) / 32
    _, kept = sampled(3000, scores, 8, 0.0, floor=0.25)
    assert kept[:, -6:].all() and (kept[:, :-6].sum(1) == 2).all()
    assert uniformity(kept[:, :-6]) > 1e-3
    assert uniformity(sampled(3000, scores, 8, 0.0, floor=1.0)[1]) > 1e-3


def test_ties_break_at_random():
    """A silent sensor has all scores 0: cold or not, no token is preferred."""
    assert uniformity(sampled(3000, np.zeros(24), 6, 0.0)[1]) > 1e-3


def test_padding_is_kept_only_where_nothing_else_is():
    valid = np.tile(np.arange(32) < 10, (3000, 1))
    for floor in (0.0, 0.5, 1.0):
        _, kept = sampled(3000, np.linspace(0, 1, 32), 8, 0.1, floor=floor, valid=valid)
        assert not kept[:, 10:].any()
    _, kept = sampled(3000, np.linspace(0, 1, 32), 12, 0.1, floor=0.25, valid=valid)
    assert kept[:, :10].all() and (kept[:, 10:].sum(1) == 2).all()


def test_one_compilation_for_each_ratio(key):
    draw = jax.jit(
        lambda k, s, keep, step: energy_coherence.sample_by_importance(
            k, s, keep, temperature=energy_coherence.temperature(step, 10), floor=0.1
        ),
        static_argnums=2,
    )
    for keep in (2, 4):
        for step in (0, 5, 10):
            draw(jax.random.fold_in(key, step), jnp.zeros((2, 16)), keep, jnp.asarray(step))
    assert draw._cache_size() == 2  # pyright: ignore[reportAttributeAccessIssue]


def test_temperature_falls_along_half_a_cosine():
    at = [float(energy_coherence.temperature(s, 200)) for s in (0, 25, 50, 100, 200)]
    quarter = 0.1 + 0.9 * (1 + np.cos(np.pi / 4)) / 2
    np.testing.assert_allclose(at, [1.0, quarter, 0.55, 0.1, 0.1], atol=1e-6)
    assert float(energy_coherence.temperature(0, 100, fraction=0.0, start=2, end=0.5)) == 2
    assert float(energy_coherence.temperature(1, 100, fraction=0.0, start=2, end=0.5)) == 0.5


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"visible": 0}, "choose 1 to 15"),
        ({"visible": 16}, "choose 1 to 15"),
        ({"floor": 1.5}, "floor"),
    ],
)
def test_impossible_masks_are_refused(key, change, match):
    options = {"visible": 4, "temperature": 1.0, **change}
    with pytest.raises(InputError, match=match):
        energy_coherence.sample_by_importance(key, jnp.zeros((2, 16)), **options)
    with pytest.raises(InputError, match="alpha"):
        energy_coherence.importance(jnp.zeros((1, 2, 2)), jnp.zeros((1, 2, 2)), 1.1)


# ------------------------------------------------------------------ budgets


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(2, 400), st.floats(0, 6)), min_size=1, max_size=5),
    st.floats(0.01, 0.99),
)
def test_budgets_add_up_and_leave_tokens_on_both_sides(sensors, ratio):
    counts, entropies = zip(*sensors)
    kept = energy_coherence.budgets(counts, ratio, entropies)
    whole = sum(min(n - 1, max(1, round((1 - ratio) * n))) for n in counts)
    assert sum(kept) == whole
    assert all(1 <= k < n for k, n in zip(kept, counts))


def test_budgets_follow_the_number_of_patches_that_matter():
    assert energy_coherence.budgets((100, 100), 0.9, (3.0, 3.0)) == (10, 10)
    assert energy_coherence.budgets((100, 100), 0.9, (np.log(30), np.log(10))) == (15, 5)
    assert energy_coherence.budgets((200, 100), 0.9, (1.0, 1.0)) == (15, 15)
    assert energy_coherence.budgets((200, 4), 0.5, (0.0, 5.0)) == (99, 3)
    assert energy_coherence.budgets((8, 8), 0.96, (1.0, 2.0)) == (1, 1)


def test_impossible_budgets_are_refused():
    with pytest.raises(InputError, match="both visible and masked"):
        energy_coherence.budgets((100, 1), 0.9, (3.0, 3.0))
    with pytest.raises(InputError, match="ratio"):
        energy_coherence.budgets((100,), 1.0, (3.0,))
    for wrong in ((3.0,), (3.0, float("nan"))):
        with pytest.raises(InputError, match="finite entropy"):
            energy_coherence.budgets((100, 100), 0.9, wrong)
