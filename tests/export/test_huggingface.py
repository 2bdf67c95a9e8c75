"""Folders of Hugging Face without torch: names, settings, the way back, and what is refused."""

import ast as syntax
import functools
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jfreq.export.export_run import export_run
from jfreq.export.huggingface import ast, check
from jfreq.export.portable import noise
from jfreq.frontends.log_spectrogram import LogSpectrogram
from jfreq.methods.ssast import SSAST
from jfreq.methods.stfnet import STFNet
from jfreq.methods.supervised import Head
from jfreq.nn.bias import ALiBi
from jfreq.nn.convnext import ConvNeXt
from jfreq.nn.stf import STF
from jfreq.nn.vit import ViT
from jfreq.ops.posemb import sincos_tokens
from jfreq.types import InputError, TokenGrid
from jfreq.weights.importing import import_weights
from tests.export import huggingface_encoders as encoders

BIASED = ViT(width=32, depth=1, heads=2, bias=ALiBi())
SHORT = STF(windows=(8, 16), pooled=None, width=8, sensor_width=4, depth=2, taps=8)


def exported(tmp_path, method, *signal):
    """The folder of the export of a method with random weights, and what was said."""
    said: list[str] = []
    run = encoders.saved(tmp_path / "run", method, *signal)
    out = export_run(run, tmp_path / "out", formats=("huggingface",), say=said.append)
    return Path(out) / "huggingface", said


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """``once(name)``: the folder of an encoder, exported once for all tests, and what was said."""
    methods = {**encoders.TWINS, "AST": encoders.ast(head=Head(loss="bce"))}
    methods |= {"ASTModel": encoders.ast_model()}
    return functools.cache(lambda name: exported(tmp_path_factory.mktemp("once"), methods[name]))


def settings(folder, name="config.json"):
    return json.loads((folder / name).read_text())


def outputs(experiment, params, window):
    features = jax.jit(experiment.method.encode)(params, window)
    return features.tokens, features.clip, features.logits


