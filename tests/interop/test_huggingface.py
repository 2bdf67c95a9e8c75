"""Folders of Hugging Face, loaded and run by transformers."""

import importlib
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from jfreq import cli
from jfreq.config import replace
from jfreq.export.export_run import export_run
from jfreq.export.portable import noise
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
    names = run_lines(folder)
    if make is encoders.ast:
        assert names["logits"].shape == (1, 3)
    else:
        assert names["outputs"].pooler_output.shape == (1, 32)


# ------------------------------------------------------------------ the twin


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    """Where transformers puts the code of folders; a process keeps to the first such place."""
    module = importlib.import_module("transformers.dynamic_module_utils")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        yield


def loaded(kind, folder, **options):
    return getattr(transformers, kind).from_pretrained(folder, trust_remote_code=True, **options)


@pytest.mark.parametrize("name", encoders.TWINS)
def test_every_state_of_a_twin_is_that_of_the_encoder(name, tmp_path, modules):
    method = encoders.TWINS[name]
    experiment, params = encoders.bound(method)
    model = loaded("AutoModel", exported(tmp_path, method)).eval()
    window = noise(experiment.method.signals, 3)
    window["length"][1:] = (9000, 40)
    ours = jax.jit(experiment.method.encode)(params, window)
    with torch.inference_mode():
        theirs = model(
            torch.from_numpy(window["audio"][..., 0]),
            length=torch.from_numpy(window["length"]),
            output_hidden_states=True,
        )
    special, registers = model.config.special_tokens, model.config.registers
    for state, layer in zip(theirs.hidden_states[1:], ours.layers, strict=True):
        np.testing.assert_allclose(state[:, special + registers :], layer, rtol=0, atol=1e-4)
    tokens = theirs.last_hidden_state[:, special:]
    np.testing.assert_allclose(tokens, ours.tokens, rtol=0, atol=1e-4)
    np.testing.assert_allclose(theirs.pooler_output, ours.clip, rtol=0, atol=1e-4)


def test_waves_are_padded_by_the_feature_extractor(tmp_path, modules, wave):
    folder = exported(tmp_path, encoders.TWINS["classifier"])
    experiment, params = encoders.bound(encoders.TWINS["classifier"])
    features = transformers.AutoFeatureExtractor.from_pretrained(folder)
    model = loaded("AutoModelForAudioClassification", folder).eval()
    waves = [wave[:16000], wave[:7000]]
    inputs = features(waves, sampling_rate=16000, padding=True, return_tensors="pt")
    assert inputs["attention_mask"].sum(-1).tolist() == [16000, 7000]
    with torch.inference_mode():
        logits = model(**inputs).logits
        assert torch.equal(model(**inputs, return_dict=False)[0], logits)
    padded = np.stack([np.pad(x, (0, 16000 - len(x))) for x in waves])[..., None]
    window = {"audio": padded, "length": np.array([16000, 7000], np.int32)}
    ours = jax.jit(experiment.method.encode)(params, window).logits
    np.testing.assert_allclose(logits, ours, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="cut the recording into windows"):
        model(torch.zeros(1, 50_000))


@pytest.mark.parametrize("name", ["classifier", "aasp"])
def test_a_twin_learns_in_torch_and_comes_back(name, tmp_path, modules, wave):
    """A classifier of other classes is trained, saved and imported."""
    folder = exported(tmp_path, encoders.TWINS[name])
    kind, names = "AutoModelForAudioClassification", {0: "low", 1: "high"}
    options = {"id2label": names, "label2id": {x: i for i, x in names.items()}}
    model = loaded(kind, folder, ignore_mismatched_sizes=True, **options).train()
    tone = 0.5 * np.sin(2 * np.pi * 440 / 16000 * np.arange(16000, dtype=np.float32))
    waves = torch.from_numpy(np.stack([wave[:16000], tone]))
    labels = torch.tensor([0, 1])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        loss = model(waves, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        still = [n for n, x in model.named_parameters() if x.numel() and x.grad is None]
        assert not still
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    model.eval().save_pretrained(tmp_path / "tuned")
    with torch.inference_mode():
        theirs = model(waves).logits
        again = loaded(kind, tmp_path / "tuned").eval()(waves).logits
    np.testing.assert_array_equal(again, theirs)
    experiment, params, _ = import_weights(tmp_path / "tuned")
    assert experiment.method.labels == ("low", "high")
    window = {"audio": waves[..., None].numpy(), "length": np.full(2, 16000, np.int32)}
    ours = jax.jit(experiment.method.encode)(params, window).logits
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


def test_a_twin_runs_in_bfloat16(tmp_path, modules, wave):
    model = loaded("AutoModel", exported(tmp_path, encoders.TWINS["aasp"])).eval()
    waves = torch.from_numpy(wave[None, :16000])
    with torch.inference_mode():
        full = model(waves).pooler_output
        half = model.to(torch.bfloat16)(waves).pooler_output
    assert half.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(full, half.float()).item() > 0.999


def test_labels_of_several_classes_are_learned(tmp_path, modules, wave):
    method = replace(encoders.TWINS["classifier"], head__loss="bce")
    model = loaded("AutoModelForAudioClassification", exported(tmp_path, method)).eval()
    waves = torch.from_numpy(wave[None, :16000])
    logits = model(waves).logits
    wanted = torch.tensor([[1, 0, 1]])
    loss = model(waves, labels=wanted).loss
    p = torch.sigmoid(logits).clamp(1e-7, 1 - 1e-7)
    closed = -(wanted * p.log() + (1 - wanted) * (1 - p).log()).mean()
    assert abs(float(loss) - float(closed)) < 1e-5


@pytest.mark.parametrize("name", ["ssast", "ast"])
def test_the_lines_of_the_card_of_a_twin_run(name, tmp_path, modules):
    names = run_lines(exported(tmp_path, encoders.TWINS[name]))
    if name == "ast":
        assert names["logits"].shape == (1, 3)
    else:
        assert names["outputs"].last_hidden_state.shape == (1, 2 + 64, 32)


# ------------------------------------------------------------------ documents


def test_the_lines_of_the_documentation_run(tmp_path, monkeypatch, root, modules):
    page = (root / "docs" / "export.md").read_text()
    section = page.split("# Hugging Face\n")[1].split("\n# ")[0]
    monkeypatch.chdir(tmp_path)
    codes = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    for i, (code, method) in enumerate(
        zip(codes, (encoders.ast(), encoders.TWINS["ssast"]), strict=True)
    ):
        exported(tmp_path / str(i), method).parent.rename("enc")
        exec(code, {})
        (tmp_path / "enc").rename(tmp_path / str(i) / "enc")


def exported(tmp_path, method, *signal):
    """The folder of the export of a method with random weights; it was run when it was written."""
    run = encoders.saved(tmp_path / "run", method, *signal)
    folder = Path(export_run(run, tmp_path / "out", formats=("huggingface",))) / "huggingface"
    assert f"transformers {transformers.__version__}" in (folder / "README.md").read_text()
    return folder


def run_lines(folder):
    """The lines of Python in the card of a folder, and the names that they define."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    names = {}
    exec(code.replace("path/to/huggingface", str(folder)), names)
    return names
