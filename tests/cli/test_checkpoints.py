"""``jfreq checkpoints``, and ``--step`` of the commands that use a run."""

import json
import re
import shutil

import numpy as np
import pytest

from jfreq import cli
from jfreq.export.bundle import read_weights
from jfreq.train import checkpoint


@pytest.fixture
def run(finished_run, tmp_path):
    return shutil.copytree(finished_run[1], tmp_path / "run")


def test_the_table(said, run):
    head, three, six = said("checkpoints", run).splitlines()
    assert head.split() == ["step", "saved", "size", "state", "kept", "figures"]
    row = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  +[\d.]+ .B  complete  newest  loss [\d.]+"
    assert re.fullmatch(rf" *3  {row} \(logged at step 2\)", three)
    assert re.fullmatch(rf" *6  {row}", six)
    (run / "resumed_from.json").write_text('{"step": 2, "run": "runs/a"}')
    assert said("checkpoints", run).startswith("goes on from step 2 of runs/a\n")


def test_verify_exits_with_1(said, run, capsys):
    assert said("checkpoints", run, "--verify").count("verified") == 2
    next((run / "checkpoints" / "3" / "state").rglob("manifest.ocdbt")).unlink()
    with pytest.raises(SystemExit) as stop:
        cli.main(["checkpoints", str(run), "--verify", "--json"])
    assert stop.value.code == 1
    found = json.loads(capsys.readouterr().out)
    assert [entry["state"] for entry in found["checkpoints"]] == ["damaged", "verified"]
    assert found["checkpoints"][0]["damage"].endswith("is missing")


def test_figures_that_are_no_numbers(said, run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "val/loss": NaN, "eval/a/knn": null, "eval/a/seconds": 1.0}\n')
    line = said("checkpoints", run).splitlines()[-1]
    assert re.search(r"loss [\d.]+, val/loss nan$", line)
    metrics = json.loads(said("checkpoints", run, "--json"))["checkpoints"][-1]["metrics"]
    assert metrics["val/loss"] is None and metrics["loss"] > 0


def test_figures_measured_between_logged_updates(said, run):
    """The last loss with its update, and what was measured at the checkpoint itself."""
    rows = [{"step": 2, "loss": 5.0, "val/loss": 9.0}, {"step": 3, "eval/a/knn": 0.5}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, last = said("checkpoints", run).splitlines()[-2:]
    assert first.endswith("loss 5 (logged at step 2), eval/a/knn 0.5")
    assert last.endswith("loss 5 (logged at step 2)")


def test_prune_asks_first(said, run):
    out = said("checkpoints", run, "--prune", "--keep", 1)
    assert re.search(r"would remove 3 \([\d.]+ .B\); add --yes to do so\n$", out)
    assert (run / "checkpoints" / "3").is_dir()
    out = said("checkpoints", run, "--prune", "--keep", 1, "--yes")
    assert re.search(r"removed 3 \([\d.]+ .B\)\n$", out) and " 3  " not in out
    assert not (run / "checkpoints" / "3").exists()
    out = said("checkpoints", run, "--prune", "--keep", 1, "--yes")
    assert out.endswith("nothing to remove: the policy keeps every checkpoint that is whole\n")


def test_any_step_as_a_bundle(said, run, tmp_path):
    said("checkpoints", run, "--export", 3, "--out", tmp_path / "a")
    said("export", run, "--step", 3, "--out", tmp_path / "b")
    a, b = (read_weights(tmp_path / name) for name in "ab")
    right = checkpoint.load_run(run, step=3).params["trunk"]["special_tokens"]
    np.testing.assert_array_equal(a["trunk/special_tokens"], right)
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert "Exported from step 3 of 6" in (tmp_path / "a" / "README.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--keep", "1"], "--keep: says what --prune does; add --prune"),
        (["--yes"], "--yes: says what --prune does; add --prune"),
        (["--export", "3"], "--export: takes the step and --out the folder of the bundle"),
        (["--export", "4", "--out", "b"], r"has no checkpoint of step 4, only of \[3, 6\]"),
        (["--prune", "--keep", "0"], "--keep: must be 1 or more, got 0"),
    ],
)
def test_what_is_refused(refused, run, words, message):
    assert re.search(message, refused("checkpoints", run, *words))


def test_a_bundle_has_no_steps(refused, bundle, tmp_path):
    assert "is a bundle, not a run" in refused("checkpoints", bundle)
    refusal = refused("export", bundle, "--step", 3, "--out", tmp_path / "b")
    assert "a bundle has no step 3" in refusal
