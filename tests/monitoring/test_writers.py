"""Copies of the metrics by name: TensorBoard, a stand-in for wandb, code of the user."""

import json
import sys
import types

import pytest

from jfreq.config import Log
from jfreq.monitoring.metrics_writer import MetricsWriter, read_metrics
from jfreq.monitoring.writers import RunInfo, Writers, find_writers
from jfreq.types import InputError


def info(folder, start=0):
    return RunInfo(folder, "ssast_nano", "abc", start, {"seed": 0})


@pytest.fixture
def wandb(monkeypatch):
    """What was asked of a module ``wandb``."""
    asked = []

    class Run:
        def define_metric(self, *names, **options):
            asked.append(("define_metric", names, options))

        def log(self, row):
            asked.append(("log", row))

        def finish(self):
            asked.append(("finish",))

    module = types.ModuleType("wandb")
    vars(module)["init"] = lambda **options: asked.append(("init", options)) or Run()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return asked


def test_wandb_gets_every_row_under_one_id(wandb, tmp_path):
    for start in (0, 2):  # a run that goes on
        writer = MetricsWriter(
            tmp_path, start_step=start, copies=Writers(find_writers(["wandb"]), info(tmp_path))
        )
        writer.write({"step": start + 2, "loss": 0.5, "mfu": None})
        writer.close()
    assert [row["step"] for row in read_metrics(tmp_path)] == [2, 4]
    inits = [what[1] for what in wandb if what[0] == "init"]
    assert [x["id"] for x in inits] == ["abc", "abc"]
    assert all(x["resume"] == "allow" and x["dir"] == str(tmp_path) for x in inits)
    assert [what[1] for what in wandb if what[0] == "log"] == [
        {"step": 2, "loss": 0.5}, {"step": 4, "loss": 0.5},
    ]  # fmt: skip
    assert ("define_metric", ("*",), {"step_metric": "step"}) in wandb
    assert wandb[-1] == ("finish",)


def test_tensorboard_drops_what_is_written_again(tmp_path):
    from tensorboardX import SummaryWriter

    writers = Writers(find_writers(["tensorboard"]), info(tmp_path, start=3))
    assert SummaryWriter
    writers.write({"step": 4, "loss": 1.0, "mfu": None})
    writers.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"loss" in events.read_bytes() and b"mfu" not in events.read_bytes()


OWN = """
import json

class Lines:
    def __init__(self, info):
        self.file = open(info.workdir / "own.txt", "a")
        print(json.dumps([info.name, info.id, info.start_step]), file=self.file)
    def write(self, row):
        if row["step"] == 3:
            raise OSError("the network is down")
        print(json.dumps(row), file=self.file)
    def close(self):
        self.file.close()

class Deaf:
    pass
"""


def test_code_of_the_user_runs_when_it_is_trusted(tmp_path, caplog):
    from jfreq.classes import trust

    (tmp_path / "own_lines.py").write_text(OWN)
    with pytest.raises(InputError, match=r"log\.writers: .*add --trust own_lines\.py"):
        find_writers(["own_lines:Lines"])
    trust(tmp_path / "own_lines.py")
    with pytest.raises(InputError, match=r"own_lines has no 'Line'.*'Lines'"):
        find_writers(["own_lines:Line"])
    with pytest.raises(InputError, match="Deaf is no writer: it needs the methods write"):
        find_writers(["own_lines:Deaf"])
    writer = MetricsWriter(
        tmp_path, copies=Writers(find_writers(["own_lines:Lines"]), info(tmp_path))
    )
    for step in (2, 3, 4):  # it fails in between, and the run goes on without it
        writer.write({"step": step})
    writer.close()
    assert [row["step"] for row in read_metrics(tmp_path)] == [2, 3, 4]
    assert "own_lines:Lines fails (OSError: the network is down)" in caplog.text
    lines = (tmp_path / "own.txt").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [["ssast_nano", "abc", 0], {"step": 2}]


def test_what_is_not_installed_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"wandb needs the package wandb: pip install wandb$"):
        find_writers(["wandb"])


@pytest.mark.parametrize(
    ("writers", "message"),
    [
        (("tensorbord",), r"no writer 'tensorbord' \(did you mean 'tensorboard'\?\)"),
        (("wandb", "wandb"), "'wandb' is given twice"),
    ],
)
def test_names_of_writers(writers, message):
    with pytest.raises(InputError, match=message):
        Log(writers=writers)
