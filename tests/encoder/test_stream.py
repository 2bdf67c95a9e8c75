"""Streams against the encoder on the whole recording, and against frames in closed form."""

import tracemalloc

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from jfreq.encoder.encoder import Encoder
from jfreq.encoder.resampling import resampler_delay
from jfreq.types import InputError, SignalSpec, TokenGrid
from tests.encoder.span_means import (
    AUDIO,
    HOP,
    LENGTHS,
    RATE,
    SPAN,
    Signed,
    expected_frames,
    fake,
    noise,
)

PLAIN = fake()
ENCODERS = {1: PLAIN, 4: fake(frame_ms=40)}
MOTION = (SignalSpec("acc", 50.0, 128, 3), SignalSpec("gyro", 100.0, 256, 1))
SENSORS = fake(TokenGrid(time=15, first=8.0, hop=8.0), span=16, signals=MOTION)


def streamed(stream, x, sizes):
    """All frames and their times, and the last output, of ``x`` pushed in blocks of these sizes."""
    outputs, start, i = [], 0, 0
    while start < len(x):
        size = sizes[i % len(sizes)]
        outputs.append(stream.push(x[start : start + size]))
        start, i = start + size, i + 1
    outputs.append(stream.finish())
    frames = np.concatenate([out.frames for out in outputs])
    return frames, np.concatenate([out.times_ms for out in outputs]), outputs[-1]


def assert_as_whole(encoder, x, sizes, atol=1e-6):
    wanted = encoder(x)
    frames, times, last = streamed(encoder.stream(), x, sizes)
    assert len(frames) == wanted.valid[0]
    np.testing.assert_allclose(frames, wanted.frames[0], atol=atol)
    np.testing.assert_array_equal(times, wanted.times_ms)
    np.testing.assert_allclose(last.clip, wanted.clip[0], atol=atol)


@pytest.mark.parametrize("length", [*LENGTHS, 2039, 2040, 16_920, 16_921])
@pytest.mark.parametrize("shifts", ENCODERS)
def test_a_stream_is_the_whole_recording(length, shifts):
    x = noise(np.random.default_rng(length), length)
    for sizes in ((4000,), (99_999,), (1, 15_000, 3)):
        assert_as_whole(ENCODERS[shifts], x, sizes)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 50_000),
    st.lists(st.integers(0, 20_000), min_size=1, max_size=6).filter(lambda s: sum(s) >= 500),
    st.sampled_from(sorted(ENCODERS)),
)
def test_blocks_of_any_size(length, sizes, shifts):
    assert_as_whole(ENCODERS[shifts], noise(np.random.default_rng(length), length), sizes)


def test_one_sample_at_a_time():
    assert_as_whole(PLAIN, noise(np.random.default_rng(0), 17_000), (1,))


def test_a_real_encoder_in_many_streams(real):
    rng = np.random.default_rng(1)
    clips = [noise(rng, n) for n in (40_000, 7000, 16_500)]
    streams = [real.stream() for _ in clips]
    for start in range(0, 40_000, 3000):
        for x, stream in zip(clips, streams):
            stream.push(x[start : start + 3000])
    for x, stream in zip(clips, streams):
        wanted, last = real(x), stream.finish()
        np.testing.assert_allclose(last.clip, wanted.clip[0], atol=1e-5)
        n = len(last.frames)
        np.testing.assert_allclose(last.frames, wanted.frames[0, -n:], atol=1e-5)
        np.testing.assert_array_equal(last.times_ms, wanted.times_ms[-n:])


def test_streams_share_one_program():
    encoder, x = fake(), np.ones(40_000)
    for every_ms in (None, None, 480):
        streamed(encoder.stream(every_ms=every_ms), x, (7000,))
    assert encoder._encode._cache_size() == 1  # type: ignore[attr-defined]


def test_classes_of_a_stream():
    one = Encoder(Signed((AUDIO,)), {"gain": np.float32(1)}, signals=(AUDIO,), labels=("a", "b"))
    x, stream = noise(np.random.default_rng(2), 50_000), one.stream()
    assert stream.push(x[:100]).logits is None
    stream.push(x[100:])
    logits = stream.finish().logits
    assert logits is not None
    np.testing.assert_allclose(logits, one(x).logits[0], atol=1e-6)


# ---------------------------------------------------------------- rates, dtypes, modalities


