"""StableHLO programs: the same numbers as the encoder, anywhere, and clear words for misuse."""

import dataclasses
import hashlib
import importlib.util
import json
import re
import subprocess
import sys
from typing import Any, cast

import jax
import numpy as np
import pytest
from jax import export

from jfreq import cli, methods, param_paths, recipes
from jfreq.config import replace
from jfreq.encoder.encoder import encode_frames
from jfreq.export import portable as adapters
from jfreq.export import stablehlo
from jfreq.export.bundle import load_bundle, save_bundle
from jfreq.export.bundle_checks import SEAL, sealed
from jfreq.export.export_run import export_run
from jfreq.export.portable import adapt, differences, noise
from jfreq.methods.supervised import Classify
from jfreq.nn.cnn1d import Conv1d
from jfreq.nn.stf import STF
from jfreq.nn.swin import Swin
from jfreq.nn.vit import ViT
from jfreq.types import DataSpec, InputError, SignalSpec

AUDIO = DataSpec((SignalSpec("audio", 16000.0, 16000),), ("a", "b", "c"))
SENSOR = DataSpec((SignalSpec("acc", 50.0, 200, channels=3),), ("a", "b"))
TINY = ViT(width=32, depth=2, heads=2)
SHORT = STF(windows=(8, 16), pooled=None, width=8, sensor_width=4, depth=2, taps=8)
ACC = SignalSpec("acc", 50.0, 64, 3, mean=(0.5, 0.0, -0.5), std=(1.0, 2.0, 0.5))
TWO = DataSpec((ACC, dataclasses.replace(ACC, name="gyro")), ("a", "b"))
PATCHES = ViT(width=16, depth=1, heads=2)
WINDOWS = Swin(width=8, depths=(2,), heads=2, window=(2, 4))
RATES = DataSpec((ACC, SignalSpec("mic", 100.0, 128, 1)))


def write(folder, name, spec, **changes):
    """A bundle with a program of a recipe with random weights."""
    changes = changes or {"method__encoder": TINY}
    experiment = methods.bind(replace(recipes.load(name), **changes), spec)
    shapes = jax.eval_shape(experiment.method.init, jax.random.key(0))
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda s: rng.normal(0.1, 0.2, s.shape).astype(s.dtype), shapes)
    save_bundle(folder / "run", experiment=experiment, params=params)
    return export_run(folder / "run", folder / "enc", formats=("bundle", "stablehlo"))


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    return write(tmp_path_factory.mktemp("audio"), "ssast_nano", AUDIO)


@pytest.fixture(scope="module")
def supervised(tmp_path_factory):
    return write(tmp_path_factory.mktemp("ast"), "ast_nano", AUDIO)


@pytest.fixture(scope="module")
def sensor(tmp_path_factory):
    return write(tmp_path_factory.mktemp("acc"), "ssast_nano", SENSOR)


@pytest.fixture(scope="module")
def stfnet(tmp_path_factory):
    return write(tmp_path_factory.mktemp("stf"), "stfnet_hapt", TWO, method__encoder=SHORT)


@pytest.fixture(scope="module")
def ltfc(tmp_path_factory):
    series = Conv1d(widths=(8,), kernels=(9,))
    return write(
        tmp_path_factory.mktemp("ltfc"), "ltfc_hapt", TWO, method__encoder=series, method__cells=2
    )


@pytest.fixture(scope="module")
def freqmae(tmp_path_factory):
    sizes = {"method__encoder": WINDOWS, "method__embedding": 8, "method__fusion": 8}
    return write(tmp_path_factory.mktemp("freq"), "freqmae_nano", RATES, **sizes)


@pytest.fixture(scope="module")
def phymask(tmp_path_factory):
    """On a masked autoencoder: the encoder of the two is the same."""
    trunk = {f"method__trunk__{part}": PATCHES for part in ("encoder", "decoder")}
    return write(tmp_path_factory.mktemp("phy"), "phymask_nano", RATES, **trunk)


@pytest.fixture
def program(audio):
    return stablehlo.load(audio)


def by_method(folder, window):
    """What the method itself says about a window, logits included."""
    experiment, params, *_ = load_bundle(folder)
    method = experiment.method

    def run(params, window):
        clip, frames, valid, logits = encode_frames(method, params, window)
        return {"clip": clip, "frames": frames, "valid": valid, "logits": logits}

    return jax.device_get(jax.jit(run)(params, window))


SENSORS = ("freqmae", "phymask")


