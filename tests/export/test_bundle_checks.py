"""Damaged bundles: one line that names the file, or the encoder as it was; nothing in between."""

import hashlib
import json
import os
import pickle
import shutil
import struct
import time

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jfreq import cli, methods, param_paths
from jfreq.config import Checkpoint, Experiment, replace
from jfreq.config_json import to_dict
from jfreq.export.bundle import load_trained, save_bundle
from jfreq.export.bundle_checks import SEAL, sealed
from jfreq.files import write_json
from jfreq.methods.ssast import SSAST
from jfreq.methods.supervised import Classify
from jfreq.nn.vit import ViT
from jfreq.testing import CLIP
from jfreq.train import checkpoint, run_folder
from jfreq.train.state import State
from jfreq.types import InputError

LIMIT_S = 20
KERNEL = "backbone/trunk/encoder/norm/scale"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sound bundle of a tiny classifier."""
    method = Classify(backbone=SSAST(encoder=ViT(width=16, depth=1, heads=2)))
    experiment = methods.bind(Experiment("tiny", method), CLIP)
    shapes = jax.eval_shape(experiment.method.init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: rng.normal(0.1, 0.2, s.shape).astype(s.dtype), shapes)
    return save_bundle(
        tmp_path_factory.mktemp("whole") / "enc", experiment=experiment, params=params
    )


# ------------------------------------------------------------------ ways to do harm


def rewrite(change):
    """A config that was changed and sealed again, as somebody else's program might."""

    def harm(folder):
        header = json.loads((folder / "config.json").read_text())
        header.pop(SEAL)
        change(header)
        (folder / "config.json").write_text(sealed(header))

    return harm


def setting(path, value):
    def change(header):
        *above, last = path.split(".")
        node = header["experiment"]
        for name in above:
            node = node[int(name)] if name.isdigit() else node[name]
        if value is None:
            del node[last]
        else:
            node[last] = value

    return rewrite(change)


def weights(change):
    """Other weights with a checksum that is right."""

    def harm(folder):
        flat = load_file(folder / "model.safetensors")
        change(flat)
        save_file(flat, folder / "model.safetensors")
        resign(folder)

    return harm


def raw_weights(make):
    def harm(folder):
        blob = make((folder / "model.safetensors").read_bytes())
        (folder / "model.safetensors").write_bytes(blob)
        resign(folder)

    return harm


def resign(folder):
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    rewrite(lambda header: header.update(sha256=digest))(folder)


def file(name, change):
    """The bytes of a file changed, and nothing else."""

    def harm(folder):
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return harm


def flip(blob, rng):
    at, bit = rng.integers(len(blob)), rng.integers(8)
    return blob[:at] + bytes([blob[at] ^ (1 << int(bit))]) + blob[at + 1 :]


def instead(name, make):
    """Something else in the place of a file."""

    def harm(folder):
        (folder / name).unlink()
        make(folder / name)

    return harm


def header_of(blob, change):
    size = struct.unpack("<Q", blob[:8])[0]
    value = json.loads(blob[8 : 8 + size])
    change(value)
    text = json.dumps(value).encode()
    return struct.pack("<Q", len(text)) + text + blob[8 + size :]


