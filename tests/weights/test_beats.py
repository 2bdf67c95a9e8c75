"""Released BEATs: every layer, probabilities and codes equal the release's forward."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jfreq.export.bundle import load_bundle, save_bundle
from jfreq.methods.beats import BEATs, BEATsTokenizer, TrainedTokenizer
from jfreq.methods.supervised import Classify
from jfreq.types import InputError
from jfreq.weights.importing import import_weights
from jfreq.weights.maps import to_params, to_tensors
from jfreq.weights.read import read_weights_file
from jfreq.weights.release import Options
from jfreq.weights.releases import beats
from tests.weights import released

CFG = {
    "max_distance": 100, "deep_norm": True, "dropout": 0.0, "attention_dropout": 0.0,
    "activation_fn": "gelu", "encoder_layerdrop": 0.05, "layer_wise_gradient_decay_ratio": 0.6,
}  # fmt: skip
LABELS = {"0": "/m/09x0r", "1": "/m/05zppz", "2": "/m/02zsn"}


def written(tmp_path, tensors, **settings):
    """A file as `torch_file.py` writes it."""
    path = tmp_path / "beats.safetensors"
    save_file(tensors, path, {"settings": json.dumps({"cfg": CFG} | settings)})
    return path


@pytest.fixture(scope="module")
def batch():
    """Spectrograms of 100 frames, of which the second has 72: 4.5 columns of patches."""
    spec = np.random.default_rng(3).normal(0, 0.5, (2, 100, 128)).astype(np.float32)
    frames = np.arange(100) < np.array([[100], [72]])
    valid = np.arange(48) < np.array([[48], [36]])
    return {"spectrogram": jnp.asarray(spec)[..., None], "valid_frames": jnp.asarray(frames)}, valid


def forward(tensors, batch):
    """The release's layers and its result, and the patches that it attends to."""
    batch, valid = batch
    return released.beats_forward(tensors, np.asarray(batch["spectrogram"])[..., 0], valid)


def assert_layers(features, layers):
    for ours, theirs in zip(features.layers, layers, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("classes", [0, 3])
def test_models(tmp_path, batch, classes):
    tensors = released.beats(classes=classes)
    path = written(tmp_path, tensors, **({"label_dict": LABELS} if classes else {}))
    found = import_weights(path, Options(frames=100))
    method: Any = found.experiment.method
    assert type(method.encoder_method) is BEATs and isinstance(method, Classify) == bool(classes)
    layers, probabilities = forward(tensors, batch)
    features = jax.jit(method.encode)(found.params, batch[0])
    assert_layers(features, layers)
    assert "layer_wise_gradient_decay_ratio 0.6" in " ".join(found.notes)
    assert not any("not taken" in note for note in found.notes)
    if probabilities is not None:
        assert (
            classes == 3 and method.labels == tuple(LABELS.values()) and method.scores == "sigmoid"
        )
        np.testing.assert_allclose(jax.nn.sigmoid(features.logits), probabilities, atol=1e-5)


def test_tokenizers(tmp_path, batch):
    """Their codes are those that a model is trained on which starts from the imported bundle."""
    tensors = released.beats(codes=24)
    found = import_weights(written(tmp_path, tensors), Options(frames=100))
    folder = save_bundle(tmp_path / "out", experiment=found.experiment, params=found.params)
    trained = load_bundle(folder)
    method: Any = trained.experiment.method
    assert type(method) is BEATsTokenizer
    reader = TrainedTokenizer(codes=24, code_width=16, encoder=method.encoder)
    codes = jax.jit(lambda params, *args: reader.tokenize(method, params, *args))(
        trained.params, batch[0]["spectrogram"], jnp.asarray(batch[1])
    )
    _, expected = forward(tensors, batch)
    assert expected is not None and len(np.unique(expected)) > 5
    np.testing.assert_array_equal(codes, expected)
    assert "not taken: quantize.embedding.*" in " ".join(found.notes)


def test_the_map_has_an_inverse_but_for_the_gates(tmp_path):
    file = read_weights_file(written(tmp_path, released.beats(classes=3)))
    found = beats.read(file, Options(frames=100))
    assert found.converted is not None
    back = to_tensors(found.entries, to_params(found.entries, found.converted, "file"))
    for name, x in back.items():
        np.testing.assert_array_equal(x, found.converted[name])
        same = np.array_equal(found.converted[name], file.tensors[name])
        assert same == ("grep_linear" not in name)


def test_geometry_of_the_release(tmp_path):
    """Ten seconds are 62 x 8 patches; without settings those of the release are taken, and said."""
    path = tmp_path / "base.safetensors"
    save_file(released.beats(depth=1), path)
    found = import_weights(path)
    method: Any = found.experiment.method
    assert (method.grid.shape, method.frames) == ((62, 8), 998)
    assert method.signals[0].samples == 160_000
    assert method.encoder.bias.max_distance == 800 and method.encoder.deep_norm
    assert "no settings lie beside the tensors" in " ".join(found.notes)


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({}, {"cfg": {"activation_fn": "relu"}}, "activation_fn as 'relu'; only 'gelu'"),
        ({}, {"cfg": {"max_distance": "far"}}, "max_distance as 'far'; it must be a number"),
        ({"patch_embedding.bias": np.zeros(48, np.float32)}, {}, "has patch_embedding.bias"),
        (
            {"encoder.layers.1.self_attn.relative_attention_bias.weight": np.ones((32, 4))},
            {}, "differs from that of the first layer",
        ),
        (
            {"encoder.layers.1.self_attn.grep_linear.bias": np.ones(4, np.float32)},
            {}, r"grep_linear.bias has the shape \[4\]",
        ),
        ({}, {"label_dict": {"0": "a"}}, "label_dict does not give its 3 classes a name each"),
    ],
)  # fmt: skip
def test_refused_in_one_line(tmp_path, change, settings, message):
    path = written(tmp_path, released.beats(classes=3) | change, **settings)
    with pytest.raises(InputError, match=message) as raised:
        import_weights(path, Options(frames=100))
    assert "\n" not in str(raised.value)