@pytest.mark.parametrize("kind", ["audio", "supervised", "sensor", "stfnet", "ltfc", *SENSORS])
def test_any_batch_gives_what_the_encoder_gives(kind, request):
    folder = request.getfixturevalue(kind)
    program = stablehlo.load(folder)
    window = noise(program.signals, 3)
    window["length"][-1] //= 2
    if kind in SENSORS:  # absent in the second row and in the third
        window["acc"][1], window["mic"][2, 7] = 0.0, np.nan
    wanted = {k: v for k, v in by_method(folder, window).items() if v is not None}
    assert ("logits" in wanted) == (kind in ("supervised", "stfnet"))
    for rows in (slice(0, 3), slice(1, 2)):
        found = program({name: x[rows] for name, x in window.items()})
        assert found.keys() == wanted.keys()
        for name, value in found.items():
            assert value.dtype == (np.int32 if name == "valid" else np.float32)
            # This process traces for eight devices, the program for one: matmul against FFT.
            np.testing.assert_allclose(value, wanted[name][rows], atol=1e-4, err_msg=name)


def test_one_program_holds_every_platform_and_an_open_batch(audio):
    blob = (audio / stablehlo.PROGRAM).read_bytes()
    exported = export.deserialize(bytearray(blob))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    manifest = json.loads((audio / stablehlo.MANIFEST).read_text())
    assert manifest["platforms"] == list(exported.platforms)
    assert manifest["jax"] == jax.__version__
    assert manifest["checked"]["max_abs_error"] <= 1e-4
    (args, _) = jax.tree.unflatten(exported.in_tree, exported.in_avals)
    window = args[1]
    assert {name: [str(d) for d in aval.shape] for name, aval in window.items()} == {
        name: [str(d) for d in entry["shape"]] for name, entry in manifest["inputs"].items()
    }
    assert window["audio"].shape[1:] == (16000, 1)
    text = exported.mlir_module()
    # FFT for one CPU or GPU, a matrix product on TPU; XLA's attention everywhere but on CPU.
    assert "stablehlo.fft" in text and "stablehlo.case" in text
    assert re.search(r"batching_dims = \[0, 2\] x \[0, 2\]", text)
    card = (audio / "README.md").read_text()
    assert "## StableHLO" in card and "six months" in card


def test_the_weights_are_arguments(audio, program):
    blob = (audio / stablehlo.PROGRAM).read_bytes()
    flat = param_paths.flatten(load_bundle(audio).params)
    assert not any(leaf.tobytes()[:64] in blob for leaf in flat.values())

    window = noise(program.signals, 2)
    before = program(window)["clip"]
    changed = {name: leaf[..., ::-1].copy() for name, leaf in flat.items()}
    program.params = changed
    after = program(window)["clip"]
    experiment = load_bundle(audio).experiment
    wanted = jax.jit(adapt(experiment, {}).encode)(changed, window)["clip"]
    np.testing.assert_allclose(after, wanted, atol=1e-4)
    assert np.abs(after - before).max() > 0.1


def test_the_recipe_of_the_docs_needs_no_jfreq(audio, root):
    """The block in docs/export.md, in a process where jfreq, flax and TensorFlow cannot load."""
    text = (root / "docs" / "export.md").read_text()
    recipe = re.search(r"```python\n(# Without jfreq.*?)```", text, re.DOTALL)
    assert recipe is not None
    absent = "import sys\nfor name in ('jfreq', 'flax', 'tensorflow', 'optax', 'orbax'):\n"
    absent += "    sys.modules[name] = None\n"
    end = "\nnp.savez('out.npz', **outputs)\n"
    python(absent + recipe[1] + end, audio)
    with np.load(audio / "out.npz") as found:
        rng = np.random.default_rng(0)
        x = rng.normal(0, 0.1, (4, 16000, 1)).astype(np.float32)
        wanted = by_method(audio, {"audio": x, "length": np.full(4, 16000, np.int32)})
        for name in ("clip", "frames", "valid"):
            np.testing.assert_allclose(found[name], wanted[name], atol=1e-4)
    (audio / "out.npz").unlink()


