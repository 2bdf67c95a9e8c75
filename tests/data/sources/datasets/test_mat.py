"""MATLAB sets: bearings of CWRU, channel state information of WiFi cards."""

import sys

import numpy as np
import pytest
import scipy.io

from jfreq.data.sources.datasets.cwru import NUMBERED, _about
from jfreq.evaluate.folds import divide
from jfreq.types import InputError
from tests.data.prepared import made


def bearing(path, number, samples, hz, rate, *, places=("DE", "FE"), **more):
    """A tone at every accelerometer, a hundredth of its number high."""
    t = np.arange(samples) / rate
    tone = np.sin(2 * np.pi * hz * t)[:, None]
    names = {f"X{number:03d}_{p}_time": (1 + i) * tone for i, p in enumerate(places)}
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {**names, f"X{number:03d}RPM": np.array([[1797]]), **more})


def frequency(x, rate):
    return np.argmax(np.abs(np.fft.rfft(x * np.hanning(len(x))))) * rate / len(x)


def test_cwru_by_number_in_both_rates(tmp_path):
    home = tmp_path / "in"
    bearing(home / "Normal Baseline/97.mat", 97, 96000, 1000, 48000)
    other = {"X098_DE_time": np.zeros((96000, 1)), "X098_FE_time": np.zeros((96000, 1))}
    bearing(home / "Normal Baseline/99.mat", 99, 96000, 1000, 48000, **other)
    bearing(home / "12k Drive End/105.mat", 105, 24000, 700, 12000, places=("DE", "FE", "BA"))
    bearing(home / "12k Drive End/133.mat", 133, 24000, 700, 12000)
    bearing(home / "48k Drive End/228.mat", 228, 96000, 500, 48000)
    bearing(home / "12k Fan End/311.mat", 311, 24000, 300, 12000)
    (home / "12k Drive End/130.mat").write_bytes(b"no")
    (home / "notes.mat").write_bytes(b"no")
    shards = made(home, tmp_path / "out", kind="cwru", seconds=1.0)
    assert [(s.name, s.rate, s.channels) for s in shards.spec.signals] == [
        ("drive_end", 12000.0, 1), ("fan_end", 12000.0, 1),
    ]  # fmt: skip
    assert shards.info.labels == ("normal", "ball_021", "inner_007", "outer_007", "outer_014")
    about = {p: (shards.info.labels[label], fold) for p, label, fold in zip(
        shards.column("path").tolist(), shards.column("label").tolist(),
        shards.column("fold").tolist())}  # fmt: skip
    assert about == {
        "Normal Baseline/97.mat": ("normal", 0), "Normal Baseline/99.mat": ("normal", 2),
        "12k Drive End/105.mat": ("inner_007", 0), "12k Drive End/133.mat": ("outer_007", 3),
        "48k Drive End/228.mat": ("ball_021", 2), "12k Fan End/311.mat": ("outer_014", 2),
    }  # fmt: skip
    assert len(shards) == 12, "two windows of a second each: all at their own rate"
    hz = {"97": 1000, "99": 1000, "105": 700, "133": 700, "228": 500, "311": 300}
    for i, path in enumerate(shards.column("path").tolist()):
        x = shards[i]["drive_end"][:, 0]
        assert frequency(x, 12000) == pytest.approx(hz[path.split("/")[1][:-4]], abs=1.0)
        np.testing.assert_allclose(shards[i]["fan_end"][100:-100, 0], 2 * x[100:-100], atol=1e-3)
    skipped = (tmp_path / "out/skipped.txt").read_text()
    assert "12k Drive End/130.mat: is not a MATLAB file" in skipped
    assert "notes.mat: neither its number nor its name is that of a file of CWRU" in skipped
    for split in divide(shards, np.arange(len(shards))):
        path = shards.column("path")
        assert not set(path[split.train]) & set(path[split.test])


