"""Files into embeddings for encoders of several sensors at several rates: long recordings, absent
sensors, shards, arrays."""

import re
from typing import Any

import jax
import numpy as np
import pytest
import soundfile
import soxr

from jfreq.data.prepare.run import prepare
from jfreq.data.shards.reader import open_shards
from jfreq.encoder.embed_files import embed_files
from jfreq.encoder.encoder import Encoder
from jfreq.encoder.resampling import as_signal
from jfreq.evaluate.features import extract
from jfreq.methods.mae import MAE
from jfreq.nn.vit import ViT
from jfreq.types import DataSpec, InputError, SignalSpec

ACC = SignalSpec("acc", 50, 64, 3, mean=(0.1, 0.0, 1.0), std=(0.3, 0.3, 0.3))
SPEC = DataSpec((ACC, SignalSpec("mic", 200, 256, 1)))
TINY = ViT(width=16, depth=1, heads=2)


def untrained(spec):
    """A small masked autoencoder and random parameters."""
    method = MAE(encoder=TINY, decoder=TINY, pool="modality").bind(spec)
    shapes = jax.eval_shape(method.init, jax.random.key(0))["trunk"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: rng.normal(0.1, 0.2, s.shape).astype(s.dtype), shapes)
    return method, {"trunk": params}


@pytest.fixture(scope="module")
def network():
    return untrained(SPEC)


@pytest.fixture(scope="module")
def encoder(network):
    method, params = network
    return Encoder(method, params, signals=method.signals, gaps=method.allows_gaps)


def recording(seconds, seed=0):
    rng = np.random.default_rng(seed)
    return {
        s.name: rng.normal(size=(round(seconds * s.rate), s.channels)).astype(np.float32)
        for s in SPEC.signals
    }


def write(path, **arrays: Any):
    np.savez(path, **arrays)
    return path