def python(code, folder):
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", ["supervised", "sensor"])
def test_the_snippet_of_the_card_runs_as_it_stands(kind, request):
    """In the folder, without jfreq: with classes, and three channels without any."""
    folder = request.getfixturevalue(kind)
    card = (folder / "README.md").read_text()
    (snippet,) = re.findall(r"```python\n(# In this folder.*?)```", card, re.DOTALL)
    absent = (
        "import sys\nfor name in ('jfreq', 'flax', 'tensorflow'):\n    sys.modules[name] = None\n"
    )
    shown = "\nprint({k: v.shape for k, v in outputs.items()})\n"
    shown += "print(best, scores.sum(1).round(5))\n" * (kind == "supervised")
    said = python(absent + snippet + shown, folder)
    assert "'clip': (2, " in said
    if kind == "supervised":
        assert "'logits': (2, 3)" in said and said.rstrip().endswith("[1. 1.]")
        assert stablehlo.load(folder).labels == AUDIO.labels
        assert "| classes | a, b, c |" in card


def test_one_signal_needs_no_dict_and_no_length(program):
    x = noise(program.signals, 2)["audio"]
    full = program({"audio": x, "length": np.full(2, 16000)})
    np.testing.assert_array_equal(program(x)["frames"], full["frames"])


WINDOW = np.zeros((2, 16000, 1), np.float32)


@pytest.mark.parametrize(
    ("window", "message"),
    [
        (WINDOW[:, :8000], r"audio: expected \[b, 16000, 1\] float32, got \[2, 8000, 1\]"),
        (WINDOW[0], "load_encoder"),
        (WINDOW[:0], r"got \[0, 16000, 1\]"),
        (np.repeat(WINDOW, 2, 2), r"got \[2, 16000, 2\]"),
        (WINDOW.astype(np.int16), "int16"),
        ({"sound": WINDOW}, "lacks the signal 'audio'"),
        ({"audio": WINDOW, "label": np.zeros(2)}, "label, which the program does not read"),
        ({"audio": WINDOW, "length": np.zeros(3, np.int32)}, "length: expected 2 integers"),
        ({"audio": WINDOW, "length": np.zeros(2)}, "length: expected 2 integers, got float64"),
    ],
)
def test_wrong_windows(program, window, message):
    with pytest.raises(InputError, match=message) as error:
        program(window)
    assert "\n" not in str(error.value)


@pytest.fixture
def copy(audio, tmp_path):
    folder = tmp_path / "enc"
    folder.mkdir()
    for path in audio.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def edit(folder, **changes):
    """A manifest that says something else, and is sealed."""
    value = json.loads((folder / stablehlo.MANIFEST).read_text())
    value.pop(SEAL)
    (folder / stablehlo.MANIFEST).write_text(sealed(value | changes))


def replace_program(folder, blob):
    (folder / stablehlo.PROGRAM).write_bytes(blob)
    edit(folder, sha256=hashlib.sha256(blob).hexdigest())


def flip(folder, name, at):
    blob = bytearray((folder / name).read_bytes())
    blob[at % len(blob)] ^= 4
    (folder / name).write_bytes(bytes(blob))


def other_weights(folder):
    """A sound bundle of another encoder under the same program."""
    experiment, params, *_ = load_bundle(folder)
    wider = {**params, "more": {"kernel": np.ones(3, np.float32)}}
    save_bundle(folder.with_name("b"), experiment=experiment, params=wider)
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((folder.with_name("b") / name).read_bytes())


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda p: (p / stablehlo.MANIFEST).unlink(), "--format stablehlo"),
        (lambda p: (p / stablehlo.PROGRAM).unlink(), "--format stablehlo"),
        (lambda p: (p / stablehlo.MANIFEST).write_text("{"), "is not the manifest of a program"),
        (lambda p: (p / stablehlo.MANIFEST).write_text("[]"), "is not the manifest of a program"),
        (lambda p: (p / stablehlo.MANIFEST).write_text("[" * 99999), "nested too deeply"),
        (lambda p: (p / stablehlo.MANIFEST).write_text("{}"), "it states no format"),
        (lambda p: edit(p, format=stablehlo.FORMAT + 1), "upgrade jfreq"),
        (lambda p: edit(p, format=True), "it states no format"),
        (lambda p: edit(p, signals=None), "is not the manifest"),
        (lambda p: edit(p, signals=[{"type": "SignalSpec"}]), "signal.name: is missing"),
        (lambda p: edit(p, labels=7), "is not the manifest"),
        (lambda p: edit(p, sha256=None), "checksum"),
        (lambda p: flip(p, stablehlo.MANIFEST, 30), "JSON|was changed|states no format"),
        (lambda p: flip(p, stablehlo.MANIFEST, -30), "JSON|was changed"),
        (lambda p: flip(p, stablehlo.PROGRAM, 999), "checksum"),
        (lambda p: flip(p, "model.safetensors", -9), "checksum"),
        (lambda p: flip(p, "config.json", 300), "JSON|was changed"),
        (lambda p: (p / stablehlo.PROGRAM).write_bytes(b"short"), "checksum"),
        (lambda p: replace_program(p, b"\x00" * 64), "cannot read this program"),
        (lambda p: (p / "model.safetensors").unlink(), "incomplete"),
        (other_weights, "belong to different encoders"),
    ],
)
def test_broken_folders(copy, harm, message):
    harm(copy)
    with pytest.raises(InputError, match=message) as error:
        stablehlo.load(copy)
    assert "\n" not in str(error.value) and str(copy) in str(error.value)


