"""Folders of sensor files through ``prepare``: labels, subjects, splits, rates, names, notes."""

import numpy as np
import pytest

from jfreq.data.prepare.run import prepare
from jfreq.data.shards.describe import describe
from jfreq.data.shards.reader import open_shards
from jfreq.types import InputError

N = 200
X = np.random.default_rng(0).normal(size=(N, 3)).round(4).astype(np.float32)


def csv(path, x=X, header="ax,ay,az", more=lambda k: "", before=lambda k: ""):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [before(k) + ",".join(f"{v:.4f}" for v in row) + more(k) for k, row in enumerate(x)]
    path.write_text("\n".join([header, *lines]) + "\n")


def npz(path, **arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)


def made(tmp_path, **options):
    prepare(str(tmp_path / "in"), tmp_path / "out", seconds=1, **options)
    return open_shards(tmp_path / "out")


def column(shards, name):
    return sorted(set(shards.column(name).tolist()))


def test_folders_are_classes_where_no_file_has_labels(tmp_path, capsys):
    for name in ("walk", "run"):
        csv(tmp_path / "in" / name / "a.csv")
    shards = made(tmp_path, rate=50)
    assert shards.info.labels == ("run", "walk") and column(shards, "subject") == ["a"]
    assert (
        "no file has labels, so they are the names of folders: run, walk" in capsys.readouterr().err
    )


def test_files_keep_their_names_beside_the_note_about_folders(tmp_path, capsys):
    """A name that says no person, as apps give it, is told from others by its folder."""
    for label in ("walk", "run"):
        csv(tmp_path / "in" / label / "anna.csv")
        csv(tmp_path / "in" / label / "data.csv")
    shards = made(tmp_path, rate=50)
    said = capsys.readouterr().err
    assert "no file has labels, so they are the names of folders: run, walk" in said
    owners = {
        (str(path), str(subject), shards.info.labels[label])
        for path, subject, label in zip(*map(shards.column, ("path", "subject", "label")))
    }
    assert owners == {
        ("run/anna.csv", "anna", "run"),
        ("run/data.csv", "run/data", "run"),
        ("walk/anna.csv", "anna", "walk"),
        ("walk/data.csv", "walk/data", "walk"),
    }


def test_folders_are_people_where_files_have_labels(tmp_path, capsys):
    for person in ("anna", "ben"):
        for name in ("walk", "run"):
            npz(tmp_path / "in" / person / f"{name}.npz", x=X, sr=50, label=name)
    shards = made(tmp_path)
    assert shards.info.labels == ("run", "walk") and column(shards, "subject") == ["anna", "ben"]
    assert "subjects from folders: anna, ben" in capsys.readouterr().err


def test_folders_called_like_people_are_people(tmp_path):
    for person in ("p1", "p2"):
        for name in ("walk", "run"):
            csv(tmp_path / "in" / person / f"{name}.csv")
    shards = made(tmp_path, rate=50)
    assert shards.info.labels == ("run", "walk") and column(shards, "subject") == ["p1", "p2"]


def test_splits_above_classes(tmp_path):
    for split in ("train", "test"):
        for name in ("walk", "run"):
            csv(tmp_path / "in" / split / name / "1.csv")
    shards = made(tmp_path, rate=50)
    assert shards.info.labels == ("run", "walk") and shards.info.splits == ("test", "train")
    assert column(shards, "subject") == [
        f"{s}/{c}/1" for s in ("test", "train") for c in ("run", "walk")
    ]


