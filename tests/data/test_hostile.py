"""A hundred tables and archives as people and programs spoil them, through ``prepare``.

Every one ends as its right values, or as one line that says what is wrong. Nothing is executed,
nothing hangs, and where values come out they are those that were written.
"""

import codecs
import io
import itertools
import os
import pickle
import struct
import time
import zipfile
from collections.abc import Iterable

import numpy as np

from jfreq.data.prepare.run import prepare
from jfreq.data.shards.reader import open_shards
from jfreq.types import InputError

RATE, N = 50.0, 120
X = np.random.default_rng(5).normal(size=(N, 3)).round(4).astype(np.float32)
SLOWEST = 20.0


def table(x=X, header: str | None = "ax,ay,az", sep=",", decimal=".", nl="\n", end="", quote=""):
    """Text of a table; ``header`` with commas, whatever ``sep`` is."""
    lines = [] if header is None else [header.replace(",", sep) + end]
    for row in x:
        cells = ["" if np.isnan(v) else f"{v:.4f}".replace(".", decimal) for v in row]
        lines.append(sep.join(f"{quote}{c}{quote}" for c in cells) + end)
    return nl.join(lines) + nl


def timed(
    unit=1.0,
    start=0.0,
    form="{:.4f}",
    header="time,ax,ay,az",
    keep: Iterable[int] = range(N),
    jump=0.0,
):
    lines = [header]
    for k in keep:
        t = start + (k / RATE + (jump if k >= N // 2 else 0)) / unit
        lines.append(",".join([form.format(t), *(f"{v:.4f}" for v in X[k])]))
    return "\n".join(lines) + "\n"


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def member(name, raw, method=zipfile.ZIP_DEFLATED, declared=None):
    """An archive of one member, whose directory may lie about its size."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr(name, raw)
    data = bytearray(file.getvalue())
    if declared is not None:
        at = data.index(b"PK\x01\x02")
        data[at + 24 : at + 28] = struct.pack("<I", declared)
    return bytes(data)


def header(shape, dtype="<f4"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": dtype, "fortran_order": False, "shape": shape}
    )
    return file.getvalue()


class Payload:
    """Makes a folder where it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


# ------------------------------------------------------------------ that come out right


def written():
    """``(name, bytes, expected)`` of tables in many hands; expected ``[t 3]`` after filling."""
    gap = X.copy()
    gap[40, 1] = np.nan
    filled = gap.copy()
    filled[40, 1] = (gap[39, 1] + gap[41, 1]) / 2
    encodings = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1")
    grid = itertools.product(",;\t", ".,", encodings, (True, False), ("\n", "\r\n"))
    rng = np.random.default_rng(11)
    chosen = [c for c in grid if c[:2] != (",", ",")]
    for i in rng.permutation(len(chosen))[:34]:
        sep, decimal, encoding, named, nl = chosen[i]
        head = "aéx,aéy,aéz" if named else None
        text = table(gap, head, sep, decimal, nl, quote='"' if i % 3 == 0 else "")
        yield f"table{i}.csv", text.encode(encoding), filled
    mixed = table().replace("\n", "\n# a remark\n\n", 3)
    for name, text, wanted in (
        ("quoted_decimal_comma.csv", table(decimal=",", quote='"'), X),
        ("trailing.csv", table(end=","), X),
        ("trailing_in_lines.csv", table(end=",").replace("az,", "az", 1), X),
        ("remarks.csv", "# phone\n\n" + mixed, X),
        ("sep.csv", "sep=;\n" + table(sep=";"), X),
        ("numbers_as_header.csv", table(header="0,1,2"), X),
        ("na.csv", table(gap).replace(",,", ",NA,"), filled),
        ("nan.tsv", table(gap, sep="\t").replace("\t\t", "\tNaN\t"), filled),
        ("infinite.csv", table(gap).replace(",,", ",-inf,"), filled),
        ("UPPER.CSV", table(), X),
        ("swapped.csv", table(X[:, ::-1], "az,ay,ax"), X),
        ("words.csv", table().replace("\n", ",far\n").replace("far", "note", 1), X),
        ("time.csv", timed(), X),
        ("ns.csv", timed(1e-9, 1.65e18, "{:.0f}"), X),
        ("date.csv", timed(header="note,ax,ay,az").replace("note", "Time (s)"), X),
        ("dropped.csv", timed(keep=[k for k in range(N) if k != 40]), _without(40)),
        ("spaces.csv", table().replace(",", " , "), X),
    ):
        yield name, text.encode(), wanted
    yield "plain.npz", npz(x=X, sr=RATE), X
    yield "f64.npz", npz(x=X.astype(np.float64), sr=np.array([RATE])), X
    yield "ints.npz", npz(x=np.arange(N * 3).reshape(N, 3), sr=RATE), np.arange(N * 3).reshape(N, 3)
    yield "scaled.npz", npz(x=np.full((N, 3), 2, np.int16), sr=RATE, scale=[1.0, 2, 3]), \
        np.tile([2.0, 4, 6], (N, 1))  # fmt: skip
    yield "fortran.npz", npz(x=np.asfortranarray(X), sr=RATE), X
    yield "plain.npy", npy(X), X
    yield "a_npy_called.npz", npy(X), X
    yield "timed.npz", npz(x=X, t=np.arange(N) / RATE), X


def _without(k):
    out = X.copy()
    out[k] = (X[k - 1] + X[k + 1]) / 2
    return out


# ------------------------------------------------------------------ that must be refused


def spoilt(marker):
    """``(name, bytes)`` of what has no right value."""
    good = table()
    lines = good.splitlines(keepends=True)
    at = len(lines) // 2
    evil = np.array([Payload(marker)], dtype=object)
    object_npz, whole = io.BytesIO(), npz(x=X, sr=RATE)
    np.savez(object_npz, x=X, sr=RATE, label=evil, allow_pickle=True)

    def line(text):
        return "".join([*lines[:at], text + "\n", *lines[at:]]).encode()

    texts = {
        "empty.csv": b"", "blank.csv": b"\n\n \n", "header_only.csv": b"ax,ay,az\n",
        "bom_only.csv": codecs.BOM_UTF8, "one_word.csv": b"hello\n", "nul.csv": line("1,\0,2"),
        "binary.csv": np.random.default_rng(1).bytes(5000), "short.csv": line("1,2"),
        "long.csv": line("1,2,3,4"), "word.csv": line("1,abc,3"), "hex.csv": line("1,0x10,3"),
        "underscore.csv": line("1,1_000,3"), "two_points.csv": line("1,1.2.3,3"),
        "unicode_digits.csv": line("1,３,3"), "overflow.csv": line("1,1e400,3"),
        "beyond_float32.csv": line("1,1e39,3"), "open_quote.csv": line('1,"2,3'),
        "quote_inside.csv": line('1,2"2"2,3'), "no_newline.csv": b"1," * 5_000_000 + b"1",
        "one_long_cell.csv": b"ax\n" + b"1" * 3_000_000,
        "twice.csv": table(header="ax,ax,az").encode(),
        "twice_but_for_case.csv": table(header="ax,AX,az").encode(),
        "no_samples.csv": b"time,label\n0,a\n1,b\n", "unnamed_words.csv": b"1,walk,3\n2,walk,4\n",
        "thousands.csv": table(sep=";").replace("\n", ";\n").encode() + b"1.234,5;1;2;\n",
        "nameless.csv": timed(header=",ax,ay,az").encode(), "shuffled.csv": timed(
            keep=np.random.default_rng(2).permutation(N).tolist()).encode(),
        "stuck_time.csv": timed(form="{:.0f}", header="Time (s),ax,ay,az").encode(),
        "same_time.csv": timed(unit=1e30).encode(),
        "unit_unknown.csv": timed(1e-3 / 50, form="{:.0f}").encode(),
        "restless.csv": ("label,ax\n" + "".join(f"{k % 2},{k}\n" for k in range(200))).encode(),
        "other_rate.csv": timed().encode(), "html.csv": b"<html><body>not found</body></html>\n",
        "json.csv": b'{"x": [1, 2, 3],\n "y": [1, 2]}\n',
        "empty_column.csv": b"ax,ay\n" + b"1,\n" * 200,
        "pickle.csv": pickle.dumps(Payload(marker)), "zip.csv": whole,
        "half_utf16.csv": codecs.BOM_UTF16_LE + good.encode("utf-16-le")[:-1] + b"\xd8",
    }  # fmt: skip
    yield from texts.items()
    x3 = np.zeros((N, 3), np.float32)
    arrays = {
        "transposed": {"x": X.T}, "scalar": {"x": np.float32(1)},
        "five": {"x": np.zeros((2, 2, 2, 2, 2))},
        "none": {"x": X[:0]}, "words": {"x": np.full((N, 3), "a")}, "no_x": {"u": np.zeros(3)},
        "dates": {"x": np.zeros((N, 3), "M8[s]")}, "records": {"x": np.zeros(N, "f4,f4")},
        "rate_nan": {"x": x3, "sr": np.nan}, "rate_negative": {"x": X, "sr": -50.0},
        "rate_zero": {"x": X, "sr": 0}, "rate_word": {"x": X, "sr": "fast"},
        "rates": {"x": X, "sr": [1, 2]},
        "rate_inf": {"x": X, "sr": np.inf}, "all_nan": {"x": X * np.nan, "sr": RATE},
        "too_large": {"x": X.astype("f8") * 1e39, "sr": RATE},
        "scale_nan": {"x": X, "scale": np.nan, "sr": RATE},
        "scale_shape": {"x": X, "scale": np.ones(5), "sr": RATE},
        "few_labels": {"x": X, "sr": RATE, "label": ["a"] * 7},
        "label_fractions": {"x": X, "sr": RATE, "label": np.linspace(0, 1, N)},
        "label_bytes": {"x": X, "sr": RATE, "label": np.array([b"\xff"] * N)},
        "one_hot": {"x": np.zeros((9, 20, 3)), "sr": RATE, "y": np.eye(9)},
        "windows_differ": {"acc": np.zeros((4, 9, 3)), "gyro": np.zeros((5, 9, 3)), "sr": RATE},
        "windows_without_axis": {"x": np.zeros((90, 20)), "sr": RATE, "y": np.arange(90) % 7},
        "unsigned": {"acc": np.ones((N, 3), "u1"), "acc_rate": RATE, "gyro": X, "gyro_rate": RATE},
    }  # fmt: skip
    for name, content in arrays.items():
        yield f"{name}.npz", npz(**content)
    small, large = header((20, 3)), header((2**20, 3))
    words = f"{{'descr': __import__('os').mkdir({str(marker)!r})}}".encode()
    code = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(words)) + words
    yield from {
        "object_label.npz": object_npz.getvalue(), "object_x.npy": npy(evil),
        "pickle.npz": pickle.dumps(Payload(marker)), "pickle.npy": pickle.dumps(Payload(marker)),
        "text.npz": b"no archive", "empty.npz": b"", "empty.npy": b"",
        "no_members.npz": member("a.txt", b"1"),
        "nested.npz": member("inner.npz", whole), "nested_npy.npz": member("x.npy", whole),
        "lying.npz": member("x.npy", header((2**40, 3)) + b"\0" * 64),
        "lying.npy": header((2**40, 3)) + b"\0" * 64,
        "overflowing.npz": member("x.npy", header((2**62, 2**62)) + b"\0" * 64),
        "negative.npz": member("x.npy", header((-5, 3)) + b"\0" * 64),
        "too_long.npz": member("x.npy", npy(X) + b"\0" * 64),
        "bomb.npz": member("x.npy", small + b"\0" * 50_000_000, declared=len(small) + 240),
        "directory_lies.npz": member("x.npy", large, declared=len(large) + 12 * 2**20),
        "code.npz": member("x.npy", code),
        "deep.npz": member("x.npy", b"\x93NUMPY\x01\x00\x60\xea" + b"(" * 60_000),
        "truncated.npz": whole[: len(whole) // 2], "cut_end.npz": whole[:-30],
        "truncated.npy": npy(X)[:-40], "flipped.npz": _flipped(whole),
    }.items()  # fmt: skip


def _flipped(raw):
    """One bit of the samples flipped: the checksum says so."""
    data = bytearray(raw)
    data[700] ^= 1
    return bytes(data)


# ------------------------------------------------------------------ the tests


def made(folder, out, rate):
    options = {"kind": "sensors", "seconds": N / RATE, "workers": 1, "progress": False}
    prepare(str(folder), out, rate=rate, **options)
    return open_shards(out)


def alone(folder, name, raw):
    folder.mkdir()
    (folder / name).write_bytes(raw)
    return folder


def stored(shards):
    """All valid samples of a set of one modality, one row after the other."""
    name = shards.info.signals[0].name
    return np.concatenate([shards[i][name][: shards[i]["length"]] for i in range(len(shards))])


def test_tables_and_archives_that_can_be_read(tmp_path, capsys):
    count = 0
    for i, (name, raw, wanted) in enumerate(written()):
        began = time.monotonic()
        folder = alone(tmp_path / f"in{i}", name, raw)
        found = stored(made(folder, tmp_path / f"out{i}", RATE))
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6, err_msg=name)
        assert time.monotonic() - began < SLOWEST, name
        count += 1
    with capsys.disabled():
        print(f"\n{count} tables and archives read, 0 values changed")
    assert count >= 50


def refusal(folder, out, rate):
    """The message of what is refused; empty where it was read."""
    try:
        made(folder, out, rate)
    except InputError as error:
        return str(error)
    return ""


def test_tables_and_archives_that_cannot_be_read(tmp_path, capsys):
    marker, count = tmp_path / "executed", 0
    together = tmp_path / "together"
    together.mkdir()
    (together / "zz_good.npz").write_bytes(npz(x=X, sr=RATE))
    for i, (name, raw) in enumerate(spoilt(marker)):
        began = time.monotonic()
        rate = 100.0 if name == "other_rate.csv" else RATE
        message = refusal(alone(tmp_path / f"in{i}", name, raw), tmp_path / f"out{i}", rate)
        assert message and "\n" not in message and name in message, f"{name}: {message}"
        assert time.monotonic() - began < SLOWEST, name
        if name != "other_rate.csv":
            (together / name).write_bytes(raw)
        count += 1
    shards = made(together, tmp_path / "out", RATE)
    assert set(shards.column("path").tolist()) == {"zz_good.npz"}
    skipped = (tmp_path / "out" / "skipped.txt").read_text().splitlines()
    named = {line.partition(":")[0] for line in skipped}
    assert named == {path.name for path in together.iterdir()} - {"zz_good.npz"}
    assert not marker.exists()
    with capsys.disabled():
        print(f"\n{count} refused by name, 0 tracebacks, 0 hangs, 0 executed")
    assert count >= 75