@pytest.mark.parametrize(
    ("name", "label", "load", "rate"),
    [
        ("IR007_0.mat", "inner_007", 0, None),
        ("12k/OR021@6_3.mat", "outer_021", 3, 12000),
        ("OR007@12_2.mat", "outer_007", 2, None),
        ("B007_3_121.mat", "ball_007", 3, 12000),
        ("OR007_6_1_136.mat", "outer_007", 1, 48000),
        ("12k_Drive_End_B028_0_3005.mat", "ball_028", 0, 12000),
        ("Normal_1.mat", "normal", 1, 48000),
        ("12k/Normal_2_99.mat", "normal", 2, 48000),
        ("fan48k/282.mat", "ball_007", 0, 48000),
    ],
)
def test_cwru_by_name(tmp_path, name, label, load, rate):
    found = _about(tmp_path / name, name)
    assert (found.label, found.load, found.rate) == (label, load, rate)


def test_cwrus_table_has_every_file_once():
    """Counts of the owners' pages: 4 normal, 60 and 45 at 12 kHz, 52 at 48 kHz."""
    of_rate = [sum(a.rate == rate and a.label != "normal" for a in NUMBERED.values())
               for rate in (12000, 48000)]  # fmt: skip
    assert of_rate == [60 + 45, 52]
    assert sum(a.label == "normal" for a in NUMBERED.values()) == 4
    for number, label, load in ((108, "inner_007", 3), (156, "outer_007", 0), (158, "outer_007", 1),
                                (217, "inner_021", 3), (316, "outer_021", 1), (3008, "ball_028", 3),
                                (309, "outer_014", 1), (305, "outer_007", 1)):  # fmt: skip
        assert NUMBERED[number][:2] == (label, load)


def test_cwru_without_a_known_rate_or_name(tmp_path):
    bearing(tmp_path / "in/IR014_2.mat", 1, 24000, 700, 12000)
    with pytest.raises(InputError, match="nothing states its sampling rate; give a rate"):
        made(tmp_path / "in", tmp_path / "out", kind="cwru", seconds=1.0)
    assert made(tmp_path / "in", tmp_path / "out", kind="cwru", seconds=1.0, rate=12000.0)[0]
    bearing(tmp_path / "odd/mine.mat", 1, 24000, 700, 12000)
    with pytest.raises(InputError, match="nothing to read"):
        made(tmp_path / "odd", tmp_path / "o", kind="cwru")
    with pytest.raises(
        InputError,
        match=r"kind: .*IR014_2.mat is a MATLAB file, which may hold anything; name its layout",
    ):
        made(tmp_path / "in/IR014_2.mat", tmp_path / "o")


def test_cwru_at_the_rate_of_the_number_in_its_variables(tmp_path):
    bearing(tmp_path / "in/IR007_0.mat", 105, 24000, 700, 12000)
    bearing(tmp_path / "in/48k/IR014_0.mat", 174, 96000, 700, 48000)
    bearing(tmp_path / "in/48k/IR014_1.mat", 170, 24000, 700, 12000)
    shards = made(tmp_path / "in", tmp_path / "out", kind="cwru", seconds=1.0)
    assert set(shards.column("path")) == {"IR007_0.mat", "48k/IR014_0.mat"}
    assert len(shards) == 4, "two windows of a second each: both at their own rate"
    assert frequency(shards[0]["drive_end"][:, 0], 12000) == pytest.approx(700, abs=1)
    assert ("48k/IR014_1.mat: is 48000 Hz by its folder or name, but its variables are those of "
            "file 170, which is at") in (tmp_path / "out/skipped.txt").read_text()  # fmt: skip


@pytest.fixture
def csi(tmp_path, rng):
    def complex_(*shape):
        return rng.normal(size=shape) + 1j * rng.normal(size=shape)

    home, x = tmp_path / "in", {}
    for room, name in (("bedroom", "hsy_3 1"), ("bedroom", "ljq_11 2"), ("meeting", "hsy_3 1")):
        (home / room).mkdir(parents=True, exist_ok=True)
        x[f"{room}/{name}.mat"] = value = complex_(3, 30, 200)
        scipy.io.savemat(home / room / f"{name}.mat", {"csi": value, "note": np.arange(3)})
    return home, x


