import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq.ops import fbank, frames
from jfreq.types import InputError

both = pytest.mark.parametrize("evaluator", ["fft", "matmul"])
FLOOR = -15.942385


def signals() -> dict[str, np.ndarray]:
    t = np.arange(16000) / 16000
    rng = np.random.default_rng(7)
    return {
        "random": rng.normal(0, 0.1, 16000),
        "quiet": rng.normal(0, 1e-3, 16000),
        "silent": np.zeros(16000),
        "dc": rng.normal(0, 0.05, 16000) + 0.4,
        "1 kHz": 0.5 * np.sin(2 * np.pi * 1000 * t),
    }


def float64_fbank(x, window="hann"):
    """The eight steps of the AST front end, frame by frame, in float64."""
    x = np.asarray(x, np.float64) - np.mean(x, dtype=np.float64)
    taper = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)
    taper = taper**0.85 if window == "povey" else taper
    low, high = (1127 * np.log(1 + f / 700) for f in (20, 8000))
    step, mel = (high - low) / 129, 1127 * np.log(1 + 31.25 * np.arange(256) / 700)
    rows = []
    for start in range(0, len(x) - 399, 160):
        s = x[start : start + 400] - x[start : start + 400].mean()
        y = np.append((1 - 0.97) * s[0], s[1:] - 0.97 * s[:-1]) * taper
        power = np.abs(np.fft.fft(y, 512)[:256]) ** 2
        row = []
        for b in range(128):
            left = low + b * step
            weight = np.clip(
                np.minimum((mel - left) / step, (left + 2 * step - mel) / step), 0, None
            )
            row.append(np.log(max(power @ weight, 1.1920929e-07)))
        rows.append(row)
    return np.array(rows)


def kaldi(x, rate=16000, n_mels=128, window="hanning", low=20.0, high=0.0):
    knf = pytest.importorskip("kaldi_native_fbank")
    opts = knf.FbankOptions()
    opts.frame_opts.dither = 0.0
    opts.frame_opts.samp_freq = rate
    opts.frame_opts.window_type = window
    opts.mel_opts.num_bins, opts.mel_opts.low_freq, opts.mel_opts.high_freq = n_mels, low, high
    opts.use_energy = False
    extractor = knf.OnlineFbank(opts)
    extractor.accept_waveform(rate, np.asarray(x - x.mean(), np.float32).tolist())
    extractor.input_finished()
    return np.stack([extractor.get_frame(i) for i in range(extractor.num_frames_ready)])


# The code that users run, which adds long sums more exactly than what tests compile fast with.
AS_USED = {"xla_cpu_use_fusion_emitters": True} if jax.__version__.startswith("0.10.") else {}


@functools.cache
def compiled(**kwargs):
    return jax.jit(functools.partial(fbank.kaldi_fbank, **kwargs), compiler_options=AS_USED)


def run(x, length=None, **kwargs):
    x = np.asarray(x, np.float32)
    return np.asarray(compiled(**kwargs)(x[None] if x.ndim == 1 else x, length=length))


@both
@pytest.mark.parametrize("name", list(signals()))
def test_matches_float64_and_kaldi(name, evaluator):
    """T4. Kaldi computes in float32 too: 60 dB under a frame's peak both show DFT rounding."""
    x = signals()[name].astype(np.float32)
    out = run(x, evaluator=evaluator)[0]
    assert out.shape == (98, 128)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, float64_fbank(x), atol=1e-3, rtol=0)
    expected = kaldi(x)
    deep = expected < expected.max(axis=1, keepdims=True) - np.log(1e6)
    np.testing.assert_array_less(np.abs(out - expected), np.where(deep, 3e-3, 1e-3))


@pytest.mark.parametrize(
    ("rate", "n_mels", "window", "name", "low", "high"),
    [
        (16000, 128, "povey", "povey", 20.0, None),
        (8000, 40, "hamming", "hamming", 100.0, 3500.0),
        (11025, 23, "hann", "hanning", 20.0, None),
        (16000, 80, "rectangular", "rectangular", 20.0, 7600.0),
    ],
)
def test_other_settings_match_kaldi(rate, n_mels, window, name, low, high):
    x = signals()["random"].astype(np.float32)
    out = run(x, rate=rate, n_mels=n_mels, window=window, low_hz=low, high_hz=high)[0]
    expected = kaldi(x, rate, n_mels, name, low, high or 0.0)
    np.testing.assert_allclose(out, expected, atol=1e-3, rtol=0)


@both
def test_silence_and_the_empty_filter(evaluator):
    """T2: digital silence is the floor in every bin, bin 3 is the floor for every input."""
    assert np.abs(run(np.zeros(16000), evaluator=evaluator) - FLOOR).max() < 1e-5
    assert np.abs(run(signals()["random"], evaluator=evaluator)[..., 3] - FLOOR).max() < 1e-5


