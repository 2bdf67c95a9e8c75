import numpy as np
import pytest
import soundfile

from jfreq.data.options import parse_modalities
from jfreq.data.prepare.run import prepare
from jfreq.types import InputError
from tests.data.prepared import made


def clip(path, rng, samples=1600, rate=16000):
    x = rng.integers(-900, 900, samples).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, x, rate, subtype="PCM_16")
    return x


def test_a_folder_per_class(tmp_path, rng):
    expected = {}
    for name in ("dog/b.wav", "dog/deep/a.flac", "cat/a.aiff", "loose.wav", "dog/.hidden.wav"):
        expected[name] = clip(tmp_path / "in" / name, rng)
    (tmp_path / "in" / "dog" / "notes.txt").write_text("no audio")
    shards = made(tmp_path / "in", tmp_path / "out")
    assert shards.info.labels == ("cat", "dog")
    label = dict(zip(shards.column("path").tolist(), shards.column("label").tolist()))
    assert label == {"cat/a.aiff": 0, "dog/b.wav": 1, "dog/deep/a.flac": 1, "loose.wav": -1}
    row = shards.column("path").tolist().index("dog/deep/a.flac")
    np.testing.assert_array_equal(shards[row]["audio"][:, 0], expected["dog/deep/a.flac"])
    with pytest.raises(InputError, match="label 'dog' is not in the list of labels"):
        prepare(str(tmp_path / "in"), tmp_path / "o", labels=("cat",), progress=False)


def test_index_rows_with_ranges_of_audio(tmp_path, rng, write_index):
    x = clip(tmp_path / "in" / "long.wav", rng, 8000)
    rows = [{"path": "long.wav", "start": s, "end": s + 1000} for s in (0, 2500, 7000)]
    write_index(tmp_path / "in", [*rows, {"path": "long.wav", "start": 7500, "end": 8001}])
    shards = made(tmp_path / "in", tmp_path / "out")
    assert shards.info.labels == ()
    assert shards.info.skipped == 1
    skipped = (tmp_path / "out/skipped.txt").read_text()
    assert "samples 7500..8001 lie outside its 8000" in skipped
    for i, r in enumerate(rows):
        np.testing.assert_array_equal(shards[i]["audio"][:, 0], x[r["start"] : r["end"]])
        assert shards[i]["label"] == -1
    np.testing.assert_array_equal(shards.column("start"), [0, 2500, 7000])


def test_sensor_npz_with_scale_and_label_per_sample(tmp_path, rng):
    (tmp_path / "in").mkdir()
    x = rng.integers(-900, 900, (1000, 6)).astype(np.int16)
    scale = np.arange(1, 7, dtype=np.float32) / 100
    label = np.array(["sit"] * 300 + ["walk"] * 500 + ["sit"] * 200)
    np.savez(tmp_path / "in" / "r1.npz", x=x, scale=scale, sr=np.float32(50), label=label)
    shards = made(tmp_path / "in", tmp_path / "out", seconds=2.0)
    assert [(s.name, s.rate, s.samples, s.channels, s.dtype) for s in shards.info.signals] == [
        ("acc", 50.0, 100, 3, "float32"),
        ("gyro", 50.0, 100, 3, "float32"),
    ]
    assert shards.info.labels == ("sit", "walk")
    np.testing.assert_array_equal(shards.column("label"), [0] * 3 + [1] * 5 + [0] * 2)
    np.testing.assert_array_equal(shards.column("start"), np.arange(10) * 100)
    physical = x.astype(np.float32) * scale
    np.testing.assert_array_equal(shards[3]["gyro"], physical[300:400, 3:])
    np.testing.assert_array_equal(shards[9]["acc"], physical[900:, :3])