def test_csi(csi, tmp_path):
    home, x = csi
    with pytest.raises(InputError, match="nothing states its sampling rate; give a rate"):
        made(home, tmp_path / "out", kind="csi")
    ways = ("amplitude", "phase_difference")
    shards = made(home, tmp_path / "out", kind="csi", rate=20.0, complex_as=ways)
    assert [(s.name, s.samples, s.channels) for s in shards.spec.signals] == [
        ("amplitude", 200, 90), ("phase_difference", 200, 60),
    ]  # fmt: skip
    assert shards.info.labels == ("fall_down", "running")
    assert shards.column("subject").tolist() == ["hsy", "ljq", "hsy"]
    for i, path in enumerate(shards.column("path").tolist()):
        level = np.abs(x[path]).transpose(2, 0, 1)
        np.testing.assert_allclose(shards[i]["amplitude"], level.reshape(200, 90), rtol=1e-5)
        turn = np.exp(1j * shards[i]["phase_difference"].astype(np.float64)).reshape(200, 2, 30)
        between = (x[path][1:] * np.conj(x[path][:-1])).transpose(2, 0, 1)
        np.testing.assert_allclose(turn, between / np.abs(between), atol=1e-4)


def test_csi_with_packets_first_many_in_a_file_and_its_own_rate(tmp_path, rng):
    (tmp_path / "in" / "sign").mkdir(parents=True)
    x = rng.normal(size=(100, 30, 3, 4)) + 1j
    scipy.io.savemat(tmp_path / "in/sign/lab.mat", {"csid_lab": x, "fs": 200.0})
    shards = made(tmp_path / "in", tmp_path / "out", kind="csi", complex_as=("real_imag",))
    assert len(shards) == 4 and shards.info.labels == ("sign",)
    assert shards.spec.signals[0].rate == 200.0
    for i in range(4):
        real = shards[i]["real_imag"][:, :90].reshape(100, 3, 30)
        np.testing.assert_allclose(real, x[..., i].real.transpose(0, 2, 1), rtol=1e-5)
        np.testing.assert_array_equal(shards[i]["real_imag"][:, 90:], 1)


def test_matlab_seven_three(csi, tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    home, x = csi
    path = "meeting/hsy_3 1.mat"
    with h5py.File(home / path, "w", userblock_size=512) as file:
        pair = np.empty(x[path].T.shape, np.dtype([("real", "f8"), ("imag", "f8")]))
        pair["real"], pair["imag"] = x[path].T.real, x[path].T.imag
        file["csi"] = pair
    options = {"kind": "csi", "rate": 20.0}
    shards = made(home, tmp_path / "out", **options)
    assert shards.info.skipped == 0
    expected = np.abs(x[path]).transpose(2, 0, 1).reshape(200, 90)
    np.testing.assert_allclose(shards[2]["amplitude"], expected, rtol=1e-5)
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert made(home, tmp_path / "without", **options).info.skipped == 1
    assert (
        "is a MATLAB 7.3 file; save it again with `save -v7`, or install h5py"
        in (tmp_path / "without/skipped.txt").read_text()
    )


def test_csi_files_that_are_something_else_are_named(csi, tmp_path):
    home, _ = csi
    scipy.io.savemat(home / "bedroom/hsy_1 1.mat", {"csi": np.zeros((3, 30, 20))})
    shards = made(home, tmp_path / "out", kind="csi", rate=20.0)
    assert len(shards) == 3
    assert (
        "hsy_1 1.mat: expected one complex array [antennas, subcarriers, packets], found 0"
        in (tmp_path / "out/skipped.txt").read_text()
    )
