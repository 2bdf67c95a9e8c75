"""What becomes of samples: channels, units, clipping, windows."""

import numpy as np
import pytest
import soundfile

from jfreq.data.prepare.run import prepare
from jfreq.data.prepare.windowing import starts
from jfreq.data.shards.reader import open_shards
from tests.data.prepared import made


def test_downmix(tmp_path, rng):
    x = rng.integers(-9000, 9000, (1000, 2)).astype(np.int16)
    (tmp_path / "in" / "c").mkdir(parents=True)
    soundfile.write(tmp_path / "in" / "c" / "s.wav", x, 16000, subtype="PCM_16")
    first = made(tmp_path / "in", tmp_path / "first")[0]["audio"]
    mean = made(tmp_path / "in", tmp_path / "mean", mix="mean")[0]["audio"]
    keep = made(tmp_path / "in", tmp_path / "keep", mix="keep")[0]["audio"]
    np.testing.assert_array_equal(first[:, 0], x[:, 0])
    assert np.abs(mean[:, 0] - x.astype(float).mean(1)).max() <= 0.5
    np.testing.assert_array_equal(keep, x)


def test_float_files_in_units_of_their_own_are_kept(tmp_path, capsys):
    """Pressure in Pa, acceleration in g: loud and faint alike, beside files of 16 bits."""
    loud = np.array([0.0, 1.5, -50.0, 1e-5], np.float32)
    for name in ("a", "b"):
        (tmp_path / "in" / name).mkdir(parents=True)
    soundfile.write(tmp_path / "in/a/1.wav", loud, 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "in/b/2.wav", np.array([0, 1, -2, 32767], np.int16), 16000)
    prepare(str(tmp_path / "in"), tmp_path / "out")
    assert "1 of 2 files are stored as floating point: values are kept" in capsys.readouterr().err
    shards = open_shards(tmp_path / "out")
    assert (shards.info.signals[0].dtype, shards.info.signals[0].scale) == ("float32", 1.0)
    np.testing.assert_array_equal(shards[0]["audio"][:, 0], loud)
    np.testing.assert_array_equal(shards[1]["audio"][:, 0] * 32768, [0, 1, -2, 32767])
    np.testing.assert_allclose(shards.info.signals[0].mean[0], shards.read([0, 1])["audio"].mean())


def test_what_is_clipped_is_counted(tmp_path, capsys):
    (tmp_path / "in" / "c").mkdir(parents=True)
    x = np.array([0.0, 1.5, -1.5, 0.25], np.float32)
    soundfile.write(tmp_path / "in/c/s.wav", x, 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "in/c/t.wav", x / 2, 16000, subtype="FLOAT")
    prepare(str(tmp_path / "in"), tmp_path / "out", dtype="int16")
    shards = open_shards(tmp_path / "out")
    np.testing.assert_array_equal(shards[0]["audio"][:, 0], [0, 32767, -32768, 8192])
    assert "audio: 2 samples in 1 of 2 rows went beyond full scale" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("samples", "window", "hop", "expected"),
    [
        (5, 10, 10, [0]),
        (10, 10, 10, [0]),
        (14, 10, 10, [0]),
        (15, 10, 10, [0, 10]),
        (30, 10, 10, [0, 10, 20]),
        (30, 10, 5, [0, 5, 10, 15, 20]),
        (34, 10, 5, [0, 5, 10, 15, 20]),
        (29, 10, 20, [0, 20]),
        (24, 10, 20, [0]),
        (1, 1, 1, [0]),
        (3, 1, 1, [0, 1, 2]),
    ],
)
def test_windows(samples, window, hop, expected):
    assert list(starts(samples, window, hop)) == expected


def test_long_clips_are_cut_and_short_ones_padded(tmp_path, rng):
    (tmp_path / "in" / "c").mkdir(parents=True)
    long, short = (rng.integers(-99, 99, n).astype(np.int16) for n in (3500, 300))
    soundfile.write(tmp_path / "in" / "c" / "a.wav", long, 1000, subtype="PCM_16")
    soundfile.write(tmp_path / "in" / "c" / "b.wav", short, 1000, subtype="PCM_16")
    shards = made(tmp_path / "in", tmp_path / "out", rate=1000, seconds=1.0)
    block = shards.read(np.arange(len(shards)))
    np.testing.assert_array_equal(block["length"], [1000, 1000, 1000, 500, 300])
    np.testing.assert_array_equal(shards.column("start"), [0, 1000, 2000, 3000, 0])
    np.testing.assert_array_equal(block["audio"][1, :, 0], long[1000:2000])
    np.testing.assert_array_equal(block["audio"][4, :300, 0], short)
    assert not block["audio"][4, 300:].any()
    np.testing.assert_array_equal(block["label"], np.zeros(5))


def test_the_default_window_is_the_longest_clip_up_to_ten_seconds(tmp_path):
    (tmp_path / "in" / "c").mkdir(parents=True)
    soundfile.write(tmp_path / "in" / "c" / "a.wav", np.zeros(300), 1000)
    soundfile.write(tmp_path / "in" / "c" / "b.wav", np.zeros(700), 1000)
    assert made(tmp_path / "in", tmp_path / "o", rate=1000).info.signals[0].samples == 700
    soundfile.write(tmp_path / "in" / "c" / "c.wav", np.zeros(12000), 1000)
    assert made(tmp_path / "in", tmp_path / "p", rate=1000).info.signals[0].samples == 10000
