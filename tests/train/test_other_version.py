"""Runs whose settings have other names than those of this version say what to do."""

import json
import shutil

import pytest

from jfreq import checksums
from jfreq.config import Checkpoint, ResumeFrom, replace
from jfreq.train import checkpoint
from jfreq.train.loop import train
from jfreq.types import InputError

ADVICE = r": no such field in Optim.*read the run with the version that trained it"


def renamed(path):
    """The settings in a file of JSON, with a field that was called otherwise."""
    value = json.loads(path.read_text())
    optim = value.get("config", value)["optim"]
    optim["learning_rate_of_old"] = optim.pop("lr")
    path.write_text(json.dumps(value))


@pytest.fixture
def run(finished_run, tmp_path):
    return shutil.copytree(finished_run[1], tmp_path / "run")


def test_the_config_of_a_run(experiment, run):
    renamed(run / "config.json")
    with pytest.raises(InputError, match=rf"^{run}/config.json: .*learning_rate_of_old{ADVICE}"):
        checkpoint.load_run(run)
    with pytest.raises(InputError, match=rf"^{run}/config.json: .*learning_rate_of_old{ADVICE}"):
        train(experiment, run, quiet=True)


def test_a_checkpoint_to_go_on_from(experiment, run, tmp_path):
    last = max(run.glob("checkpoints/[0-9]*"), key=lambda path: int(path.name))
    renamed(last / "meta" / "metadata")
    checksums.write(last, step=int(last.name))
    longer = replace(
        experiment,
        steps=2 * experiment.steps,
        checkpoint=Checkpoint(resume_from=ResumeFrom(str(run))),
    )
    with pytest.raises(InputError, match=r"learning_rate_of_old" + ADVICE):
        train(longer, tmp_path / "new", quiet=True)
    assert not (tmp_path / "new").exists()
