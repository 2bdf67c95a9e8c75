"""Frames that lie closer together than tokens, against the plain encoder on shifted recordings."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jfreq.encoder.encoder import Encoder, load_encoder
from jfreq.encoder.windowing import choose_offsets
from jfreq.types import InputError, SignalSpec, TokenGrid
from tests.encoder.span_means import (
    GRID,
    HOP,
    LENGTHS,
    RATE,
    expected_frames,
    fake,
    noise,
)

PLAIN = fake()
FINE = fake(frame_ms=40)
SHIFT = HOP // 4


def assert_interleaved(fine: Encoder, plain: Encoder, x: np.ndarray, shift: int, atol: float):
    """Every frame of ``x`` is that of the plain encoder without the samples before its shift, and
    none is left out that is centred inside the recording."""
    out, first = fine(x), plain.grid.first
    count = max(1, int((len(x) - first) // shift) + 1)
    assert out.valid.tolist() == [count] and out.frames.shape[1] == count
    for k in range(min(count, fine.shifts)):
        wanted = plain(x[k * shift :])
        found = out.frames[0, k :: fine.shifts]
        np.testing.assert_allclose(found, wanted.frames[0, : len(found)], atol=atol)
        np.testing.assert_allclose(
            out.times_ms[k :: fine.shifts],
            wanted.times_ms[: len(found)] + 1000 * k * shift / fine.sample_rate,
            atol=1e-9,
        )
    assert out.times_ms[-1] <= 1000 * max(len(x), first) / fine.sample_rate
    np.testing.assert_allclose(out.clip, plain(x).clip, atol=atol)


@pytest.mark.parametrize("length", [*LENGTHS, 2039, 2040, 15_639, 28_440])
def test_frames_are_those_of_shifted_recordings(length):
    assert FINE.shifts == 4 and FINE.hop_ms == 40.0
    assert FINE.grid == dataclasses.replace(GRID, time=24, hop=640)
    assert_interleaved(FINE, PLAIN, noise(np.random.default_rng(length), length), SHIFT, 1e-6)


FINER = {n: fake(frame_ms=160 / n) for n in (2, 5, 16)}


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60_000), st.sampled_from(sorted(FINER)))
def test_frames_of_any_length_and_step(length, shifts):
    fine, x = FINER[shifts], noise(np.random.default_rng(length), length)
    assert fine.shifts == shifts
    assert_interleaved(fine, PLAIN, x, HOP // shifts, 1e-5)


def test_frames_in_closed_form():
    x = noise(np.random.default_rng(0), 10 * RATE)
    wanted = expected_frames(x, dataclasses.replace(GRID, hop=SHIFT))
    out = FINE(x, batch_size=5)
    assert out.frames.shape[1] == len(wanted)
    # The last frames are cut off by the end of the recording or of the window.
    np.testing.assert_allclose(out.frames[0, :-4], wanted[:-4], atol=1e-5)


def test_a_real_encoder_and_company(bundle, real):
    fine = load_encoder(bundle, frame_ms=40)
    rng = np.random.default_rng(1)
    for length in (300, 1400, 7000, RATE, 40_000):
        assert_interleaved(fine, real, noise(rng, length), SHIFT, 1e-5)
    clips = [noise(rng, n) for n in (3000, 40_000, 5, RATE)]
    together = fine(clips)
    for i, clip in enumerate(clips):
        alone = fine(clip, batch_size=3)
        assert together.valid[i] == alone.valid[0]
        np.testing.assert_allclose(together.frames[i, : alone.valid[0]], alone.frames[0], atol=1e-5)
    np.testing.assert_allclose(fine.encode(clips), real.encode(clips), atol=1e-5)


def test_windows_of_all_shifts_share_batches():
    calls, encode = [], FINE._encode
    fine = fake(frame_ms=40)
    fine._encode = lambda params, batch: calls.append(len(batch["length"])) or encode(params, batch)  # type: ignore[assignment]
    fine(np.ones(5 * 12_800 + 2000), batch_size=8)
    # Five windows, four times each.
    assert calls == [8, 8, 8]


def test_several_modalities_are_shifted_together():
    signals = (SignalSpec("acc", 50.0, 128, 3), SignalSpec("gyro", 100.0, 256, 1))
    grid = TokenGrid(time=15, first=8.0, hop=8.0)
    assert choose_offsets(grid, signals, 40.0) == ((0, 0), (2, 4), (4, 8), (6, 12))
    plain = fake(grid, span=16, signals=signals)
    fine = fake(grid, span=16, signals=signals, frame_ms=40)
    rng = np.random.default_rng(2)
    x = {"acc": rng.normal(size=(500, 3)), "gyro": rng.normal(size=1000)}
    out = fine(x)
    assert out.valid.tolist() == [247]
    for k in range(4):
        wanted = plain({"acc": x["acc"][2 * k :], "gyro": x["gyro"][4 * k :]})
        found = out.frames[0, k::4]
        np.testing.assert_allclose(found, wanted.frames[0, : len(found)], atol=1e-6)


def test_a_method_without_tokens_has_finer_frames():
    fine = fake(TokenGrid(time=1), frame_ms=93.75)
    out = fine(np.ones(40_000))
    assert fine.shifts == 10 and fine.hop_ms == 93.75
    np.testing.assert_allclose(np.diff(out.times_ms), 93.75)
    assert out.times_ms[0] == 468.75 and out.valid.tolist() == [(40_000 - 7500) // 1500 + 1]


@pytest.mark.parametrize(
    ("asked", "taken"), [(160, 160), (159, 80), (100, 80), (53.4, 40), (50, 40), (30, 20), (40, 40)]
)
def test_the_next_shorter_step_is_taken(asked, taken):
    assert fake(frame_ms=asked).hop_ms == taken


def test_a_step_that_differs_is_said(bundle, caplog):
    assert load_encoder(bundle, frame_ms=50).hop_ms == 40
    (record,) = caplog.records
    assert "frame_ms 50: takes 40 ms" in record.getMessage() and record.name == "jfreq"
    caplog.clear()
    load_encoder(bundle, frame_ms=40)
    assert not caplog.records


@pytest.mark.parametrize(
    ("frame_ms", "message"),
    [
        (0, "positive"),
        (-40, "positive"),
        (float("nan"), "^frame_ms: must be a finite number"),
        (float("inf"), "^frame_ms: must be a finite number"),
        ("40", "^frame_ms: must be a number, got '40'"),
        (161, "a frame every 160 ms; give that or less, got 161"),
        (0.01, "the shortest is 0.0625 ms"),
    ],
)
def test_bad_steps(frame_ms, message):
    with pytest.raises(InputError, match=message):
        fake(frame_ms=frame_ms)


def test_steps_must_be_whole_samples_of_all_modalities():
    grid = TokenGrid(time=15, first=8.0, hop=8.0)
    signals = (SignalSpec("acc", 50.0, 128), SignalSpec("slow", 12.5, 32))
    assert len(choose_offsets(grid, signals, 80.0)) == 2
    with pytest.raises(InputError, match="whole samples of acc and slow, the shortest is 80 ms"):
        choose_offsets(grid, signals, 79.0)
    uneven = TokenGrid(50, first=2.0, hop=7 / 3)
    with pytest.raises(InputError, match="the shortest is"):
        choose_offsets(uneven, [SignalSpec("x", 10.0, 100)], 100.0)


# ---------------------------------------------------------------- clip vectors alone


def test_encode_is_the_clip_of_a_call():
    rng = np.random.default_rng(3)
    clips = [noise(rng, n) for n in (5, 70_000, 15_000, 3000)]
    wanted = PLAIN(clips).clip
    found = PLAIN.encode(clips)
    np.testing.assert_array_equal(found, wanted)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(PLAIN.encode(iter(clips), batch_size=8), wanted)
    np.testing.assert_array_equal(PLAIN.encode(clips[0]), PLAIN(clips[0]).clip)
    np.testing.assert_allclose(PLAIN.encode(clips, 44_100), PLAIN(clips, 44_100).clip)


def test_encode_normalizes_what_has_a_norm():
    found = PLAIN.encode([np.ones(3000), np.zeros(3000)], normalize=True)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), [1, 0], atol=1e-6)
    assert found.dtype == np.float32


def test_encode_reads_an_iterator_as_it_goes():
    """No more recordings are in memory than two batches hold."""
    ahead, rng = [], np.random.default_rng(4)

    def waves():
        for i in range(40):
            ahead.append(i)
            yield noise(rng, 3000)

    given = []
    for window in PLAIN.windows(([PLAIN.clip(x)] for x in waves()), 4):
        given.append(window.recording)
        assert len(ahead) - len(given) <= 8
    assert PLAIN.encode(waves(), batch_size=4).shape == (40, 2)


@pytest.mark.parametrize(
    ("waves", "message"),
    [
        ([], "empty"),
        (iter(()), "empty"),
        ([np.zeros(10), np.zeros((10, 12))], "recording 1, audio: has 12 channels"),
        (iter([np.zeros(10), np.zeros(0)]), "recording 1, audio: expected samples"),
        ([np.zeros(10), np.array([np.inf])], "recording 1, audio: holds NaN or infinite"),
        (["a.wav"], "recording 0, audio: expected float or signed integer samples"),
    ],
)
def test_bad_recordings(waves, message):
    with pytest.raises(InputError, match=message):
        PLAIN.encode(waves)


def test_bad_arguments_of_encode():
    with pytest.raises(InputError, match="rate must be a positive number of Hz, got 0"):
        PLAIN.encode([np.zeros(10)], 0)
    with pytest.raises(InputError, match="batch_size: must be 1 or more, got 0"):
        PLAIN.encode([np.zeros(10)], batch_size=0)


def test_recordings_in_memory_are_checked_before_any_is_encoded():
    one = fake()
    one._encode = None  # type: ignore[assignment]
    with pytest.raises(InputError, match="recording 100"):
        one.encode([np.zeros(10)] * 100 + [np.zeros(0)])
