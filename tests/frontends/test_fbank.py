"""Front ends as contracts: frames, clock, padding, silence; SciPy and Kaldi as oracles."""

import jax
import jax.numpy as jnp
import kaldi_native_fbank as knf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import ShortTimeFFT, windows

from jfreq.frontends.default import default_frontend
from jfreq.frontends.fbank import Fbank
from jfreq.frontends.log_spectrogram import LogSpectrogram
from jfreq.methods.common.beats_parts import FBANK as BEATS
from jfreq.methods.ssast import SSAST
from jfreq.ops.frames import num_frames
from jfreq.types import DataSpec, InputError, SignalSpec

FBANK = Fbank()
SENSOR = LogSpectrogram(rate=50.0, n_fft=32, hop_length=4)
PADDING, SILENCE = 0.467032, -1.277594
"""(0 + 4.2677393) / (2 x 4.5689974) and the same of log(2**-23)."""


@pytest.fixture
def rng():
    return np.random.default_rng()


def kaldi(x, cfg, window="hanning", centre=True):
    """One clip [t] by Kaldi's code, normalised as the released AST code does."""
    opts = knf.FbankOptions()
    opts.frame_opts.dither = 0.0
    opts.frame_opts.samp_freq = cfg.rate
    opts.frame_opts.window_type = window
    opts.frame_opts.snip_edges = True
    opts.mel_opts.num_bins = cfg.n_mels
    opts.mel_opts.low_freq = cfg.low_hz
    opts.use_energy = False
    computer = knf.OnlineFbank(opts)
    computer.accept_waveform(cfg.rate, (x - x.mean() if centre else x).tolist())
    computer.input_finished()
    raw = np.stack([computer.get_frame(i) for i in range(computer.num_frames_ready)])
    return (raw - cfg.mean) / (2 * cfg.std)


def test_fbank_against_kaldi(rng):
    """int16 rows of several lengths: the row's own part equals Kaldi's, the rest is padding."""
    length = np.array([4000, 2777], np.int32)
    x = rng.integers(-9000, 9000, (2, 4000, 1)).astype(np.int16)
    x[:, :, 0] += np.array([1500, -700], np.int16)[:, None]
    spec = jax.jit(lambda x, n: FBANK(x, frames=30, length=n)[0])(x, length)
    assert spec.shape == (2, 30, 128, 1)
    for row, n in enumerate(length):
        expected = kaldi(x[row, :n, 0] / 2**15, FBANK)
        assert len(expected) == 1 + (n - 400) // 160
        np.testing.assert_allclose(spec[row, : len(expected), :, 0], expected, atol=2e-3)
        np.testing.assert_allclose(spec[row, len(expected) :], PADDING, atol=1e-6)


def test_the_front_end_of_beats_against_kaldi(rng):
    """Samples of 16 bits: what is too quiet for the floor at samples in -1 to 1 is heard. Frames
    beyond the signal are silent ones."""
    x = np.rint(2.0 * rng.normal(size=8000)).astype(np.float32)
    x[4000:] = 0
    found, valid = jax.jit(lambda x: BEATS(x, frames=50))(jnp.asarray(x / 2**15)[None, :, None])
    reference = kaldi(x, BEATS, window="povey", centre=False)
    np.testing.assert_allclose(found[0, :48, :, 0], reference[:48], atol=2e-3)
    assert found[0, :20, 64:].min() > BEATS.fill + 0.5  # low filters can be empty
    silence = (np.log(2.0**-23) - 15.41663) / (2 * 6.55582)
    np.testing.assert_allclose(found[0, 48:], silence, rtol=1e-5)
    assert BEATS.fill == pytest.approx(silence) and valid.sum() == 48


def test_fbank_sizes_come_from_milliseconds():
    assert (FBANK.win_length, FBANK.hop_length, FBANK.bins) == (400, 160, 128)
    other = Fbank(rate=22050, win_length_ms=25.0, hop_length_ms=10.0)
    assert (other.win_length, other.hop_length) == (551, 220)


def test_silence_and_channels(rng):
    """Silence sits at Kaldi's floor; channels are independent."""
    x = np.zeros((1, 2000, 2), np.float32)
    x[0, :, 1] = rng.normal(size=2000)
    run = jax.jit(lambda x: FBANK(x, frames=11)[0])
    spec = run(x)
    np.testing.assert_allclose(spec[..., 0], SILENCE, atol=1e-6)
    np.testing.assert_allclose(spec[..., 1], run(x[..., ::-1])[..., 0], atol=1e-6)
    assert spec[..., 1].std() > 0.05


def scipy_log_power(x, cfg):
    """[t] to [frames f] in float64."""
    window = np.asarray(windows.hann(cfg.n_fft, sym=False))
    stft = ShortTimeFFT(window, cfg.hop_length, fs=1.0)
    # Slice p is centred on sample p * hop: whole windows start half a window in.
    whole = 1 + (len(x) - cfg.n_fft) // cfg.hop_length
    first = cfg.n_fft // 2 // cfg.hop_length
    power = stft.spectrogram(x.astype(np.float64), p0=first, p1=first + whole)
    return np.log(power.T[:, :-1] + cfg.eps)


