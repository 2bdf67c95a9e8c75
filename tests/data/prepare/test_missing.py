"""Recordings that lack a modality, rates by modality, and rarer classes."""

import zipfile

import numpy as np
import pytest

from jfreq.data.prepare.run import prepare
from jfreq.data.shards.describe import describe
from jfreq.data.sources.base import Row, Source
from jfreq.data.sources.subsample import thinned
from jfreq.types import InputError
from tests.data.prepared import made

MODALITIES = ("acc:0-2", "gyro:3-5")


@pytest.fixture
def sensors(tmp_path, rng):
    """Three recordings of 4 s at 20 Hz: all six channels, only acc, gyro that is NaN throughout."""
    folder = tmp_path / "in"
    folder.mkdir()
    waves = rng.normal(3.0, 1.0, (3, 80, 6)).astype(np.float32)
    broken = waves[2].copy()
    broken[:, 3:] = np.nan
    for name, x in (("a", waves[0]), ("b", waves[1][:, :3]), ("c", broken)):
        np.savez(folder / f"{name}.npz", x=x, sr=20.0, label=name)
    return folder, waves


def test_what_is_missing_is_skipped_unless_allowed(sensors, tmp_path):
    folder, waves = sensors
    plain = made(folder, tmp_path / "plain", seconds=1.0, modalities=MODALITIES)
    assert set(plain.column("path")) == {"a.npz"}
    assert not (tmp_path / "plain" / "missing.txt").exists()
    said = (tmp_path / "plain" / "skipped.txt").read_text()
    assert "b.npz: has 3 channels, modality 'gyro' asks for [3, 4, 5]" in said
    assert "c.npz: gyro: channel 0 is missing throughout" in said
    shards = made(
        folder, tmp_path / "out", seconds=1.0, modalities=MODALITIES, allow_missing=True,
        strict=True,
    )  # fmt: skip
    batch = shards.read(np.arange(12))
    np.testing.assert_array_equal(batch["acc"].reshape(3, 80, 3), waves[:, :, :3])
    np.testing.assert_array_equal(batch["gyro"][:4].reshape(80, 3), waves[0, :, 3:])
    assert not batch["gyro"][4:].any()
    np.testing.assert_array_equal(batch["length"], np.full(12, 20))
    acc, gyro = shards.info.signals
    np.testing.assert_allclose(acc.mean, waves[..., :3].mean((0, 1), np.float64), rtol=1e-6)
    np.testing.assert_allclose(gyro.mean, waves[0, :, 3:].mean(0, np.float64), rtol=1e-6)
    np.testing.assert_allclose(gyro.std, waves[0, :, 3:].std(0, dtype=np.float64), rtol=1e-6)
    assert (tmp_path / "out" / "missing.txt").read_text().splitlines() == [
        "b.npz: no gyro in 4 of 4 windows",
        "c.npz: no gyro in 4 of 4 windows",
    ]
    assert "absent in 8 of 12 rows, which hold zeros" in describe(shards)
    with pytest.raises(InputError, match="rows: gyro is absent in all 8 rows"):
        shards.measured(np.arange(4, 12))
    with pytest.raises(InputError, match="finished set of other data or options"):
        made(folder, tmp_path / "out", seconds=1.0, modalities=MODALITIES)


def test_the_first_recording_may_be_the_one_that_lacks_it(sensors, tmp_path):
    folder, _ = sensors
    (folder / "a.npz").rename(folder / "z.npz")
    shards = made(folder, tmp_path / "out", seconds=1.0, modalities=MODALITIES, allow_missing=True)
    assert [(s.name, s.channels) for s in shards.spec.signals] == [("acc", 3), ("gyro", 3)]
    assert not shards[0]["gyro"].any() and shards[11]["gyro"].all()


def test_a_modality_that_no_recording_has_is_refused(sensors, tmp_path):
    folder, waves = sensors
    (folder / "a.npz").unlink()
    with pytest.raises(InputError, match="no recording of in has gyro; leave it out"):
        made(folder, tmp_path / "out", seconds=1.0, modalities=MODALITIES, allow_missing=True)
    assert not (tmp_path / "out").exists()
    np.savez(folder / "d.npz", x=np.full((80, 6), np.nan), sr=20.0, label="d")
    np.savez(folder / "e.npz", x=waves[0], sr=20.0, label="d")
    shards = made(folder, tmp_path / "out", seconds=1.0, modalities=MODALITIES, allow_missing=True)
    assert shards.info.skipped == 1
    assert "d.npz: holds none" in (tmp_path / "out" / "skipped.txt").read_text()


def test_a_window_of_zeros_has_no_say_in_the_statistics(tmp_path, rng):
    """A sensor that is switched off for two seconds and says 0."""
    (tmp_path / "in").mkdir()
    x = rng.normal(5.0, 1.0, (80, 2)).astype(np.float32)
    x[20:60, 1] = 0
    np.savez(tmp_path / "in" / "a.npz", x=x, sr=20.0)
    shards = made(
        tmp_path / "in", tmp_path / "out", seconds=1.0, modalities=("p:0", "q:1"),
        allow_missing=True,
    )  # fmt: skip
    on = np.r_[x[:20, 1], x[60:, 1]].astype(np.float64)
    np.testing.assert_allclose(shards.info.signals[1].mean, [on.mean()], rtol=1e-6)
    assert (tmp_path / "out" / "missing.txt").read_text() == "a.npz: no q in 2 of 4 windows\n"