def test_a_classifier_becomes_an_ast_of_transformers(once):
    folder, _ = once("AST")
    config = settings(folder)
    assert config["architectures"] == ["ASTForAudioClassification"]
    assert config["id2label"] == {"0": "dog", "1": "cat", "2": "rain"}
    assert config["problem_type"] == "multi_label_classification"
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    assert [config[name] for name in sizes] == [32, 2, 2, 128]
    assert (config["max_length"], config["time_stride"], config["layer_norm_eps"]) == (
        128,
        10,
        1e-12,
    )
    features = settings(folder, "preprocessor_config.json")
    assert (features["mean"], features["std"], features["max_length"]) == (-4.0, 4.5, 128)
    tensors = load_file(folder / "model.safetensors")
    base = "audio_spectrogram_transformer."
    grid = ((128 - 16) // 10 + 1) ** 2
    for name, shape in {
        f"{base}embeddings.cls_token": (1, 1, 32),
        f"{base}embeddings.position_embeddings": (1, 2 + grid, 32),
        f"{base}embeddings.patch_embeddings.projection.weight": (32, 1, 16, 16),
        f"{base}encoder.layer.1.attention.attention.key.weight": (32, 32),
        f"{base}encoder.layer.0.intermediate.dense.weight": (128, 32),
        f"{base}layernorm.bias": (32,),
        "classifier.dense.weight": (3, 32),
    }.items():
        assert tensors[name].shape == shape, name
    assert len(tensors) == 2 * 16 + 5 + 2 + 4


@pytest.mark.parametrize("name", ["AST", "ASTModel", "ast", "ssast", "aasp"])
def test_what_was_exported_is_imported_again(once, name):
    """Every number, and of a twin every setting; that the outputs agree the export has checked."""
    methods = {"AST": encoders.ast(), "ASTModel": encoders.ast_model(), **encoders.TWINS}
    experiment, params = encoders.bound(methods[name])
    back = import_weights(once(name)[0])
    jax.tree.map(np.testing.assert_array_equal, back.params, params)
    assert type(back.experiment.method) is type(experiment.method)
    if name in encoders.TWINS:
        assert back.experiment.method == experiment.method


def test_other_transformers_become_a_twin_with_its_code(once):
    folder, _ = once("classifier")
    config = settings(folder)
    assert config["architectures"] == ["JfreqForAudioClassification"]
    assert config["norm"] == "post" and config["classifier_norm"] is False
    assert config["id2label"]["2"] == "rain"
    for place in config["auto_map"].values():
        module, _, name = place.partition(".")
        assert f"class {name}(" in (folder / f"{module}.py").read_text()
    assert config["jfreq"]["type"] == "Classify"  # the method, without paths of this machine
    assert not {"data", "checkpoint", "path", "init_from"} & config["jfreq"].keys()
    features = settings(folder, "preprocessor_config.json")
    assert features["sampling_rate"] == 16000 and not features["do_normalize"]
    tensors = load_file(folder / "model.safetensors")
    sines = sincos_tokens(TokenGrid(8, 8, "time_major"), 32)
    np.testing.assert_array_equal(tensors["encoder.position_embeddings"][0], sines)


def test_the_code_of_the_twin_needs_torch_and_transformers_alone(root):
    files = sorted((root / "jfreq" / "export" / "huggingface" / "twin").glob("*.py"))
    assert len(files) == 5
    allowed = {"__future__", "functools", "math", "numpy", "torch", "transformers"}
    own = {file.stem for file in files}
    for file in files:
        for node in syntax.walk(syntax.parse(file.read_text())):
            if isinstance(node, syntax.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= allowed
            elif isinstance(node, syntax.ImportFrom):
                known = own if node.level else allowed
                assert str(node.module).split(".")[0] in known


@pytest.mark.parametrize("classes", [3, 2])
def test_a_twin_that_got_a_classifier_elsewhere_is_imported_with_it(once, tmp_path, classes):
    """What transformers writes of a model that was trained there, of an encoder without labels."""
    folder = shutil.copytree(once("ssast")[0], tmp_path / "copy")
    rng = np.random.default_rng(3)
    tensors = {f"encoder.{k}": x for k, x in load_file(folder / "model.safetensors").items()}
    shapes = {"classifier.weight": (classes, 32), "classifier.bias": (classes,),
              "classifier_norm.weight": (32,), "classifier_norm.bias": (32,)}  # fmt: skip
    head = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(tensors | head, folder / "model.safetensors", {"format": "pt"})
    names = {str(i): word for i, word in enumerate(encoders.LABELS[:classes])}
    (folder / "config.json").write_text(json.dumps(settings(folder) | {"id2label": names}))
    experiment, params, _ = import_weights(folder)
    assert experiment.method.labels == encoders.LABELS[:classes]
    tokens, clip, logits = outputs(experiment, params, noise(experiment.method.signals, 1))
    before, weights = encoders.bound(encoders.TWINS["ssast"])
    wanted = outputs(before, weights, noise(before.method.signals, 1))
    np.testing.assert_array_equal(tokens, wanted[0])
    x = np.asarray(clip, np.float64)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    x = x * head["classifier_norm.weight"] + head["classifier_norm.bias"]
    closed = x @ head["classifier.weight"].T + head["classifier.bias"]
    np.testing.assert_allclose(logits, closed, rtol=0, atol=1e-4)


def test_padding_that_is_kept_out_here_and_not_there_is_said(tmp_path):
    folder, said = exported(tmp_path, encoders.ast(padding="masked"))
    (note,) = [line for line in said if "attends to padding" in line]
    assert "huggingface_twin" in note
    assert note[1:] in (folder / "README.md").read_text()
    assert note[1:] in (folder.parent / "README.md").read_text()


def test_without_torch_it_is_said_that_the_folder_was_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr(check, "PACKAGES", ("torch_of_tomorrow", "transformers_of_tomorrow"))
    folder, said = exported(tmp_path, encoders.ast())
    assert said == [
        "the Hugging Face folder was read back but not run, because torch_of_tomorrow and "
        "transformers_of_tomorrow are not installed here"
    ]
    assert "read back by jfreq, not run" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("method", "signal", "words"),
    [
        (encoders.ast(encoder=BIASED), encoders.SECOND, "ALiBi"),
        (encoders.ast(frontend=LogSpectrogram(rate=16000.0)), encoders.SECOND, "LogSpectrogram"),
        (encoders.ast(frontend=None), encoders.STEREO, "2 channels"),
        (SSAST(encoder=ConvNeXt(), special_tokens=0), encoders.SECOND, "ConvNeXt"),
        (STFNet(encoder=SHORT), encoders.MOTION, "but STFNet has no transformer on log-mel"),
    ],
)
def test_what_is_no_transformer_on_log_mel_is_refused(tmp_path, method, signal, words):
    with pytest.raises(InputError, match=words) as raised:
        exported(tmp_path, method, signal)
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith("take --format onnx or stablehlo")
    assert not (tmp_path / "out").exists()


def test_one_folder_is_written(tmp_path):
    with pytest.raises(InputError, match="write the same files"):
        export_run(tmp_path, tmp_path / "out", formats=("huggingface", "huggingface_twin"))


def test_a_twin_of_a_stranger_is_refused(once, tmp_path):
    folder = shutil.copytree(once("ssast")[0], tmp_path / "copy")
    config = settings(folder)
    for change, message in [
        ({"jfreq": None}, "config.json"),
        ({"jfreq": config["jfreq"] | {"steps": "many"}}, "config.json: jfreq.steps"),
    ]:
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(InputError, match=message) as raised:
            import_weights(folder)
        assert "\n" not in str(raised.value)


def test_a_folder_that_departs_is_not_written(tmp_path, monkeypatch):
    def wrong(parts, params):
        found = tensors(parts, params)
        return found | {"classifier.dense.bias": found["classifier.dense.bias"] + 1e-3}

    tensors = ast.tensors
    monkeypatch.setattr(ast, "tensors", wrong)
    with pytest.raises(InputError, match="'logits' of the written program differs by"):
        exported(tmp_path, encoders.ast())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("shown", [True, False])
def test_progress_bars_are_then_as_they_were(shown, monkeypatch):
    bars = [shown]
    logging = SimpleNamespace(
        get_verbosity=lambda: 30,
        set_verbosity=lambda level: None,
        set_verbosity_error=lambda: None,
        is_progress_bar_enabled=lambda: bars[-1],
        enable_progress_bar=lambda: bars.append(True),
        disable_progress_bar=lambda: bars.append(False),
    )
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "transformers.utils", SimpleNamespace(logging=logging))
    with check._quiet():
        assert not bars[-1]
    assert bars[-1] is shown
