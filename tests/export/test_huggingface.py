"""Folders of Hugging Face without torch: names, settings, the way back, and what is refused."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from jfreq.export.export_run import export_run
from jfreq.export.huggingface import ast, check
from jfreq.export.portable import noise
from jfreq.frontends.log_spectrogram import LogSpectrogram
from jfreq.methods.ssast import SSAST
from jfreq.methods.stfnet import STFNet
from jfreq.methods.supervised import Head
from jfreq.nn.convnext import ConvNeXt
from jfreq.nn.stf import STF
from jfreq.types import InputError
from jfreq.weights.importing import import_weights
from tests.export import huggingface_encoders as encoders

SHORT = STF(windows=(8, 16), pooled=None, width=8, sensor_width=4, depth=2, taps=8)


def exported(tmp_path, method, *signal):
    """The folder of the export of a method with random weights, and what was said."""
    said: list[str] = []
    run = encoders.saved(tmp_path / "run", method, *signal)
    out = export_run(run, tmp_path / "out", formats=("huggingface",), say=said.append)
    return out / "huggingface", said


def settings(folder, name="config.json"):
    return json.loads((folder / name).read_text())


def outputs(experiment, params, window):
    features = jax.jit(experiment.method.encode)(params, window)
    return features.tokens, features.clip, features.logits


def test_a_classifier_becomes_an_ast_of_transformers(tmp_path):
    method = encoders.ast(head=Head(loss="bce"))
    folder, _ = exported(tmp_path, method)
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


@pytest.mark.parametrize("make", [encoders.ast, encoders.ast_model])
def test_what_was_exported_is_imported_again(tmp_path, make):
    method = make()
    experiment, params = encoders.bound(method)
    folder, _ = exported(tmp_path, method)
    back = import_weights(folder)
    assert type(back.experiment.method) is type(experiment.method)
    window = noise(experiment.method.signals, 2)
    for ours, theirs in zip(
        outputs(experiment, params, window),
        outputs(back.experiment, back.params, noise(back.experiment.method.signals, 2)),
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_padding_that_is_kept_out_here_and_not_there_is_said(tmp_path):
    folder, said = exported(tmp_path, encoders.ast(padding="masked"))
    (note,) = [line for line in said if "attends to padding" in line]
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
        (encoders.ast_model(pool="mean"), encoders.SECOND, "the mean of its special tokens"),
        (encoders.ast_model(patch=(8, 16)), encoders.SECOND, "square patches"),
        (encoders.ast(frontend=LogSpectrogram(rate=16000.0)), encoders.SECOND, "LogSpectrogram"),
        (encoders.ast(frontend=None), encoders.STEREO, "2 channels"),
        (SSAST(encoder=ConvNeXt(), special_tokens=0), encoders.SECOND, "ConvNeXt"),
        (STFNet(encoder=SHORT), encoders.MOTION, "the encoder of STFNet is none"),
    ],
)
def test_what_is_no_transformer_on_log_mel_is_refused(tmp_path, method, signal, words):
    with pytest.raises(InputError, match=words) as raised:
        exported(tmp_path, method, signal)
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith("take --format stablehlo")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_departs_is_not_written(tmp_path, monkeypatch):
    def wrong(parts, params):
        found = tensors(parts, params)
        return found | {"classifier.dense.bias": found["classifier.dense.bias"] + 1e-3}

    tensors = ast.tensors
    monkeypatch.setattr(ast, "tensors", wrong)
    with pytest.raises(InputError, match="'logits' of the written program differs by"):
        exported(tmp_path, encoders.ast())
    assert not (tmp_path / "out").exists()
