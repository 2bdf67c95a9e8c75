"""Spectra of intervals against numpy's FFT; what is refused."""

import functools
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
import pytest

from jfreq.frontends.sensor_stft import Spectrum
from jfreq.ops import dft
from jfreq.types import InputError, SignalSpec

AUDIO, SEISMIC = SignalSpec("audio", 8000, 16000), SignalSpec("seismic", 100, 200)


def noise(signal, channels=1, rows=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, signal.samples, channels)).astype(np.float32)


@pytest.mark.parametrize("samples", [20, 25])
def test_released_form_is_the_plain_two_sided_fft(samples):
    signal = SignalSpec("x", 100, 10 * samples, 2)
    cfg = Spectrum(samples / 100, form="magnitude_phase", two_sided=True, remove_mean=True,
                   normalise=False)  # fmt: skip
    x = noise(signal, 2) + 3
    real, imag = cfg.transform(jnp.asarray(x), signal)
    frames = x.astype(np.float64).reshape(2, 10, samples, 2)
    z = np.fft.fft(frames - frames.mean(2, keepdims=True), axis=2)
    np.testing.assert_allclose(real, z.real, atol=1e-4)
    np.testing.assert_allclose(imag, z.imag, atol=1e-4)
    seen = np.asarray(cfg.channels(real, imag))
    assert seen.shape == (2, 10, samples, 4)
    np.testing.assert_allclose(seen[..., 0::2], abs(z), atol=1e-4)  # mag_0, ph_0, mag_1, ph_1
    loud = abs(z) > 0.1
    turn = np.angle(np.exp(1j * (seen[..., 1::2] - np.angle(z))))
    np.testing.assert_allclose(turn[loud], 0, atol=1e-3)


