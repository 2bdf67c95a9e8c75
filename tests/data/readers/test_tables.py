"""What phones and programs write, column by column."""

import numpy as np
import pytest

from jfreq.data.readers.columns import by_axes, modalities_of, role_of
from jfreq.data.readers.recordings import read_recording
from jfreq.data.readers.table_layout import detect_layout
from jfreq.types import InputError

N = 300
I = np.arange(N)  # noqa: E741
S = I / 50
X, Y, Z = np.random.default_rng(3).normal(size=(3, N)).round(5)
XYZ = np.stack([X, Y, Z], 1).astype(np.float32)


def text(header, *columns, sep=",", form="{:.5f}"):
    cells = [[v if isinstance(v, str) else form.format(v) for v in column] for column in columns]
    return "\n".join([header, *(sep.join(line) for line in zip(*cells))]) + "\n"


@pytest.fixture
def read(tmp_path):
    def read(content, name="a.csv", **options):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_recording(path, **options)

    return read


def ms(unit=1, start=0):
    return [f"{start + 20 * k * unit:d}" for k in range(N)]


PHYPHOX = '"Time (s)","Acceleration x (m/s^2)","Acceleration y (m/s^2)","Acceleration z (m/s^2)"'
ANDRO = (
    "ACCELEROMETER X (m/s²);ACCELEROMETER Y (m/s²);ACCELEROMETER Z (m/s²);Time since start in ms ;"
)
APPS = {
    "phyphox": text(PHYPHOX, S, X, Y, Z),
    "phyphox in Germany": text(PHYPHOX.replace(",", ";").replace("Time", "Zeit"), S, X, Y, Z,
                               sep=";").replace(".", ","),
    "Sensor Logger": text("time,seconds_elapsed,z,y,x", ms(10**6, 1650 * 10**15), S, Z, Y, X),
    "Physics Toolbox": text("time,gFx,gFy,gFz,TgF", S, X, Y, Z, X),
    "AndroSensor": text(ANDRO + "YYYY-MO-DD HH-MI-SS_SSS", X, Y, Z, ms(),
                        ["2014-12-11 14:49:18:106"] * N, sep=";"),
    "MetaWear": text("epoc (ms),timestamp (-0500),elapsed (s),x-axis (g),y-axis (g),z-axis (g)",
                     ms(1, 1650 * 10**9), ["2022-01-01T10.00.00"] * N, S, X, Y, Z),
    "milliseconds since 1970": text("timestamp,ax,ay,az", ms(1, 1650 * 10**9), X, Y, Z),
    "microseconds": text("t,ax,ay,az", ms(1000), X, Y, Z),
    "nanoseconds since boot": text("Timestamp,ax,ay,az", ms(10**6, 49105962326000), X, Y, Z),
    "dates": text("datetime,ax,ay,az", [f"2026-05-01 23:59:{58 + k // 50:02d}.{20 * (k % 50):03d}"
                  if k < 100 else f"2026-05-02T00:00:{k // 50 - 2:02d}.{20 * (k % 50):03d}"
                  for k in range(N)], X, Y, Z),
    "times of a day": text("Time,ax,ay,az", [f"09:30:{k // 50:02d}.{20 * (k % 50):03d}"
                                             for k in range(N)], X, Y, Z),
}  # fmt: skip


@pytest.mark.parametrize("app", APPS)
def test_what_apps_write(read, app):
    found = read(APPS[app])
    signal = found.signals[""]
    assert signal.rate == 50.0 and signal.breaks == () and found.measured == 50.0
    np.testing.assert_array_equal(signal.x[:, :3], XYZ)
    assert "time from" in found.layout and len(signal.names) == signal.x.shape[1]
    assert signal.x.shape[1] == (4 if app == "Physics Toolbox" else 3)