def test_other_platforms_are_refused(copy, monkeypatch):
    monkeypatch.setattr(export, "default_export_platform", lambda: "rocm")
    with pytest.raises(InputError, match="written for cpu, cuda, tpu, but jax runs on rocm"):
        stablehlo.load(copy)


def test_a_program_that_differs_is_not_written(audio, tmp_path, monkeypatch):
    """The check reads the serialised bytes back: a wrong program never reaches the disk."""
    monkeypatch.setattr(stablehlo, "serialise", skewed)
    with pytest.raises(InputError, match=r"stablehlo: 'frames' .* 0\.00\d* .* noise at batch 1 "):
        export_run(audio, tmp_path / "enc", formats=("stablehlo",))
    assert not list(tmp_path.iterdir())


def skewed(adapter):
    def encode(params, window):
        outputs = adapter.encode(params, window)
        return outputs | {"frames": outputs["frames"] + 2e-3}

    (rows,) = export.symbolic_shape("b")
    return bytes(export.export(jax.jit(encode))(*adapters.shapes(adapter, rows)).serialize())


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            lambda out: out | {"valid": out["valid"] + 1},
            "'valid' of the written program differs by 1",
        ),
        (
            lambda out: out | {"clip": out["clip"] * np.nan},
            "'clip' of the written program differs by nan",
        ),
        (lambda out: {k: v for k, v in out.items() if k != "clip"}, "not return 'clip'"),
        (lambda out: out | {"clip": out["clip"][:, :-1]}, "not return 'clip'"),
    ],
)
def test_the_check_sees_every_kind_of_difference(audio, harm, message):
    experiment, params, *_ = load_bundle(audio)
    adapter = adapt(experiment, params)
    encode = jax.jit(adapter.encode)
    with pytest.raises(InputError, match=message):
        differences(adapter, lambda *args: harm(jax.device_get(encode(*args))), "a")


def test_flatbuffers_missing_is_one_line(audio, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n: None if n == "flatbuffers" else find(n)
    )
    with pytest.raises(InputError, match="pip install flatbuffers"):
        export_run(audio, tmp_path / "enc", formats=("stablehlo",))
    with pytest.raises(InputError, match="pip install flatbuffers"):
        stablehlo.load(audio)
    assert not list(tmp_path.iterdir())


def test_kernels_of_one_platform_are_left_out():
    """A TPU kernel in the config would neither lower for CPU nor for CUDA."""
    changes = {"method__encoder__attention": "splash"}
    experiment = methods.bind(replace(recipes.load("ssast_nano"), **changes), AUDIO)
    plain = replace(experiment.method, encoder__attention="auto")
    assert experiment.method != plain
    assert experiment.method.portable() == plain
    under = methods.bind(
        replace(recipes.load("phymask_nano"), method__trunk__encoder__attention="splash"), RATES
    )
    found = cast(Any, under.method.portable())
    assert found.trunk.encoder.attention == "auto"
    over = Classify(backbone=experiment.method, signals=experiment.method.signals)
    assert over.portable() == replace(over, backbone=plain)


def test_command_line(audio, tmp_path, capsys):
    out = tmp_path / "enc"
    cli.main(["export", str(audio), "--out", str(out), "--format", "bundle", "stablehlo"])
    assert capsys.readouterr().out.strip() == str(out)
    names = {"README.md", "config.json", "model.safetensors"}
    assert {p.name for p in out.iterdir()} == names | {"encoder.stablehlo", "stablehlo.json"}
    cli.main(["export", str(audio), "--out", str(out)])
    # The old program is gone with the bundle it belonged to.
    assert {p.name for p in out.iterdir()} == names
    with pytest.raises(InputError, match=r"unknown 'stablehl' \(did you mean 'stablehlo'"):
        export_run(audio, out, formats=("stablehl",))
