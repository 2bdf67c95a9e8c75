"""``jfreq plan``: what it prints, what it writes, and one clear line where it cannot."""

import json
import os
import re
import subprocess
import sys

import pytest

from jfreq import cli, recipes
from jfreq.cli import config_views
from jfreq.config import replace
from jfreq.data.shards.reader import open_shards
from jfreq.train import step

SMALL = ["--method.encoder.width", "64",
         "--method.encoder.depth", "2", "--method.encoder.heads", "4", "--method.passes", "1",
         "--seconds", "1.295", "--batch", "16"]  # fmt: skip


@pytest.fixture
def refused(capsys):
    """The one line with which a command ends in exit code 2."""

    def call(*words: str) -> str:
        with pytest.raises(SystemExit) as stop:
            cli.main(["plan", "ssast_nano", *words])
        out, err = capsys.readouterr()
        assert (stop.value.code, out) == (2, "")
        return err.splitlines()[-1].removeprefix("jfreq: error: ")

    return call


def test_page_and_json_say_the_same(capsys, tmp_path):
    path = tmp_path / "plan.json"
    mesh = ["--mesh.data", "2", "--mesh.fsdp", "2", "--mesh.tensor", "2"]
    cli.main(["plan", "ssast_nano", "--topology", "h200:8", *mesh, *SMALL, "--json", str(path)])
    page = capsys.readouterr().out
    plan = json.loads(path.read_text())
    assert "ssast_nano on h200:8: 8 devices, mesh data=2 fsdp=2 tensor=2, batch 16 of 1.295 s." in (
        page
    )
    assert "partitioner on 8 forced CPU devices" in page and plan["how"] in page
    rows = dict(re.findall(r"^\| (\S.*?) +\| (.*?) *\|$", page, re.MULTILINE))
    assert rows["parameters"].startswith(f"{plan['parameters']:,}, ")
    for name in ("arguments", "temporaries", "peak"):
        assert plan["memory"][name] > 0
    roof = plan["roofline"]
    assert roof["best"] == max(roof["compute"], roof["memory"], roof["communication"])
    assert roof["compute"] == pytest.approx(plan["work"] / 8 / 989e12)
    assert roof["memory"] == pytest.approx(plan["traffic"] / 4.8e12)
    sent = sum(c["sent"] for c in plan["collectives"])
    assert roof["communication"] == pytest.approx(sent / 450e9)
    assert roof["hours_per_day"] == pytest.approx(16 * 1.295 / roof["best"] * 24)
    assert rows["step time"].startswith(f"{roof['best'] * 1e3:.4g} ms")
    for c in plan["collectives"]:
        if c["times"] * c["bytes"] >= 2**16:
            assert re.search(
                rf"^\| {c['kind']} +\| {re.escape('+'.join(c['axes']))} +\| "
                rf"{re.escape(c['shapes'][0])}", page, re.MULTILINE,
            ), c  # fmt: skip
    for sentence in roof["assumptions"]:
        assert sentence in page


def test_several_slices_have_a_line_for_the_network(capsys, tmp_path):
    """Arrays under 1 MiB are whole on every device: their gradients are scattered over the four of
    a slice, and a quarter of them crosses, twice half of it."""
    path = tmp_path / "plan.json"
    mesh = ["--mesh.data", "4", "--mesh.fsdp", "2"]
    cli.main(["plan", "ssast_nano", "--topology", "2xh100:4", *mesh, *SMALL, "--json", str(path)])
    page = capsys.readouterr().out
    plan = json.loads(path.read_text())
    assert "on 2xh100:4: 2 slices of 4 devices, mesh data=4 fsdp=2 tensor=1" in page
    roof, sent = plan["roofline"], sum(c["crossing"] for c in plan["collectives"])
    assert roof["network"] == pytest.approx(sent / 50e9)
    assert sent == pytest.approx(4 * plan["parameters"] / 4, rel=0.02)
    shown = f"{roof['network'] * 1e3:.4g} ms"
    assert re.search(rf"network between slices +\| {re.escape(shown)}", page)
    assert re.search(r"sent between slices +\| ", page) and "| sent " in page
    assert any("between slices 50 GB/s a device" in line for line in roof["assumptions"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--topology", "cpu:8", "--mesh.slices", "3"], "mesh.slices: is 3, but cpu:8 is 1 slice"),
        (["--topology", "4xcpu:2", "--mesh.data", "2", "--mesh.fsdp", "4"], "mesh: data=2 cannot"),
        (["--topology", "0xv5e:4x4"], "topology: '0xv5e:4x4': give the number of slices"),
        (["--topology", "v5q:4x4"], "topology: no hardware 'v5q'"),
        (["--topology", "v5e:4x5"], "topology: no slice '4x5' of v5e"),
        (["--topology", "cpu:8", "--mesh.data", "3"], "mesh: data=3 fsdp=1 tensor=1 does not fit"),
        (["--topology", "cpu:8", "--batch", "12"], "batch: 12 rows .* take a multiple of 8"),
        (["--topology", "cpu:8", "--seconds", "0"], "--seconds: must be positive, got 0"),
        (["--topology", "cpu:8", "--data", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_bad_input(refused, words, said):
    assert re.match(said, refused(*words))


def test_unknown_memory_has_no_largest_batch(refused, monkeypatch):
    monkeypatch.setattr(step, "lower_step", lambda spec: pytest.fail("compiles"))
    said = refused("--topology", "cpu:8", *SMALL, "--largest-batch")
    assert said.startswith("largest-batch: the memory of cpu:8 is not known")


def test_options_of_the_experiment_are_checked(refused):
    said = refused("--topology", "cpu:8", "--method.encoder.depth", "0")
    assert said.startswith("--method.encoder.depth: must be 1 or more")


@pytest.mark.slow
def test_a_fresh_process_makes_its_own_devices(tmp_path):
    """More devices than this process has; whatever the machine's own platform is."""
    path = tmp_path / "plan.json"
    env = {k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS"}
    mesh = ["--mesh.data", "4", "--mesh.fsdp", "3", *SMALL[:-1], "24"]
    words = ["plan", "ssast_nano", "--topology", "a100:12", *mesh, "--json", str(path)]
    command = [sys.executable, "-m", "jfreq", *words]
    subprocess.run(command, check=True, env=env, timeout=240, stdout=subprocess.DEVNULL)
    plan = json.loads(path.read_text())
    assert plan["devices"] == 12 and plan["mesh"] == {"data": 4, "fsdp": 3, "tensor": 1}
    assert plan["collectives"] and not plan["gathers"]


def test_rows_are_those_that_training_would_see(shards):
    """Of the shards, cut as the experiment cuts them; or clips of a length."""
    experiment = recipes.load("ssast_nano")
    view = config_views.View(experiment, data=str(shards))
    assert config_views.shards_info(view) == open_shards(shards).info
    view = replace(view, experiment__data__crop_seconds=0.5)
    assert [s.samples for s in config_views.shards_info(view).signals] == [8000]
    assert config_views.bound(view).method.signals[0].samples == 8000
    clip = config_views.shards_info(
        config_views.View(experiment, seconds=2.5, rate=8000.0, labels=3)
    )
    assert clip.spec.signal().seconds == 2.5 and clip.labels == ("0", "1", "2")