def read(written):
    with np.load(written.path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_a_gap_makes_two_recordings_of_a_file(encoder, tmp_path):
    said, x = [], recording(4)
    x["acc"][75:125] = np.nan
    path = write(tmp_path / "a.npz", **x, acc_rate=50, mic_rate=200)
    found = read(embed_files(encoder, [path], tmp_path / "out.npz", say=said.append))
    assert found["paths"].tolist() == [str(path)] * 2 and "cut at its gaps into 2" in said[0]
    np.testing.assert_allclose(found["start_s"], [0, 2.5])
    for k, (a, b) in enumerate(((0, 1.5), (2.5, 4))):
        alone = encoder(
            {
                "acc": x["acc"][int(a * 50) : int(b * 50)],
                "mic": x["mic"][int(a * 200) : int(b * 200)],
            }
        )
        np.testing.assert_allclose(found["clip"][k], alone.clip[0], rtol=1e-5, atol=1e-5)


def test_long_recordings_are_cut_in_all_sensors_together(encoder, network):
    method, params = network
    x = recording(2.5 * 1.28)
    out = encoder(x)
    lengths = np.array([64, 64, 32], np.int32)
    batch: dict[str, Any] = {"length": lengths}
    for s in SPEC.signals:
        padded = np.pad(x[s.name], ((0, 3 * s.samples - len(x[s.name])), (0, 0)))
        batch[s.name] = padded.reshape(3, s.samples, s.channels)
    features = jax.jit(method.encode)(params, batch)
    shape = (3, features.grid.time, features.grid.freq)
    valid = np.asarray(features.valid).reshape(shape)
    tokens = np.asarray(features.tokens).reshape(*shape, 16)
    # Intervals of 8 of 64 samples: 8 frames in a whole window, 4 in half of one.
    assert valid.any(2).sum(1).tolist() == [8, 8, 4] and out.valid.tolist() == [20]
    wanted = tokens.mean(2).reshape(24, 16)[:20]
    np.testing.assert_allclose(out.frames[0], wanted, atol=1e-5)
    clip = np.average(features.clip, axis=0, weights=[8, 8, 4])
    np.testing.assert_allclose(out.clip[0], clip, atol=1e-5)
    np.testing.assert_allclose(out.times_ms, 80 + 160 * np.arange(20), atol=1e-9)


@pytest.mark.parametrize("kind", ["nan", "zero"])
def test_a_sensor_is_absent_where_it_is_zero_or_nan(encoder, kind):
    x = recording(3 * 1.28, seed=1)
    whole = encoder(x)
    parts = [
        encoder({k: v[i * n : (i + 1) * n] for (k, v), n in zip(x.items(), (64, 256))})
        for i in range(3)
    ]
    lacking = {k: v.copy() for k, v in x.items()}
    if kind == "nan":
        lacking["acc"][70:90, 1] = np.nan  # inside the second window
    else:
        lacking["acc"][64:128] = 0.0
    out = encoder(lacking)
    assert np.isfinite(out.frames).all() and out.valid.tolist() == [24]
    for part in (slice(0, 8), slice(16, 24)):
        np.testing.assert_allclose(out.frames[0, part], whole.frames[0, part], atol=1e-5)
    assert np.abs(out.frames[0, 8:16] - whole.frames[0, 8:16]).max() > 1e-3
    # The clip vector: acc first, zeros where it is absent.
    mean = (parts[0].clip[0] + parts[2].clip[0])[:16]
    assert np.abs(mean).max() > 1e-2
    weight = 8 / 24
    np.testing.assert_allclose(out.clip[0, :16], weight * mean, atol=1e-5)


def test_windows_without_any_signal_weigh_nothing(encoder):
    x = recording(3 * 1.28, seed=2)
    silent = {k: v.copy() for k, v in x.items()}
    silent["acc"][64:128], silent["mic"][256:512] = 0.0, np.nan
    out = encoder(silent)
    ends = [
        encoder({"acc": x["acc"][64 * i :][:64], "mic": x["mic"][256 * i :][:256]}) for i in (0, 2)
    ]
    np.testing.assert_allclose(out.clip[0], (ends[0].clip + ends[1].clip)[0] / 2, atol=1e-5)
    assert not out.frames[0, 8:16].any() and out.valid.tolist() == [24]
    nothing = encoder({k: np.full_like(v, np.nan) for k, v in x.items()})
    assert not nothing.clip.any() and np.isfinite(nothing.frames).all()


def test_gaps_stay_where_they_are_when_the_rate_changes():
    spec, rng = SPEC.signal("mic"), np.random.default_rng(3)
    x = rng.normal(size=4000).astype(np.float32)
    x[[0, -1]] = 0  # no line from end to end to keep out of the filter
    gapped = x.copy()
    gapped[1000:1100] = np.nan
    found = as_signal(gapped, spec, rate=400.0, gaps=True)[:, 0]
    assert np.flatnonzero(np.isnan(found))[[0, -1]].tolist() == [500, 549]
    assert np.isnan(found).sum() == 50
    far = np.r_[0:400, 650:2000]
    np.testing.assert_allclose(found[far], soxr.resample(x, 400, 200)[far], atol=1e-3)
    assert np.isnan(as_signal(np.full(10, np.nan), spec, rate=100.0, gaps=True)).all()
    with pytest.raises(InputError, match="NaN"):
        as_signal(gapped, spec, rate=400.0)
    with pytest.raises(InputError, match="infinite"):
        as_signal(np.array([1.0, np.inf]), spec, gaps=True)


# ------------------------------------------------------------------ files


def test_recordings_as_arrays(encoder, tmp_path):
    x = recording(4.0, seed=4)
    fast = soxr.resample(x["mic"], 200, 800)
    write(tmp_path / "two.npz", **x, acc_rate=50, mic_rate=200, time=np.arange(3))
    write(tmp_path / "one.npz", acc=x["acc"], mic=fast, acc_rate=50.0, rate=800)
    write(tmp_path / "bare.npz", acc=x["acc"], mic=x["mic"][::4])
    names = [tmp_path / f"{name}.npz" for name in ("two", "one", "bare")]
    found = read(embed_files(encoder, names, tmp_path / "out.npz", rate=50.0))
    assert sorted(found) == ["clip", "frames", "paths", "times_ms", "valid"]
    wanted = [
        encoder(x),
        encoder({"acc": x["acc"], "mic": fast}, {"acc": 50, "mic": 800}),
        encoder({"acc": x["acc"], "mic": x["mic"][::4]}, {"acc": 50, "mic": 50}),
    ]
    for i, one in enumerate(wanted):
        np.testing.assert_allclose(found["clip"][i], one.clip[0], atol=1e-5)
        n = one.valid[0]
        np.testing.assert_allclose(found["frames"][i, :n], one.frames[0], atol=1e-5)


def test_rows_of_shards_are_embedded_as_probes_read_them(tmp_path):
    """Sound at 16 kHz and vibration at another rate, windows of the shards' own length."""
    prepare("synthetic:machines", tmp_path / "set", n=5, seconds=0.1, workers=1, progress=False)
    shards = open_shards(tmp_path / "set")
    assert len({s.rate for s in shards.spec.signals}) == 2
    method, params = untrained(shards.spec)
    encoder = Encoder(method, params, signals=method.signals, gaps=True)
    row = shards[3]
    arrays = {s.name: row[s.name] for s in shards.spec.signals}
    rates = {f"{s.name}_rate": s.rate for s in shards.spec.signals}
    write(tmp_path / "row.npz", **arrays, **rates)
    out = embed_files(encoder, [tmp_path / "set", tmp_path / "row.npz"], tmp_path / "out.npz")
    found = read(out)
    wanted = extract(method, params, shards, np.arange(5), batch=8)
    np.testing.assert_allclose(found["clip"][:5], wanted.x, atol=1e-4)
    np.testing.assert_allclose(found["clip"][5], found["clip"][3], atol=1e-5)
    assert found["label"].tolist() == [*wanted.label, -1]
    assert found["labels"].tolist() == list(shards.info.labels)
    assert found["id"].tolist() == [0, 1, 2, 3, 4, -1]
    assert found["paths"][[0, 5]].tolist() == [str(tmp_path / "set"), str(tmp_path / "row.npz")]


@pytest.fixture(scope="module")
def imu():
    """An encoder of two sensors that lie in one array."""
    spec = DataSpec(tuple(SignalSpec(name, 50, 64, 3) for name in ("acc", "gyro")))
    method, params = untrained(spec)
    return Encoder(method, params, signals=method.signals, gaps=True)


def test_six_channels_of_one_array(imu, tmp_path):
    rng = np.random.default_rng(5)
    x = rng.integers(-3000, 3000, (150, 6)).astype(np.int16)
    scale = np.linspace(1e-3, 2e-3, 6).astype(np.float32)
    write(tmp_path / "x.npz", x=x, scale=scale, sr=50)
    rows = (x * scale)[:, [3, 4, 5, 0, 1, 2]]
    header = "time,a,b,c,d,e,f,label"
    table = np.column_stack([np.arange(150) / 50, rows, np.ones(150)])
    np.savetxt(tmp_path / "x.csv", table, delimiter=",", header=header, comments="", fmt="%.9g")
    wanted = imu({"acc": x[:, :3] * scale[:3], "gyro": x[:, 3:] * scale[3:]}).clip[0]
    found = read(embed_files(imu, [tmp_path / "x.npz"], tmp_path / "out.npz"))
    np.testing.assert_allclose(found["clip"][0], wanted, atol=1e-5)
    channels = {"acc": (3, 4, 5), "gyro": (0, 1, 2)}
    table = embed_files(
        imu, [tmp_path / "x.csv"], tmp_path / "out.npz", rate=50, modalities=channels
    )
    np.testing.assert_allclose(read(table)["clip"][0], wanted, atol=1e-5)


GOOD = {**recording(2.0), "acc_rate": 50, "mic_rate": 200}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mic": None}, "lacks the array 'mic'; it has acc, the encoder reads acc"),
        (
            {"mic_rate": None},
            "states no rate of 'mic'; add mic_rate, rate or a column of times, or give --rate",
        ),
        ({"mic_rate": 0}, "mic_rate: the rate must be a positive number of Hz, got 0"),
        ({"mic_rate": "fast"}, "mic_rate: the rate must be a positive number of Hz, got fast"),
        ({"mic_rate": np.ones(2)}, r"got an array of shape \(2,\)"),
        ({"mic_rate": 100}, "mic lasts 4.000 s and acc 2.000 s; cut them to the same duration"),
        ({"acc": np.ones((100, 2))}, "acc: has 2 channels, but the model reads 3"),
        ({"acc": np.ones((0, 3))}, "acc: is empty"),
        ({"acc": np.full((100, 3), np.inf)}, "acc: holds NaN or infinite samples"),
        ({"acc": np.full((100, 3), "a")}, "acc: holds <U1, not numbers"),
        ({"acc": np.array([None])}, "acc: holds Python objects, which are never unpickled"),
        (
            {"acc": None, "mic": None, "x": np.ones((9, 4))},
            "4 channels and does not say which of them are acc, mic; give --modalities",
        ),
    ],
)
def test_arrays_that_do_not_fit(encoder, tmp_path, change, message):
    arrays = {k: v for k, v in (GOOD | change).items() if v is not None}
    write(tmp_path / "bad.npz", **arrays)
    write(tmp_path / "good.npz", **GOOD)
    paths = [tmp_path / "good.npz", tmp_path / "bad.npz"]
    for inputs, strict in ((paths, True), (paths[1:], False)):
        with pytest.raises(InputError, match=message) as error:
            embed_files(encoder, inputs, tmp_path / "out.npz", strict=strict)
        assert str(error.value).startswith(f"{paths[1]}") and "\n" not in str(error.value)
        assert not (tmp_path / "out.npz").exists()
    out = embed_files(encoder, [tmp_path], tmp_path / "out.npz")
    assert read(out)["paths"].tolist() == [str(paths[0])] and out.skipped == 1
    assert out.skipped_list is not None
    assert re.search(message, out.skipped_list.read_text())


