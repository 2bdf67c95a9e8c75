"""A profile of some updates of a run, and the breakdown of their time."""

import gzip
import json
import re
import shutil

import pytest

from jfreq.config import Log, replace
from jfreq.monitoring.metrics_writer import read_metrics
from jfreq.train.loop import train
from jfreq.types import InputError


@pytest.fixture(scope="module")
def profiled(experiment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("profiled") / "run"
    train(replace(experiment, steps=4, log__profile_steps="2:3"), folder, quiet=True)
    return folder


def test_two_updates_are_traced_with_their_parts(profiled):
    (trace,) = (profiled / "profile").rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    names = [event.get("name", "") for event in events]
    steps = {event["args"]["step_num"] for event in events if event.get("name") == "update"}
    assert steps == {"2", "3"}
    assert names.count("dispatch") == 2 and names.count("wait for the batch") == 2
    (xplane,) = (profiled / "profile").rglob("*.xplane.pb")
    space = xplane.read_bytes()
    for part in (b"frontend", b"mask", b"encoder", b"objective", b"optimizer"):
        assert re.search(rb"[/(]" + part + rb"[/)]", space), part


def test_what_was_done_before_is_not_profiled(experiment, finished_run, tmp_path, capsys):
    run = shutil.copytree(finished_run[1], tmp_path / "run")
    shutil.rmtree(run / "checkpoints" / "6")
    train(replace(experiment, log__profile_steps="2:3"), run)
    assert "updates 2:3 were done before this start, so nothing is profiled" in (
        capsys.readouterr().err
    )
    assert not (run / "profile").exists()


def test_parts_of_the_time(finished_run):
    for row in read_metrics(finished_run[1]):
        assert 0 < row["data_wait"] + row["dispatch"] <= 1
        assert 0 < row["compute"] <= 1
        assert 0 < row["goodput"] < 1


@pytest.mark.parametrize("text", ["10", "15:10", "0:4", "a:b", "3:", "3-4", "-1:4", "1:2:3"])
def test_ranges_that_are_none(text):
    with pytest.raises(InputError, match=r"log\.profile_steps: must be FIRST:LAST, two updates"):
        Log(profile_steps=text)


def test_a_range_past_the_end(experiment, tmp_path):
    with pytest.raises(InputError, match=r"log\.profile_steps: 5:7 ends after the last step, 6"):
        train(replace(experiment, log__profile_steps="5:7"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
