"""Released layouts: every layer equals the forward pass of the release."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq import param_paths
from jfreq.method import Streams
from jfreq.methods.audiomae import AudioMAE
from jfreq.methods.supervised import Classify
from jfreq.ops.posemb import sincos_tokens
from jfreq.types import InputError, TokenGrid
from jfreq.weights.importing import import_weights
from jfreq.weights.maps import to_params, to_tensors
from jfreq.weights.read import read_weights_file
from jfreq.weights.release import Options
from tests.weights import released
from tests.weights.released import folder, written

TOLERANCE = 1e-4


@pytest.fixture
def spec():
    return np.random.default_rng(3).normal(0, 0.5, (2, 128, 128)).astype(np.float32)


def method_of(found) -> Any:
    return found.experiment.method


def encoded(found, spec):
    method = method_of(found)
    return jax.jit(method.encode)(found.params, {"spectrogram": spec[..., None]})


def assert_layers(features, layers, special):
    """Patch tokens after every block, within the tolerance relative to the largest."""
    assert len(features.layers) == len(layers)
    for ours, theirs in zip(features.layers, layers):
        scale = max(1.0, np.abs(theirs).max())
        np.testing.assert_allclose(ours, theirs[:, special:], rtol=0, atol=TOLERANCE * scale)


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE * max(1, np.abs(theirs).max()))


# ------------------------------------------------------------------ forward


@pytest.mark.parametrize(
    ("options", "pool", "stride"),
    [
        ({"count": 144}, "special", (10, 10)),
        ({"count": 64}, "special", (16, 16)),
        ({"count": 144, "special": 1}, "mean", (10, 10)),
        ({"count": 64, "patch": (2, 128)}, "mean", (2, 128)),
    ],
)
def test_ast(tmp_path, spec, options, pool, stride):
    tensors = released.ast(**options)
    found = import_weights(written(tmp_path, tensors))
    method = method_of(found)
    assert (method.pool, method.geometry.stride, method.frames) == (pool, stride, 128)
    assert method.head.classes == 7 and method.padding == "attended"
    layers, _, logits = released.ast_forward(tensors, spec, stride, pool=pool)
    features = encoded(found, spec)
    assert_layers(features, layers, options.get("special", 2))
    close(features.logits, logits)
    assert any("v.head.*" in note for note in found.notes)


@pytest.mark.parametrize("patch", [(16, 16), (2, 128)])
@pytest.mark.parametrize("special", [1, 2])
def test_ssast(tmp_path, spec, patch, special):
    tensors = released.ssast(patch=patch, special=special)
    found = import_weights(written(tmp_path, tensors))
    method = method_of(found)
    assert (method.patch, method.special_tokens, method.pool) == (patch, special, "mean")
    assert method.mask_kind == ("cluster" if patch == (16, 16) else "random")
    layers, final, _ = released.ast_forward(tensors, spec, patch)
    features = encoded(found, spec)
    assert_layers(features, layers, special)
    close(features.tokens, final[:, special:])
    close(features.clip, final[:, special:].mean(1))
    heads = {path.split("/")[0] for path in param_paths.flatten(found.params)}
    assert heads == {"trunk", "mask_token", "classification_head", "reconstruction_head"}


@pytest.mark.parametrize("part", ["student", "teacher"])
def test_eat(tmp_path, spec, part):
    sines = sincos_tokens(TokenGrid(time=24, freq=8, order="time_major"), 64)
    tensors = released.eat(positions=sines[None])
    path = written(tmp_path, tensors)
    found = import_weights(path, Options(part=part, frames=128))
    layers, _ = released.eat_forward(
        tensors, spec, sines[:64], "_ema." if part == "teacher" else ""
    )
    features = encoded(found, spec)
    assert_layers(features, layers, 1)
    close(features.clip, layers[-1][:, 0])
    assert ("decoder" in found.params) == (part == "student")
    wrong = tensors | {name: x + 1 for name, x in tensors.items() if "positional" in name}
    with pytest.raises(InputError, match="not the sines"):
        import_weights(written(tmp_path, wrong), Options(frames=128))


@pytest.mark.parametrize("decoder", [32, 64])
def test_eat_decoder(tmp_path, decoder):
    found = import_weights(
        written(tmp_path, released.eat(decoder=decoder, layers=3)), Options(frames=128)
    )
    shapes = jax.eval_shape(found.experiment.method.init, jax.random.key(0))
    ours, wanted = param_paths.flatten(found.params), param_paths.flatten(shapes)
    assert {path: x.shape for path, x in ours.items()} == {p: x.shape for p, x in wanted.items()}


def test_eat_fine_tuned(tmp_path, spec):
    tensors = released.eat_tuned()
    found = import_weights(written(tmp_path, tensors), Options(frames=128))
    sines = sincos_tokens(TokenGrid(time=8, freq=8, order="time_major"), 64)
    layers, logits = released.eat_forward(tensors, spec, sines, "model.")
    features = encoded(found, spec)
    assert_layers(features, layers, 1)
    close(features.logits, logits)


@pytest.mark.parametrize("classes", [0, 7])
def test_audiomae(tmp_path, spec, classes):
    tensors = released.audiomae(classes=classes)
    found = import_weights(written(tmp_path, tensors))
    method = method_of(found)
    assert type(method.encoder_method) is AudioMAE and isinstance(method, Classify) == bool(classes)
    layers, last = released.audiomae_forward(tensors, spec)
    features = encoded(found, spec)
    assert_layers(features, layers, 1)
    close(features.logits if classes else features.tokens, last if classes else last[:, 1:])


@pytest.mark.parametrize("dist", [True, False])
def test_imagenet(tmp_path, spec, dist):
    """The released conversion: colours are added, 4 x 4 positions are interpolated to 12 in time
    and in frequency, along one axis after the other."""
    tensors = released.imagenet(dist=dist)
    found = import_weights(written(tmp_path, tensors), Options(frames=128))
    special = 1 + dist
    method = method_of(found)
    assert (method.grid.shape, method.special_tokens, method.geometry.stride) == (
        (12, 12), special, (10, 10)
    )  # fmt: skip
    table = tensors["pos_embed"][0, special:].reshape(4, 4, -1)
    at = np.clip((np.arange(12) + 0.5) * 4 / 12 - 0.5, 0, 3)
    for axis in (0, 1):
        low, part = np.floor(at).astype(int), at % 1
        high = np.minimum(low + 1, 3)
        part = part.reshape([-1 if i == axis else 1 for i in range(3)])
        table = table.take(low, axis) * (1 - part) + table.take(high, axis) * part
    table = np.concatenate([tensors["pos_embed"][0, :special], table.reshape(144, -1)])
    audio = {f"v.{name}": x for name, x in tensors.items()} | {"v.pos_embed": table[None]}
    audio["v.patch_embed.proj.weight"] = tensors["patch_embed.proj.weight"].sum(1, keepdims=True)
    layers, final, _ = released.ast_forward(audio, spec, (10, 10))
    features = encoded(found, spec)
    assert_layers(features, layers, special)
    close(features.clip, final[:, :special].mean(1))
    assert any("from 4 x 4 to 12 x 12" in note for note in found.notes)
    assert any("head.*" in note for note in found.notes)


def test_longer_axes_of_imagenet_are_cut_in_the_middle(tmp_path):
    tensors = released.imagenet(side=24)
    found = import_weights(written(tmp_path, tensors), Options(frames=128))
    table = tensors["pos_embed"][0, 2:].reshape(24, 24, -1)
    ours = found.params["trunk"]["positions"]
    np.testing.assert_array_equal(ours["grid"], table[6:18, 6:18])
    np.testing.assert_array_equal(ours["special"], tensors["pos_embed"][0, :2])


@pytest.mark.parametrize("windows", [True, False])
def test_audiomae_decoder(tmp_path, spec, windows):
    """Reconstruction of half of the patches, not standardised, by the released decoder."""
    tensors = released.audiomae(windows=windows)
    found = import_weights(written(tmp_path, tensors))
    method = dataclasses.replace(method_of(found), norm_patch=False, mask_ratio=0.5)
    shapes = jax.eval_shape(method.init, jax.random.key(0))
    ours, wanted = param_paths.flatten(found.params), param_paths.flatten(shapes)
    assert {path: x.shape for path, x in ours.items()} == {p: x.shape for p, x in wanted.items()}
    filled = jax.jit(method.reconstruct)(
        found.params, {"spectrogram": spec[..., None]}, Streams(jax.random.key(0))
    ).reconstruction
    mask = method.sample_mask(Streams(jax.random.key(0))("mask"), 2)
    visible, restore = np.asarray(mask.visible), np.asarray(mask.restore)
    _, states = released.audiomae_forward(tensors, spec, visible)
    patches = released.audiomae_decoded(tensors, states, restore, (8, 8))
    image = patches.reshape(2, 8, 8, 16, 16).swapaxes(2, 3).reshape(spec.shape)
    masked = np.asarray(method.masked_cells(mask))
    close(np.asarray(filled)[..., 0][masked], image[masked])


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("prefix", ["", "audio_spectrogram_transformer."])
def test_huggingface(tmp_path, spec, version, prefix):
    tensors = released.ast(classes=3)
    config = {
        "num_attention_heads": 1, "max_length": 128, "layer_norm_eps": 1e-12,
        "id2label": {"0": "dog", "1": "cat", "2": "rain"},
    }  # fmt: skip
    names = released.as_huggingface(tensors, version, prefix)
    found = import_weights(folder(tmp_path, names, config, {"mean": -1.5, "std": 2}))
    method = method_of(found)
    assert (method.frontend.mean, method.frontend.std) == (-1.5, 2.0)
    assert "AudioSet" not in " ".join(found.notes)
    layers, final, logits = released.ast_forward(tensors, spec, (10, 10), eps=1e-12, head_eps=1e-12)
    features = encoded(found, spec)
    assert_layers(features, layers, 2)
    close(features.tokens, final[:, 2:])
    close(features.clip, final[:, :2].mean(1))
    if prefix:
        assert method.labels == ("dog", "cat", "rain")
        close(features.logits, logits)


@pytest.mark.parametrize(
    ("name", "head", "eps"),
    [
        ("ast", "mlp_head.0", 1e-5),
        ("huggingface", "mlp_head.0", 1e-12),
        ("eat_tuned", "fc_norm", 1e-6),
        ("audiomae", "fc_norm", 1e-6),
    ],
)
def test_the_norm_before_a_classifier(tmp_path, name, head, eps):
    """On small vectors, where what it adds to the variance is seen."""
    tensors = released.ast() if name == "huggingface" else getattr(released, name)()
    if name == "audiomae":
        tensors = released.audiomae(classes=7)
    linear = {"mlp_head.0": "mlp_head.1", "fc_norm": "head"}[head]
    if name == "huggingface":
        names = released.as_huggingface(tensors, 5, "audio_spectrogram_transformer.")
        path = folder(tmp_path, names, {"num_attention_heads": 1, "max_length": 128})
    else:
        path = written(tmp_path, tensors)
    found = import_weights(path, Options(frames=128) if name == "eat_tuned" else None)
    clip = np.random.default_rng().normal(0.0, 1e-3, (3, 64))
    named = {key.removeprefix("module."): x for key, x in released.double(tensors).items()}
    wanted = released.linear(released.layer_norm(clip, named, head, eps), named, linear)
    (logits,) = method_of(found)._classify(found.params["head"], jnp.asarray(clip, jnp.float32))
    np.testing.assert_allclose(logits, wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())


@pytest.mark.parametrize(
    "tensors",
    [
        released.ast(), released.ssast(patch=(2, 128), special=1), released.eat(decoder=32),
        released.audiomae(), released.audiomae(windows=False), released.audiomae(classes=3),
        released.as_huggingface(released.ast(), 4, ""),
    ],
)  # fmt: skip
def test_maps_have_an_inverse(tmp_path, tensors):
    from jfreq.weights.importing import RELEASES

    file = read_weights_file(
        folder(tmp_path, tensors, {"num_attention_heads": 1, "max_length": 128})
    )
    release = next(release for release in RELEASES if release.matches(file))
    frames = 128 if release.name == "EAT" else None
    entries = release.read(file, Options(frames=frames)).entries
    back = to_tensors(entries, to_params(entries, file.tensors, "file"))
    assert back
    for name, x in back.items():
        np.testing.assert_array_equal(x, file.tensors[name])
    assert release.name != "Audio-MAE" or back.keys() == file.tensors.keys()


# ------------------------------------------------------------------ what the file leaves open


@pytest.mark.parametrize(
    ("count", "frames", "stride"),
    [(1212, 1024, (10, 10)), (512, 1024, (16, 16)), (600, 512, (10, 10))],
)
def test_geometry_of_ast_is_read_from_its_positions(tmp_path, count, frames, stride):
    found = import_weights(written(tmp_path, released.ast(count=count, depth=1)))
    method = method_of(found)
    assert (method.frames, method.geometry.stride) == (frames, stride)
    assert method.signals[0].seconds in (5.0, 10.0)


@pytest.mark.parametrize(
    ("classes", "mean", "loss", "multi"),
    [(527, -4.2677393, "bce", True), (50, -6.6268077, "ce", False), (35, -6.845978, "bce", False)],
)
def test_the_number_of_classes_tells_the_set(tmp_path, classes, mean, loss, multi):
    found = import_weights(written(tmp_path, released.ast(classes=classes, depth=1)))
    method = method_of(found)
    assert method.frontend.mean == mean
    assert (method.head.loss, method.multi_label) == (loss, multi)
    assert method.labels[1] == "class 1"


def test_labels_name_the_classes(tmp_path):
    path = written(tmp_path, released.ast(classes=2, depth=1))
    found = import_weights(path, Options(labels=("yes", "no")))
    assert found.experiment.method.labels == ("yes", "no")
    with pytest.raises(InputError, match="3 names for the 2 classes"):
        import_weights(path, Options(labels=("a", "b", "c")))
    with pytest.raises(InputError, match="no classifier"):
        import_weights(written(tmp_path, released.eat(depth=1)), Options(labels=("yes", "no")))


@pytest.mark.parametrize(
    ("tensors", "options"),
    [
        (released.ssast(depth=1), Options(stride=(10, 10))),
        (released.ast(depth=1), Options(part="teacher")),
        (released.ssast(depth=1), Options(frames=64)),
        (released.ssast(depth=1), Options(labels=("yes", "no"))),
    ],
)
def test_options_that_the_file_does_not_leave_open_are_refused(tmp_path, tensors, options):
    with pytest.raises(InputError, match="is no use with"):
        import_weights(written(tmp_path, tensors), options)


def test_constants_that_no_file_of_huggingface_gives_are_said(tmp_path):
    names = released.as_huggingface(released.ast(depth=1), 5, "")
    path = folder(tmp_path, names, {"num_attention_heads": 1, "max_length": 128})
    (path / "preprocessor_config.json").unlink()
    notes = " ".join(import_weights(path).notes)
    assert "mean -4.2677393 and std 4.5689974 are taken" in notes
