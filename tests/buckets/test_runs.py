"""A run in object storage is what the same run in a local folder is, whenever it was cut off."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

import jfreq
from jfreq import cli, staging
from jfreq.buckets import Bucket
from jfreq.config import Checkpoint, ResumeFrom, replace
from jfreq.config_json import to_dict
from jfreq.export.export_run import export_run
from jfreq.lease import Lease
from jfreq.monitoring.metrics_writer import read_metrics
from jfreq.report import write_page
from jfreq.train.checkpoint import load_run
from jfreq.train.loop import train
from jfreq.types import InputError

pytestmark = pytest.mark.interop


def equal(a, b):
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in leaves)


def steps(bucket):
    marks = [n.split("/")[1] for n in bucket.sizes("checkpoints") if n.endswith("sha256.json")]
    return {int(step) for step in marks if step.isdecimal()}


@pytest.fixture(scope="session")
def stored_run(store, experiment):
    """A finished run in a store: only to be read or copied."""
    url = f"{store}://bucket/finished"
    train(experiment, url, quiet=True)
    return url


@pytest.fixture
def run(stored_run, url):
    """A copy that a test may change."""
    root, _, folder = url.rpartition("/")
    bucket = Bucket(root, "run")
    bucket.copy({name: folder + name.removeprefix("finished") for name in bucket.sizes("finished")})
    return url


def test_it_is_the_run_of_a_local_folder(stored_run, finished_run):
    trained, folder = finished_run
    assert equal(load_run(stored_run).params, trained.params)
    bucket = Bucket(stored_run, "run")
    assert json.loads(bucket.read("config.json") or b"") == json.loads(
        (folder / "config.json").read_text()
    )
    with staging.opened(stored_run, "run") as copy:
        ours = [{"step": r["step"], "loss": r["loss"]} for r in read_metrics(copy)]
    assert ours == [{"step": r["step"], "loss": r["loss"]} for r in read_metrics(folder)]
    assert not copy.exists(), "copies go when they are closed"
    assert steps(bucket) == {3, 6}


def test_what_was_cut_off_is_never_read(run, experiment, finished_run):
    """A checkpoint of which everything but the digests is there does not exist; the run goes on
    from the one before it and ends with the same bits."""
    bucket = Bucket(run, "run")
    bucket.delete(["checkpoints/6/sha256.json"])
    assert not equal(load_run(run).params, finished_run[0].params)
    assert equal(train(experiment, run, quiet=True).params, finished_run[0].params)
    assert steps(bucket) == {3, 6}


def test_damage_is_set_aside(run, experiment, finished_run, caplog):
    bucket = Bucket(run, "run")
    name = next(n for n in bucket.sizes("checkpoints/6/state") if n.endswith("kernel/0.0"))
    bucket.write(name, b"x" + (bucket.read(name) or b"")[1:])
    assert equal(train(experiment, run, quiet=True).params, finished_run[0].params)
    assert f"{run}/checkpoints/6 is damaged" in caplog.text
    assert bucket.sizes("checkpoints/damaged-6") and steps(bucket) >= {3, 6}


def test_one_process_at_a_time(run, experiment, monkeypatch):
    monkeypatch.setattr("jfreq.lease.BEAT_S", 0.05)
    held = Lease(Bucket(run, "run"), "trains in")
    with pytest.raises(InputError, match=f"^{run}: process .* trains in it now; wait for that"):
        train(replace(experiment, steps=8), run, quiet=True)
    held.close()
    Lease(Bucket(run, "run"), "trains in").close()


def test_a_holder_that_stands_still_is_replaced_and_told(url, monkeypatch):
    monkeypatch.setattr("jfreq.lease.BEAT_S", 0.5)
    monkeypatch.setattr("jfreq.lease.EXPIRES_S", 0.2)
    bucket = Bucket(url, "run")
    first = Lease(bucket, "trains in")
    first.check()
    second = Lease(bucket, "trains in")  # its first beat is later than the lease lasts
    with pytest.raises(InputError, match="has taken over, because this process did not answer"):
        first.check()
    second.check()
    second.close()


def test_another_experiment_is_refused(stored_run, experiment):
    with pytest.raises(InputError, match=f"^{stored_run}: holds another experiment, .* batch"):
        train(replace(experiment, batch=4), stored_run, quiet=True)


def test_reports_and_bundles(stored_run, finished_run, url):
    page = write_page(stored_run, rows=0)
    assert page == f"{stored_run}/report.html"
    assert b"<html" in (Bucket(stored_run, "run").read("report.html") or b"")[:200]
    assert export_run(stored_run, url) == url
    wave = np.random.default_rng(0).normal(size=16000).astype(np.float32)
    ours = jfreq.load_encoder(url)(wave, 16000)
    theirs = jfreq.load_encoder(finished_run[1])(wave, 16000)
    np.testing.assert_array_equal(ours.clip, theirs.clip)
    export_run(stored_run, url)  # a bundle may be replaced
    bucket = Bucket(url, "out")
    weights = bucket.read("model.safetensors") or b""
    bucket.delete(["model.safetensors"])
    with pytest.raises(
        InputError, match=f"^{url}/model.safetensors: is missing; the bundle is inc"
    ):
        jfreq.load_encoder(url)
    bucket.write("model.safetensors", weights[:-1])
    with pytest.raises(InputError, match=f"^{url}/model.safetensors: is truncated or altered"):
        jfreq.load_encoder(url)
    with pytest.raises(InputError, match=f"^{stored_run}: exists and is not a bundle"):
        export_run(stored_run, stored_run)


def test_another_run_goes_on_from_it(stored_run, experiment, finished_run, tmp_path):
    origin = Checkpoint(resume_from=ResumeFrom(stored_run, 3))
    again = train(replace(experiment, checkpoint=origin), tmp_path / "run", quiet=True)
    assert equal(again.params, finished_run[0].params)
    gone = Checkpoint(resume_from=ResumeFrom(stored_run, 4))
    with pytest.raises(InputError, match=r"finished: has no checkpoint of step 4, only of \[3"):
        train(replace(experiment, checkpoint=gone), tmp_path / "other", quiet=True)


def test_its_checkpoints_are_listed_verified_and_pruned(run, capsys):
    bucket = Bucket(run, "run")
    cli.main(["checkpoints", run, "--json"])
    listed = json.loads(capsys.readouterr().out)["checkpoints"]
    assert [(entry["step"], entry["state"]) for entry in listed] == [
        (3, "complete"), (6, "complete"),
    ]  # fmt: skip
    assert listed[0]["bytes"] == sum(bucket.sizes("checkpoints/3").values())
    cli.main(["checkpoints", run, "--prune", "--keep", "1"])
    assert "would remove 3" in capsys.readouterr().out and steps(bucket) == {3, 6}
    cli.main(["checkpoints", run, "--prune", "--keep", "1", "--yes"])
    assert "removed 3" in capsys.readouterr().out and steps(bucket) == {6}
    assert not bucket.sizes("checkpoints/3")
    name = next(n for n in bucket.sizes("checkpoints/6/state") if n.endswith("kernel/0.0"))
    bucket.write(name, b"x" + (bucket.read(name) or b"")[1:])
    with pytest.raises(SystemExit):
        cli.main(["checkpoints", run, "--verify"])
    assert "kernel/0.0 is not what was written" in capsys.readouterr().out


def test_two_processes_share_an_ablation(store, experiment, url, tmp_path):
    """Each training is done once, and whoever ends last has the results of all."""
    recipe = tmp_path / "two.py"
    text = json.dumps(to_dict(replace(experiment, steps=2, data__path=())))
    recipe.write_text(
        "import json\nfrom jfreq.ablate import Ablation, change\n"
        "from jfreq.methods import experiment_from_dict\n"
        f"base = experiment_from_dict(json.loads({text!r}))\n"
        "two = Ablation(name='two', question='many?', base=base, probe='ridge',\n"
        "    factors={'mask': {'few': change(method__mask=8), 'many': change(method__mask=16)}})\n"
    )
    words = ["ablate", f"{recipe}:two", "--data", *experiment.data.path, "--workdir", url,
             "--trainings", "1"]  # fmt: skip
    runs = [
        subprocess.Popen([sys.executable, "-P", "-m", "jfreq", *words, "--part", f"{i}/2"])
        for i in (1, 2)
    ]
    assert [run.wait(240) for run in runs] == [0, 0]
    bucket = Bucket(url, "run")
    cells = json.loads(bucket.read("grid.json") or b"")["cells"]
    assert [(cell["name"], cell["status"]) for cell in cells] == [("few", "done"), ("many", "done")]
    assert len(bucket.sizes("results")) == 2 and bucket.read("report.html")
