import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from jfreq import augment


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


spec_augment = jax.jit(augment.spec_augment, static_argnames=("freq", "time", "fill"))
mixup = jax.jit(augment.mixup, static_argnames=("prob", "alpha", "shared", "centred"))


def span(flags):
    """Width of the only run of True; fails when there are two."""
    places = np.flatnonzero(flags)
    assert places.size == 0 or places[-1] - places[0] + 1 == places.size
    return places.size


def test_spec_augment_masks_one_band_and_one_span(key):
    """Everything outside the two spans is untouched; widths are uniform below their limits."""
    x = noise(600, 20, 12, 2)
    out = np.asarray(spec_augment(key, x, freq=5, time=8, fill=-9.0))
    masked = (out == -9.0).all(axis=3)
    np.testing.assert_array_equal(out[~masked], np.asarray(x)[~masked])
    widths = {"freq": [], "time": []}
    for row in masked:
        bins, frames = row.all(axis=0), row.all(axis=1)
        np.testing.assert_array_equal(row, bins[None] | frames[:, None])
        widths["freq"].append(span(bins))
        widths["time"].append(span(frames))
    for name, limit in (("freq", 5), ("time", 8)):
        counts = np.bincount(widths[name], minlength=limit)
        assert counts.size == limit
        assert scipy.stats.chisquare(counts).pvalue > 1e-4


def test_spec_augment_starts_reach_both_ends(key):
    x = jnp.ones((500, 6, 6, 1))
    out = np.asarray(spec_augment(key, x, freq=3, time=1))[:, 0, :, 0]
    assert (out[:, 0] == 0).any()
    assert (out[:, -1] == 0).any()
    assert len(np.unique(out, axis=0)) == 1 + 6 + 5  # width 0, 1 and 2 at every place


def test_spec_augment_limits(key):
    x = noise(50, 6, 4, 1)
    np.testing.assert_array_equal(spec_augment(key, x, freq=0, time=0), x)
    np.testing.assert_array_equal(spec_augment(key, x, freq=1, time=1), x)
    wider = np.asarray(spec_augment(key, x, freq=48, time=0))
    assert ((wider == 0).all(axis=(1, 2, 3))).any()  # a whole clip may go, and nothing breaks


def test_mixup_blends_centred_waveforms_and_labels_alike(key):
    x, label = noise(64, 50, 2) + 3.0, jnp.eye(64)
    mixed, mixed_label = (np.asarray(a) for a in mixup(key, x, label, prob=1.0))
    centred = np.asarray(x, np.float64) - np.asarray(x, np.float64).mean(1, keepdims=True)
    share = np.diagonal(mixed_label)
    for i in range(64):
        j = (i + 1) % 64
        np.testing.assert_allclose(mixed_label[i, j], 1 - share[i], atol=1e-6)
        assert (mixed_label[i] > 0).sum() == 2
        expected = share[i] * centred[i] + (1 - share[i]) * centred[j]
        np.testing.assert_allclose(mixed[i], expected, atol=1e-5)
    assert np.abs(mixed.mean(1)).max() < 1e-6


def test_mixup_draws_beta_per_row_with_probability(key):
    x, label = noise(4000, 4), jnp.tile(jnp.eye(2), (2000, 1))
    _, mixed = mixup(key, x, label, prob=0.3)
    top = np.where(np.arange(4000) % 2 == 0, mixed[:, 0], mixed[:, 1])
    used = top < 1
    assert abs(used.mean() - 0.3) < 0.03
    assert scipy.stats.kstest(top[used], scipy.stats.beta(10, 10).cdf).pvalue > 1e-4