class Canary:
    """Unpickled, it leaves a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def bad_number(value):
    def change(flat):
        flat[KERNEL] = flat[KERNEL].copy()
        flat[KERNEL][3] = value

    return weights(change)


DEEP = "[" * 100_000 + "]" * 100_000
NESTED = '{"format": 1, "experiment": ' + '{"a": ' * 5000 + "1" + "}" * 5001
WEIGHTS, CONFIG = "model.safetensors", "config.json"
METHOD = "method.backbone"
HARMS = {
    **{
        f"{name} cut to {share:.0%}": file(name, lambda b, s=share: b[: int(len(b) * s)])
        for name in (CONFIG, WEIGHTS, "README.md")
        for share in (0, 0.01, 0.5, 0.999)
    },
    **{
        f"{name} flip {i}": file(name, lambda b, i=i: flip(b, np.random.default_rng(i)))
        for name in (CONFIG, WEIGHTS)
        for i in range(8)
    },
    "card flipped": file("README.md", lambda b: flip(b, np.random.default_rng(0))),
    **{f"no {name}": lambda p, n=name: (p / n).unlink() for name in (CONFIG, WEIGHTS, "README.md")},
    **{f"{name} a folder": instead(name, lambda p: p.mkdir()) for name in (CONFIG, WEIGHTS)},
    **{f"{name} a pipe": instead(name, os.mkfifo) for name in (CONFIG, WEIGHTS)},
    **{
        f"{name} a link to nothing": instead(name, lambda p: p.symlink_to("gone"))
        for name in (CONFIG, WEIGHTS)
    },
    **{
        f"{name} a link to itself": instead(name, lambda p: p.symlink_to(p.name))
        for name in (CONFIG, WEIGHTS)
    },
    **{
        f"config is {text[:12]}": file(CONFIG, lambda b, t=text: t.encode())
        for text in (
            "[]",
            "{}",
            "null",
            '"a"',
            "1e999",
            "NaN",
            DEEP,
            NESTED,
            '{"format": 1',
            '{"format": ' + "9" * 5000 + "}",
            '{"format": true}',
            '{"format": "1"}',
            '{"format": -1}',
            '{"format": 1, "format": 1}',
        )
    },
    "config in UTF-16": file(CONFIG, lambda b: b.decode().encode("utf-16")),
    "format newer": rewrite(lambda h: h.update(format=99)),
    "format a list": rewrite(lambda h: h.update(format=[1])),
    "sha256 a number": rewrite(lambda h: h.update(sha256=7)),
    "no experiment": rewrite(lambda h: h.pop("experiment")),
    "experiment a string": rewrite(lambda h: h.update(experiment="os.system('true')")),
    "seal of another": file(CONFIG, lambda b: b.replace(b'"tiny"', b'"tinz"')),
    "unknown method": setting("method.type", "Pickle"),
    "unknown field": setting("method.colour", 1),
    "batch a string": setting("batch", "many"),
    "steps negative": setting("steps", -1),
    "rate infinite": setting("optim.lr", 1e400),
    "no signals": setting("method.signals", []),
    "signals that differ": setting(f"{METHOD}.signals.0.rate", 8000.0),
    "samples a float": setting("method.signals.0.samples", 1.5),
    "samples huge": setting("method.signals.0.samples", 2**40),
    "samples large": lambda folder: [
        setting(f"{part}.signals.0.samples", 2**30)(folder) for part in ("method", METHOD)
    ],
    "labels too many": setting("method.head.labels", ["a", "b", "c", "d"]),
    "labels numbers": setting("method.head.labels", [1, 2, 3]),
    "classes more": setting("method.head.classes", 7),
    "open setting": setting(f"{METHOD}.frames", None),
    "width other": setting(f"{METHOD}.encoder.width", 32),
    "width huge": setting(f"{METHOD}.encoder.width", 2**30),
    "depth other": setting(f"{METHOD}.encoder.depth", 3),
    "depth huge": setting(f"{METHOD}.encoder.depth", 10**9),
    "frames huge": setting(f"{METHOD}.frames", 10**12),
    "mels huge": setting(f"{METHOD}.frontend.n_mels", 10**8),
    "heads none": setting(f"{METHOD}.encoder.heads", 0),
    "heads odd": setting(f"{METHOD}.encoder.heads", 3),
    "patch of nothing": setting(f"{METHOD}.patch", [0, 0]),
    "weight missing": weights(lambda f: f.pop(KERNEL)),
    "weight too many": weights(lambda f: f.update(more=np.ones(3, np.float32))),
    "weight with a path": weights(lambda f: f.update({f"{KERNEL}/x": np.ones(3, np.float32)})),
    "weight transposed": weights(lambda f: f.update({KERNEL: f[KERNEL][:, None]})),
    "weight shorter": weights(lambda f: f.update({KERNEL: f[KERNEL][:-1]})),
    "weight empty": weights(lambda f: f.update({KERNEL: f[KERNEL][:0]})),
    "weight in half": weights(lambda f: f.update({KERNEL: f[KERNEL].astype(np.float16)})),
    "weight in bfloat16": weights(
        lambda f: f.update({KERNEL: f[KERNEL].astype(ml_dtypes.bfloat16)})
    ),
    "weight whole numbers": weights(lambda f: f.update({KERNEL: f[KERNEL].astype(np.int32)})),
    "no weights": weights(lambda f: f.clear()),
    **{f"weight {value}": bad_number(value) for value in (np.nan, np.inf, -np.inf)},
    "header longer than the file": raw_weights(lambda b: struct.pack("<Q", 2**62) + b[8:]),
    "header of no length": raw_weights(lambda b: bytes(8) + b[8:]),
    "header no JSON": raw_weights(lambda b: b[:8] + b"x" + b[9:]),
    "offsets beyond the end": raw_weights(
        lambda b: header_of(b, lambda h: h[KERNEL].update(data_offsets=[0, 2**50]))
    ),
    "shape that lies": raw_weights(
        lambda b: header_of(b, lambda h: h[KERNEL].update(shape=[2**40]))
    ),
    "dtype that nobody has": raw_weights(
        lambda b: header_of(b, lambda h: h[KERNEL].update(dtype="Q7"))
    ),
    "dtype of eight bits": raw_weights(
        lambda b: header_of(b, lambda h: h[KERNEL].update(dtype="F8_E4M3", shape=[64]))
    ),
    "weights a text": raw_weights(lambda b: b"no weights"),
    "weights a pickle": raw_weights(lambda b: pickle.dumps(Canary("canary"))),
}


def outcome(call):
    """``(message or None, result, seconds)``; anything but ``InputError`` comes out."""
    began = time.monotonic()
    try:
        return None, call(), time.monotonic() - began
    except InputError as error:
        return str(error), None, time.monotonic() - began


def same(a, b):
    a, b = (
        {n: (x.dtype, x.tobytes()) for n, x in param_paths.flatten(t.params).items()}
        for t in (a, b)
    )
    return a == b


def test_every_damage_is_one_line_or_none_at_all(whole, tmp_path, monkeypatch, capsys):
    """`load_trained` is the one way in for load_encoder, embed, predict, export, finetune and
    init_from; nothing is compiled behind it."""
    monkeypatch.chdir(tmp_path)
    intact = load_trained(whole)
    refused = harmless = 0
    for name, harm in HARMS.items():
        folder = tmp_path / "enc"
        shutil.copytree(whole, folder)
        harm(folder)
        message, found, seconds = outcome(lambda folder=folder: load_trained(folder))
        assert seconds < LIMIT_S, name
        if message is None:
            assert found is not None
            assert found.experiment == intact.experiment and same(found, intact), name
            harmless += 1
        else:
            assert "\n" not in message and str(folder) in message, (name, message)
            assert len(message) < 600, (name, message)
            refused += 1
        shutil.rmtree(folder)
    assert not list(tmp_path.rglob("canary"))
    # Only the card may be damaged without a word: nothing is read from it.
    assert harmless == sum(name.startswith(("README", "card", "no README")) for name in HARMS)
    assert len(HARMS) >= 60
    with capsys.disabled():
        counts = f"{refused} refused in one line, {harmless} harmless"
        print(f"\n{len(HARMS)} damaged bundles: {counts}, 0 tracebacks, 0 hangs, 0 silent changes")


@pytest.mark.parametrize("path", ["method.colour", "optim.type", "method.head.loss"])
def test_settings_of_another_version_say_which_version_reads_them(whole, tmp_path, path):
    shutil.copytree(whole, tmp_path / "enc")
    setting(path, "magenta")(tmp_path / "enc")
    rewrite(lambda header: header.update(jfreq="0.0.7"))(tmp_path / "enc")
    message, _, _ = outcome(lambda: load_trained(tmp_path / "enc"))
    assert path.rpartition(".")[2] in str(message) or "magenta" in str(message)
    assert "written by jfreq 0.0.7, whose settings are not those of this version" in str(message)
    assert str(message).endswith("or train and export the encoder again with this one")


def test_code_that_is_not_trusted_is_no_matter_of_versions(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "enc")
    setting("method.type", "nobody_trusts_this:Mine")(tmp_path / "enc")
    message, _, _ = outcome(lambda: load_trained(tmp_path / "enc"))
    assert "--trust" in str(message) and "version" not in str(message)


def commands(folder, tmp_path, sound, shards):
    yield ["embed", folder, sound, "--out", tmp_path / "e.npz"]
    yield ["predict", folder, sound, "--out", tmp_path / "e.csv"]
    yield ["export", folder, "--out", tmp_path / "out"]
    yield ["probe", folder, "--data", shards]
    yield [
        "train",
        "ssast_nano",
        "--data",
        shards,
        "--workdir",
        tmp_path / "run",
        "--method.encoder.width",
        16,
        "--method.encoder.depth",
        1,
        "--method.encoder.heads",
        2,
        "--checkpoint.init-from",
        folder,
    ]


def test_every_command_says_the_same_line(whole, tmp_path, shards, capsys):
    folder = tmp_path / "enc"
    shutil.copytree(whole, folder)
    bad_number(np.nan)(folder)
    for words in commands(folder, tmp_path, tmp_path / "a.wav", shards):
        with pytest.raises(SystemExit) as stop:
            cli.main([str(word) for word in words])
        err = capsys.readouterr().err
        assert stop.value.code == 2, err
        assert err.splitlines()[-1] == (
            f"jfreq: error: {folder / WEIGHTS}: holds NaN or infinite numbers in {KERNEL}; the "
            "training diverged, take an earlier checkpoint or train again"
        )
    assert [p.name for p in tmp_path.iterdir()] == ["enc"]


def test_a_run_that_went_wrong_is_not_exported(whole, tmp_path):
    found = load_trained(whole)
    flat = param_paths.flatten(found.params)
    flat[KERNEL] = np.full_like(flat[KERNEL], np.inf)
    write_json(tmp_path / "run" / run_folder.CONFIG, to_dict(found.experiment))
    saves = checkpoint.Checkpoints(tmp_path / "run")
    params = jax.tree.map(jax.numpy.asarray, param_paths.unflatten(flat))
    saves.save(State(jax.numpy.int32(3), params, {}, {}), 3, {"step": 3})
    saves.wait()
    saves.close()
    with pytest.raises(InputError, match=f"run/checkpoints: holds NaN or infinite.*{KERNEL}"):
        load_trained(tmp_path / "run")


def test_what_lies_beside_a_bundle_is_not_lost(whole, tmp_path):
    found = load_trained(whole)
    folder = tmp_path / "enc"
    shutil.copytree(whole, folder)
    (folder / "results.json").write_text("mine")
    with pytest.raises(InputError, match=r"enc: also holds results\.json, which would be lost"):
        save_bundle(folder, experiment=found.experiment, params=found.params)
    assert (folder / "results.json").read_text() == "mine"
    (folder / "results.json").unlink()
    other = replace(found.experiment, checkpoint=Checkpoint(keep=7))
    save_bundle(folder, experiment=other, params=found.params)
    assert load_trained(folder).experiment == other