def test_sensor_csv_with_header_time_and_label(tmp_path, rng):
    (tmp_path / "in").mkdir()
    x = rng.normal(size=(90, 2)).astype(np.float32)
    lines = [f"{i},{a!r},{b!r},{'on' if i < 50 else 'off'}" for i, (a, b) in enumerate(x.tolist())]
    (tmp_path / "in" / "r.csv").write_text("time,a,b,label\n" + "\n".join(lines) + "\n")
    np.savetxt(
        tmp_path / "in" / "plain.csv", x[:30], delimiter=",", fmt="%.9g", header="a,b", comments=""
    )
    with pytest.raises(InputError, match="nothing states its sampling rate; give a rate"):
        prepare(str(tmp_path / "in"), tmp_path / "o", kind="sensors", progress=False)
    shards = made(tmp_path / "in", tmp_path / "out", kind="sensors", rate=10, seconds=2)
    assert shards.info.labels == ("off", "on")
    paths = shards.column("path")
    np.testing.assert_array_equal(shards.column("label")[paths == "plain.csv"], [-1, -1])
    of_r = np.flatnonzero(paths == "r.csv")
    np.testing.assert_array_equal(shards.column("label")[of_r], [1, 1, 1, 0, 0])
    np.testing.assert_array_equal(shards.column("length")[of_r], [20, 20, 10, 20, 20])
    np.testing.assert_allclose(shards[of_r[0]]["signal"], x[:20], rtol=1e-6)
    np.testing.assert_allclose(shards[of_r[3]]["signal"], x[50:70], rtol=1e-6)


def test_sensor_resampling_and_named_modalities(tmp_path):
    (tmp_path / "in").mkdir()
    t = np.arange(2000) / 100
    x = np.stack([np.sin(2 * np.pi * 3 * t), np.cos(2 * np.pi * 3 * t), t * 0 + 2], 1)
    np.savez(tmp_path / "in" / "r.npz", x=x.astype(np.float32), fs=100)
    shards = made(tmp_path / "in", tmp_path / "out", rate=25, modalities=("rot:0-1", "dc:2"))
    assert [(s.name, s.rate, s.channels) for s in shards.info.signals] == [
        ("rot", 25.0, 2),
        ("dc", 25.0, 1),
    ]
    row = shards[0]
    u = np.arange(250) / 25
    inner = slice(25, 225)
    np.testing.assert_allclose(row["rot"][inner, 0], np.sin(2 * np.pi * 3 * u)[inner], atol=2e-3)
    np.testing.assert_allclose(row["dc"], 2, rtol=1e-6)


def test_resampling_does_not_ring_at_the_ends(tmp_path):
    """Gravity, and a sensor that is turned: soxr takes silence for what lies outside."""
    (tmp_path / "in").mkdir()
    t = np.arange(1000) / 100
    x = np.stack([0 * t + 9.81, 2 * t - 3, np.sin(2 * np.pi * 0.05 * t)], 1).astype(np.float32)
    np.savez(tmp_path / "in" / "r.npz", x=x, sr=100)
    row = made(tmp_path / "in", tmp_path / "out", rate=30)[0]["signal"]
    u = np.arange(300) / 30
    expected = np.stack([0 * u + 9.81, 2 * u - 3, np.sin(2 * np.pi * 0.05 * u)], 1)
    np.testing.assert_allclose(row, expected, atol=0.01)


def test_other_channels_are_another_set(tmp_path, rng):
    (tmp_path / "in").mkdir()
    np.savez(tmp_path / "in" / "r.npz", x=rng.normal(size=(100, 4)).astype(np.float32), sr=50)
    made(tmp_path / "in", tmp_path / "out", modalities=("a:0-1",))
    with pytest.raises(InputError, match="holds a finished set of other data or options"):
        made(tmp_path / "in", tmp_path / "out", modalities=("a:2-3",))


def test_the_options_know_every_kind():
    from typing import get_args

    from jfreq.data import options
    from jfreq.data.sources import kinds

    assert set(get_args(options.Kind)) == {"auto", *kinds.KINDS}


def test_sensor_files_that_disagree_are_skipped_by_name(tmp_path, rng):
    (tmp_path / "in").mkdir()

    def save(name, **arrays):
        np.savez(tmp_path / "in" / name, **arrays)

    x = rng.normal(size=(100, 3)).astype(np.float32)
    save("a.npz", x=x, sr=50)
    save("b_rate.npz", x=x, sr=60)
    save("c_width.npz", x=x[:, :2], sr=50)
    save("d_zero.npz", x=x, sr=0)
    save("e_nan.npz", x=np.where([False, True, False], np.nan, x), sr=50)
    save("f_names.npz", u=np.zeros(3), v=np.zeros(3), sr=50)
    save("g_empty.npz", x=x[:0], sr=50)
    save("h_object.npz", x=np.array([{}]), sr=50)
    (tmp_path / "in" / "i_cut.npz").write_bytes((tmp_path / "in" / "a.npz").read_bytes()[:200])
    (tmp_path / "in" / "j.csv").write_text("a,b\n1,2\n3\n")
    shards = made(tmp_path / "in", tmp_path / "out", kind="sensors")
    assert shards.column("path").tolist() == ["a.npz"]
    text = (tmp_path / "out" / "skipped.txt").read_text()
    for line in (
        "b_rate.npz: signal has 60 Hz, the set has 50 Hz",
        "c_width.npz: signal has 2 channels, the set has 3",
        "d_zero.npz: sr: the rate must be a positive number of Hz, got 0",
        "e_nan.npz: signal: channel 1 is missing throughout (NaN or infinity)",
        "f_names.npz: has no array 'x' of samples; it has: u, v, sr",
        "g_empty.npz",
        "h_object.npz",
        "i_cut.npz",
        "j.csv",
    ):
        assert line in text


