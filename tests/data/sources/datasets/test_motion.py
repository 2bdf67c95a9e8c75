"""Each archive of people's motion, small, in its owner's layout, with values that are known."""

import csv
import io
import zipfile

import numpy as np
import pytest

from jfreq.data.prepare.run import prepare
from jfreq.data.sources.datasets import recognise
from jfreq.evaluate.folds import divide
from jfreq.types import InputError
from tests.data.prepared import made


def write(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


HHAR = ["Index", "Arrival_Time", "Creation_Time", "x", "y", "z", "User", "Model", "Device", "gt"]


BEGIN = 1_424_696_631_000_000_000


def hhar_lines(user, device, gt, seconds, rate, sign, *, start=BEGIN, seed=0):
    """x is the time since ``start``, y and z follow from it; times jitter by a millisecond."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    t[1:-1] += rng.uniform(-1e-3, 1e-3, len(t) - 2)
    for i, s in enumerate(t.tolist()):
        nanoseconds = start + round(s * 1e9)
        yield [i, nanoseconds // 10**6, nanoseconds, s * sign, -s * sign, 9.8, user, device[:-2],
               device, gt]  # fmt: skip


@pytest.fixture
def hhar(tmp_path):
    """A phone at 200 and 100 Hz that pauses, a watch without a gyroscope, an unlabelled part."""
    folder = tmp_path / "Activity recognition exp"
    later, last, phone = BEGIN + 60 * 10**9, BEGIN + 70 * 10**9, ("a", "nexus4_1")
    acc = [
        *hhar_lines(*phone, "walk", 12, 200, 1),
        *hhar_lines("b", "s3_2", "stairsup", 6, 150, 1),
        *hhar_lines(*phone, "walk", 5, 200, 1, start=later),
        *hhar_lines(*phone, "null", 6, 200, 1, start=last),
    ]
    gyro = [
        *hhar_lines(*phone, "walk", 11, 100, -1, seed=1),
        *hhar_lines(*phone, "walk", 5, 100, -1, start=later, seed=1),
        *hhar_lines("b", "s3_2", "stairsup", 6, 50, -1, seed=1),
        *hhar_lines(*phone, "null", 6, 100, -1, start=last),
    ]
    acc += hhar_lines("a", "samsungold_1", "sit", 4, 50, 1)
    write(folder / "Phones_accelerometer.csv", HHAR, acc)
    write(folder / "Phones_gyroscope.csv", HHAR, gyro)
    write(folder / "Watch_accelerometer.csv", HHAR, hhar_lines("c", "gear_1", "bike", 6, 100, 1))
    write(folder / "Watch_gyroscope.csv", HHAR, hhar_lines("c", "gear_1", "bike", 6, 100, -1))
    return tmp_path


def test_hhar(hhar, tmp_path):
    shards = made(hhar, tmp_path / "out", seconds=2.0)
    assert [(s.name, s.rate, s.samples, s.channels) for s in shards.spec.signals] == [
        ("acc", 100.0, 200, 3),
        ("gyro", 100.0, 200, 3),
    ]
    assert shards.info.labels == ("bike", "walk", "stairsup")
    path, start, length = (shards.column(n) for n in ("path", "start", "length"))
    walk = np.flatnonzero(path == "phones/a/nexus4_1/walk")
    np.testing.assert_array_equal(start[walk], [0, 200, 400, 600, 800, 1000, 1100, 1300, 1500])
    assert length[walk].tolist() == [200] * 5 + [100] + [200, 200, 100]
    begins = [0, 2, 4, 6, 8, 10, 60, 62, 64]
    for i, begin in zip(walk.tolist(), begins):
        seconds = begin % 60 + np.arange(length[i]) / 100
        row = shards[i]
        np.testing.assert_allclose(row["acc"][: length[i], 0], seconds, atol=0.01)
        np.testing.assert_allclose(row["gyro"][: length[i], 0], -seconds, atol=2e-3)
        np.testing.assert_allclose(row["acc"][: length[i], 2], 9.8, rtol=1e-5)
    users = dict(zip(path.tolist(), shards.column("subject").tolist()))
    assert users["phones/b/s3_2/stairsup"] == "b" and users["watch/c/gear_1/bike"] == "c"
    assert (
        "phones/a/samsungold_1/sit: has only one of the two sensors"
        in (tmp_path / "out/skipped.txt").read_text()
    )
    assert (shards.column("label") >= 0).all()
    folds = divide(shards, np.arange(len(shards)), leave_one_subject_out=True)
    assert [fold.name for fold in folds] == ["a", "b", "c"]
    more = made(
        hhar, tmp_path / "more", seconds=2.0, rate=50.0, unlabelled=True, only=("phones/a/*",)
    )
    assert set(more.column("path")[more.column("label") < 0]) == {"phones/a/nexus4_1/null"}
    assert more.spec.signals[0].rate == 50.0


def test_hhar_names_what_is_wrong(hhar, tmp_path):
    acc = hhar / "Activity recognition exp" / "Phones_accelerometer.csv"
    text = acc.read_text()
    acc.write_text(text.replace("Creation_Time", "Created", 1))
    with pytest.raises(
        InputError, match=r"Phones_accelerometer.csv: has no column 'Creation_Time'"
    ):
        made(hhar, tmp_path / "out")
    acc.write_text(text + "1,2,3,four,5,6,a,nexus4,nexus4_1,walk\n")
    with pytest.raises(InputError, match=r"Phones_accelerometer.csv: could not convert string"):
        made(hhar, tmp_path / "out")
    acc.with_name("Phones_gyroscope.csv").unlink()
    acc.write_text(text)
    with pytest.raises(InputError, match=r"Phones_gyroscope.csv: is missing"):
        made(hhar, tmp_path / "out")


@pytest.fixture
def ucihar(tmp_path, rng):
    root = tmp_path / "UCI HAR Dataset"
    root.mkdir()
    (root / "activity_labels.txt").write_text("1 WALKING\n2 WALKING_UPSTAIRS\n5 STANDING\n")
    x = {}
    for split, subjects, activity in (("train", (1, 1, 3), (5, 1, 2)), ("test", (2, 4), (1, 5))):
        signals = root / split / "Inertial Signals"
        signals.mkdir(parents=True)
        for name in ("total_acc", "body_gyro", "body_acc"):
            for axis in "xyz":
                x[split, f"{name}_{axis}"] = values = rng.normal(size=(len(subjects), 128))
                lines = ["".join(f" {v: .7e}" for v in row) + "\n" for row in values]
                (signals / f"{name}_{axis}_{split}.txt").write_text("".join(lines))
        (root / split / f"subject_{split}.txt").write_text("".join(f"{s}\n" for s in subjects))
        (root / split / f"y_{split}.txt").write_text("".join(f"{a}\n" for a in activity))
    return tmp_path, x


def test_ucihar(ucihar, tmp_path):
    folder, x = ucihar
    shards = made(folder, tmp_path / "out")
    assert shards.info.labels == ("walking", "walking_upstairs", "standing")
    assert shards.column("label").tolist() == [2, 0, 1, 0, 2]
    assert shards.column("subject").tolist() == [f"subject{i}" for i in (1, 1, 3, 2, 4)]
    assert [(s.rate, s.samples) for s in shards.spec.signals] == [(50.0, 128)] * 2
    for row, split, i in ((0, "train", 0), (2, "train", 2), (4, "test", 1)):
        for name, signal in (("acc", "total_acc"), ("gyro", "body_gyro")):
            expected = np.stack([x[split, f"{signal}_{axis}"][i] for axis in "xyz"], 1)
            np.testing.assert_allclose(shards[row][name], expected, rtol=1e-6)
    (official,) = divide(shards, np.arange(5), only=("test",))
    assert official.train.tolist() == [0, 1, 2] and official.test.tolist() == [3, 4]


def test_ucihar_with_a_subject_in_both_splits_is_refused(ucihar, tmp_path):
    folder, _ = ucihar
    path = folder / "UCI HAR Dataset/test/subject_test.txt"
    path.write_text("2\n3\n")
    with pytest.raises(
        InputError, match=r"test: subject 'subject3' is in both training and test rows"
    ):
        divide(made(folder, tmp_path / "out"), np.arange(5), only=("test",))
    path.write_text("2\n")
    with pytest.raises(InputError, match=r"y_test.txt has 2 lines, subject_test.txt 1"):
        made(folder, tmp_path / "o")


MOTION = [f"{n}.{a}" for n in ("gravity", "rotationRate", "userAcceleration") for a in "xyz"]


def test_motionsense(tmp_path, rng):
    home = tmp_path / "in" / "A_DeviceMotion_data" / "A_DeviceMotion_data"
    x = {}
    for trial, subject in (("wlk_7", 2), ("wlk_7", 10), ("std_14", 2), ("wlk_15", 2)):
        x[trial, subject] = values = rng.normal(size=(130, 9))
        attitude = np.zeros((130, 3))
        rows = np.hstack([np.arange(130)[:, None], attitude, values]).tolist()
        header = ["", "attitude.roll", "attitude.pitch", "attitude.yaw", *MOTION]
        write(home / trial / f"sub_{subject}.csv", header, rows)
    write(tmp_path / "in/B_Accelerometer_data/wlk_7/sub_2.csv", ["", "x", "y", "z"], [[0, 1, 2, 3]])
    shards = made(tmp_path / "in", tmp_path / "out", seconds=2.6)
    path = shards.column("path").tolist()
    assert [p.removeprefix("A_DeviceMotion_data/A_DeviceMotion_data/") for p in path] == [
        "std_14/sub_2.csv", "wlk_15/sub_2.csv", "wlk_7/sub_2.csv", "wlk_7/sub_10.csv",
    ]  # fmt: skip
    assert shards.info.labels == ("walking", "standing")
    assert shards.column("label").tolist() == [1, 0, 0, 0]
    assert shards.column("subject").tolist() == ["sub_2", "sub_2", "sub_2", "sub_10"]
    values = x["wlk_7", 10]
    np.testing.assert_allclose(shards[3]["acc"], values[:, :3] + values[:, 6:], rtol=1e-5)
    np.testing.assert_allclose(shards[3]["gyro"], values[:, 3:6], rtol=1e-5)
    assert shards.spec.signals[0].rate == 50.0


def pamap_file(path, stretches, rng, *, lost=()):
    """54 columns; column k of the sensors holds k + noise, so that a mix-up shows."""
    n = sum(count for _, count in stretches)
    x = np.tile(np.arange(54.0), (n, 1)) + rng.uniform(-0.01, 0.01, (n, 54))
    x[:, 0] = 5.0 + np.arange(n) / 100
    x[:, 1] = np.concatenate([np.full(count, code) for code, count in stretches])
    x[:, 2] = np.where(np.arange(n) % 11, np.nan, 90)
    for a, b in lost:
        x[a:b, 4:20] = np.nan
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, x, fmt="%.6g")
    return x


def test_pamap2(tmp_path, rng):
    folder = tmp_path / "in" / "PAMAP2_Dataset"
    plan = [(0, 300), (4, 500), (0, 300), (24, 400)]
    x = pamap_file(folder / "Protocol/subject101.dat", plan, rng, lost=[(400, 405), (500, 560)])
    pamap_file(folder / "Protocol/subject102.dat", [(1, 300)], rng)
    shards = made(tmp_path / "in", tmp_path / "out", seconds=1.0)
    assert shards.info.labels == ("lying", "walking", "rope_jumping")
    assert [(s.name, s.rate, s.channels) for s in shards.spec.signals] == [
        ("acc", 100.0, 9), ("gyro", 100.0, 9), ("mag", 100.0, 9),
    ]  # fmt: skip
    first, expected = shards[0], {"acc": (4, 21, 38), "gyro": (10, 27, 44), "mag": (13, 30, 47)}
    for name, columns in expected.items():
        every = [c + axis for c in columns for axis in range(3)]
        np.testing.assert_allclose(first[name].mean(0), np.array(every), atol=0.02)
    start, label = shards.column("start"), shards.column("label")
    of_one = shards.column("subject") == "subject101"
    assert start[of_one].tolist() == [300, 400, 560, 660, 1100, 1200, 1300, 1400]
    filled = shards.read(np.flatnonzero(of_one & (start == 400)))["acc"][0, :5, 0]
    np.testing.assert_allclose(filled, np.linspace(x[399, 4], x[405, 4], 7)[1:6], rtol=1e-4)
    assert (label >= 0).all()
    rest = made(tmp_path / "in", tmp_path / "rest", seconds=1.0, unlabelled=True)
    free = rest.column("start")[rest.column("label") < 0]
    assert free.tolist() == [0, 100, 200, 800, 900, 1000]
    assert len(divide(rest, np.arange(len(rest)), leave_one_subject_out=True)) == 2


def test_pamap2_refuses_other_activities(tmp_path, rng):
    pamap_file(tmp_path / "in/Protocol/subject105.dat", [(8, 100)], rng)
    with pytest.raises(InputError, match=r"subject105.dat: activity 8 is not one of PAMAP2"):
        made(tmp_path / "in", tmp_path / "out")


SAMPLE = ["id", "attr_time", "attr_x", "attr_y", "attr_z"]


def realworld_csv(seconds, rate, base, *, start=1_435_997_000_000, seed=0):
    """x is ``base`` plus the time since 1 435 997 000 s; stamps are whole milliseconds."""
    rng = np.random.default_rng(seed)
    ms = start + np.round(np.arange(0, seconds, 1 / rate) * 1000 + rng.uniform(-4, 4)).astype(int)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(SAMPLE)
    for i, t in enumerate(ms.tolist()):
        writer.writerow([i + 1, t, base + (t - 1_435_997_000_000) / 1000, 1.0, -1.0])
    return text.getvalue()


def zipped(files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


@pytest.fixture
def realworld(tmp_path):
    """Packed, packed twice in two parts, and unpacked; one place without a gyroscope."""
    data = tmp_path / "in" / "proband1" / "data"
    data.mkdir(parents=True)
    acc = {f"acc_walking_{p}.csv": realworld_csv(8, 50, b) for p, b in (("waist", 0), ("head", 9))}
    (data / "acc_walking_csv.zip").write_bytes(zipped(acc))
    gyro = {"Gyroscope_walking_waist.csv": realworld_csv(8, 49, 100, seed=1)}
    (data / "gyr_walking_csv.zip").write_bytes(zipped({"readMe": "-", **gyro}))
    for sensor, name, base in (("acc", "acc", 0), ("gyr", "Gyroscope", 100)):
        parts = {
            f"{sensor}_climbingup_{k}_csv.zip": zipped({
                f"{name}_climbingup_waist.csv": realworld_csv(
                    6, 50, base, start=1_435_997_000_000 + 60_000 * (k - 1), seed=k
                )
            })
            for k in (1, 2)
        }  # fmt: skip
        (data / f"{sensor}_climbingup_csv.zip").write_bytes(zipped(parts))
    loose = tmp_path / "in" / "proband10" / "data"
    for sensor, name, base in (("acc", "acc", 0), ("gyr", "Gyroscope", 100)):
        path = loose / f"{sensor}_lying_csv" / f"{name}_lying_2_chest.csv"
        path.parent.mkdir(parents=True)
        path.write_text(realworld_csv(5, 50, base))
    (loose / "acc_sitting_csv.zip").write_bytes(b"PK nothing")
    return tmp_path / "in"


def test_realworld(realworld, tmp_path):
    shards = made(realworld, tmp_path / "out", seconds=4.0)
    assert [(s.name, s.rate, s.samples) for s in shards.spec.signals] == [
        ("acc", 50.0, 200), ("gyro", 50.0, 200),
    ]  # fmt: skip
    assert shards.info.labels == ("climbingup", "lying", "walking")
    path = shards.column("path").tolist()
    climbing = [i for i, p in enumerate(path) if p == "proband1/climbingup/waist"]
    assert len(climbing) == 4, "two parts of 6 s: a window and a padded half each"
    assert set(path) == {
        "proband1/climbingup/waist", "proband1/walking/waist", "proband10/lying/chest",
    }  # fmt: skip
    begins = [shards[i]["acc"][0, 0] for i in climbing]
    np.testing.assert_allclose(begins, [0, 4, 60, 64], atol=0.03)
    for i in range(len(shards)):
        row, n = shards[i], shards[i]["length"]
        np.testing.assert_allclose(row["gyro"][:n, 0] - row["acc"][:n, 0], 100, atol=1e-3)
        np.testing.assert_allclose(np.diff(row["acc"][:n, 0]), 0.02, atol=2e-3)
    skipped = (tmp_path / "out/skipped.txt").read_text()
    assert "proband1/walking/head: has no gyro" in skipped
    assert "proband10/data/acc_sitting_csv.zip: File is not a zip file" in skipped
    only = made(realworld, tmp_path / "waist", seconds=4.0, only=("*/waist",))
    assert set(only.column("subject")) == {"proband1"}


def test_layouts_are_recognised(hhar, ucihar, realworld, tmp_path):
    assert recognise(hhar / "Activity recognition exp") == "hhar"
    assert recognise(ucihar[0] / "UCI HAR Dataset") == "ucihar"
    assert recognise(realworld) == "realworld"
    (tmp_path / "other").mkdir()
    assert recognise(tmp_path / "other") is None


@pytest.mark.parametrize(
    "kind", ["hhar", "ucihar", "motionsense", "pamap2", "realworld", "cwru", "csi"]
)
def test_a_folder_of_another_layout_is_refused(tmp_path, kind):
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match=rf"has no .* in it, as {kind} has; docs/data.md"):
        prepare(str(tmp_path / "in"), tmp_path / "out", kind=kind, progress=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is not a folder; name the unpacked archive"):
        prepare(str(tmp_path / "file"), tmp_path / "out", kind=kind, progress=False)


def test_one_damaged_file_does_not_stop_a_set(tmp_path, rng):
    """Another activity, an empty file, a folder of another name: named, and the rest is read."""
    pamap_file(tmp_path / "p/Protocol/subject101.dat", [(4, 300)], rng)
    pamap_file(tmp_path / "p/Protocol/subject105.dat", [(8, 100)], rng)
    (tmp_path / "p/Protocol/subject106.dat").touch()
    shards = made(tmp_path / "p", tmp_path / "p_out", seconds=1.0)
    assert len(shards) == 3 and shards.info.skipped == 2
    skipped = (tmp_path / "p_out/skipped.txt").read_text()
    assert "subject105.dat: activity 8 is not one of PAMAP2" in skipped
    assert "subject106.dat: is empty" in skipped
    write(tmp_path / "m/A_DeviceMotion_data/hop_1/sub_1.csv", ["x"], [[1]])
    with pytest.raises(InputError, match=r"1 left out, the first: .*/sub_1.csv: its folder is"):
        made(tmp_path / "m", tmp_path / "m_out")
