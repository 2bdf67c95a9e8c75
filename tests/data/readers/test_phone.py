"""Recordings of phones as apps export them: one folder each, files called after app or sensor."""

import numpy as np
import pytest
import soundfile

from jfreq.data.prepare.run import prepare
from jfreq.data.readers.clock import clock_of
from jfreq.data.shards.reader import open_shards
from jfreq.types import InputError


def table(path, header, columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, np.stack(columns, 1), "%.9g", ",", header=header, comments="")


def test_phyphox(tmp_path, rng, capsys):
    """`Raw Data.csv` in every folder is no person: each recording is its own."""
    t = np.arange(600) / 100 + rng.normal(0, 5e-4, 600)
    head = ",".join(['"Time (s)"', *(f'"Acceleration {a} (m/s^2)"' for a in "xyz")])
    for name in ("walking", "sitting"):
        table(tmp_path / "in" / name / "Raw Data.csv", head, [t, *rng.normal(size=(3, 600))])
        (tmp_path / "in" / name / "meta").mkdir()
        (tmp_path / "in" / name / "meta" / "device.csv").write_text('"property","value"\n"a","b"\n')
    prepare(str(tmp_path / "in"), tmp_path / "out", seconds=1)
    shards = open_shards(tmp_path / "out")
    assert shards.info.labels == ("sitting", "walking") and shards.info.skipped == 2
    (signal,) = shards.info.signals
    assert signal.rate == 100 and signal.channels == 3
    assert set(shards.column("subject").tolist()) == {"sitting/Raw Data", "walking/Raw Data"}
    assert "subjects from the names of files" not in capsys.readouterr().err


def test_jitter_does_not_bend_the_rate(rng):
    """The median of 7,000 steps that vary by 8 % is off by 0.07 %, their mean is not."""
    t = np.arange(7000) / 100 + rng.normal(0, 6e-4, 7000)
    clock = clock_of(t)
    assert clock.rate == 100
    assert clock_of(np.delete(t, rng.choice(7000, 70, replace=False))).rate == pytest.approx(
        100, 0.02
    )


def test_sensor_logger(tmp_path, rng):
    """Accelerometer and gyroscope in a file each never become rows of one modality."""
    t = np.arange(600) / 100
    for name in ("walk", "sit"):
        for sensor in ("Accelerometer", "Gyroscope"):
            columns = [1.7e18 + t * 1e9, t, *rng.normal(size=(3, 600))]
            table(tmp_path / "in" / name / f"{sensor}.csv", "time,seconds_elapsed,z,y,x", columns)
    said = r"sit/Accelerometer.csv and sit/Gyroscope.csv are different .* '\*Accelerometer.csv'"
    with pytest.raises(InputError, match=said):
        prepare(str(tmp_path / "in"), tmp_path / "out", seconds=1)
    prepare(str(tmp_path / "in"), tmp_path / "out", seconds=1, only=("*Accelerometer.csv",))
    shards = open_shards(tmp_path / "out")
    assert shards.info.labels == ("sit", "walk")
    assert set(shards.column("path").tolist()) == {
        f"{n}/Accelerometer.csv" for n in ("sit", "walk")
    }


def test_sound_of_people(tmp_path, rng, capsys):
    """The same names in folders called like people; numbers leave the folder as the class."""
    for folder in ("p1", "p2"):
        for name in ("walk", "clap", "001"):
            where = tmp_path / ("speakers" if name == "001" else "people") / folder
            where.mkdir(parents=True, exist_ok=True)
            soundfile.write(where / f"{name}.wav", rng.normal(0, 0.1, 1600), 16000)
    prepare(str(tmp_path / "people"), tmp_path / "a")
    shards = open_shards(tmp_path / "a")
    assert shards.info.labels == ("clap", "walk")
    assert shards.column("subject").tolist() == ["p1", "p1", "p2", "p2"]
    assert "classes from the names of files: clap, walk" in capsys.readouterr().err
    prepare(str(tmp_path / "speakers"), tmp_path / "b")
    assert open_shards(tmp_path / "b").info.labels == ("p1", "p2")
