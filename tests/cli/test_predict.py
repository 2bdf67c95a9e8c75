"""``jfreq predict``: classes of files, windows and shards, and models that have none."""

import csv
import io
import json
import shutil

import jax
import numpy as np
import pytest
from scipy.special import expit, softmax

from jfreq import methods
from jfreq.config import Experiment, replace
from jfreq.config_json import to_dict
from jfreq.data.shards.reader import open_shards
from jfreq.encoder.encoder import load_encoder
from jfreq.evaluate import finetune
from jfreq.export.bundle import save_bundle
from jfreq.files import write_json
from jfreq.methods.ssast import SSAST
from jfreq.methods.supervised import Classify
from jfreq.nn.vit import ViT
from jfreq.train import checkpoint, run_folder
from jfreq.train.state import State, Trained


@pytest.fixture(scope="module")
def trained(shards):
    """A classifier of the synthetic tones with random weights, far from even."""
    method = Classify(backbone=SSAST(encoder=ViT(width=32, depth=1, heads=2)))
    experiment = methods.bind(Experiment("tones", method), open_shards(shards).spec)
    shapes = jax.eval_shape(experiment.method.init, jax.random.key(0))
    rng = np.random.default_rng(5)
    params = jax.tree.map(lambda s: rng.normal(0.1, 0.2, s.shape).astype(s.dtype), shapes)
    return Trained(experiment, params)


@pytest.fixture(scope="module")
def classifier(trained, tmp_path_factory):
    return save_bundle(tmp_path_factory.mktemp("tuned") / "enc", experiment=trained.experiment,
                       params=trained.params)  # fmt: skip


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory):
    """A folder as `jfreq finetune` leaves it, with one fold."""
    out = tmp_path_factory.mktemp("runs") / "ft"
    write_json(out / "fold1" / run_folder.CONFIG, to_dict(trained.experiment))
    write_json(out / "results.json", {})
    saves = checkpoint.Checkpoints(out / "fold1")
    params = jax.tree.map(jax.numpy.asarray, trained.params)
    saves.save(State(jax.numpy.int32(3), params, {}, {}), 3, {"step": 3})
    saves.wait()
    saves.close()
    return out


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_rows_of_shards_score_as_fine_tuning_wrote(classifier, trained, shards, said, tmp_path):
    labels = open_shards(shards).info.labels
    wanted = finetune.predict(trained, open_shards(shards), np.arange(32))
    probability = softmax(wanted.score.astype(np.float64), axis=1)
    out = tmp_path / "table.csv"
    assert said("predict", classifier, shards, "--out", out) == f"{out}: 32 recordings\n"
    found = rows(out.read_text())
    assert list(found[0]) == ["path", "id", "start_s", "end_s", "label", "score"]
    assert [r["label"] for r in found] == [labels[k] for k in wanted.score.argmax(1)]
    assert [int(r["id"]) for r in found] == list(range(32))
    assert {r["path"] for r in found} == {str(shards)}
    score = np.array([float(r["score"]) for r in found])
    np.testing.assert_allclose(score, probability.max(1), rtol=1e-4)
    assert score.std() > 1e-3
    # All classes of every row, the best first.
    out = rows(said("predict", classifier, shards, "--top", 99))
    assert len(out) == 32 * len(labels)
    by = {(int(r["id"]), r["label"]): float(r["score"]) for r in out}
    every = [[by[i, name] for name in labels] for i in range(32)]
    np.testing.assert_allclose(every, probability, rtol=1e-4, atol=1e-6)
    assert sum(by.values()) == pytest.approx(32, abs=1e-3)


def test_files_folders_and_windows(classifier, said, sound, tmp_path, capsys):
    rng = np.random.default_rng(1)
    sound("set/b 10.wav", rng.normal(0, 0.1, 50_000))
    sound("set/b 2.wav", rng.normal(0, 0.1, 99), 8000)
    (tmp_path / "set" / "bad.wav").write_text("no sound")
    home = tmp_path / "set"
    names = [str(home / name) for name in ("b 2.wav", "b 10.wav")]
    whole = rows(said("predict", classifier, home))
    assert [r["path"] for r in whole] == names
    assert [r["end_s"] for r in whole] == ["0.012", "3.125"]
    assert {r["start_s"] for r in whole} == {"0.000"}
    said("predict", classifier, home, "--out", tmp_path / "t.csv")
    assert "1 skipped" in said("predict", classifier, home, "--out", tmp_path / "t.csv")
    assert "bad.wav: is no sound" in (tmp_path / "t.csv.skipped.txt").read_text()
    assert rows((tmp_path / "t.csv").read_text()) == whole

    parts = rows(said("predict", classifier, home, "--windows", "--out", "-"))
    parts = [r for r in parts if r["path"] == names[1]]
    assert len(parts) == 3
    assert [r["start_s"] for r in parts[1:]] == [r["end_s"] for r in parts[:-1]]
    assert parts[-1]["end_s"] == "3.125"
    encoder = load_encoder(classifier)
    x = rng.normal(0, 0.1, (2, 20720)).astype(np.float32)
    logits = encoder(x[..., None]).logits
    np.testing.assert_allclose(encoder.predict(x[..., None]), softmax(logits, 1), rtol=1e-5)