@both
def test_sine_figures(evaluator):
    """T3."""
    out = run(signals()["1 kHz"], evaluator=evaluator)[0, 10]
    assert out.argmax() == 43
    expected = [-2.0884, 1.2570, 4.4182, 5.6266, 5.6019, 4.2947, 0.9995, -2.6238]
    np.testing.assert_allclose(out[40:48], expected, atol=1e-3)


def test_level_laws():
    """A DC offset changes nothing; gain g adds 2 ln g to every bin above the floor."""
    x = signals()["random"]
    out = run(x)
    np.testing.assert_allclose(run(x + 0.3), out, atol=2e-3)
    np.testing.assert_allclose(run(x + 0.3, remove_clip_mean=False), out, atol=2e-2)
    filled = out > FLOOR + 2 * np.log(4) + 0.1
    np.testing.assert_allclose(run(x / 4)[filled], out[filled] - 2 * np.log(4), atol=1e-3)


@pytest.mark.parametrize(
    ("samples", "count"), [(399, 0), (400, 1), (559, 1), (560, 2), (16000, 98)]
)
def test_frame_count(samples, count):
    assert run(np.zeros((2, samples))).shape == (2, count, 128)


def test_length_equals_the_unpadded_clip():
    """Valid frames of a padded clip are those of the clip alone, whatever the padding holds."""
    lengths = [16000, 9000, 400, 0]
    x = np.random.default_rng(8).normal(0.2, 0.1, (4, 16000)).astype(np.float32)
    out = run(x, length=jnp.asarray(lengths))
    for row, n in enumerate(lengths):
        count = frames.num_frames(n, 400, 160)
        alone = run(x[row, :n])[0]
        assert alone.shape[0] == count
        np.testing.assert_allclose(out[row, :count], alone, atol=1e-3)
        after = -(-n // 160)  # first frame that holds no valid sample
        np.testing.assert_allclose(out[row, after:], FLOOR, atol=1e-5)
    for row, n in enumerate(lengths[:3]):  # frames across the end: clip mean of valid samples only
        centred = np.where(np.arange(16000) < n, x[row] - x[row, :n].mean(), 0)
        expected = run(centred, remove_clip_mean=False)[0]
        loud = expected > -10  # emptier bins show the rounding of the mean
        np.testing.assert_allclose(out[row][loud], expected[loud], atol=1e-3)
    other = np.where(np.arange(16000)[None] < np.array(lengths)[:, None], x, 0.9)
    np.testing.assert_array_equal(run(other, length=jnp.asarray(lengths)), out)


@both
def test_gradients_and_jit(evaluator):
    def total(x):
        out = fbank.kaldi_fbank(x, evaluator=evaluator)
        return out.sum(), out

    slope = jax.jit(jax.grad(total, has_aux=True))
    assert np.isfinite(slope(jnp.zeros((1, 2000)))[0]).all()
    x = jnp.asarray(signals()["random"][None, :2000], jnp.float32)
    grad, jitted = slope(x)
    assert np.isfinite(grad).all()
    assert np.abs(grad).max() > 0
    np.testing.assert_allclose(jitted, total(x)[1], atol=5e-4)


def test_kaldi_filters():
    bank = fbank.mel_filterbank(rate=16000, n_fft=512, n_mels=128, low_hz=20.0)
    filled = (bank > 0).sum(axis=0)
    assert bank.shape == (257, 128)
    assert np.flatnonzero(filled == 0).tolist() == [3]
    assert (filled == 1).sum() == 24
    assert not bank[-1].any()
    with pytest.raises(ValueError, match="read-only"):
        bank[0, 0] = 1.0


def test_bad_bands():
    with pytest.raises(InputError, match=r"0\.\.4000"):
        fbank.mel_filterbank(rate=8000, n_fft=256, n_mels=20, high_hz=5000.0)


def test_pad_frames():
    spec = jnp.arange(24.0).reshape(2, 4, 3) + 1
    padded = fbank.pad_frames(spec, 6, fill=-7.0)
    assert padded.shape == (2, 6, 3)
    np.testing.assert_array_equal(padded[:, :4], spec)
    assert (padded[:, 4:] == -7).all()
    np.testing.assert_array_equal(fbank.pad_frames(spec, 3), spec[:, :3])
    partly = fbank.pad_frames(spec, 6, fill=-7.0, valid_frames=jnp.asarray([1, 9]))
    np.testing.assert_array_equal(partly[1], padded[1])
    np.testing.assert_array_equal(partly[0, :1], spec[0, :1])
    assert (partly[0, 1:] == -7).all()
