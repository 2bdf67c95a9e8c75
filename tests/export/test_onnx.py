"""ONNX files: onnxruntime returns what the JAX encoder returns, for every method and any batch."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile

from jfreq import cli, methods, recipes
from jfreq.config import replace
from jfreq.export import portable
from jfreq.export.bundle import load_bundle, save_bundle
from jfreq.export.export_run import export_run
from jfreq.export.onnx import extra, lower
from jfreq.export.portable import adapt, in_float32, noise
from jfreq.methods.supervised import Classify
from jfreq.types import DataSpec, InputError, SignalSpec
from tests.export.encoders import RECIPES, bundle, encoder, weights

ABSENT = "import sys\nfor name in ('jfreq', 'jax', 'flax'):\n    sys.modules[name] = None\n"
CLASSES = DataSpec((SignalSpec("audio", 16000.0, 16000),), ("a", "b", "c"), multi_label=True)


def test_every_method_is_here():
    missing = (
        {cls.__name__ for cls in methods.PAPERS}
        - {name.split()[0] for name in RECIPES}
        - {"Classify"}
    )
    assert not missing


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_any_batch_gives_what_the_encoder_gives(recipe):
    adapter = adapt(*encoder(recipe))
    call = extra.runner(lower.serialise(adapter, {}))
    window = noise(adapter.signals, 16)
    if adapter.experiment.method.allows_gaps:  # a sensor is absent in two rows
        first = adapter.signals[0].name
        window[first][1], window[first][2, 7] = 0.0, np.nan
    with portable.one_device():
        wanted = jax.device_get(jax.jit(adapter.encode)(adapter.params, window))
    for rows in (1, 3, 16):
        found = call({}, {name: x[:rows] for name, x in window.items()})
        assert found.keys() == wanted.keys()
        for name, value in found.items():
            assert value.dtype == (np.int32 if name == "valid" else np.float32)
            scale = max(1, np.abs(wanted[name]).max())
            np.testing.assert_allclose(value, wanted[name][:rows], atol=1e-4 * scale)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A bundle of a classifier that knows several labels a recording, computed in bfloat16."""
    folder = tmp_path_factory.mktemp("classify")
    backbone = replace(recipes.load("ssast_nano"), method__encoder__dtype="bfloat16").method
    method = Classify(backbone=replace(backbone, encoder__depth=1)).bind(CLASSES)
    experiment = replace(recipes.load("ast_nano"), method=method)
    save_bundle(folder / "run", experiment=experiment, params=weights(method))
    return folder / "run"


@pytest.fixture(scope="module")
def exported(classifier):
    return export_run(classifier, classifier.with_name("enc"), formats=("onnx",))


def test_the_file_says_what_it_is(exported):
    import onnx

    model = onnx.load(exported / "encoder.onnx")
    onnx.checker.check_model(model, full_check=True)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(properties["labels"]) == ["a", "b", "c"]
    assert properties["scores"] == "sigmoid" and properties["method"] == "Classify"
    assert properties["sample_rate"] == "16000" and properties["window"] == "16000"
    assert json.loads(properties["signals"])[0]["name"] == "audio"
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes["audio"] == ["b", 16000, 1] and shapes["length"] == ["b"]
    assert shapes["logits"] == ["b", 3] and shapes["valid"] == ["b"]


def test_products_of_bfloat16_are_computed_in_float32(classifier, exported):
    experiment, params, *_ = load_bundle(classifier)
    assert experiment.method.encoder_method.encoder.dtype == "bfloat16"  # type: ignore[attr-defined]
    adapter = in_float32(adapt(experiment, params))
    window = noise(adapter.signals, 2)
    wanted = jax.device_get(jax.jit(adapter.encode)(adapter.params, window))
    found = extra.runner((exported / "encoder.onnx").read_bytes())({}, window)
    np.testing.assert_allclose(found["logits"], wanted["logits"], atol=1e-4)


def test_the_snippet_of_the_card_runs_as_it_stands(exported):
    card = (exported / "README.md").read_text()
    (snippet,) = re.findall(r"```python\n(# In this folder.*?)```", card, re.DOTALL)
    shown = "\nprint({k: v.shape for k, v in outputs.items()}, best)\n"
    shown += "print(((scores > 0) & (scores < 1)).all())\n"
    done = run(ABSENT + snippet + shown, exported)
    assert "'logits': (2, 3)" in done and done.rstrip().endswith("True")


def test_the_recipe_of_the_docs_needs_no_jfreq(exported, root):
    text = (root / "docs" / "export.md").read_text()
    (recipe,) = re.findall(r"```python\n(# ONNX without jfreq.*?)```", text, re.DOTALL)
    done = run(ABSENT + recipe + "\nprint(outputs['clip'].shape, labels)", exported)
    assert done.startswith("(4, ") and "['a', 'b', 'c']" in done