def test_realworld_and_hhar_keep_places_with_some_of_the_sensors(tmp_path):
    lines = "id,attr_time,attr_x,attr_y,attr_z\n"
    lines += "".join(f"{i},{1000 + 20 * i},{1 + i},2,3\n" for i in range(200))
    for place, sensors in (("chest", ("acc", "Gyroscope")), ("waist", ("Gyroscope",))):
        for sensor in sensors:
            folder = tmp_path / "rw" / "proband1" / "data"
            folder.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(folder / f"{sensor}_{place}.zip", "w") as archive:
                archive.writestr(f"{sensor}_walking_{place}.csv", lines)
    rw = made(tmp_path / "rw", tmp_path / "o1", seconds=2.0, allow_missing=True)
    assert (
        rw.column("path").tolist()
        == ["proband1/walking/chest"] * 2 + ["proband1/walking/waist"] * 2
    )
    batch = rw.read(np.arange(4))
    assert batch["acc"][:2].all() and not batch["acc"][2:].any()
    np.testing.assert_array_equal(batch["gyro"][2:], batch["gyro"][:2])
    header = "Index,Arrival_Time,Creation_Time,x,y,z,User,Model,Device,gt\n"
    (tmp_path / "hh").mkdir()
    for file, users in (("accelerometer", "ab"), ("gyroscope", "a")):
        rows = "".join(
            f"{i},0,{10**9 + 10**7 * i},1,2,3,{user},m,m_1,walk\n" for user in users
            for i in range(200)
        )  # fmt: skip
        (tmp_path / "hh" / f"Phones_{file}.csv").write_text(header + rows)
    hh = made(tmp_path / "hh", tmp_path / "o2", seconds=1.99, allow_missing=True)
    np.testing.assert_array_equal(hh.column("subject"), ["a", "b"])
    both = hh.read(np.arange(2))
    assert both["gyro"][0].all() and not both["gyro"][1].any() and both["acc"].all()


def test_every_modality_can_have_a_rate_of_its_own(tmp_path):
    shards = made(
        "synthetic:machines", tmp_path / "out", n=2, seconds=0.5, rates=("audio:8000",)
    )  # fmt: skip
    assert [(s.rate, s.samples) for s in shards.spec.signals] == [(8000.0, 4000), (6400.0, 3200)]
    both = made(
        "synthetic:machines", tmp_path / "both", n=2, seconds=0.5, rate=4000.0,
        rates=("vibration:2000",),
    )  # fmt: skip
    assert [s.rate for s in both.spec.signals] == [4000.0, 2000.0]
    for rates, message in (
        (("audoi:8000",), r"rates: no modality 'audoi' \(did you mean 'audio'\?\)"),
        (("audio=8000",), "rates: 'audio=8000' is not NAME:NUMBER"),
        (("audio:-1",), "rates.audio: must be positive"),
    ):
        with pytest.raises(InputError, match=message):
            made("synthetic:machines", tmp_path / "no", n=2, seconds=0.5, rates=rates)


def source(rows, labels=("walk", "fall")):
    return Source("s", "index", tuple(rows), lambda row: {}, lambda row: None, False, labels)


def test_thinning_keeps_whole_recordings_evenly_and_one_in_every_fold():
    rows = [
        Row(f"r{i}", (c,), fold=i % 2, start=s) for i in range(20) for c in (0, 1) for s in (0, 9)
    ]
    rows += [Row("last", (1,), fold=2), Row("none")]
    kept = thinned(source(rows), {"fall": 0.3}).rows
    assert [r for r in kept if r.label != (1,)] == [r for r in rows if r.label != (1,)]
    fall = [r for r in kept if r.label == (1,)]
    paths = {r.path for r in fall}
    assert len(paths) == 3 + 3 + 1 and len(fall) == 2 * 6 + 1
    assert {r.fold for r in fall} == {0, 1, 2}
    assert {"r0", "r1", "last"} <= paths
    rare = thinned(source(rows), {"fall": 0.001}).rows
    assert [r.fold for r in rare if r.label == (1,) and r.start == 0] == [0, 1, 2]
    assert list(thinned(source(rows), {"fall": 1.0}).rows) == rows
    assert list(thinned(source(rows), {}).rows) == rows


def test_thinning_names_what_is_wrong(tmp_path):
    for thin, message in (
        ({"fal": 0.1}, r"thin: no class 'fal' \(did you mean 'fall'\?\)"),
        ({"fall": 0.0}, "thin: the fraction of 'fall': must be above 0"),
        ({"walk": 0.5}, "thin: s has no row of class 'walk'"),
    ):
        with pytest.raises(InputError, match=message):
            thinned(source([Row("a", (1,))]), thin)
    with pytest.raises(InputError, match=r"thin: 'fall:0.1' is not NAME=NUMBER"):
        prepare("synthetic:motion", tmp_path / "out", thin=("fall:0.1",), progress=False)
    shards = made("synthetic:motion", tmp_path / "out", n=50, seconds=1.0, thin=("cycling=0.2",))
    assert np.bincount(shards.column("label")).tolist() == [10, 10, 10, 10, 5]
    assert sorted(shards.column("fold")[shards.column("label") == 4]) == [0, 1, 2, 3, 4]