def test_default_is_one_sided_with_unit_power():
    signal = SignalSpec("x", 100, 6400, 1)
    cfg = Spectrum(0.64)
    real, imag = cfg.transform(jnp.asarray(noise(signal, rows=8)), signal)
    assert real.shape == (8, 100, 32, 1) and cfg.shape(signal) == (100, 32)
    power = np.asarray(real**2 + imag**2)[:, :, 1:]
    assert abs(power.mean() - 1) < 0.03
    seen = np.asarray(cfg.channels(real, imag))
    loud = np.log1p(10 * np.sqrt(real**2 + imag**2))[..., 0]
    np.testing.assert_allclose(seen[..., 0], loud, rtol=1e-5)
    # The phase's two channels are as long as the logarithm, by half.
    np.testing.assert_allclose(np.hypot(seen[..., 1], seen[..., 2]), loud / 2, rtol=1e-4)
    turn = np.arctan2(seen[..., 2], seen[..., 1]) - np.arctan2(imag, real)[..., 0]
    np.testing.assert_allclose(np.cos(turn)[loud > 0.1], 1, atol=1e-4)
    level = np.asarray(cfg.channels(real, imag, mean=1.5, std=2.0))
    np.testing.assert_allclose(level[..., 0], (loud - 1.5) / 2, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(level[..., 1:], seen[..., 1:] / 2.5, rtol=1e-4, atol=1e-6)


def test_silence_has_no_phase():
    signal = SignalSpec("x", 100, 80, 1)
    cfg = Spectrum(0.2)
    seen = cfg.channels(*cfg.transform(jnp.zeros((1, 80, 1)), signal))
    assert not np.asarray(seen).any()


@pytest.mark.parametrize("evaluator", ["fft", "matmul"])
@pytest.mark.parametrize("samples", [20, 25])
def test_phase_is_defined_where_a_part_of_the_spectrum_is_zero(samples, evaluator, monkeypatch):
    """Bin 0 has the phase 0 after its mean is removed, else 0 or pi by its sign, as Nyquist."""
    monkeypatch.setattr(dft, "rdft", functools.partial(dft.rdft, evaluator=evaluator))
    signal = SignalSpec("x", 100, 10 * samples, 2)
    x = noise(signal, 2) - [3, 1e4]
    for remove_mean in (True, False):
        cfg = Spectrum(samples / 100, form="magnitude_phase", two_sided=True, normalise=False,
                       remove_mean=remove_mean)  # fmt: skip
        seen = np.asarray(cfg.channels(*cfg.transform(jnp.asarray(x, jnp.float32), signal)))
        size, phase = seen[..., 0::2], seen[..., 1::2]
        assert np.isfinite(seen).all() and np.abs(phase).max() <= np.float32(np.pi)
        np.testing.assert_array_equal(phase[:, :, 0], 0 if remove_mean else np.float32(np.pi))
        assert not remove_mean or not size[:, :, 0].any()
        if samples % 2 == 0:
            nyquist = phase[:, :, samples // 2]
            assert ((nyquist == 0) | (nyquist == np.float32(np.pi))).all()


def test_rounding_has_no_phase():
    """Coarse readings at rest: what float32 leaves in empty bins differs between transforms."""
    signal = SignalSpec("x", 100, 8000, 1)
    rng = np.random.default_rng()
    levels = np.repeat(rng.normal(size=400), 20)[None, :, None].astype(np.float32)
    for cfg in (Spectrum(0.2), Spectrum(0.2, taper="hann")):
        seen = np.asarray(cfg.channels(*cfg.transform(jnp.asarray(levels), signal)))
        loud = 1 if cfg.taper == "rectangular" else 2  # a Hann window's own width
        assert np.hypot(seen[:, :, loud:, 1], seen[:, :, loud:, 2]).max() < 0.05


def test_overlap_and_taper_follow_scipy():
    from scipy.signal import stft

    signal = SignalSpec("x", 50, 128, 1)
    cfg = Spectrum(0.64, hop=0.32, taper="hann")
    x = noise(signal)
    real, imag = cfg.transform(jnp.asarray(x), signal)
    assert real.shape == (2, 7, 16, 1)
    none = cast(Any, None)  # scipy's annotation knows no None
    *_, z = stft(x[..., 0], nperseg=32, noverlap=16, boundary=none, padded=False, scaling="psd",
                 fs=1.0)  # fmt: skip
    scale = np.abs(z[:, 3]).max() / np.abs(real[:, :, 3, 0] + 1j * imag[:, :, 3, 0]).max()
    np.testing.assert_allclose(
        (real[..., 0] + 1j * imag[..., 0]) * scale, z.transpose(0, 2, 1)[..., :16], atol=2e-2
    )


def test_open_interval_suits_all_rates():
    cfg = Spectrum().fitted((SignalSpec("a", 16000, 16000), SignalSpec("b", 6400, 6400)))
    assert cfg.interval == 0.125
    # 200 samples in 8 intervals are 25 each; of 100 samples only 10 intervals are whole.
    cfg = Spectrum().fitted((SignalSpec("a", 100, 200), SignalSpec("b", 50, 100)))
    assert cfg.interval == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("cfg", "signals", "words"),
    [
        (Spectrum(0.2505), (AUDIO, SEISMIC), "25.05 samples of 'seismic'"),
        (Spectrum(3.0), (SEISMIC,), "longer than the window"),
        (Spectrum(0.2), (AUDIO, SignalSpec("s", 100, 180)), "different numbers of intervals"),
        (Spectrum(0.02), (SEISMIC,), "fewer than 2 bins"),
    ],
)
def test_what_does_not_fit_is_refused(cfg, signals, words):
    with pytest.raises(InputError, match=words):
        cfg.check(signals)


def test_no_common_interval_is_refused():
    with pytest.raises(InputError, match=r"cannot be cut .* set method.frontend.interval"):
        Spectrum().fitted((SignalSpec("a", 100, 211),))
    with pytest.raises(InputError, match="gaps"):
        Spectrum(0.1, hop=0.2)
