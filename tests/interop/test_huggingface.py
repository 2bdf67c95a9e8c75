"""Folders of Hugging Face, loaded and run by transformers."""

import json
import re

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from jfreq import cli
from jfreq.export.export_run import export_run
from jfreq.weights.importing import import_weights
from tests.export import huggingface_encoders as encoders
from tests.weights import released

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.fixture
def wave():
    return np.random.default_rng(5).normal(0, 0.1, 20_000).astype(np.float32)


@pytest.mark.parametrize("version", [4, 5])
def test_from_transformers_and_back(tmp_path, wave, version):
    """Import, export, and what transformers computes with either folder."""
    settings = {
        "architectures": ["ASTForAudioClassification"], "hidden_size": 64, "max_length": 128,
        "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 256,
        "model_type": "audio-spectrogram-transformer",
        "id2label": {"0": "dog", "1": "cat", "2": "rain"},
    }  # fmt: skip
    before = tmp_path / "before"
    before.mkdir()
    names = released.as_huggingface(
        released.ast(classes=3), version, "audio_spectrogram_transformer."
    )
    arrays = {name: np.array(x, order="C") for name, x in names.items()}
    save_file(arrays, before / "model.safetensors", {"format": "pt"})
    (before / "config.json").write_text(json.dumps(settings))
    transformers.ASTFeatureExtractor(max_length=128).save_pretrained(before)

    cli.main(["import", str(before), "--out", str(tmp_path / "enc")])
    cli.main(
        ["export", str(tmp_path / "enc"), "--out", str(tmp_path / "out"), "--format", "huggingface"]
    )
    after = tmp_path / "out" / "huggingface"

    def logits(folder):
        features = transformers.ASTFeatureExtractor.from_pretrained(folder)
        model = transformers.ASTForAudioClassification.from_pretrained(folder).eval()
        with torch.inference_mode():
            return model(**features(wave, sampling_rate=16000, return_tensors="pt")).logits.numpy()

    np.testing.assert_allclose(logits(after), logits(before), rtol=0, atol=1e-5)
    model = transformers.ASTForAudioClassification.from_pretrained(after)
    assert model.config.id2label == {0: "dog", 1: "cat", 2: "rain"}


@pytest.mark.parametrize("make", [encoders.ast, encoders.ast_model])
def test_every_state_of_an_ast_is_that_of_the_encoder(tmp_path, make):
    experiment, params = encoders.bound(make())
    folder = exported(tmp_path, make())
    kind = "ASTModel" if make is encoders.ast_model else "ASTForAudioClassification"
    model = getattr(transformers, kind).from_pretrained(folder).eval()
    spec = np.random.default_rng(1).normal(0, 0.5, (2, 128, 128)).astype(np.float32)
    with torch.inference_mode():
        theirs = model(torch.from_numpy(spec), output_hidden_states=True)
    ours = jax.jit(experiment.method.encode)(params, {"spectrogram": spec[..., None]})
    for state, layer in zip(theirs.hidden_states[1:], ours.layers, strict=True):
        np.testing.assert_allclose(state[:, 2:], layer, rtol=0, atol=1e-4)
    if kind == "ASTModel":
        np.testing.assert_allclose(theirs.last_hidden_state[:, 2:], ours.tokens, atol=1e-4)
        np.testing.assert_allclose(theirs.pooler_output, ours.clip, rtol=0, atol=1e-4)
    else:
        np.testing.assert_allclose(theirs.logits, ours.logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("make", [encoders.ast, encoders.ast_model])
def test_what_transformers_saves_is_imported(tmp_path, make):
    """``save_pretrained`` of whatever version is installed."""
    folder = exported(tmp_path, make())
    kind = "ASTModel" if make is encoders.ast_model else "ASTForAudioClassification"
    model = getattr(transformers, kind).from_pretrained(folder)
    model.save_pretrained(tmp_path / "again")
    transformers.ASTFeatureExtractor.from_pretrained(folder).save_pretrained(tmp_path / "again")
    one, other = import_weights(folder), import_weights(tmp_path / "again")
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    assert one.experiment.method == other.experiment.method


@pytest.mark.parametrize("make", [encoders.ast, encoders.ast_model])
def test_the_lines_of_the_card_run(tmp_path, make):
    folder = exported(tmp_path, make())
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    names = {}
    exec(code.replace("path/to/huggingface", str(folder)), names)
    if make is encoders.ast:
        assert names["logits"].shape == (1, 3)
    else:
        assert names["outputs"].pooler_output.shape == (1, 32)


def test_the_lines_of_the_documentation_run(tmp_path, monkeypatch, root):
    page = (root / "docs" / "export.md").read_text()
    section = page.split("# Hugging Face\n")[1].split("\n# ")[0]
    monkeypatch.chdir(tmp_path)
    exported(tmp_path, encoders.ast()).parent.rename("enc")
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    exec(code, {})


def exported(tmp_path, method, *signal):
    """The folder of the export of a method with random weights; it was run when it was written."""
    run = encoders.saved(tmp_path / "run", method, *signal)
    folder = export_run(run, tmp_path / "out", formats=("huggingface",)) / "huggingface"
    assert f"transformers {transformers.__version__}" in (folder / "README.md").read_text()
    return folder
