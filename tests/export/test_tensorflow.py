"""SavedModel and TFLite: TensorFlow and LiteRT return what the encoder returns."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jfreq import cli, load_encoder, recipes
from jfreq.config import replace
from jfreq.export import saved_model, tflite
from jfreq.export.bundle import load_bundle, save_bundle
from jfreq.export.export_run import export_run
from jfreq.export.flat import flatten
from jfreq.export.portable import adapt, in_float32
from jfreq.method import encoder_params
from jfreq.testing import ACC_MIC, small
from jfreq.types import DataSpec, InputError, SignalSpec
from tests.export.encoders import weights

pytestmark = pytest.mark.tf
FORMATS = ("saved_model", "tflite", "tflite_float16", "tflite_int8")
CLASSES = DataSpec((SignalSpec("audio", 16000.0, 16000),), ("a", "b", "c"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A bundle of a classifier of one block."""
    experiment = replace(recipes.load("ast_nano"), method__encoder__depth=1)
    method = experiment.method.bind(CLASSES)
    folder = tmp_path_factory.mktemp("tensorflow") / "run"
    return save_bundle(
        folder, experiment=replace(experiment, method=method), params=weights(method)
    )


@pytest.fixture(scope="module")
def exported(run):
    """All formats, by the command line."""
    out = run.with_name("enc")
    cli.main(["export", str(run), "--out", str(out), "--format", *FORMATS])
    return out


def test_the_folder_holds_all_formats(exported):
    names = {path.name for path in exported.iterdir()}
    assert names >= {"saved_model", *tflite.FILES.values()}
    assert {p.name for p in (exported / "saved_model").iterdir()} >= {"saved_model.pb", "variables"}
    sizes = [(exported / tflite.FILES[kind]).stat().st_size for kind in ("float32", "float16")]
    assert sizes[1] < 0.7 * sizes[0]
    card = (exported / "README.md").read_text()
    for title in ("SavedModel", "TFLite, float32", "TFLite, float16", "TFLite, int8"):
        assert f"\n## {title}\n" in card


def test_each_snippet_of_the_card_runs_as_it_stands(exported):
    """In one process without jfreq and jax."""
    card = (exported / "README.md").read_text()
    snippets = re.findall(r"```python\n(# In this folder.*?)```", card, re.DOTALL)
    assert len(snippets) == 4
    code = "import sys\nfor name in ('jfreq', 'jax', 'flax'):\n    sys.modules[name] = None\n"
    for snippet in snippets:
        code += snippet + "\nprint(outputs['clip'].shape, scores.sum(-1).round(3))\n"
    done = python(code, exported)
    assert done.count("[1. 1.]") == 1 and done.count("[1.]") == 3


def test_the_recipes_of_the_docs_need_no_jfreq(exported, root):
    text = (root / "docs" / "export.md").read_text()
    code = "import sys\nfor name in ('jfreq', 'jax', 'flax'):\n    sys.modules[name] = None\n"
    for title in ("SavedModel", "TFLite"):
        (recipe,) = re.findall(rf"```python\n(# {title} without jfreq.*?)```", text, re.DOTALL)
        code += recipe + "\nprint(outputs['clip'].shape)\n"
    assert re.findall(r"\((\d+), \d+\)", python(code, exported)) == ["2", "1"]


def python(code, folder):
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("seconds", [0.3, 1.0, 1.01, 2.0, 3.7])
def test_recordings_of_any_length_are_embedded_as_jfreq_embeds_them(run, exported, seconds):
    """A short recording and a long one in a batch, padded to the longer one."""
    rng = np.random.default_rng(0)
    length = np.array([int(16000 * seconds), 9000], np.int32)
    wave = np.zeros((2, max(length) + 50, 1), np.float32)
    for row, n in zip(wave, length):
        row[:n] = rng.normal(0, 0.1, (n, 1))
    found = saved_model.runner(exported / "saved_model")({}, {"audio": wave, "length": length})
    wanted = load_encoder(run)([row[:n] for row, n in zip(wave, length)])
    np.testing.assert_array_equal(found["valid"], wanted.valid)
    for name in ("clip", "logits"):
        np.testing.assert_allclose(found[name], getattr(wanted, name), atol=1e-4)
    frames = wanted.frames.shape[1]
    np.testing.assert_allclose(found["frames"][:, :frames], wanted.frames, atol=1e-4)
    assert not found["frames"][:, frames:].any()


def test_frames_are_not_compared_with_every_window():
    """Which would take memory that grows with the square of the length."""
    import tensorflow as tf

    def join(clip, frames, valid):
        number, last = tf.range(4)[None, :], tf.fill([2, 1], 3)
        outputs = {"clip": clip, "frames": frames, "valid": valid}
        return saved_model._joined(outputs, number, last, 5)

    spec = [tf.TensorSpec([2, 4, 3], tf.float32), tf.TensorSpec([2, 4, 6, 3], tf.float32)]
    graph = tf.function(join).get_concrete_function(*spec, tf.TensorSpec([2, 4], tf.int32)).graph
    compared = [op for op in graph.get_operations() if op.type.startswith(("Greater", "Less"))]
    assert compared and all(op.outputs[0].shape.rank <= 2 for op in compared)


def test_labels_are_in_the_saved_model(exported):
    import tensorflow as tf

    program = tf.saved_model.load(str(exported / "saved_model"))
    assert [name.decode() for name in program.labels.numpy()] == ["a", "b", "c"]


