"""The real sets, where they are: $JFREQ_DATA."""

import csv

import numpy as np
import pytest
import soundfile

from jfreq.data.loading.subsequences import runs_of
from jfreq.data.prepare.run import prepare
from jfreq.data.shards.reader import open_shards
from jfreq.evaluate.folds import divide
from jfreq.types import InputError

pytestmark = pytest.mark.data


def index(folder):
    with (folder / "index.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def made(real_data, tmp_path):
    def make(name, **options):
        if not (real_data / name).is_dir():
            pytest.skip(f"{name} not found in {real_data}")
        prepare(str(real_data / name), tmp_path / name, progress=False, strict=True, **options)
        return open_shards(tmp_path / name), real_data / name

    return make


def test_esc10(made):
    shards, folder = made("esc10")
    rows = index(folder)
    assert len(shards) == 400
    assert shards.spec.signals[0].samples == 80000
    assert np.bincount(shards.column("label")).tolist() == [40] * 10
    for i in (0, 57, 399):
        x, _ = soundfile.read(folder / rows[i]["path"], dtype="int16")
        np.testing.assert_array_equal(shards[i]["audio"][:, 0], x)
        assert shards.info.labels[shards[i]["label"]] == rows[i]["label"]
    found = divide(shards, np.arange(400))
    assert [len(s.test) for s in found] == [80] * 5


def test_hapt(made):
    shards, folder = made("hapt", seconds=2.56, hop_seconds=1.28, drop_labels=("*_to_*",))
    assert [(s.name, s.samples, s.channels) for s in shards.spec.signals] == [
        ("acc", 128, 3),
        ("gyro", 128, 3),
    ]
    assert len(shards.info.labels) == 6
    rows = [r for r in index(folder) if "_to_" not in r["label"]]
    path, start, length = (shards.column(n) for n in ("path", "start", "length"))
    segments = {(r["path"], int(r["start"]), int(r["end"])): r for r in rows}
    for i in (0, 1, 999, len(shards) - 1):
        inside = [
            r for (p, a, b), r in segments.items()
            if p == path[i] and a <= start[i] and start[i] + length[i] <= b
        ]  # fmt: skip
        assert len(inside) == 1, "a window lies in one segment"
        assert shards.info.labels[shards.column("label")[i]] == inside[0]["label"]
        z = np.load(folder / path[i])
        x = (z["x"].astype(np.float32) * z["scale"])[start[i] : start[i] + length[i]]
        np.testing.assert_array_equal(shards[i]["acc"][: length[i]], x[:, :3])
        np.testing.assert_array_equal(shards[i]["gyro"][: length[i]], x[:, 3:])
    (official,) = divide(shards, np.arange(len(shards)), only=("test",))
    subject = shards.column("subject")
    assert len(set(subject[official.train])) == 21
    assert len(set(subject[official.test])) == 9
    train = shards.read(official.train)
    valid = np.arange(128)[None] < train["length"][:, None]
    np.testing.assert_allclose(
        shards.info.signals[0].mean, train["acc"][valid].mean(0, dtype=np.float64), rtol=1e-5
    )


def test_the_unlabelled_rest_of_hapt(made):
    """Nine recordings: what has a label and what has none make up all of their samples."""
    shards, folder = made("hapt", seconds=1.0, unlabelled=True, only=("recordings/exp0*",))
    path, start, length, label = (shards.column(n) for n in ("path", "start", "length", "label"))
    names, total, labelled, stretches = set(path.tolist()), 0, 0, 0
    assert len(names) == 9
    for name in names:
        spans = [(int(r["start"]), int(r["end"])) for r in index(folder) if r["path"] == name]
        inside = np.zeros(len(np.load(folder / name)["x"]), bool)
        for a, b in spans:
            inside[a:b] = True
        total, labelled = total + len(inside), labelled + int(inside.sum())
        stretches += 2 * len(spans) + 1
        mine = path == name
        for a, n, has in zip(start[mine], length[mine], label[mine] >= 0):
            assert (inside[a : a + n] == has).all() and a + n <= len(inside)
    most = 25 * stretches  # half a window at the end of each
    assert 0 <= labelled - length[label >= 0].sum() < most
    assert 0 <= total - length.sum() < most
    assert total > 1.3 * labelled
    subject, split = shards.column("subject"), shards.column("split")
    assert not set(subject[split == "train"]) & set(subject[split == "test"])


def test_mfpt(made):
    """The envelope of an outer race fault shows its 81.125 Hz, less a per cent or two of slip."""
    from scipy.signal import hilbert

    shards, _ = made("mfpt_bearing", modalities=("vibration:0",))
    assert len(shards) == 490
    spec = shards.spec.signal("vibration")
    assert (spec.rate, spec.samples, spec.channels) == (48828.0, 4096, 1)
    (official,) = divide(shards, np.arange(len(shards)), only=("test",))
    assert len(official.train) + len(official.test) == 490
    rows = shards.rows("train")
    x = shards.read(rows)["vibration"].astype(np.float64)
    np.testing.assert_allclose(spec.mean, x.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(spec.std, x.std((0, 1)), rtol=1e-5)
    path = shards.column("path")[rows]
    wave = np.concatenate(x[path == "recordings/OuterRaceFault_vload_1.npz"])
    level = np.abs(np.asarray(hilbert(wave[:, 0])))
    spectrum = np.abs(np.fft.rfft(level - level.mean()))
    hz = np.fft.rfftfreq(len(level), 1 / 48828)
    band = (hz > 50) & (hz < 110)
    assert hz[band][spectrum[band].argmax()] == pytest.approx(81.125, rel=0.02)


def test_seismic(made):
    shards, folder = made("seismic_phasenet")
    x = np.load(folder / "waveforms.npz")["x"]
    for i in (0, 200, 409):
        r = index(folder)[i]
        np.testing.assert_array_equal(
            shards[i]["signal"], x[int(r["row"]), int(r["start"]) : int(r["end"])]
        )
    assert shards.info.labels == ("noise", "P", "S")


def test_gearbox_needs_a_rate(made):
    with pytest.raises(InputError, match="nothing states its sampling rate; give a rate"):
        made("gearbox_gfd")
    shards, _ = made("gearbox_gfd", rate=1000.0, modalities=("front:0-1", "rear:2-3"))
    assert [(s.name, s.samples, s.channels) for s in shards.spec.signals] == [
        ("front", 2048, 2),
        ("rear", 2048, 2),
    ]


def test_fsdd_is_resampled_to_the_models_rate(made, real_data, tmp_path):
    shards, _ = made("fsdd", drop_labels=tuple("3456789"))
    assert shards.spec.signals[0].rate == 16000.0
    x = shards.read(np.arange(100))["audio"][:, :, 0] / 32768
    power = (np.abs(np.fft.rfft(x)) ** 2).sum(0)
    freq = np.fft.rfftfreq(x.shape[1], 1 / 16000)
    assert power[freq > 4300].sum() < 1e-3 * power.sum(), "nothing above the old Nyquist rate"


def test_four_modalities_of_gearbox_in_runs(made):
    """Windows of a recording follow each other; the tail of 41 makes a run that overlaps."""
    names = ("a1:0", "a2:1", "a3:2", "a4:3")
    shards, folder = made("gearbox_gfd", rate=1000.0, modalities=names)
    assert [(s.name, s.channels) for s in shards.spec.signals] == [(n[:2], 1) for n in names]
    r = index(folder)[5]
    z = np.load(folder / r["path"])
    x = z["x"][int(r["start"]) : int(r["end"])].astype(np.float32) * z.get("scale", np.float32(1))
    for i, name in enumerate(("a1", "a2", "a3", "a4")):
        np.testing.assert_array_equal(shards[5][name][:, 0], x[:, i])
    found = runs_of(shards, np.arange(len(shards)), 4)
    path, start = shards.column("path")[found], shards.column("start")[found]
    assert (path == path[:, :1]).all() and (np.diff(start) == 2048).all()
    assert set(found.ravel()) == set(range(len(shards)))


def test_runs_of_hapt_stay_in_a_split_and_close_in_time(made):
    shards, _ = made("hapt", seconds=2.56, hop_seconds=1.28, only=("recordings/exp0*",))
    rows = shards.rows("train")
    ids = rows[runs_of(shards, rows, 4)]
    path, start = shards.column("path")[ids], shards.column("start")[ids]
    assert (path == path[:, :1]).all()
    assert np.diff(start).max() <= 96 and np.diff(start).min() >= 0
    assert set(ids.ravel()) == set(rows)
    assert (np.diff(start) == 64).mean() > 0.8