@pytest.mark.parametrize(
    ("names", "role"),
    [
        (
            "time,Time (s),timestamp_ms,seconds_elapsed,TIMESTAMP,t,epoch,'datetime',ms,t [us]",
            "time",
        ),
        ("label,Labels,Activity,class,gt,Ground Truth,activity_label,target", "label"),
        ("subject,User ID,userId,participant,person_id", "subject"),
        ("index,Unnamed: 0,sample,row_number", "index"),
        ("x,ax,Acceleration x (m/s^2),gFx,temperature,s,userAcceleration.x,heart rate", None),
    ],
)
def test_roles_by_name(names, role):
    for name in names.split(","):
        assert role_of(name) == role, name


def test_axes_are_put_in_order_and_sensors_found():
    mixed = "az,ay,ax,T,gz,gx,gy"
    assert ",".join(by_axes(mixed.split(","))) == "ax,ay,az,T,gx,gy,gz"
    assert by_axes(["f2", "f1"]) == ["f2", "f1"]
    both = {"acc": [0, 1, 2], "gyro": [3, 4, 5]}
    for names in (
        "ax,ay,az,gx,gy,gz",
        "gFx,gFy,gFz,wx,wy,wz",
        "acc_x,acc_y,acc_z,gyro_x,gyro_y,gyro_z",
        "Acceleration x (g),Acceleration y (g),Acceleration z (g),GyroX,GyroY,GyroZ",
    ):
        assert modalities_of(names.split(",")) == both
    for names in (
        "ax,ay,az",
        "ax,ay,az,gx,gy,gz,T",
        "f1,f2,f3,f4,f5,f6",
        "ax,ay,az,accx,accy,accz",
    ):
        assert modalities_of(names.split(",")) is None


def test_y_is_an_axis_beside_x_and_z_and_a_label_alone(read):
    few = [f"{k // 100}" for k in range(N)]
    assert read(text("x,y,z", X, few, Z)).signals[""].names == ("x", "y", "z")
    labelled = read(text("f1,f2,y", X, Z, few))
    assert labelled.signals[""].names == ("f1", "f2")
    assert labelled.label.names == ("", "0", "1", "2")
    assert read(text("f1,f2,y", X, Z, Y)).signals[""].names == ("f1", "f2", "y")


def test_labels_subjects_and_what_is_left_out(read):
    words = [
        " walk " if k < 100 else "" if k < 150 else "NA" if k < 200 else "1.0" for k in range(N)
    ]
    found = read(text(",User ID,x,y,z,label,note", [str(k) for k in I], ["7"] * N, X, Y, Z, words,
                      ["ok"] * N))  # fmt: skip
    marks = [found.label.names[code] for code in found.label.codes[[0, 120, 170, 299]]]
    assert marks == ["walk", "", "", "1"]
    assert found.subject.names == ("", "7")
    assert found.layout == (
        "channels x, y, z; label from 'label'; subject from 'User ID'; left out: column 1, which "
        "has no name (counts lines); left out: 'note' (text)"
    )
    light = read(text("x,y,z", X, Y, Z), values=False)
    assert light.signals == {} and light.label is None


def test_missing_samples_and_gaps_in_time(read):
    keep = np.setdiff1d(I, [100, 101, 250])
    found = read(text("time,x,y,z", S[keep], X[keep], Y[keep], Z[keep]))
    x = found.signals[""].x
    assert np.flatnonzero(np.isnan(x[:, 0])).tolist() == [100, 101, 250]
    np.testing.assert_array_equal(x[keep], XYZ[keep])
    assert found.remarks == ("3 of 300 samples are missing",) and found.regridded
    label = ["a" if k < 150 else "b" for k in I]
    jump = read(text("time,x,y,z,label", S + 100 * (I >= 200), X, Y, Z, label))
    assert jump.signals[""].breaks == (200,) and not jump.regridded
    assert jump.remarks == ("the time jumps by 100 s at line 202, cut there",)
    again = read(text("time,x,y,z", np.r_[S[:150], S[:150]], X, Y, Z))
    assert again.signals[""].breaks == (150,)