def test_several_labels_a_recording(trained, said, sound, tmp_path):
    head = replace(trained.experiment.method.head, multi_label=True, loss="bce")
    method = replace(trained.experiment.method, head=head)
    experiment = replace(trained.experiment, method=method)
    path = save_bundle(tmp_path / "many", experiment=experiment, params=trained.params)
    encoder = load_encoder(path)
    assert encoder.multi_label
    file = sound("a.wav", np.random.default_rng(2).normal(0, 0.1, 20_720))
    import soundfile

    x, _ = soundfile.read(file, dtype="float32")
    scores = expit(encoder(x).logits[0].astype(np.float64))
    order = np.argsort(-scores)
    middle = float(scores[order[:2]].mean())
    named = rows(said("predict", path, file, "--threshold", middle))
    assert [r["label"] for r in named] == [encoder.labels[order[0]]]
    named = rows(said("predict", path, file, "--threshold", 0))
    assert [r["label"] for r in named] == [encoder.labels[k] for k in order]
    np.testing.assert_allclose([float(r["score"]) for r in named], scores[order], rtol=1e-4)
    # One at least, however sure.
    assert len(rows(said("predict", path, file, "--threshold", 1))) == 1


def test_embeddings_of_a_classifier_hold_its_logits(classifier, trained, shards, said, tmp_path):
    said("embed", classifier, shards, "--out", tmp_path / "e.npz")
    with np.load(tmp_path / "e.npz") as found:
        wanted = finetune.predict(trained, open_shards(shards), np.arange(32)).score
        np.testing.assert_allclose(found["logits"], wanted, atol=1e-4)
        assert found["classes"].tolist() == list(trained.experiment.method.labels)


def test_what_is_refused(bundle, classifier, refused, sound, tmp_path):
    good = sound("good.wav", np.ones(800) * 0.1)
    line = refused("predict", bundle, good)
    assert line.startswith(f"{bundle}: was trained without labels") and "jfreq finetune" in line
    (tmp_path / "text.wav").write_text("no sound")
    assert "text.wav: is no sound that can be read" in refused(
        "predict", classifier, good, tmp_path / "text.wav", "--strict", "--out", tmp_path / "t.csv"
    )
    assert not (tmp_path / "t.csv").exists()
    assert "ends in .csv" in refused("predict", classifier, good, "--out", tmp_path / "t.npz")
    assert "top" in refused("predict", classifier, good, "--top", 0)
    assert "threshold" in refused("predict", classifier, good, "--threshold", "nan")
    assert "no such file" in refused("predict", classifier, tmp_path / "none.wav")


# ------------------------------------------------------------------ folders of runs


def test_the_only_run_of_a_folder_is_taken(run, trained, said, capsys, tmp_path, sound):
    said("export", run, "--out", tmp_path / "enc")
    found = json.loads((tmp_path / "enc" / "config.json").read_text())
    labels = trained.experiment.method.labels
    assert tuple(found["experiment"]["method"]["head"]["labels"]) == labels
    encoder = load_encoder(tmp_path / "enc")
    assert encoder.labels == labels == load_encoder(run).labels
    card = (tmp_path / "enc" / "README.md").read_text()
    assert all(name in card for name in labels) and "encoder.predict" in card
    file = sound("a.wav", np.random.default_rng(3).normal(0, 0.1, 20_720))
    assert rows(said("predict", run, file)) == rows(said("predict", tmp_path / "enc", file))


def test_of_several_runs_one_is_to_be_chosen(run, refused, shards, tmp_path):
    several = tmp_path / "ft"
    for fold in ("fold1", "fold2"):
        shutil.copytree(run / "fold1", several / fold)
    choice = (
        f"{several}: holds several runs, fold1, fold2; choose one, for instance {several}/fold1"
    )
    out = tmp_path / "enc"
    assert refused("export", several, "--out", out) == choice
    assert refused("predict", several, shards) == choice
    assert refused("embed", several, shards, "--out", tmp_path / "e.npz") == choice
    assert refused("probe", several, "--data", shards) == choice
    assert refused("report", several) == choice
    assert refused("finetune", several, "--data", shards, "--workdir", tmp_path / "w") == choice
    fractions = tmp_path / "fractions"
    for name in ("0.1/0", "0.1/1"):
        shutil.copytree(run, fractions / name)
    assert "0.1/0/fold1, 0.1/1/fold1" in refused("export", fractions, "--out", out)
    assert not out.exists()
