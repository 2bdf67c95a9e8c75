"""What an encoder gets of tables and arrays: what ``prepare`` would have stored."""

import numpy as np
import pytest

from jfreq.data.prepare import prepare
from jfreq.data.records import open_shards
from jfreq.export.sensors import read_sensors
from jfreq.types import InputError, SignalSpec

N = 100
X = np.random.default_rng(0).normal(size=(N, 3)).round(4).astype(np.float32)
NAMED = (SignalSpec("signal", 50.0, N, 3, names=("ax", "ay", "az")),)
PLAIN = (SignalSpec("signal", 50.0, N, 3),)


def csv(path, header, *columns):
    lines = [
        ",".join(c if isinstance(c, str) else f"{c:.4f}" for c in row) for row in zip(*columns)
    ]
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def test_channels_are_found_by_the_names_that_were_learned(tmp_path):
    (tmp_path / "in").mkdir()
    t, (x, y, z) = np.arange(N) / 50, X.T
    csv(tmp_path / "in" / "a.csv", "time,ax,ay,az", t, x, y, z)
    prepare(str(tmp_path / "in"), tmp_path / "out", seconds=2, progress=False)
    shards = open_shards(tmp_path / "out")
    assert shards.spec.signals[0].names == NAMED[0].names
    header = "Time (s),az,temperature,AX,ay,activity"
    other = csv(tmp_path / "b.csv", header, t, z, x, x, y, ["w"] * N)
    found, rates = read_sensors(other, shards.spec.signals)
    np.testing.assert_array_equal(found["signal"], shards[0]["signal"])
    assert rates == {"signal": 50.0}


def test_what_an_encoder_refuses(tmp_path):
    t, (x, y, z) = np.arange(N) / 50, X.T

    def refused(path, message, signals=NAMED, **options):
        with pytest.raises(InputError, match=message) as error:
            read_sensors(path, signals, **options)
        assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)

    other = csv(tmp_path / "other.csv", "time,ax,ay,bz", t, x, y, z)
    refused(other, "has no channel 'az' for modality 'signal'")
    bare = tmp_path / "bare.npz"
    np.savez(bare, x=X, sr=50)
    refused(bare, "does not name its channels, and the encoder reads signal:ax,ay,az; give --modal")
    found, _ = read_sensors(bare, NAMED, modalities={"signal": (0, 1, 2)})
    np.testing.assert_array_equal(found["signal"], X)
    stop = csv(tmp_path / "stop.csv", "time,ax,ay,az", t + 60 * (t >= 1), x, y, z)
    refused(stop, r"recording stops and goes on at 1\.000 s; cut the file there")
    refused(csv(tmp_path / "none.csv", "ax,ay,az", x, y, z), "no rate of 'signal'")
    refused(other, "its times say 50 Hz, not 100 Hz", rate=100.0)
    windows = tmp_path / "windows.npz"
    np.savez(windows, x=np.zeros((4, 20, 3)), sr=50)
    refused(windows, r"holds 4 windows \[n, time, channels\]", PLAIN)


def test_short_gaps_are_filled_as_in_prepare(tmp_path):
    t, gap = np.arange(N) / 50, X.copy()
    gap[40, 1] = np.nan
    lines = ["" if np.isnan(v) else f"{v:.4f}" for v in gap[:, 1]]
    path = csv(tmp_path / "a.csv", "time,ax,ay,az", t, gap[:, 0], lines, gap[:, 2])
    found, _ = read_sensors(path, PLAIN)
    np.testing.assert_allclose(found["signal"][40, 1], (X[39, 1] + X[41, 1]) / 2, rtol=1e-6)
    absent = tmp_path / "absent.npz"
    np.savez(absent, acc=X, gyro=X * np.nan, rate=50)
    signals = [SignalSpec(name, 50.0, N, 3) for name in ("acc", "gyro")]
    found, _ = read_sensors(absent, signals)
    assert np.isnan(found["gyro"]).all()
    np.testing.assert_array_equal(found["acc"], X)