def run(code, folder):
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# ------------------------------------------------------------------ recordings


@pytest.fixture
def recordings(tmp_path):
    """A short recording, one at another rate, and one that takes three windows."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, seconds, rate in (("a", 0.4, 16000), ("b", 0.8, 22050), ("c", 2.7, 16000)):
        soundfile.write(folder / f"{name}.wav", rng.normal(0, 0.1, int(seconds * rate)), rate)
    return folder


def test_recordings_are_compared_too(classifier, recordings, tmp_path, capsys):
    out = tmp_path / "enc"
    words = ["--format", "onnx", "stablehlo", "--clips", str(recordings), str(recordings / "a.wav")]
    cli.main(["export", str(classifier), "--out", str(out), *words])
    assert capsys.readouterr().out.strip() == str(out)
    card = (out / "README.md").read_text()
    found = re.findall(r"on noise at batch 1 and 3, [\d.e+-]+ on (\d) windows of record", card)
    assert len(found) == 2
    assert json.loads((out / "stablehlo.json").read_text())["checked"]["clips"] >= 6


def test_windows_are_those_of_the_encoder(classifier, recordings):
    from jfreq import load_encoder
    from jfreq.export.clips import clip_windows

    experiment, params, *_ = load_bundle(classifier)
    windows = clip_windows(experiment, params, [recordings])
    adapter = adapt(experiment, params)
    clips = [
        jax.device_get(jax.jit(adapter.encode)(adapter.params, w)["clip"])[0] for w in windows[:2]
    ]
    waves = [soundfile.read(recordings / f"{name}.wav", dtype="float32") for name in "ab"]
    found = [load_encoder(classifier)(*wave).clip[0] for wave in waves]
    np.testing.assert_allclose(clips, found, atol=0.02)  # bfloat16
    assert [int(w["length"][0]) for w in windows[:1]] == [6400]


def test_a_file_that_is_wrong_on_recordings_is_not_written(classifier, recordings, monkeypatch):
    run = extra.runner

    def wrong(blob):
        call = run(blob)

        def skewed(params, window):
            outputs = call(params, window)
            short = window["length"].max() < 7000
            return outputs | {"clip": outputs["clip"] + 0.1 * short}

        return skewed

    monkeypatch.setattr(extra, "runner", wrong)
    out = classifier.with_name("wrong")
    with pytest.raises(InputError, match=r"onnx: 'clip' .* differs by 0\..* window \d of the rec"):
        export_run(classifier, out, formats=("onnx",), clips=[recordings])
    assert not out.exists()


# ------------------------------------------------------------------ what cannot be


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("clips alone", "name a format beside the bundle"),
        ("no clip", "none.wav: no such file"),
        ("no onnx", "needs the package onnx: pip install"),
        ("no rule", "tanh.*primitive tanh.*--format stablehlo"),
        ("too large", "GiB.*StableHLO"),
    ],
)
def test_refusals_are_one_line_and_write_nothing(kind, message, classifier, tmp_path, monkeypatch):
    formats, clips = ("onnx",), ()
    if kind == "clips alone":
        formats, clips = ("bundle",), (tmp_path / "a.wav",)
    elif kind == "no clip":
        clips = (tmp_path / "none.wav",)
    elif kind == "no onnx":
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    elif kind == "no rule":
        monkeypatch.setattr(lower, "RULES", {k: v for k, v in lower.RULES.items() if k != "erfc"})
        message = r"erfc.*primitive erfc.*--format stablehlo"
    else:
        monkeypatch.setattr(lower, "LARGEST", 100)
    with pytest.raises(InputError, match=message) as error:
        export_run(classifier, tmp_path / "enc", formats=formats, clips=clips)
    assert "\n" not in str(error.value) and not (tmp_path / "enc").exists()


def test_a_signal_that_is_named_as_an_output_is_refused(tmp_path):
    adapter = adapt(*encoder("mae_nano"))
    named = tuple(replace(s, name="clip") for s in adapter.signals[:1])
    with pytest.raises(InputError, match="'clip' is the name of a signal and of an output"):
        lower.serialise(adapter._replace(signals=(*named, *adapter.signals)), {})


def test_bundles_take_the_place_of_older_ones(tmp_path):
    run = bundle(tmp_path / "run", "ssast_nano")
    out = Path(export_run(run, tmp_path / "enc", formats=("onnx",)))
    assert (out / "encoder.onnx").is_file()
    export_run(run, out)
    assert not (out / "encoder.onnx").exists()
