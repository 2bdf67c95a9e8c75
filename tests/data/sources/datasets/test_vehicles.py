"""MOD and ACIDS, small, in their owners' layouts, with values that are known."""

import numpy as np
import pytest
import scipy.io

from jfreq.data.fold_assignment import refolded
from jfreq.data.sources.datasets import recognise
from jfreq.evaluate.folds import divide
from jfreq.types import InputError
from tests.data.prepared import made


def node(folder, seconds, *, hz=440.0, audio="aud16000.csv", seismic=True):
    """A tone at the microphone, sample numbers at the geophone."""
    folder.mkdir(parents=True)
    if audio:
        wave = np.rint(12000 * np.sin(2 * np.pi * hz * np.arange(16000 * seconds) / 16000))
        lines = (f"{v:.0f}" + ",7" * (audio == "aud.csv") for v in wave)
        (folder / audio).write_text("\n".join(lines) + "\n")
    if seismic:
        lines = (f"{i} {1.6e9 + i / 100}" for i in range(100 * seconds))
        (folder / "ehz.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture
def mod(tmp_path):
    root = tmp_path / "mod"
    node(root / "Polaris0150pm" / "rs1", 4)
    node(root / "Polaris0150pm" / "rs2", 4, seismic=False)
    node(root / "walk2" / "rs1", 2, audio="aud.csv", hz=500.0)
    node(root / "mustang0528" / "rs3", 2, audio="")
    node(root / "elsewhere" / "rs1", 2)
    return root


def test_mod(mod, tmp_path):
    assert recognise(mod) == recognise(tmp_path) == "mod"
    shards = made(mod, tmp_path / "out", seconds=2.0)
    assert [(s.name, s.rate, s.samples, s.channels) for s in shards.spec.signals] == [
        ("audio", 8000.0, 16000, 1),
        ("seismic", 100.0, 200, 1),
    ]
    assert shards.info.labels == ("Polaris", "walk")
    np.testing.assert_array_equal(shards.column("path"), ["Polaris0150pm/rs1"] * 2 + ["walk2/rs1"])
    np.testing.assert_array_equal(shards.column("subject"), ["Polaris0150pm"] * 2 + ["walk2"])
    np.testing.assert_array_equal(shards.column("start"), [0, 32000, 0])
    batch = shards.read(np.arange(3))
    np.testing.assert_array_equal(batch["seismic"][:2].ravel(), np.arange(400))
    for row, hz in ((0, 440.0), (1, 440.0), (2, 500.0)):
        x = batch["audio"][row, 1000:-1000, 0].astype(float)
        assert np.argmax(np.abs(np.fft.rfft(x * np.hanning(len(x))))) * 8000 / len(x) == (
            pytest.approx(hz, abs=1)
        )
        assert np.sqrt(2 * np.mean(x**2)) == pytest.approx(12000, rel=2e-3)
    skipped = (tmp_path / "out" / "skipped.txt").read_text()
    assert "Polaris0150pm/rs2: has no seismic" in skipped
    assert "mustang0528/rs3: has no audio" in skipped
    assert "elsewhere/rs1: the folder 'elsewhere' names none of the vehicles Polaris" in skipped


def test_mod_with_missing_modalities_and_other_rates(mod, tmp_path):
    shards = made(mod, tmp_path / "out", seconds=2.0, allow_missing=True, rates=("audio:4000",))
    assert [s.rate for s in shards.spec.signals] == [4000.0, 100.0]
    assert shards.info.labels == ("Polaris", "mustang", "walk")
    rows = {p: i for i, p in enumerate(shards.column("path"))}
    silent, still = shards[rows["mustang0528/rs3"]], shards[rows["Polaris0150pm/rs2"]]
    assert not silent["audio"].any() and silent["seismic"].any() and silent["length"] == 8000
    assert still["audio"].any() and not still["seismic"].any()
    said = (tmp_path / "out" / "missing.txt").read_text().splitlines()
    assert said == [
        "mustang0528/rs3: no audio in 1 of 1 windows",
        "Polaris0150pm/rs2: no seismic in 2 of 2 windows",
    ]
    seen = np.concatenate([np.arange(400), np.arange(200), np.arange(200)])
    assert shards.info.signals[1].mean == pytest.approx([seen.mean()])
    one = made(mod, tmp_path / "one", seconds=2.0, modalities=("seismic:0",))
    assert set(one.column("path")) == {"Polaris0150pm/rs1", "walk2/rs1", "mustang0528/rs3"}
    assert [s.name for s in one.spec.signals] == ["seismic"]
    with pytest.raises(InputError, match="modalities: no modality 'geo' in this layout"):
        made(mod, tmp_path / "no", modalities=("geo:0",))
    with pytest.raises(InputError, match="no recording of mod has audio"):
        made(mod, tmp_path / "no", kind="mod", only=("mustang*",), allow_missing=True)


def test_the_nodes_of_a_drive_are_never_on_both_sides(tmp_path):
    for drive in ("walk", "walk2", "tesla", "tesla2"):
        for name in ("rs1", "rs2"):
            node(tmp_path / "mod" / drive / name, 2)
    shards = made(tmp_path / "mod", tmp_path / "out", seconds=1.0)
    shards, _ = refolded(shards, 2)
    for split in divide(shards, np.arange(len(shards))):
        subject, label = shards.column("subject"), shards.column("label")
        assert not set(subject[split.train]) & set(subject[split.test])
        assert set(label[split.test]) == {0, 1}


RATE, SECOND = 1025.641, 1026


def drive(root, name, levels, *, seed=0, seismic=True):
    """Seconds of noise of these levels; the geophones hold sample numbers."""
    rng = np.random.default_rng(seed)
    loud = np.repeat(levels, SECOND)[None] * rng.choice([-1.0, 1.0], (3, len(levels) * SECOND))
    loud[1:] = [[2], [3]]
    for folder, stem, x in (
        ("Acoustics", name, np.rint(loud)),
        ("Seismic", f"{name[:3]}s{name[3:]}", np.stack([np.arange(loud.shape[1])] * 2)),
    ):
        (root / folder).mkdir(parents=True, exist_ok=True)
        if folder == "Acoustics" or seismic:
            scipy.io.savemat(root / folder / f"{stem}.mat", {"Output_data": x.astype(np.int16)})


@pytest.fixture
def acids(tmp_path):
    """Levels are amplitudes: the softest loudest second is 1000, so -10 dB is 316, -3 dB 708."""
    root = tmp_path / "acids"
    drive(root, "Gv1a1002", [100, 100, 500, 1000, 800])
    drive(root, "Gv1a2002", [100, 2000, 2000])
    drive(root, "Gv9c1070", [300, 4000], seismic=False)
    (root / "Acoustics" / "broken.mat").write_bytes(b"no")
    return root


def test_acids(acids, tmp_path):
    assert recognise(acids) == "acids"
    shards = made(acids, tmp_path / "out", seconds=SECOND / RATE)
    assert [(s.name, s.samples, s.channels, s.dtype) for s in shards.info.signals] == [
        ("audio", SECOND, 3, "int16"),
        ("seismic", SECOND, 2, "float32"),
    ]
    assert shards.spec.signals[0].rate == RATE
    assert shards.info.labels == ("background", "type_1")
    label, start, path = (shards.column(n) for n in ("label", "start", "path"))
    first = path == "Gv1a1002"
    np.testing.assert_array_equal(start[first] // SECOND, [0, 1, 3, 4])
    np.testing.assert_array_equal(label[first], [0, 0, 1, 1])
    np.testing.assert_array_equal(label[~first], [0, 1, 1])
    assert set(shards.column("subject")) == {"v1a002"}, "two stations heard one drive"
    for i in range(len(shards)):
        row, at = shards[i], int(start[i])
        np.testing.assert_array_equal(row["seismic"][:, 1], at + np.arange(SECOND))
        np.testing.assert_array_equal(row["audio"][:, 1:], np.tile([2, 3], (SECOND, 1)))
    assert set(np.abs(shards[2]["audio"][:, 0])) == {1000}
    skipped = (tmp_path / "out" / "skipped.txt").read_text()
    assert "Acoustics/Gv9c1070.mat: has no seismic" in skipped
    assert "Acoustics/broken.mat: " in skipped


def test_acids_with_its_table_missing_geophones_and_the_middle(acids, tmp_path):
    (acids / "meta.csv").write_text(
        "Gv1a1002.mat,Type 1,15,Desert,25\nGv1a2002.mat,Type 1,15,Desert,50\n"
        "Gv9c1070.mat,Type 9,>30,Normal,5\n"
    )
    shards = made(acids, tmp_path / "out", seconds=1.0, rate=1024.0, allow_missing=True,
                  unlabelled=True)  # fmt: skip
    assert [s.samples for s in shards.spec.signals] == [1024, 1024]
    assert shards.info.labels == ("background", "type_1", "type_9")
    path, label = shards.column("path"), shards.column("label")
    assert set(path) == {"desert/25m/15/Gv1a1002", "desert/50m/15/Gv1a2002",
                         "normal/5m/>30/Gv9c1070"}  # fmt: skip
    assert (label < 0).sum() == 1
    bare = np.flatnonzero(path == "normal/5m/>30/Gv9c1070")
    np.testing.assert_array_equal(label[bare], [0, 2])
    assert not shards.read(bare)["seismic"].any()
    near = made(acids, tmp_path / "near", seconds=1.0, only=("desert/25m/*",))
    assert set(near.column("path")) == {"desert/25m/15/Gv1a1002"}


def test_pickles_are_never_read(tmp_path):
    (tmp_path / "time").mkdir()
    (tmp_path / "time" / "walk_rs1_0.pt").write_bytes(b"\x80\x02")
    for kind in ("auto", "mod", "acids", "realworld"):
        with pytest.raises(InputError, match=r"walk_rs1_0.pt is a pickle, which can run any code"):
            made(tmp_path / "time", tmp_path / "out", kind=kind)
