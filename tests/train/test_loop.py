"""The loop: exact resume, signals, guards, accumulation, meshes, one compilation."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import jax
import numpy as np
import pytest

from jfreq import param_paths
from jfreq.config import Source, replace
from jfreq.config_json import to_dict
from jfreq.method import Method
from jfreq.monitoring.metrics_writer import read_metrics
from jfreq.train import checkpoint, step
from jfreq.train.loop import Stopped, train
from jfreq.train.pending import NotFinite, below_threshold
from jfreq.types import InputError


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture
def run(finished_run, tmp_path):
    """A copy of the finished run, to be harmed and gone on with."""
    return shutil.copytree(finished_run[1], tmp_path / "run")


def test_stop_and_resume_is_bitwise(experiment, finished_run, run):
    """The run as it was after its checkpoint at step 3."""
    shutil.rmtree(run / "checkpoints" / "6")
    again = train(experiment, run)
    equal(finished_run[0].params, again.params)
    rows = read_metrics(run)
    assert (run / "started.json").read_text() == (finished_run[1] / "started.json").read_text()
    assert all(0 < row["goodput"] < 1 for row in rows)
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert rows[-1]["loss"] == read_metrics(finished_run[1])[-1]["loss"]


def test_sigkill_at_a_random_moment_changes_nothing(experiment, tmp_path):
    """A real process, killed without warning; the run goes on here to the same bits as one that
    was never broken."""
    experiment = replace(experiment, steps=20, checkpoint__every=2)
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from jfreq.methods import experiment_from_dict\nimport json\n"
        f"e = experiment_from_dict(json.loads({json.dumps(json.dumps(to_dict(experiment)))}))\n"
    )
    command = [sys.executable, "-m", "jfreq", "train", f"{recipe}:test", "--workdir"]
    broken = subprocess.Popen(
        [*command, str(tmp_path / "broken")], stderr=subprocess.PIPE, text=True
    )
    limit = time.monotonic() + 240
    pause = np.random.default_rng().uniform(0.0, 1.5)
    while not list((tmp_path / "broken" / "checkpoints").glob("[0-9]*")):
        assert broken.poll() is None, broken.communicate()[1]
        assert time.monotonic() < limit
        time.sleep(0.02)
    time.sleep(pause)
    broken.kill()
    assert broken.wait() in (-signal.SIGKILL, 0)
    whole, again = (train(experiment, tmp_path / name, quiet=True) for name in ("whole", "broken"))
    equal(whole.params, again.params)


def test_sigterm_saves_and_says_so(experiment, tmp_path):
    experiment = replace(experiment, steps=100_000, checkpoint__every=50_000)

    def terminate():
        limit = time.monotonic() + 120
        while not read_metrics(tmp_path / "run"):
            assert time.monotonic() < limit
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with ThreadPoolExecutor(1) as pool:
        told = pool.submit(terminate)
        with pytest.raises(Stopped, match=r"at step \d+;") as stop:
            train(experiment, tmp_path / "run", quiet=True)
    told.result()
    assert stop.value.signal == signal.SIGTERM and signal.getsignal(signal.SIGTERM) == before
    step_number = int(str(stop.value).split("step ")[1].split(";")[0])
    assert [int(p.name) for p in (tmp_path / "run" / "checkpoints").glob("[0-9]*")] == [step_number]


def test_nan_stops_with_a_dump(experiment, tmp_path):
    bad = replace(
        experiment, optim__lr=1e30, optim__clip=None, optim__warmup=0, checkpoint__every=1
    )
    with pytest.raises(NotFinite, match="last good checkpoint"):
        train(bad, tmp_path)
    (dump,) = (json.loads(p.read_text()) for p in tmp_path.glob("not_finite_*.json"))
    assert len(dump["batch_ids"]) == 8
    kept = checkpoint.load_run(tmp_path).params
    assert dump["last_good_checkpoint"] is not None
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(kept))


def test_damaged_checkpoint_falls_back_to_the_one_before(experiment, finished_run, run, caplog):
    for path in (run / "checkpoints" / "6" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    again = train(experiment, run)
    assert "damaged" in caplog.text
    equal(finished_run[0].params, again.params)


def test_half_written_checkpoint_is_ignored(experiment, finished_run, run):
    (run / "checkpoints" / "6").rename(run / "checkpoints" / "6.orbax-checkpoint-tmp-1")
    equal(finished_run[0].params, train(experiment, run).params)


def test_workdir_of_another_experiment(experiment, run):
    with pytest.raises(InputError, match=r"another experiment.*optim.lr"):
        train(replace(experiment, optim__lr=0.5), run)
    train(replace(experiment, steps=8), run)  # more steps: the run goes on
    assert read_metrics(run)[-1]["step"] == 8


def test_other_data_than_before(experiment, run, tmp_path):
    from jfreq.data.prepare.run import prepare

    other = tmp_path / "other"
    prepare("synthetic:tones", other, n=32, seconds=1.295, seed=5, progress=False)
    moved = json.loads((run / "config.json").read_text())
    moved["data"]["path"] = [str(other)]
    (run / "config.json").write_text(json.dumps(moved))
    with pytest.raises(InputError, match="trained on other shards"):
        train(replace(experiment, data__path=(str(other),)), run)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"mesh__tensor": 3}, "does not match the devices that JAX has"),
        ({"data__path": ()}, "no shards given"),
        ({"data__path": ("nowhere",)}, "nowhere"),
        ({"data__exclude_folds": tuple(range(10))}, "no rows"),
        ({"method__mask": 64}, "64 of 8 x 8"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(experiment, tmp_path, changes, match):
    with pytest.raises(InputError, match=match):
        train(replace(experiment, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_compilation_per_run(experiment, tmp_path, caplog):
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        train(replace(experiment, steps=2), tmp_path)
    compiled = [
        r for r in caplog.records if "Finished XLA compilation of jit(update)" in r.getMessage()
    ]
    assert len(compiled) == 1


def test_init_from_takes_the_trunk_and_resizes_positions(
    experiment, finished_run, tmp_path, capsys
):
    source, folder = finished_run
    longer = replace(
        experiment,
        steps=1,
        optim__lr=1e-20,
        method__frames=256,
        checkpoint__init_from=(Source(str(folder)),),
    )
    found = train(longer, tmp_path / "run")
    equal(found.params["trunk"]["encoder"], source.params["trunk"]["encoder"])
    assert found.params["trunk"]["positions"]["grid"].shape == (8, 16, 32)
    said = capsys.readouterr().err
    assert f"params from {folder}: " in said
    assert "arrays taken, 1 resized, 0 left fresh" in said
    # It goes on from its own checkpoint, so what it started from may be gone.
    gone = replace(longer, checkpoint__init_from=(Source(str(tmp_path / "gone")),))
    again = train(gone, tmp_path / "run")
    equal(again.params["trunk"]["encoder"], source.params["trunk"]["encoder"])
    with pytest.raises(InputError, match="gone"):
        train(gone, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_metrics_rows_have_everything(finished_run):
    row = read_metrics(finished_run[1])[-1]
    names = {
        "step",
        "loss",
        "info_nce",
        "mse",
        "accuracy",
        "lr",
        "grad_norm",
        "update_norm",
        "param_norm",
        "step_time",
        "data_wait",
        "examples_per_s",
        "tflops",
        "mfu",
    }
    assert names <= set(row)
    assert param_paths.count(checkpoint.load_run(finished_run[1]).params) > 0


class Collapsing(Method):
    collapse_thresholds: ClassVar = {"rankme": 4.0}


def test_a_metric_that_falls_below_its_threshold_is_told_once():
    warned: set[str] = set()
    rows = [{"rankme": x} for x in (9.0, 3.5, 3.0, 5.0, 2.0)]
    told = [list(below_threshold(Collapsing(), row, warned)) for row in rows]
    assert [len(t) for t in told] == [0, 1, 0, 0, 1]
    assert "rankme is 3.5, below 4" in told[1][0]


def test_a_step_that_no_device_can_hold_is_refused():
    step.check_memory(2**30, 2**30)
    step.check_memory(1)
    with pytest.raises(InputError, match=r"needs 3.0 GiB a device, there are 2.0"):
        step.check_memory(3 * 2**30, 2 * 2**30)
    with pytest.raises(InputError, match=r"method.clones"):
        step.check_memory(2**60)