def test_mixup_shared_label_and_off_switch(key):
    x = noise(8, 30) + 1.0
    label = jnp.ones((8, 3))
    mixed, mixed_label = mixup(key, x, label, prob=0.0)
    np.testing.assert_allclose(mixed, x - x.mean(axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_array_equal(mixed_label, label)
    np.testing.assert_allclose(mixup(key, x, label, prob=1.0)[1], label, atol=1e-6)


def test_mixup_of_spectrograms_keeps_their_mean(key):
    """Beta(0.8, 0.8) of every row, without a mean being removed."""
    x, label = noise(3000, 5) + 2.0, jnp.tile(jnp.eye(2), (1500, 1))
    mixed, labels = mixup(key, x, label, prob=1.0, alpha=0.8, centred=False)
    weight = np.where(np.arange(3000) % 2 == 0, labels[:, 0], labels[:, 1])
    assert scipy.stats.kstest(weight, scipy.stats.beta(0.8, 0.8).cdf).pvalue > 1e-4
    expected = weight[:, None] * x + (1 - weight[:, None]) * np.roll(x, -1, axis=0)
    np.testing.assert_allclose(mixed, expected, atol=1e-5)


def test_mixup_with_one_draw_for_the_batch(key):
    label = jnp.tile(jnp.eye(2), (3, 1))
    draw = jax.jit(jax.vmap(lambda k: augment.mixup(
        k, jnp.zeros((6, 2)), label, prob=0.9, alpha=0.8, shared=True)[1]))  # fmt: skip
    labels = np.asarray(draw(jax.random.split(key, 4000)))
    weight = labels[:, 0, 0]
    np.testing.assert_allclose(labels[:, 3, 1], weight, atol=1e-6)  # the same in every row
    mixed = weight < 1
    assert abs(mixed.mean() - 0.9) < 0.02
    assert scipy.stats.kstest(weight[mixed], scipy.stats.beta(0.8, 0.8).cdf).pvalue > 1e-4


def test_gain_is_a_half_and_a_beta(key):
    x = noise(4000, 3, 2)
    gain = np.asarray(augment.change_gain(key, x)) / np.asarray(x)
    np.testing.assert_allclose(gain, gain[:, :1, :1] * np.ones((1, 3, 2)), rtol=1e-5)
    assert scipy.stats.kstest(gain[:, 0, 0] - 0.5, scipy.stats.beta(10, 10).cdf).pvalue > 1e-4


def test_roll_signal_stays_inside_the_signal(key):
    """Every shift of a row's own length is as likely; its padding stays where it is."""
    x, length = noise(600, 12, 2), jnp.tile(jnp.array([12, 5, 1]), 200)
    x = jnp.where(jnp.arange(12)[None, :, None] < length[:, None, None], x, 0.0)
    out = np.asarray(jax.jit(augment.roll_signal)(key, x, length))
    shifts = {12: [], 5: [], 1: []}
    for row, rolled, n in zip(np.asarray(x), out, np.asarray(length)):
        hits = [s for s in range(n) if np.array_equal(np.roll(row[:n], s, axis=0), rolled[:n])]
        assert len(hits) == 1 and not rolled[n:].any()
        shifts[int(n)].append(hits[0])
    for n in (12, 5):
        assert scipy.stats.chisquare(np.bincount(shifts[n], minlength=n)).pvalue > 1e-4
    whole = augment.roll_signal(key, x[::3])
    np.testing.assert_array_equal(np.sort(whole, axis=1), np.sort(x[::3], axis=1))


def test_add_noise_is_uniform_times_one_level_per_row(key):
    added = np.asarray(augment.add_noise(key, jnp.zeros((300, 40, 20, 1)), scale=0.1))
    level = added.max(axis=(1, 2, 3))
    assert added.min() >= 0
    assert level.max() <= 0.1
    assert scipy.stats.kstest(level, scipy.stats.uniform(0, 0.1).cdf).pvalue > 1e-4
    values = (added / level[:, None, None, None]).reshape(300, -1)[:5]
    for row in values:
        assert scipy.stats.kstest(row, "uniform").pvalue > 1e-4


def test_roll_time_is_a_uniform_circular_shift(key):
    x = noise(400, 30, 3, 2)
    out = np.asarray(augment.roll_time(key, x, shift=4))
    shifts = []
    for row, rolled in zip(np.asarray(x), out):
        hits = [s for s in range(-15, 15) if np.array_equal(np.roll(row, s, axis=0), rolled)]
        assert len(hits) == 1
        shifts.append(hits[0])
    values, counts = np.unique(shifts, return_counts=True)
    np.testing.assert_array_equal(values, np.arange(-4, 4))
    assert scipy.stats.chisquare(counts).pvalue > 1e-4
    np.testing.assert_array_equal(augment.roll_time(key, x, shift=0), x)