@pytest.mark.slow
def test_sensors_of_two_rates(tmp_path):
    """Absent sensors, and recordings of several windows in all sensors together."""
    experiment = recipes.load("mae_nano")
    method = small(experiment.method).bind(ACC_MIC)
    params = encoder_params(method, weights(method))
    folder = tmp_path / "run"
    save_bundle(folder, experiment=replace(experiment, method=method), params=params)
    out = export_run(folder, tmp_path / "enc", formats=("saved_model", "tflite"))
    rng = np.random.default_rng(0)
    item = {
        "acc": rng.normal(0, 1, (320, 3)).astype(np.float32),
        "mic": rng.normal(0, 1, (1280, 1)).astype(np.float32),
    }
    item["acc"][:140] = 0
    given = {name: x[None] for name, x in item.items()} | {"length": np.array([320], np.int32)}
    found = saved_model.runner(Path(out) / "saved_model")({}, given)
    wanted = load_encoder(folder)(item)
    np.testing.assert_array_equal(found["valid"], wanted.valid)
    scale = np.abs(wanted.clip).max()
    np.testing.assert_allclose(found["clip"], wanted.clip, atol=1e-4 * scale)


# ------------------------------------------------------------------ what cannot be


def test_weights_that_int8_ruins_are_refused(run, tmp_path, monkeypatch):
    monkeypatch.setattr(tflite, "COSINE", 1.0)
    with pytest.raises(InputError, match=r"int8 weights.*export tflite_float16") as error:
        export_run(run, tmp_path / "enc", formats=("tflite_int8",))
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip": lambda x: x * np.nan}, "'clip' of the written program holds NaN"),
        (
            {"frames": lambda x: np.full_like(x, np.inf)},
            "'frames' of the written program holds",
        ),
        ({"valid": lambda x: x + 1}, "counts other valid frames"),
        ({"frames": lambda x: x[:, 1:]}, "does not return 'frames'"),
        ({"clip": lambda x: -x}, "falls to -1.0000"),
        ({}, None),
    ],
)
def test_int8_files_that_return_something_else_are_refused(run, change, message):
    experiment, params, *_ = load_bundle(run)
    adapter = in_float32(adapt(experiment, params))
    encode = jax.jit(adapter.encode)

    def call(_, window):
        found = jax.device_get(encode(adapter.params, window))
        return {name: change.get(name, lambda x: x)(x) for name, x in found.items()}

    if message is None:
        assert tflite._least_cosine(adapter, call) == 1
        return
    with pytest.raises(InputError, match=message):
        tflite._least_cosine(adapter, call)


def test_tables_of_the_front_end_stay_in_float32(run):
    """Rounded to int8 they would make the spectrum of a quiet tone another one."""
    experiment, params, *_ = load_bundle(run)
    adapter = in_float32(adapt(experiment, params))
    blobs = [convert(adapter) for convert in (lambda a: tflite.convert(a, "int8"), rounded)]
    t = np.arange(16000) / 16000
    quiet = (1e-3 * np.sin(2 * np.pi * 3000 * t) + 0.5 * np.sin(2 * np.pi * 200 * t))[None, :, None]
    window = {"audio": quiet.astype(np.float32), "length": np.array([16000], np.int32)}
    wanted = np.asarray(jax.jit(adapter.encode)(adapter.params, window)["clip"])[0]
    found = [tflite.runner(blob)({}, window)["clip"][0] for blob in blobs]
    apart = [1 - x @ wanted / np.linalg.norm(x) / np.linalg.norm(wanted) for x in found]
    assert apart[0] < 1e-4 and apart[0] < apart[1] / 3


def rounded(adapter):
    """The file as TensorFlow's converter makes it by itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tflite, "LARGE", 10**9)
        return tflite.convert(adapter, "int8")


@pytest.mark.parametrize("format", FORMATS)
def test_missing_packages_are_one_line(run, tmp_path, monkeypatch, format):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs the package tensorflow: pip install tensorflow"):
        export_run(run, tmp_path / "enc", formats=(format,))
    assert not list(tmp_path.iterdir())


def test_wrong_files_are_not_written(run, tmp_path, monkeypatch):
    plain = tflite.runner

    def skewed(blob):
        call = plain(blob)
        return lambda *args: {k: x + (k == "frames") for k, x in call(*args).items()}

    monkeypatch.setattr(tflite, "runner", skewed)
    with pytest.raises(InputError, match="'frames' of the written program differs"):
        export_run(run, tmp_path / "enc", formats=("tflite",))
    assert not list(tmp_path.iterdir())


def test_what_the_converter_refuses_is_one_line(run, tmp_path, monkeypatch):
    import tensorflow as tf

    def refuse(self):
        raise RuntimeError("no such operation\nand much more")

    monkeypatch.setattr(tf.lite.TFLiteConverter, "from_saved_model", lambda _: type("C", (), {
        "convert": refuse})())  # fmt: skip
    with pytest.raises(InputError, match=r"no such operation.*ONNX") as error:
        export_run(run, tmp_path / "enc", formats=("tflite",))
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("recipe", ["ssast_nano", "audiomae_nano", "data2vec_nano", "mae_nano"])
def test_no_table_of_a_long_window_overflows_float16(recipe):
    """Of 10 s: which frames are valid is decided in whole samples, which float16 leaves alone."""
    spec = SignalSpec("audio", 16000.0, 160_000)
    method = small(recipes.load(recipe).method).bind(DataSpec((spec,)))
    experiment = replace(recipes.load(recipe), method=method)
    flat = flatten(adapt(experiment, encoder_params(method, weights(method))))
    tables = [x[np.isfinite(x)] for x in flat.known.values() if x.dtype.kind == "f"]
    assert max(np.abs(np.float64(x)).max(initial=0) for x in tables) < 65_504
