import jax
import numpy as np
import pytest
from scipy.signal import windows

from jfreq.ops.coherence import (
    cross_coherence,
    pair_coherence,
    pairs_to_frames,
    white_noise_coherence,
)
from jfreq.types import InputError

FRAMES = jax.jit(lambda re, im, taps: pairs_to_frames(*pair_coherence(re, im, taps=taps)),
                 static_argnames="taps")  # fmt: skip
CROSS = jax.jit(cross_coherence)


def noise(rng, *shape):
    z = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    return z.astype(np.complex64)


def gamma(z, taps=11):
    return np.asarray(FRAMES(z.real, z.imag, taps=taps))


def cross(one, other):
    return np.asarray(CROSS((one.real, one.imag), (other.real, other.imag)))


def reference(x, y, taps):
    """Coherence of ``[f c]`` and ``[f c]`` in float64; smoothed by NumPy with SciPy's window."""
    w = windows.hann(taps + 2)[1:-1]

    def smooth(v):
        return np.convolve(v.sum(-1), w, mode="same")

    x, y = x.astype(np.complex128), y.astype(np.complex128)
    return abs(smooth(x * y.conj())) / np.sqrt(smooth(abs(x) ** 2) * smooth(abs(y) ** 2))


@pytest.mark.parametrize(("taps", "channels"), [(3, 1), (11, 1), (11, 3)])
def test_neighbours_against_numpy(taps, channels):
    z = noise(np.random.default_rng(0), 2, 4, 24, channels)
    pairs = np.array([[reference(s[t], s[t + 1], taps) for t in range(3)] for s in z])
    sides = np.concatenate([pairs[:, :1], (pairs[:, 1:] + pairs[:, :-1]) / 2, pairs[:, -1:]], 1)
    np.testing.assert_allclose(gamma(z, taps=taps), sides, atol=1e-5)


def test_pairs_of_channels_against_numpy():
    rng = np.random.default_rng(1)
    x, y = noise(rng, 2, 3, 24, 2), noise(rng, 2, 3, 24, 3)
    expected = np.zeros((2, 3, 24))
    for b, t in np.ndindex(2, 3):
        for i, j in np.ndindex(2, 3):
            expected[b, t] += reference(x[b, t, :, [i]].T, y[b, t, :, [j]].T, 11) / 6
    np.testing.assert_allclose(cross(x, y), expected, atol=1e-5)


def test_a_filtered_copy_is_coherent_and_noise_is_not():
    """Where the ratio of two spectra is smooth they are coherent, whatever their phases: a copy
    that is delayed by a sample differs by a phase that turns slowly along frequency."""
    rng = np.random.default_rng(2)
    x = noise(rng, 1, 2, 200, 1)
    delayed = x * 3 * np.exp(2j * np.pi * np.arange(200) / 400)[:, None].astype(np.complex64)
    assert cross(x, delayed).min() > 0.98
    assert cross(x, x).min() > 1 - 1e-5
    assert abs(cross(x, noise(rng, 1, 2, 200, 1)).mean() - 0.32) < 0.04


def test_the_mean_is_inside_the_ratio():
    """Without one, coherence is 1 everywhere: repeated frames have 1, noise is far from it."""
    rng = np.random.default_rng(3)
    frame = noise(rng, 4, 1, 64, 1)
    gains = rng.uniform(0.1, 10, (4, 6, 1, 1)) * np.exp(1j * rng.uniform(0, 6, (4, 6, 1, 1)))
    repeated = (frame * gains).astype(np.complex64)
    np.testing.assert_allclose(gamma(repeated), 1.0, atol=1e-5)
    assert gamma(noise(rng, 4, 6, 64, 1)).mean() < 0.4


@pytest.mark.parametrize(
    ("bins", "taps", "channels", "atol"),
    [(40, 11, 1, 0.01), (40, 11, 3, 0.005), (40, 3, 1, 0.025), (6, 11, 1, 0.025), (2, 11, 1, 0.05)],
)
def test_floor_is_what_noise_measures(bins, taps, channels, atol):
    z = noise(np.random.default_rng(4), 1500, 2, bins, channels)
    measured = gamma(z, taps=taps).mean((0, 1))
    floor = np.array(white_noise_coherence(bins, taps=taps, channels=channels))
    np.testing.assert_allclose(measured, floor, atol=atol + 0.015)  # 3 standard errors
    assert abs(measured.mean() - floor.mean()) < atol
    assert (floor < 1).all()


def test_silent_frames_have_no_coherence_and_leave_their_neighbours_one_side():
    rng = np.random.default_rng(5)
    z = np.repeat(noise(rng, 1, 1, 32, 1), 6, axis=1)
    z[:, 3] = 0
    rows = gamma(z)[0].mean(-1)
    np.testing.assert_allclose(rows, [1, 1, 1, 0, 1, 1], atol=1e-5)
    assert (gamma(np.zeros((1, 4, 32, 2), np.complex64)) == 0).all()
    assert (gamma(z[:, :1]) == 0).all()


def test_scale_does_not_matter_and_rounding_is_not_coherence():
    rng = np.random.default_rng(6)
    z = noise(rng, 2, 4, 64, 1)
    for scale in (1e-12, 1e7):
        np.testing.assert_allclose(gamma(z * np.float32(scale)), gamma(z), atol=1e-5)
    tone = np.full((1, 4, 64, 1), 1e-9, np.complex64)
    tone[:, :, 40] = 1.0
    found = gamma(tone)[0, 0]
    assert found[40] > 0.999 and found[:30].max() < 0.1


def test_bad_input_is_refused():
    z = noise(np.random.default_rng(7), 1, 3, 16, 1)
    for taps in (1, 4):
        with pytest.raises(InputError, match="taps must be odd and 3 or more"):
            gamma(z, taps=taps)
    with pytest.raises(InputError, match="one rate"):
        cross(z, z[:, :, :8])