@pytest.mark.parametrize("rate", [8000, 44_100, 48_000])
def test_resampling_as_samples_come(rate):
    x = noise(np.random.default_rng(3), 3 * rate)
    x -= x.mean()
    wanted = PLAIN(soxr.resample(x, rate, RATE))
    frames, times, last = streamed(PLAIN.stream(rate), x, (1, 5000, 77, 20_000))
    np.testing.assert_allclose(frames, wanted.frames[0], atol=1e-6)
    np.testing.assert_allclose(frames, PLAIN(x, rate).frames[0], atol=1e-6)
    np.testing.assert_array_equal(times, wanted.times_ms)
    np.testing.assert_allclose(last.clip, wanted.clip[0], atol=1e-6)


@pytest.mark.parametrize("rate", [25.0, 80.0, 200.0])
def test_an_offset_does_not_ring_in_a_stream(rate):
    """Gravity at another rate; the one pushed last may differ from the first."""
    spec = SignalSpec("acc", 50.0, 128, 3)
    encoder = fake(TokenGrid(time=15, first=8.0, hop=8.0), span=16, signals=(spec,))
    x = np.full((round(20 * rate), 3), 9.81)
    x[len(x) // 2 :] = -9.81
    frames, _, _ = streamed(encoder.stream(rate), x, (30,))
    assert len(frames) == len(encoder(x, rate).frames[0])
    steady = np.r_[0:40, -40:-1]  # The last patch reaches beyond the end.
    np.testing.assert_allclose(np.abs(frames[steady, 0]), 9.81, atol=1e-4)


def test_integers_are_pcm():
    pcm = np.random.default_rng(5).integers(-30000, 30000, 20_000).astype(np.int16)
    wanted = PLAIN(pcm)
    frames, _, _ = streamed(PLAIN.stream(), pcm, (3000,))
    np.testing.assert_allclose(frames, wanted.frames[0], atol=1e-6)


@pytest.mark.parametrize("rates", [None, {"acc": 40.0, "gyro": 60.0}])
def test_modalities_may_come_unequally(rates):
    rng = np.random.default_rng(6)
    hertz = rates or {"acc": 50.0, "gyro": 100.0}
    x = {"acc": rng.normal(size=(int(20 * hertz["acc"]), 3)),
         "gyro": rng.normal(size=int(20 * hertz["gyro"]))}  # fmt: skip
    wanted, stream, outputs = SENSORS(x, rates), SENSORS.stream(rates), []
    for i in range(20):
        a, b = 77 * i, 150 * (i - 1)
        part = {"acc": x["acc"][a : a + 77], "gyro": x["gyro"][max(0, b) : max(0, b + 150)]}
        outputs.append(stream.push(part))
    outputs.append(stream.finish())
    frames = np.concatenate([out.frames for out in outputs])
    assert len(frames) == wanted.valid[0]
    # Resampled whole, a line through both ends is kept out of the filter; the ends differ.
    inner = slice(None) if rates is None else slice(20, -20)
    np.testing.assert_allclose(frames[inner], wanted.frames[0, inner], atol=1e-4 if rates else 1e-6)


# ---------------------------------------------------------------- latency and memory


@pytest.mark.parametrize(
    ("shifts", "rate", "every_ms"),
    [(1, RATE, None), (4, RATE, None), (1, 44_100, None), (1, RATE, 320), (4, 48_000, 320)],
)
def test_latency_is_that_of_the_slowest_frame(shifts, rate, every_ms):
    stream = ENCODERS[shifts].stream(rate, every_ms=every_ms)
    x, size, late = noise(np.random.default_rng(7), 5 * rate), 40, [0.0]
    for start in range(0, len(x), size):
        out = stream.push(x[start : start + size])
        now = 1000 * (start + size) / rate
        late += [now - t for t in out.times_ms]
    assert 0.93 * stream.latency_ms < max(late) <= stream.latency_ms + 1000 * size / rate


def test_delay_of_the_resampler():
    assert resampler_delay(RATE, RATE) == 0
    assert 0.03 < resampler_delay(44_100, RATE) < 0.05


def test_memory_does_not_grow():
    x = noise(np.random.default_rng(8), RATE)
    for rate in (RATE, 44_100):
        stream = PLAIN.stream(rate)
        stream.push(np.tile(x, 3))
        tracemalloc.start()
        for _ in range(300):
            stream.push(x)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 4e6, peak


# ---------------------------------------------------------------- the latest window


@pytest.mark.parametrize("shifts", ENCODERS)
@pytest.mark.parametrize("every_ms", [160, 320, 480])
@pytest.mark.parametrize("length", [1, 1400, 5000, 15_000, 47_001])
def test_frames_of_the_latest_window(shifts, every_ms, length):
    """Frames in closed form do not depend on the window that gave them."""
    encoder, x = ENCODERS[shifts], noise(np.random.default_rng(length), length)
    frames, times, last = streamed(encoder.stream(every_ms=every_ms), x, (999,))
    grid = TokenGrid(time=6, freq=2, first=SPAN / 2, hop=HOP // shifts)
    wanted = expected_frames(x, grid)
    assert len(frames) == len(wanted) == len(times)
    np.testing.assert_array_equal(times, encoder.times_ms(len(wanted)))
    np.testing.assert_allclose(frames, wanted, atol=1e-5)
    start = max(0, -((15_000 - length) // HOP) * HOP)
    np.testing.assert_allclose(last.clip, PLAIN(x[start:]).clip[0], atol=1e-5)


def test_the_latest_window_of_several_modalities():
    rng = np.random.default_rng(9)
    x = {"acc": rng.normal(size=(500, 3)), "gyro": rng.normal(size=1000)}
    stream, frames = SENSORS.stream(every_ms=320), []
    for i in range(0, 500, 25):
        part = {"acc": x["acc"][i : i + 25], "gyro": x["gyro"][2 * i : 2 * i + 50]}
        frames.append(stream.push(part).frames)
    frames = np.concatenate([*frames, stream.finish().frames])
    wanted = SENSORS(x)
    assert len(frames) == wanted.valid[0]
    np.testing.assert_allclose(frames, wanted.frames[0], atol=1e-5)


def test_frames_hear_the_window_before_them(real):
    x, stream = noise(np.random.default_rng(10), 40_000), real.stream(every_ms=480)
    out = stream.push(x[: 7 * 2560 - 1])
    assert len(out.frames) == 5
    out = stream.push(x[7 * 2560 - 1 :])
    # The windows end after 3, 6, 9, ... hops; the fifth starts at the ninth hop.
    window = real(x[9 * 2560 : 15 * 2560])
    np.testing.assert_allclose(out.clip, window.clip[0], atol=1e-5)
    np.testing.assert_allclose(out.frames[-3:], window.frames[0, 2:5], atol=1e-5)


def test_a_step_that_differs_is_said(caplog):
    PLAIN.stream(every_ms=500)
    assert "every_ms 500: takes 480 ms" in caplog.text
    caplog.clear()
    PLAIN.stream(every_ms=480)
    assert not caplog.records


# ---------------------------------------------------------------- misuse


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((10, 12)), "stream, audio: has 12 channels, but the model reads 1"),
        (np.array([0.0, np.nan]), "stream, audio: holds NaN"),
        (np.zeros(3, complex), "complex"),
        (np.zeros((1, 2, 3)), "shape"),
        ({"acc": np.zeros(3)}, "stream: has the signals acc; expected audio"),
    ],
)
def test_bad_samples_leave_the_stream_as_it_was(samples, message):
    x, stream = noise(np.random.default_rng(11), 20_000), PLAIN.stream()
    stream.push(x[:9000])
    with pytest.raises(InputError, match=message):
        stream.push(samples)
    first = stream.push(x[9000:]).frames
    frames = np.concatenate([first, stream.finish().frames])
    np.testing.assert_allclose(frames, PLAIN(x).frames[0], atol=1e-6)


def test_a_finished_stream_takes_nothing():
    stream = PLAIN.stream()
    stream.push(np.zeros(10))
    stream.finish()
    for again in (stream.finish, lambda: stream.push(np.zeros(10))):
        with pytest.raises(InputError, match="is finished; start another one"):
            again()
    with pytest.raises(InputError, match="stream: holds no samples"):
        PLAIN.stream().finish()


@pytest.mark.parametrize(
    ("rate", "every_ms", "message"),
    [
        (0, None, "rate must be a positive number of Hz, got 0"),
        (float("nan"), None, "positive"),
        (-1, None, "positive"),
        (np.array([8000, 8000]), None, "^rate: must be a positive number of Hz, one for all"),
        ({"sound": 8000}, None, "^rate: names sound, but the encoder reads audio"),
        (1, None, "stream, audio: 1 Hz is more than 1,000 times below the 16000 Hz"),
        (None, 0, "every_ms: must be a positive number of milliseconds, got 0"),
        (None, "320", "^every_ms: must be a number, got '320'"),
        (None, 159, "between 160"),
        (None, 641, "and 640"),
        (None, float("nan"), "got nan"),
    ],
)
def test_bad_streams(rate, every_ms, message):
    with pytest.raises(InputError, match=message):
        PLAIN.stream(rate, every_ms=every_ms)


def test_streams_that_cannot_be():
    single = fake(TokenGrid(time=1))
    with pytest.raises(InputError, match="hold too few frames"):
        single.stream(every_ms=900)
    stream = SENSORS.stream()
    stream.push({"acc": np.zeros((100, 3)), "gyro": np.zeros(100)})
    with pytest.raises(InputError, match=r"stream: gyro lasts 1.000 s and acc 2.000 s"):
        stream.finish()
