"""Sound files: what headers promise is compared with what is there; nothing hangs."""

import os
import struct
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jfreq.data.readers import sound
from jfreq.types import InputError

FORMATS: list[tuple[str, dict[str, Any]]] = [
    ("wav", {}), ("wav", {"subtype": "PCM_24"}), ("wav", {"subtype": "FLOAT"}), ("flac", {}),
    ("ogg", {}), ("opus", {"format": "OGG", "subtype": "OPUS"}), ("mp3", {}), ("aiff", {}),
    ("au", {}), ("w64", {}), ("rf64", {}), ("caf", {}),
]  # fmt: skip


@pytest.fixture
def x(rng):
    return 0.1 * rng.normal(size=32_000)


def changed(path, *changes):
    """Bytes of a file with little-endian numbers ``(offset, format, value)`` in it."""
    raw = bytearray(path.read_bytes())
    for offset, kind, value in changes:
        raw[offset : offset + struct.calcsize(kind)] = struct.pack(kind, value)
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize(("suffix", "options"), FORMATS)
def test_whole_files_are_read_and_cut_ones_refused(tmp_path, x, suffix, options):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, x, 16_000, **options)
    found, rate = sound.read(path)
    np.testing.assert_array_equal(found, soundfile.read(path, dtype="float32", always_2d=True)[0])
    assert (rate, len(found)) == (16_000, 32_000)
    parts = list(sound.blocks(path, "first", size=5000))
    assert list(map(len, parts)) == [5000] * 6 + [2000]
    np.testing.assert_allclose(np.concatenate(parts), found, atol=1e-6)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    for use in (sound.read, lambda p: list(sound.blocks(p, "first"))):
        with pytest.raises(InputError, match=r"was cut off|is no sound that can be read"):
            use(path)
    if suffix not in ("ogg", "opus", "caf"):  # nothing in these says how long they were
        with pytest.raises(InputError, match=r"promises 32000 frames, \d+ are there"):
            sound.read(path)


def test_what_is_there_of_a_cut_file_can_be_asked_for(tmp_path, x):
    path = tmp_path / "a.wav"
    soundfile.write(path, x, 16_000)
    whole = sound.read(path)[0]
    path.write_bytes(path.read_bytes()[:20_000])
    np.testing.assert_array_equal(sound.read(path, 100, 9_978)[0], whole[100:9_978])
    with pytest.raises(InputError, match=r"samples 100..9979 lie outside its 9978"):
        sound.read(path, 100, 9_979)


@pytest.mark.parametrize("size", [0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_recordings_from_a_pipe_do_not_know_their_length(tmp_path, x, size):
    path = tmp_path / "a.wav"
    soundfile.write(path, x, 16_000)
    changed(path, (4, "<I", min(size + 36, 0xFFFFFFFF)), (40, "<I", size))
    assert len(sound.read(path)[0]) == 32_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((24, "<I", 0), "is no sound that can be read"),
        ((24, "<I", 10**9), "its header says a rate of 1000000000 Hz"),
        ((22, "<H", 1000), "its header says 1000 channels"),
        ((22, "<H", 0), "Channel count is zero"),
        ((40, "<I", 2**31 - 2), r"promises 1073741823 frames, 32000 are there"),
    ],
)
def test_headers_that_make_no_sense(tmp_path, x, change, message):
    path = tmp_path / "a.wav"
    soundfile.write(path, x, 16_000)
    with pytest.raises(InputError, match=message):
        sound.read(changed(path, change))


@pytest.mark.parametrize(
    ("total", "message"), [(0, "does not say how long"), (2**36 - 1, "memory")]
)
def test_flac_that_promises_anything(tmp_path, x, total, message):
    path = tmp_path / "a.flac"
    soundfile.write(path, x, 16_000)
    raw = bytearray(path.read_bytes())
    raw[21] = raw[21] & 0xF0 | total >> 32
    path.write_bytes(bytes(raw[:22]) + (total & 0xFFFFFFFF).to_bytes(4, "big") + bytes(raw[26:]))
    with pytest.raises(InputError, match=message):
        sound.read(path)


def test_what_is_no_file_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "empty.wav").touch()
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0 ftypM4A ")
    for name, message in (
        ("pipe.wav", "is a pipe"),
        ("folder.wav", "is a folder"),
        ("empty.wav", "it has 0 bytes"),
        ("none.wav", "is not on disk"),
        ("a.m4a", r"convert it, for instance `ffmpeg -i a.m4a a.wav`"),
    ):
        with pytest.raises(InputError, match=message):
            sound.header(tmp_path / name)


def test_a_survey_looks_at_every_file_once(tmp_path, x, monkeypatch):
    for name, channels, subtype in (("a", 1, None), ("b", 2, None), ("c", 2, "DOUBLE")):
        soundfile.write(tmp_path / f"{name}.wav", np.tile(x[:, None], channels), 8000, subtype)
    looked = []
    real = sound.header
    monkeypatch.setattr(sound, "header", lambda path: looked.append(path.name) or real(path))
    headers = sound.Headers(tmp_path)
    found = headers.survey(["a.wav", "b.wav", "c.wav", "none.wav", "a.wav"])
    assert (found.files, found.floating, dict(found.channels)) == (3, 1, {1: 1, 2: 2})
    assert headers.of("b.wav").frames == 32_000
    with pytest.raises(InputError, match="is not on disk"):
        headers.of("none.wav")
    assert sorted(looked) == ["a.wav", "b.wav", "c.wav", "none.wav"]


def test_channels_are_mixed():
    x = np.array([[1, 2], [3, 5], [-3, -4]], np.int16)
    np.testing.assert_array_equal(sound.mixed(x, "first"), x[:, :1])
    np.testing.assert_array_equal(sound.mixed(x, "keep"), x)
    np.testing.assert_array_equal(sound.mixed(x, "mean")[:, 0], [2, 4, -4])
    np.testing.assert_array_equal(sound.mixed(x.astype(np.float32), "mean")[:, 0], [1.5, 4, -3.5])


@given(st.data())
@settings(max_examples=150, deadline=20_000,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
def test_flipped_bits_of_headers_are_read_or_refused(tmp_path, data):
    """Whatever a header says: samples in the shape that it promises, or one reason."""
    suffix, options = data.draw(st.sampled_from(FORMATS))
    path = tmp_path / f"fuzz.{suffix}"
    soundfile.write(path, np.sin(np.arange(2000) / 9), 8000, **options)
    raw = bytearray(path.read_bytes())
    for at in data.draw(
        st.lists(st.integers(0, min(len(raw), 120) * 8 - 1), min_size=1, max_size=4)
    ):
        raw[at // 8] ^= 1 << at % 8
    path.write_bytes(raw)
    try:
        x, rate = sound.read(path)
    except InputError as error:
        said = str(error)
    else:
        said, found = "", sound.header(path)
        assert (x.shape[1], rate) == (found.channels, found.rate)
        assert abs(len(x) - found.frames) <= 2304 * (suffix == "mp3")
    assert said.isprintable()
