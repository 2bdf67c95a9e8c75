"""``jfreq train``, ``probe`` and ``finetune``: settings, folders and exit codes."""

import errno
import json
import shutil
import signal

import pytest

from jfreq import cli
from jfreq.config_json import to_dict
from jfreq.train.loop import Stopped
from jfreq.train.pending import NotFinite


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method.mask", "64"], "mask: 64 of 8 x 8 (time x frequency) = 64 tokens cannot be"),
        (["--method.mask-kind", "time", "--method.mask", "20"], "20 is not a multiple, take 16"),
        (
            ["--mesh.data", "3"],
            "mesh: data=3, fsdp=1, tensor=1 does not match the devices",
        ),
        (["--data.exclude-folds", "9"], "fold: no rows of fold 9; the set has: 0, 1, 2, 3, 4"),
        (["--data.split", "trian"], "no rows of split 'trian'; the set has: none"),
        (["--method.modality", "gyro"], "no signal 'gyro' in the data; it has: audio"),
        (["--method.patch", "16", "200"], "16 frames x 200 bins fits"),
    ],
)
def test_settings_that_do_not_fit_the_data(training, refused, tmp_path, options, message):
    assert message in refused(*training, *options)
    assert not (tmp_path / "run").exists(), "refused before anything is written"


def test_no_data_missing_data_unfinished_data(refused, tmp_path):
    train = ["train", "ssast_nano", "--workdir", tmp_path / "run", "--data"]
    assert "no shards given; pass --data FOLDER" in refused(*train[:-1])
    line = refused(*train, tmp_path / "none")
    assert f"{tmp_path}/none: no such folder; make shards with `jfreq data prepare`" in line
    (tmp_path / "empty").mkdir()
    assert "empty is not a set of shards: it is empty" in refused(*train, tmp_path / "empty")
    assert "not a set of shards" in refused("data", "info", tmp_path / "empty")
    assert "no such folder" in refused("data", "peek", tmp_path / "none")


def test_half_written_and_truncated_shards(refused, shards, small, tmp_path):
    half = tmp_path / "half"
    shutil.copytree(shards, half)
    (half / "metadata.json").unlink()
    train = ["train", "ssast_nano", "--workdir", tmp_path / "run", "--data", half]
    assert "`jfreq data prepare` again, which goes on where it stopped" in refused(*train)

    shutil.copy(shards / "metadata.json", half)
    (shard,) = half.glob("*array_record*")
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    for command in (["data", "peek", half], [*train, *small]):
        line = refused(*command)
        assert str(shard) in line and "is damaged or cut short (" in line
    shard.unlink()
    assert "is missing; prepare the set again" in refused(*train)
    (half / "metadata.json").write_text("{")
    assert "no JSON, Expecting property name" in refused(*train)


def test_clips_shorter_than_a_patch(refused, said, tmp_path):
    short = tmp_path / "short"
    said("data", "prepare", "synthetic:tones", "--out", short, "--n", "8", "--seconds", "0.01")
    line = refused("train", "ssast_nano", "--data", short, "--workdir", tmp_path / "run", "--batch",
                   "8")  # fmt: skip
    assert "clips of 160 samples (0.01 s) of 'audio' are shorter than one patch" in line


def test_a_folder_belongs_to_one_experiment(training, refused, said, shards, tmp_path):
    """One run that works, and what its folder refuses afterwards."""
    training += ["--steps", "1", "--batch", "8"]
    said(*training)
    assert (tmp_path / "run" / "checkpoints" / "1").is_dir()
    line = refused(*training, "--optim.lr", "1e-2")
    assert "holds another experiment, which differs in optim.lr" in line
    assert "seed" in refused(*training, "--seed", "7")
    other = tmp_path / "other"
    said("data", "prepare", "synthetic:tones", "--out", other, "--n", "8", "--seconds", "1.295")
    moved = [other if word is shards else word for word in training]
    assert "was trained on other shards" in refused(*moved)
    said(*training)  # the same command again: nothing to do

    probe = ["probe", tmp_path / "run", "--data"]
    motion = tmp_path / "motion"
    said("data", "prepare", "synthetic:motion", "--out", motion, "--n", "5", "--seconds", "1")
    assert "no signal 'audio' in the data; it has: acc, gyro" in refused(*probe, motion)
    assert "no fold 9; the data have fold 0" in refused(*probe, shards, "--folds", "9")
    curve = [*probe, shards, "--no-baselines", "--kinds", "knn", "--fractions"]
    assert "0.01 of 24 rows leaves class" in refused(*curve, "0.01", "--folds", "0")
    text = said(*curve, "1", "0.5", "--repeats", "2", "--out", tmp_path / "few")
    assert "of means over 2 samples of the labels" in text and "| 50 % (" in text
    assert len(json.loads((tmp_path / "few" / "fractions.json").read_text())["results"]) == 6
    assert "<svg" in (tmp_path / "few" / "fractions.svg").read_text()
    tune = ["finetune", tmp_path / "run", "--data", shards, "--workdir", tmp_path / "tuned"]
    assert "no fold 9; the data have fold 0" in refused(*tune, "--folds", "9")
    assert "0.01 of 24 rows leaves class" in refused(
        *tune, "--folds", "0", "--fractions", "1", "0.01"
    )
    tune[1] = "ssast_nan"
    assert "no such run or bundle, and unknown experiment" in refused(*tune)
    encoder = tmp_path / "encoder"
    assert str(encoder) in said("export", tmp_path / "run", "--out", encoder)
    assert json.loads((encoder / "config.json").read_text())["experiment"]["name"] == "ssast_nano"
    assert "exists and is not a bundle" in refused(
        "export", tmp_path / "run", "--out", tmp_path / "motion"
    )


def test_a_run_without_a_checkpoint(refused, training, tmp_path, shards):
    run = tmp_path / "run"
    run.mkdir()
    for command in (["probe", run, "--data", shards], ["export", run, "--out", tmp_path / "e"],
                    ["finetune", run, "--data", shards, "--workdir", tmp_path / "t"],
                    ["embed", run, "a.wav", "--out", tmp_path / "e.npz"]):  # fmt: skip
        assert "not a bundle, it has no config.json" in refused(*command)
    from jfreq import recipes

    (run / "config.json").write_text(json.dumps(to_dict(recipes.load("ssast_nano"))))
    (run / "checkpoints").mkdir()
    line = refused("export", run, "--out", tmp_path / "e")
    assert "no readable checkpoint; let `jfreq train` run longer" in line
    assert "no such folder" in refused("export", tmp_path / "none", "--out", tmp_path / "e")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (Stopped(5, signal.SIGTERM), 143, "stopped at step 5; the same command continues"),
        (Stopped(5, signal.SIGINT), 130, "stopped at step 5"),
        (NotFinite("loss nan at step 3"), 1, "loss nan at step 3"),
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/a"),
            2,
            "runs/a: the disk is full",
        ),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_exit_codes(training, monkeypatch, capsys, error, code, message):
    def train(experiment, workdir):
        raise error

    monkeypatch.setattr("jfreq.train.loop.train", train)
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in training])
    assert stop.value.code == code
    err = capsys.readouterr().err
    assert message in err and err.count("\n") <= 1


def test_internal_errors_are_not_hidden(training, monkeypatch):
    monkeypatch.setattr("jfreq.train.loop.train", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main([str(word) for word in training])
