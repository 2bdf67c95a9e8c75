"""The runtime against a method whose every frame has a closed form, and against a real one."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soxr

from jfreq import methods, recipes
from jfreq.config import replace
from jfreq.encoder.encoder import Encoder, load_encoder
from jfreq.encoder.resampling import as_signal
from jfreq.encoder.windowing import choose_windowing
from jfreq.export.bundle import save_bundle
from jfreq.testing import compiled
from jfreq.types import DataSpec, InputError, SignalSpec, TokenGrid
from tests.encoder.span_means import (
    AUDIO,
    GRID,
    HOP,
    LENGTHS,
    RATE,
    SPAN,
    Signed,
    expected_frames,
    fake,
    noise,
)


@pytest.mark.parametrize("length", LENGTHS)
def test_frames_equal_those_of_the_whole_recording(encoder, length):
    x = noise(np.random.default_rng(length), length)
    out = encoder(x)
    wanted = expected_frames(x)
    if length <= AUDIO.samples and len(wanted) == GRID.time:
        # The sixth token of a single window reaches beyond it; nothing recomputes it.
        tail = x[5 * HOP : 5 * HOP + SPAN].astype(np.float64)
        wanted[-1] = 1.5 * np.array([tail.sum(), (tail**2).sum()]) / SPAN
    assert out.valid.tolist() == [len(wanted)]
    np.testing.assert_allclose(out.frames[0], wanted, atol=1e-5)


def test_twenty_minutes_without_drift(encoder):
    length = 20 * 60 * RATE
    x = noise(np.random.default_rng(0), length)
    out = encoder(x, batch_size=64)
    wanted = expected_frames(x)
    assert out.frames.shape == (1, len(wanted), 2)
    np.testing.assert_allclose(out.frames[0], wanted, atol=1e-5)
    np.testing.assert_array_equal(out.times_ms, 87.5 + 160.0 * np.arange(len(wanted)))
    assert out.times_ms[-1] <= 1000 * length / RATE < out.times_ms[-1] + encoder.hop_ms
    np.testing.assert_allclose(out.clip[0], wanted.mean(0), atol=1e-4)


@pytest.mark.parametrize(
    ("grid", "span", "first_ms", "hop_ms"),
    [(GRID, SPAN, 87.5, 160.0), (TokenGrid(time=46, first=280.0, hop=320.0), 560, 17.5, 20.0)],
)
def test_times_in_closed_form(grid, span, first_ms, hop_ms):
    encoder = fake(grid, span=span)
    out = encoder(noise(np.random.default_rng(1), 3 * RATE))
    assert out.times_ms.dtype == np.float64
    np.testing.assert_array_equal(out.times_ms, first_ms + hop_ms * np.arange(out.valid[0]))
    assert encoder.hop_ms == hop_ms


def test_time_major_grid_gives_the_same_frames(encoder):
    other = fake(TokenGrid(time=6, freq=2, order="time_major", first=SPAN / 2, hop=HOP))
    x = noise(np.random.default_rng(2), 50_000)
    np.testing.assert_array_equal(other(x).frames, encoder(x).frames)


def test_company_changes_nothing(encoder):
    rng = np.random.default_rng(3)
    clips = [noise(rng, n) for n in (5, 70_000, 15_000, 15_001, 3000, 40_000)]
    together = encoder(clips, batch_size=4)
    assert together.frames.shape[1] == together.valid.max() == len(together.times_ms)
    for i, clip in enumerate(clips):
        alone = encoder(clip, batch_size=3)
        n = alone.valid[0]
        assert together.valid[i] == n
        np.testing.assert_allclose(together.frames[i, :n], alone.frames[0], atol=1e-5)
        np.testing.assert_allclose(together.clip[i], alone.clip[0], atol=1e-5)
        assert not together.frames[i, n:].any()


def test_one_compilation_for_each_batch_size():
    encoder = fake()
    rng = np.random.default_rng(4)
    for lengths in ((100, 200), (90_000,), (1, 2, 3), (15_000, 60_001)):
        encoder([noise(rng, n) for n in lengths], batch_size=4)
    assert encoder._encode._cache_size() == 1  # type: ignore[attr-defined]


def test_accepted_shapes_and_types(encoder):
    pcm = np.random.default_rng(5).integers(-30000, 30000, 20_000).astype(np.int16)
    x = pcm / np.float32(2**15)
    wanted = encoder(x)
    for wave in (
        pcm,
        x[:, None],
        x.astype(np.float64),
        [x],
        x[None, :, None],
        {"audio": x},
        [{"audio": pcm}],
        x.tolist(),
        jnp.asarray(x),
        pcm.astype(np.int32) * 2**16,
    ):
        out = encoder(wave)
        np.testing.assert_allclose(out.frames, wanted.frames, atol=1e-7)
    assert wanted.frames.dtype == wanted.clip.dtype == np.float32


@pytest.mark.parametrize(
    ("wave", "rate", "message"),
    [
        (np.zeros(0), None, "shape"),
        ([], None, "empty"),
        (np.array([0.0, np.nan]), None, "NaN"),
        (np.array([0.0, 1e300]), None, "NaN or infinite"),
        (np.zeros((10, 2)), None, "has 2 channels, but the model reads 1"),
        (np.zeros((2, 50_000)), None, "several recordings must be a list"),
        (np.zeros(10, np.uint8), None, "uint8"),
        (np.full(10, 999), None, "int64 is no format of PCM"),
        ([999, -999], None, "int64 is no format of PCM"),
        (np.zeros(10, bool), None, "bool"),
        (np.zeros(10, complex), None, "complex"),
        (np.zeros((2, 2, 1, 1)), None, "shape"),
        (np.zeros(10), 0, "positive"),
        (np.zeros(10), -16000, "positive"),
        (np.zeros(10), float("nan"), "positive"),
        ({"acc": np.zeros(10)}, None, "expected audio"),
    ],
)
def test_bad_signals(encoder, wave, rate, message):
    with pytest.raises(InputError, match=message):
        encoder(wave, rate)


@pytest.mark.parametrize(
    "rate", [[16000, 8000], [16000], "16000", [[1], [2, 3]], {"audio": [16000]}, 1j]
)
def test_a_rate_that_is_no_number(encoder, rate):
    waves = [np.zeros(10), np.zeros(20)]
    for call in (encoder, encoder.encode):
        with pytest.raises(InputError, match=r"^rate: .* one for all recordings of a call, or a"):
            call(waves, rate)
    for number in (np.float32(16_000), np.array(16_000), {"audio": np.int64(16_000)}):
        np.testing.assert_array_equal(encoder.encode(waves, number), encoder.encode(waves))


@pytest.mark.parametrize(
    ("rate", "message"), [(15.9, "below the 16000 Hz"), (1e9, "above"), (1e-300, "below")]
)
def test_a_rate_that_no_recording_has(encoder, rate, message):
    wave = np.zeros(10)
    for call in (encoder, encoder.encode, lambda x, r: encoder.encode(iter([x]), r)):
        with pytest.raises(InputError, match=f"^recording 0, audio: .*{message}"):
            call([wave], rate)
    with pytest.raises(InputError, match=f"^stream, audio: .*{message}"):
        encoder.stream(rate)
    assert encoder(np.zeros(20_000), 16e6).valid.tolist() == [1]


@pytest.mark.parametrize("size", [0, 1.5, 2.0, "2"])
def test_bad_batch(encoder, size):
    with pytest.raises(InputError, match="batch_size"):
        encoder(np.zeros(10), batch_size=size)


def test_resampling_is_soxr(encoder):
    x = noise(np.random.default_rng(6), 44_100)
    x -= x.mean()  # which is kept out of the filter
    direct = encoder(soxr.resample(x, 44_100, RATE))
    out = encoder(x, 44_100)
    np.testing.assert_allclose(out.frames, direct.frames, atol=1e-6)
    assert encoder(x[:1], 192_000).valid.tolist() == [1]
    np.testing.assert_array_equal(encoder(x, RATE).frames, encoder(x).frames)


@pytest.mark.parametrize("name", ["acc", "audio"])
def test_an_offset_does_not_ring_at_the_ends(name):
    """Gravity, at another rate: a constant stays one, as in prepared shards."""
    spec, x = SignalSpec(name, 50.0, 128, 3), np.full((1000, 3), 9.81)
    np.testing.assert_allclose(as_signal(x, spec, rate=80.0), 9.81, atol=1e-5)
    x[100] = np.nan
    with_gap = as_signal(x, spec, rate=80.0, gaps=True)
    np.testing.assert_allclose(with_gap[np.isfinite(with_gap)], 9.81, atol=1e-5)


def test_a_drift_does_not_ring_at_the_ends():
    spec, x = SignalSpec("acc", 50.0, 128, 1), np.linspace(-3.0, 5.0, 1001)
    y = as_signal(x, spec, rate=100.0)
    np.testing.assert_allclose(y[:, 0], x[::2][: len(y)], atol=1e-5)


MOTION = (SignalSpec("acc", 50.0, 128, 3), SignalSpec("gyro", 100.0, 256, 1))


def test_several_modalities_stay_together():
    grid = TokenGrid(time=15, first=8.0, hop=8.0)
    encoder = fake(grid, span=16, signals=MOTION)
    assert encoder.plan.windowing is not None
    assert encoder.plan.windowing == (15, (120, 240), 128)
    rng = np.random.default_rng(7)
    acc, gyro = rng.normal(size=(1000, 3)), rng.normal(size=2000)
    out = encoder({"acc": acc, "gyro": gyro})
    assert out.valid.tolist() == [125]
    starts = 8 * np.arange(124)
    for column, (x, step) in enumerate(((acc[:, 0], 1), (gyro, 2))):
        wanted = [x[step * s : step * (s + 16)].mean() for s in starts]
        np.testing.assert_allclose(out.frames[0, :124, 2 * column], wanted, atol=1e-5)
    resampled = encoder({"acc": acc, "gyro": gyro[::2]}, {"acc": 50.0, "gyro": 50.0})
    assert resampled.frames.shape == out.frames.shape
    with pytest.raises(InputError, match="gyro lasts"):
        encoder({"acc": acc, "gyro": gyro[:1000]})
    with pytest.raises(InputError, match="dict with the arrays acc, gyro"):
        encoder(acc)


def test_window_is_whole_hops_and_whole_samples():
    audio = [SignalSpec("audio", 16000.0, 160_000)]
    assert choose_windowing(TokenGrid(64, 8, first=1400.0, hop=2560.0), audio) == (
        62,
        (62 * 2560,),
        160_000,
    )

    # A hop of 2 1/3 samples: only multiples of three tokens.
    uneven = choose_windowing(TokenGrid(50, first=2.0, hop=7 / 3), [SignalSpec("x", 10.0, 100)])
    assert uneven == (42, (98,), 100)
    # Frames centred on the signal, as of a padded STFT.
    centred = choose_windowing(TokenGrid(101, first=0.0, hop=160.0), [SignalSpec("x", 16e3, 16000)])
    assert centred == (100, (16000,), 15999)
    assert choose_windowing(TokenGrid(2, first=2.0, hop=7 / 3), [SignalSpec("x", 10.0, 5)]) is None


def test_no_whole_step_is_refused_only_for_long_recordings():
    encoder = fake(TokenGrid(2, first=2.5, hop=7 / 3), span=3, signals=(SignalSpec("x", 10.0, 6),))
    assert encoder(np.ones(6)).frames.shape[0] == 1
    with pytest.raises(InputError, match="cannot be cut"):
        encoder(np.ones(7))


def test_a_method_without_tokens_gives_one_frame_for_each_window():
    encoder = fake(TokenGrid(time=1), span=SPAN)
    out = encoder(np.ones(40_000))
    assert out.times_ms.tolist() == [468.75, 1406.25, 2343.75]
    assert encoder.hop_ms == 937.5


def test_description(encoder, real):
    assert (encoder.sample_rate, encoder.clip_size, encoder.frame_size) == (RATE, 2, 2)
    assert isinstance(encoder.sample_rate, int)
    assert encoder.signals == (AUDIO,)
    assert (real.clip_size, real.frame_size, real.hop_ms) == (96, 96, 160.0)


def test_real_method_single_window_is_its_encode(bundle, real):
    from jfreq.export.bundle import load_bundle

    experiment, params, *_ = load_bundle(bundle)
    encode = jax.jit(experiment.method.encode)
    rng = np.random.default_rng(8)
    for length in (1, 200, 7000, RATE):
        x = noise(rng, length)
        window = np.zeros((1, RATE, 1), np.float32)
        window[0, :length, 0] = x
        features = encode(params, {"audio": window, "length": np.array([length], np.int32)})
        out = real(x)
        np.testing.assert_allclose(out.clip, features.clip, atol=1e-5)
        tokens = np.asarray(features.tokens).reshape(features.grid.freq, -1, 96)
        n = int(out.valid[0])
        assert n == np.asarray(features.valid).reshape(features.grid.freq, -1)[0].sum()
        np.testing.assert_allclose(out.frames[0], tokens.mean(0)[:n], atol=1e-5)


def test_a_bundle_keeps_what_becomes_of_padding(tmp_path):
    """An encoder of attended padding reads a short clip as it reads the window."""
    spec = DataSpec((SignalSpec("audio", RATE, RATE),))
    experiment = methods.bind(recipes.load("ssast_nano"), spec)
    experiment = replace(experiment, method__padding="attended")
    method = experiment.method
    params = jax.jit(method.init)(jax.random.key(3))
    path = save_bundle(tmp_path / "enc", experiment=experiment, params=params)
    x = noise(np.random.default_rng(8), 7000)
    wave = jnp.asarray(np.pad(x, (0, RATE - 7000)))[None, :, None]
    batch = compiled(method, "with_spectrogram")({"audio": wave, "length": jnp.array([7000])})
    plane = {"spectrogram": batch["spectrogram"]}
    out = load_encoder(path)(x)
    np.testing.assert_allclose(out.clip, jax.jit(method.encode)(params, plane).clip, atol=1e-5)
    assert out.valid.tolist() == [3]


def test_real_method_company_and_padding(real):
    rng = np.random.default_rng(9)
    clips = [noise(rng, n) for n in (RATE, 5000, 40_000, 2, 16_500)]
    together = real(clips)
    for i, clip in enumerate(clips):
        alone = real(clip, batch_size=2)
        n = alone.valid[0]
        assert np.isfinite(alone.frames).all()
        np.testing.assert_allclose(together.frames[i, :n], alone.frames[0], atol=1e-5)
        np.testing.assert_allclose(together.clip[i], alone.clip[0], atol=1e-5)


def test_real_method_hears_its_input(real):
    """Guards the comparisons above: other signals must give clearly other embeddings."""
    t = np.arange(RATE) / RATE
    low, high = (np.sin(2 * np.pi * f * t) for f in (300, 3000))
    assert np.abs(real(low).clip - real(high).clip).max() > 1e-2


def test_loading_and_running_needs_only_the_core(bundle):
    code = (
        "import sys, numpy as np, jfreq; e = jfreq.load_encoder(sys.argv[1]);"
        "print(e(np.ones(20000, 'f4')).frames.shape);"
        "bad = {'tensorflow', 'librosa', 'tyro', 'sklearn', 'soundfile', 'soxr', 'matplotlib',"
        " 'tensorflow_datasets', 'torch'} & set(sys.modules);"
        "assert not bad, bad"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(bundle)], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "(1, 8, 96)"


# ---------------------------------------------------------------- classes


def classifier(labels=("low", "high"), **kind) -> Encoder:
    return Encoder(
        Signed((AUDIO,)), {"gain": np.float32(1)}, signals=(AUDIO,), labels=labels, **kind
    )


def test_classes_of_a_recording_are_those_of_its_mean_logits():
    one, rng = classifier(), np.random.default_rng(12)
    clips = [noise(rng, 5000), noise(rng, 50_000) - 0.6]
    out = one(clips)
    found = one.predict(clips)
    assert one.labels == ("low", "high") and found.shape == (2, 2)
    # Windows of five tokens but the last: the mean over valid frames is that over the recording.
    np.testing.assert_allclose(out.logits[1, 1], out.clip[1, 0], atol=1e-5)
    wanted = np.exp(out.logits) / np.exp(out.logits).sum(1, keepdims=True)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert found.argmax(1).tolist() == [1, 0]
    several = classifier(multi_label=True, scores="sigmoid")
    np.testing.assert_allclose(several.predict(clips), 1 / (1 + np.exp(-out.logits)), rtol=1e-5)
    extreme = one.probabilities(np.array([1e4, -1e4], np.float32))
    assert extreme.tolist() == [1, 0]


def test_an_encoder_without_labels_tells_no_classes(encoder):
    assert encoder.labels == () and encoder(np.zeros(10)).logits is None
    with pytest.raises(InputError, match=r"trained without labels.*jfreq finetune"):
        encoder.predict(np.zeros(10))