def test_files_that_do_not_fit(encoder, imu, tmp_path):
    def refused(path, message, who=encoder):
        with pytest.raises(InputError, match=message) as error:
            embed_files(who, [path], tmp_path / "out.npz")
        assert str(error.value).startswith(str(path)), error.value
        assert not (tmp_path / "out.npz").exists()

    refused(tmp_path / "none.npz", "no such file")
    (tmp_path / "text.npz").write_text("no archive")
    refused(tmp_path / "text.npz", "is not a whole .npz archive")
    np.savetxt(tmp_path / "x.csv", np.ones((9, 6)), delimiter=",")
    refused(tmp_path / "x.csv", "no rate of 'acc'; add .* or give --rate in Hz", imu)
    np.savetxt(tmp_path / "y.csv", np.ones((9, 4)), delimiter=",")
    refused(tmp_path / "y.csv", "4 channels and does not say which of them are acc, gyro", imu)
    soundfile.write(tmp_path / "a.wav", np.ones(100) * 0.1, 200)
    refused(
        tmp_path / "a.wav",
        r"reads acc \(3 channels\), mic \(1 channels\); give an \.npz",
    )
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds no recordings of sensors .* but no files at all")
    prepare("synthetic:tones", tmp_path / "tones", n=2, seconds=0.5, workers=1, progress=False)
    refused(
        tmp_path / "tones", "lacks the signal 'acc' that the encoder reads; the shards have audio"
    )