def test_index_of_arrays_with_items(tmp_path, rng, write_index):
    (tmp_path / "in").mkdir()
    x = rng.normal(size=(4, 500, 3)).astype(np.float32)
    np.savez(tmp_path / "in" / "w.npz", x=x)
    rows = [
        {"path": "w.npz", "row": i, "start": 100 * i, "end": 100 * i + 50, "label": f"l{i % 2}",
         "sr": 100} for i in range(4)
    ]  # fmt: skip
    shards = made(write_index(tmp_path / "in", rows), tmp_path / "out")
    for i in range(4):
        np.testing.assert_array_equal(shards[i]["signal"], x[i, 100 * i : 100 * i + 50])
    assert shards.info.signals[0].rate == 100.0


def test_synthetic_rows_are_those_of_the_generator(machines, machine_shards):
    from jfreq.data.sources import synthetic

    for i in (0, 13):
        clip_ = synthetic.clip("machines", i, seconds=0.25)
        for name, (x, rate) in clip_.signals.items():
            np.testing.assert_array_equal(machine_shards[i][name], x)
            assert machine_shards.spec.signal(name).rate == rate
        assert machine_shards[i]["label"] == clip_.label
        assert machine_shards.column("fold")[i] == clip_.fold
        assert machine_shards.column("subject")[i] == f"machines-{clip_.subject}"


def test_modalities_are_parsed():
    assert parse_modalities(("acc:0-2", "mag:3,5-6,mz")) == {
        "acc": (0, 1, 2),
        "mag": (3, 5, 6, "mz"),
    }
    for bad in ("acc", "acc:", "acc:ax,,az", "acc:3-1"):
        with pytest.raises(InputError, match="modalities"):
            parse_modalities((bad,))


@pytest.fixture(scope="module", params=["tfrecord", "array_record"])
def tfds_folder(request, tmp_path_factory):
    """A tiny audio set that TFDS itself writes, in both of its file formats."""
    import tensorflow_datasets as tfds

    class TinyTones(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        code_path = None
        name = "tiny_tones"

        def _info(self):
            features = {
                "audio": tfds.features.Audio(sample_rate=8000),
                "label": tfds.features.ClassLabel(names=["low", "high"]),
            }
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._examples(70), "test": self._examples(5)}

        def _examples(self, n):
            for i in range(n):
                unknown = n == 5
                label = -1 if unknown else i % 2
                yield i, {"audio": np.full(800 + i, i, np.int64), "label": label}

        def _generate_examples(self):
            raise NotImplementedError

    folder = tmp_path_factory.mktemp(request.param)
    builder = TinyTones(data_dir=str(folder), file_format=request.param)
    builder.download_and_prepare()
    return builder.data_path


@pytest.mark.tf
def test_tensorflow_datasets(tfds_folder, tmp_path):
    shards = made(f"tfds:{tfds_folder}", tmp_path / "out", rate=8000)
    assert len(shards) == 75
    assert shards.info.labels == ("low", "high")
    assert shards.info.splits == ("test", "train")
    assert shards.info.signals[0].samples == 869
    block = shards.read(shards.rows("train"))
    value = block["audio"][:, 0, 0]
    np.testing.assert_array_equal(np.sort(value), np.arange(70))
    np.testing.assert_array_equal(block["length"], 800 + value)
    np.testing.assert_array_equal(block["label"], value % 2)
    assert set(shards.column("label")[shards.rows("test")]) == {-1}


@pytest.mark.tf
def test_unknown_tfds_sets_are_refused(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def missing(name):
        raise tfds.core.DatasetNotFoundError(f"Dataset {name} not found.")

    monkeypatch.setattr(tfds, "builder", missing)
    with pytest.raises(InputError, match=r"tfds:no_such_set: TensorFlow Datasets cannot open it"):
        prepare("tfds:no_such_set", tmp_path / "out", progress=False)
