"""``jfreq import``: the bundle it writes is one like others."""

import json
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from jfreq.encoder.encoder import load_encoder
from jfreq.export.bundle import load_bundle
from tests.weights import released


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Random weights in three released layouts."""
    folder = tmp_path_factory.mktemp("files")
    for name, tensors in {
        "ssast": released.ssast(depth=1),
        "ast": released.ast(depth=1, classes=3),
        "eat": released.eat(depth=1),
    }.items():
        arrays = {key: np.array(x, order="C") for key, x in tensors.items()}
        save_file(arrays, folder / f"{name}.safetensors")
    (folder / "labels.txt").write_text("dog\ncat\nrain\n\n")
    return folder


@pytest.fixture
def wave():
    return np.random.default_rng(0).normal(0, 0.1, 40_000)


def test_a_checkpoint_embeds_a_wave(said, files, wave, tmp_path):
    out = said("import", files / "ssast.safetensors", "--out", tmp_path / "enc")
    assert out == f"{tmp_path / 'enc'}\n"
    encoder = load_encoder(tmp_path / "enc")
    embedding = encoder(wave, 16_000)
    assert embedding.clip.shape == (1, 64) and np.isfinite(embedding.clip).all()
    card = (tmp_path / "enc" / "README.md").read_text()
    assert "Imported from `ssast.safetensors`" in card


def test_labels_and_options_are_kept(said, refused, files, wave, tmp_path):
    options = ["--labels", files / "labels.txt", "--pool", "mean"]
    said("import", files / "ast.safetensors", "--out", tmp_path / "enc", *options)
    encoder = load_encoder(tmp_path / "enc")
    assert encoder.labels == ("dog", "cat", "rain")
    assert encoder.predict(wave, 16_000).shape == (1, 3)
    method: Any = load_bundle(tmp_path / "enc").experiment.method
    assert method.pool == "mean"
    (tmp_path / "two.txt").write_text("a\nb\n")
    line = refused(
        "import", files / "ast.safetensors", "--out", tmp_path / "x",
        "--labels", tmp_path / "two.txt",
    )  # fmt: skip
    assert line == "labels: there are 2 names for the 3 classes of the file; give one name a line"
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dog\ncat\ndog\n", "line 3 names dog again, as line 1 does"),
        ("dog\n\ncat\nrain\n", "line 2 is empty"),
        (" \n\n", "names no class"),
    ],
)
def test_bad_names_of_classes_are_refused(refused, files, tmp_path, text, message):
    names = tmp_path / "names.txt"
    names.write_text(text)
    line = refused("import", files / "ast.safetensors", "--out", tmp_path / "x", "--labels", names)
    assert line.startswith(f"{names}: {message}")


def test_what_was_not_taken_is_said(files, tmp_path, capsys):
    from jfreq import cli

    options = ["--frames", "128", "--part", "teacher"]
    cli.main(["import", str(files / "eat.safetensors"), "--out", str(tmp_path / "e"), *options])
    notes = capsys.readouterr().err
    assert "EAT" in notes
    assert "not taken:" in notes and "modality_encoders.IMAGE.decoder.blocks.*" in notes


def test_it_trains_on_and_is_fine_tuned_probed_and_exported(said, files, shards, tmp_path, wave):
    said("import", files / "ssast.safetensors", "--out", tmp_path / "enc")
    brief = ["--steps", 1, "--batch", 4, "--log.writers"]
    sizes = {"width": 64, "depth": 1, "heads": 1}
    method = [word for k, v in sizes.items() for word in (f"--method.encoder.{k}", v)]
    said(
        "train", "ssast_nano", "--data", shards, "--workdir", tmp_path / "run", *brief, *method,
        "--method.patch", 16, 16, "--checkpoint.init-from", tmp_path / "enc",
    )  # fmt: skip
    said("probe", tmp_path / "enc", "--data", shards, "--kinds", "ridge", "--no-baselines",
         "--out", tmp_path / "probe")  # fmt: skip
    assert json.loads((tmp_path / "probe" / "results.json").read_text())
    said("finetune", tmp_path / "enc", "--data", shards, "--workdir", tmp_path / "tuned",
         "--folds", 1, *brief)  # fmt: skip
    said("export", tmp_path / "enc", "--out", tmp_path / "out")
    one, other = (load_encoder(tmp_path / name)(wave, 16_000) for name in ("enc", "out"))
    np.testing.assert_array_equal(one.clip, other.clip)


def test_a_bundle_needs_no_import(said, refused, files, tmp_path):
    said("import", files / "ssast.safetensors", "--out", tmp_path / "enc")
    for path in (tmp_path / "enc", tmp_path / "enc" / "model.safetensors"):
        line = refused("import", path, "--out", tmp_path / "x")
        assert "a bundle of jfreq's own, which needs no import" in line


def test_other_files_are_refused(refused, files, tmp_path):
    (tmp_path / "text.pth").write_text("no weights")
    save_file({"conv_block1.conv1.weight": np.ones(3)}, tmp_path / "panns.safetensors")
    line = refused("import", tmp_path / "panns.safetensors", "--out", tmp_path / "x")
    supported = "SSAST, Hugging Face AST, EAT, Audio-MAE, BEATs, AST"
    assert f"looks like PANNs; supported are {supported}" in line
    refused("import", tmp_path / "text.pth", "--out", tmp_path / "x")
    eat = files / "eat.safetensors"
    assert "3 do not divide 64" in refused("import", eat, "--out", tmp_path / "x", "--heads", 3)
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    assert "is not a bundle" in refused("import", files / "ssast.safetensors", "--out", full)
    assert not (tmp_path / "x").exists()