def test_log_spectrogram_against_scipy(rng):
    length = np.array([128, 77], np.int32)
    x = rng.normal(size=(2, 128, 3)).astype(np.float32) * np.array([1.0, 40.0, 0.01], np.float32)
    spec = jax.jit(lambda x, n: SENSOR(x, frames=28, length=n)[0])(x, length)
    assert spec.shape == (2, 28, 16, 3)
    for row, n in enumerate(length):
        count = 1 + (n - 32) // 4
        for c in range(3):
            raw = scipy_log_power(x[row, :n, c], SENSOR)
            assert raw.shape == (count, 16)
            expected = (raw - raw.mean()) / np.sqrt(raw.var() + 1e-5)
            np.testing.assert_allclose(spec[row, :count, :, c], expected, rtol=1e-4, atol=1e-3)
        np.testing.assert_array_equal(spec[row, count:], 0.0)


@pytest.mark.parametrize("frontend", [FBANK, SENSOR], ids=["fbank", "log"])
def test_what_lies_beyond_the_length_does_not_matter(frontend, rng):
    samples = 8 * frontend.win_length
    length = np.array([samples - 3 * frontend.hop_length - 1, frontend.win_length - 1], np.int32)
    x = rng.normal(size=(2, samples, 1)).astype(np.float32)
    inside = np.arange(samples)[None, :, None] < length[:, None, None]
    run = jax.jit(lambda x, length: frontend(x, frames=20, length=length)[0])
    valid = np.asarray(frontend(jnp.asarray(x), frames=20, length=jnp.asarray(length))[1])
    count = 1 + (length[0] - frontend.win_length) // frontend.hop_length
    assert valid.sum(axis=1).tolist() == [min(count, 20), 0] and valid[0, :count].all()
    noisy = np.where(inside, x, np.float32(5.0))
    np.testing.assert_array_equal(run(x * inside, length), run(noisy, length))
    whole = jax.jit(lambda x: frontend(x, frames=20)[0])(x)
    same = run(x, np.full(2, samples, np.int32))
    np.testing.assert_allclose(whole, same, atol=1e-5)


@pytest.mark.parametrize("frontend", [FBANK, SENSOR], ids=["fbank", "log"])
def test_longer_clips_are_cut(frontend, rng):
    """The clip mean is taken out beforehand: Fbank removes the whole clip's."""
    x = rng.normal(size=(1, 12 * frontend.win_length, 1)).astype(np.float32)
    x = jnp.asarray(x - x.mean())
    spec = jax.jit(lambda x: frontend(x, frames=5)[0])(x)
    assert spec.shape == (1, 5, frontend.bins, 1)
    many = jax.jit(lambda x: frontend(x, frames=11)[0])(x)
    np.testing.assert_allclose(spec, many[:, :5], atol=1e-5)


@pytest.mark.parametrize("frontend", [FBANK, SENSOR], ids=["fbank", "log"])
def test_gradient_at_silence_is_finite(frontend):
    x = jnp.zeros((1, 4 * frontend.win_length, 1))
    grad = jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(frontend(x, frames=6)[0]))))(x)
    assert np.isfinite(grad).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 3000), st.integers(2, 500), st.integers(1, 300))
def test_valid_frames_is_a_count_of_whole_windows(length, win_length, hop_length):
    found = int(num_frames(jnp.asarray([length]), win_length, hop_length)[0])
    whole = sum(start + win_length <= length for start in range(0, length + 1, hop_length))
    assert found == whole


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 12))
def test_clock(frames, width, step):
    """A token's centre on the signal, derived from the samples that its patch covers."""
    spec = DataSpec((SignalSpec("audio", 16000, 400 + 160 * 63),))
    cfg = SSAST(frames=64, patch=(width, 16), mask=1).bind(spec)
    grid, wide = cfg.grid, min(width, 64)
    for t in (0, min(step, grid.time - 1), grid.time - 1):
        covered = range(t * wide * 160, (t * wide + wide - 1) * 160 + 400)
        assert grid.first + grid.hop * t == (covered[0] + covered[-1] + 1) / 2
    assert grid.time == 64 // width


@pytest.mark.parametrize(
    ("signal", "expected"),
    [
        (SignalSpec("audio", 16000, 160000), Fbank()),
        (SignalSpec("audio", 44100.0, 44100, 2), Fbank(rate=44100)),
        (
            SignalSpec("array", 16000, 16000, 8),
            LogSpectrogram(rate=16000.0, n_fft=256, hop_length=32),
        ),
        (SignalSpec("acc", 50, 128, 3), LogSpectrogram(rate=50.0, n_fft=32, hop_length=4)),
        (SignalSpec("acc", 50, 12, 3), LogSpectrogram(rate=50.0, n_fft=8, hop_length=1)),
    ],
    ids=str,
)
def test_default_frontend(signal, expected):
    assert default_frontend(signal) == expected


@pytest.mark.parametrize("frontend", [FBANK, SENSOR], ids=["fbank", "log"])
def test_other_rates_are_refused(frontend):
    frontend.check(SignalSpec("x", frontend.rate, 1000))
    with pytest.raises(InputError, match=r"frontend.rate: the data hold 'x' at 8000 Hz"):
        frontend.check(SignalSpec("x", 8000, 1000))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"n_fft": 33}, "must be even"),
        ({"n_fft": 2}, "4 or more"),
        ({"hop_length": 0}, "must be 1 or more"),
        ({"hop_length": 33}, "n_fft 32 or less, got 33"),
    ],
)
def test_impossible_sizes(changes, match):
    with pytest.raises(InputError, match=match):
        LogSpectrogram(rate=50.0, **changes)