def test_subject_and_label_columns_cut(tmp_path):
    marks = [",walk" if k // 50 in (0, 3) else ",run" for k in range(N)]
    csv(tmp_path / "in" / "a.csv", header="Subject,ax,ay,az,Activity",
        before=lambda k: f"{k // 100},", more=marks.__getitem__)  # fmt: skip
    shards = made(tmp_path, rate=50)
    assert shards.column("subject").tolist() == ["0", "0", "1", "1"]
    assert [shards.info.labels[i] for i in shards.column("label")] == ["walk", "run", "run", "walk"]
    assert shards.column("start").tolist() == [0, 50, 100, 150]
    np.testing.assert_array_equal(shards[2]["signal"], X[100:150])


def test_channels_are_matched_by_name(tmp_path, capsys):
    csv(tmp_path / "in" / "a.csv")
    csv(tmp_path / "in" / "b.csv", X[:, ::-1], "az,ay,ax")
    csv(tmp_path / "in" / "c.csv", X, "AX,az,ay")
    csv(tmp_path / "in" / "d.csv", X, "ax,ay,mz")
    shards = made(tmp_path, rate=50)
    signal = shards.info.signals[0]
    assert signal.channel_names == signal.spec.names == ("ax", "ay", "az")
    assert "channels: ax, ay, az" in describe(shards)
    paths = shards.column("path")
    for path, wanted in (("a.csv", X), ("b.csv", X), ("c.csv", X[:, [0, 2, 1]])):
        rows = np.flatnonzero(paths == path)
        np.testing.assert_array_equal(
            np.concatenate([shards[int(i)]["signal"] for i in rows]), wanted
        )
    assert "d.csv" not in paths
    said = capsys.readouterr().err
    assert "d.csv: signal has the channels ax, ay, mz, the set has ax, ay, az" in said
    assert "b.csv: channels ax, ay, az; axes put in order: ax, ay, az" in said


def test_modalities_by_names_of_sensors_and_of_columns(tmp_path):
    csv(tmp_path / "in" / "a.csv", np.hstack([X, 2 * X]), "ax,ay,az,gx,gy,gz")
    shards = made(tmp_path, rate=50)
    assert [s.name for s in shards.info.signals] == ["acc", "gyro"]
    prepare(str(tmp_path / "in"), tmp_path / "o", rate=50, seconds=1, modalities=("m:GZ,ax",),
            progress=False)  # fmt: skip
    row = open_shards(tmp_path / "o")[0]["m"]
    np.testing.assert_array_equal(row, np.stack([2 * X[:50, 2], X[:50, 0]], 1))
    with pytest.raises(InputError, match="has no channel 'bx' for modality 'm'"):
        prepare(str(tmp_path / "in"), tmp_path / "p", rate=50, modalities=("m:bx",), progress=False)


def test_rates_from_times(tmp_path, capsys):
    """Clocks of phones differ a little: one rate for the set; a contradiction is refused."""
    for name, rate in (("a", 50.0), ("b", 49.5), ("c", 50.5)):
        clock = [f"{k / rate:.5f}," for k in range(N)]
        csv(tmp_path / "in" / f"{name}.csv", header="time,ax,ay,az", before=clock.__getitem__)
    shards = made(tmp_path)
    assert shards.info.signals[0].rate == 50.0
    assert column(shards, "path") == ["a.csv", "b.csv", "c.csv"]
    said = capsys.readouterr().err
    assert "a.csv (and 2 more): time from 'time'; channels ax, ay, az; 50 Hz by the times" in said
    assert "b.csv: steps of 20.2 to 20.2 ms, put on a grid of 50 Hz" in said
    way_out = "not 100 Hz; leave --rate 100 out, or resample on purpose with --rates signal:100"
    with pytest.raises(InputError, match=f"its times say 50 Hz, {way_out}"):
        prepare(str(tmp_path / "in"), tmp_path / "o", rate=100, seconds=1, progress=False)
    prepare(str(tmp_path / "in"), tmp_path / "p", rates=("signal:100",), seconds=1, progress=False)
    assert open_shards(tmp_path / "p").info.signals[0].rate == 100.0


def test_arrays_by_modality_at_their_own_rates(tmp_path):
    gyro = np.random.default_rng(1).normal(size=(2 * N, 3)).astype(np.float32)
    label = np.repeat(["walk", "run"], N // 2)
    npz(tmp_path / "in" / "a.npz", acc=X, acc_rate=50, gyro=gyro, gyro_rate=100, label=label)
    shards = made(tmp_path)
    assert [(s.name, s.rate, s.samples) for s in shards.info.signals] == [
        ("acc", 50.0, 50), ("gyro", 100.0, 100)]  # fmt: skip
    assert [shards.info.labels[i] for i in shards.column("label")] == ["walk"] * 2 + ["run"] * 2
    np.testing.assert_array_equal(shards[2]["acc"], X[100:150])
    np.testing.assert_array_equal(shards[2]["gyro"], gyro[200:300])


def test_windows_with_a_label_and_a_subject_each(tmp_path):
    x = np.random.default_rng(2).normal(size=(6, 50, 3)).astype(np.float32)
    npz(tmp_path / "in" / "a.npz", X=x, y=np.arange(6.0) % 2, subject=np.arange(6) // 3, fs=[50])
    shards = made(tmp_path)
    assert shards.info.labels == ("0", "1") and len(shards) == 6
    assert shards.column("label").tolist() == [0, 1] * 3
    assert shards.column("subject").tolist() == list("000111")
    for i in range(6):
        np.testing.assert_array_equal(shards[i]["signal"], x[i])


def test_an_index_names_tables_and_arrays(tmp_path, write_index):
    csv(tmp_path / "in" / "a.csv", header="time,ax,ay,az", before=lambda k: f"{k / 50:.3f},")
    csv(tmp_path / "in" / "b.csv", X[:, ::-1], "az,ay,ax")
    npz(tmp_path / "in" / "c.npz", x=X, sr=50, channel_names=["ax", "ay", "az"])
    keep = [k for k in range(N) if k != 60]
    csv(
        tmp_path / "in" / "d.csv", X[keep], "time,ax,ay,az", before=lambda k: f"{keep[k] / 50:.3f},"
    )
    rows = [{"path": "a.csv", "label": "u", "start": 50, "end": 100, "sr": 50},
            {"path": "b.csv", "label": "v", "start": 0, "end": 50, "sr": 50},
            {"path": "c.npz", "label": "u", "start": 100, "end": 150, "sr": 50},
            {"path": "d.csv", "label": "u", "start": 100, "end": 150, "sr": 50}]  # fmt: skip
    write_index(tmp_path / "in", rows)
    shards = made(tmp_path)
    assert shards.column("path").tolist() == ["a.csv", "b.csv", "c.npz"]
    for i, first in enumerate((50, 0, 100)):
        np.testing.assert_array_equal(shards[i]["signal"], X[first : first + 50])
    assert "d.csv" in (tmp_path / "out" / "skipped.txt").read_text()
