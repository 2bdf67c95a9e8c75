"""What an encoder gets of tables and arrays: what ``prepare`` would have stored."""

import numpy as np
import pytest

from jfreq.data.prepare.run import prepare
from jfreq.data.shards.reader import open_shards
from jfreq.encoder.sensor_files import read_sensors
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
    (part,) = read_sensors(other, shards.spec.signals)
    np.testing.assert_array_equal(part.signals["signal"].x, shards[0]["signal"])
    assert part.signals["signal"].rate == 50.0


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
    refused(bare, "does not name its channels, but the encoder reads signal:ax,ay,az; give --modal")
    (part,) = read_sensors(bare, NAMED, modalities={"signal": (0, 1, 2)})
    np.testing.assert_array_equal(part.signals["signal"].x, X)
    long = (SignalSpec("signal", 50.0, 3 * N, 3, names=("ax", "ay", "az")),)
    stop = csv(tmp_path / "stop.csv", "time,ax,ay,az", t + 60 * (t >= 1), x, y, z)
    refused(stop, r"its gaps leave no stretch of half a window \(3 s\)", long)
    refused(csv(tmp_path / "none.csv", "ax,ay,az", x, y, z), "no rate of 'signal'")
    refused(other, "its times say 50 Hz, not 100 Hz", rate=100.0)
    windows = tmp_path / "windows.npz"
    np.savez(windows, x=np.zeros((4, 20, 3)), sr=50)
    refused(windows, r"holds 4 windows \[n, time, channels\]", PLAIN)
    twelve, imu = tmp_path / "twelve.npz", [SignalSpec(m, 50.0, N, 3) for m in ("acc", "gyro")]
    np.savez(twelve, x=np.tile(X, 4), sr=50)
    refused(twelve, "array of 12 channels and does not say which of them are acc, gyro", imu)
    whole = tmp_path / "whole.npz"
    np.savez(whole, acc=(1000 * X).astype(np.int64), gyro=X, rate=50)
    refused(whole, "acc: holds int64; signed integers of up to 32 bits are read as PCM", imu)


def test_short_gaps_are_filled_as_in_prepare(tmp_path):
    t, gap = np.arange(N) / 50, X.copy()
    gap[40, 1] = np.nan
    lines = ["" if np.isnan(v) else f"{v:.4f}" for v in gap[:, 1]]
    path = csv(tmp_path / "a.csv", "time,ax,ay,az", t, gap[:, 0], lines, gap[:, 2])
    (part,) = read_sensors(path, PLAIN)
    np.testing.assert_allclose(
        part.signals["signal"].x[40, 1], (X[39, 1] + X[41, 1]) / 2, rtol=1e-6
    )
    absent = tmp_path / "absent.npz"
    np.savez(absent, acc=X, gyro=X * np.nan, rate=50)
    signals = [SignalSpec(name, 50.0, N, 3) for name in ("acc", "gyro")]
    (part,) = read_sensors(absent, signals)
    assert np.isnan(part.signals["gyro"].x).all()
    np.testing.assert_array_equal(part.signals["acc"].x, X)


def test_a_pause_cuts_a_recording_as_in_prepare(tmp_path):
    """At 1.2 s the phone stops for a minute; what is left out is what prepare leaves out."""
    (tmp_path / "in").mkdir()
    t, (x, y, z) = np.arange(N) / 50, X.T
    path = csv(tmp_path / "in" / "a.csv", "time,ax,ay,az", t + 60 * (t >= 1.2), x, y, z)
    prepare(str(tmp_path / "in"), tmp_path / "out", seconds=1, progress=False)
    shards = open_shards(tmp_path / "out")
    first, second = read_sensors(path, shards.spec.signals)
    assert (first.seconds, second.seconds) == (0.0, pytest.approx(1.2))
    np.testing.assert_array_equal(first.signals["signal"].x, X[:60])
    np.testing.assert_array_equal(second.signals["signal"].x, X[60:])
    np.testing.assert_array_equal(shards[0]["signal"], X[:50])
    np.testing.assert_array_equal(shards[1]["signal"][:40], X[60:])