def test_uneven_times_are_put_on_a_grid(read):
    rng = np.random.default_rng(1)
    t = np.sort(S + rng.uniform(-0.009, 0.009, N))
    found = read(text("time,a,b,label", t, np.sin(t), 3 * t, ["u" if k < 150 else "v" for k in I]),
                 rate=50.0)  # fmt: skip
    signal = found.signals[""]
    grid = t[0] + np.arange(len(signal.x)) / 50
    np.testing.assert_allclose(signal.x[:, 1], 3 * grid, atol=1e-3)
    np.testing.assert_allclose(signal.x[:, 0], np.sin(grid), atol=1e-3)
    assert "put on a grid of 50 Hz" in found.remarks[0]
    change = np.flatnonzero(np.diff(found.label.codes))
    assert len(change) == 1 and abs(grid[change[0]] - t[150]) < 0.03


def test_rounded_times_of_another_rate_stay_as_they_are(read):
    sixty = [str(1_650_000_000_000 + int(k * 1000 / 60)) for k in I]
    found = read(text("timestamp,x,y,z", sixty, X, Y, Z))
    assert found.measured == 60.0 and found.remarks == ()
    np.testing.assert_array_equal(found.signals[""].x, XYZ)


def test_a_contradicted_rate_is_refused_and_a_near_one_is_taken(read):
    with pytest.raises(InputError, match="column 'time': its times say 50 Hz, not 100 Hz"):
        read(text("time,x,y,z", S, X, Y, Z), rate=100.0)
    slow = read(text("time,x,y,z", S * 50 / 49, X, Y, Z))
    assert slow.measured == 49.0
    assert read(text("time,x,y,z", S * 50 / 49, X, Y, Z), rate=50.0).signals[""].rate == 50.0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x,y\n1,2\n3\n", r"^line 3: expected 2 fields, found 1$"),
        ("x;y\n1,5;2\n1.5;a\n", r"line 2, column 'x': '1,5' is not a number \(a decimal comma"),
        ("# one\n\nx,y\n1,2\n\n3,abc\n", r"line 6, column 'y': 'abc' is not a number"),
        ("0.5,walk\n0.6,walk\n", "has no header, and column 2 holds words"),
        ("time,label\n1,a\n2,b\n", "has no column of samples"),
        ("time,x\n0,1\n1000,2\n2000,3\n3000,4\n", "column 'time' steps by 1000 and names no unit"),
    ],
)
def test_errors_name_line_and_column(read, content, message):
    with pytest.raises(InputError, match=message):
        read(content)


def test_how_a_file_is_written(tmp_path):
    path = tmp_path / "a.csv"
    for raw, separator, decimal, header in (
        (b"1,2\n3,4\n", ",", ".", False),
        (b"1,5;2\n3;4\n", ";", ",", False),
        (b"a\tb\n1,5\t2\n", "\t", ",", True),
        (b"sep=;\na;b\n1.5;2\n", ";", ".", True),
        (b"0,1\n0.5,2\n", ",", ".", True),
        (b"0,1\n2,3\n", ",", ".", False),
    ):
        path.write_bytes(raw)
        found = detect_layout(path)
        assert (found.separator, found.decimal, found.header) == (separator, decimal, header), raw


def test_a_long_file_with_a_late_surprise_is_read_in_linear_time(read):
    """Labels that change often, and a byte that is not UTF-8 at the very end."""
    n = 100_000
    lines = "".join(f"{k % 7}.5,{k},{'ab'[k // 50 % 2]}\n" for k in range(n))
    found = read(("u,v,label\n" + lines + "1,2,caf").encode() + b"\xe9\n")
    assert found.label.names == ("", "a", "b", "café")
    assert "cp1252" in found.layout
    np.testing.assert_array_equal(found.signals[""].x[:n, 1], np.arange(n, dtype=np.float32))
