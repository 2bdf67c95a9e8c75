"""Two real processes with two devices each, on loopback; every wait has a hard limit."""

import json
import signal
import time

import numpy as np
import pytest

from jfreq.config import Checkpoint, Eval, Mesh, ResumeFrom, Validation, replace
from jfreq.config_json import to_dict
from jfreq.monitoring.metrics_writer import read_metrics
from jfreq.testing import finish_processes, start_processes
from jfreq.train.checkpoint_files import finished
from jfreq.train.loop import train


@pytest.fixture
def on_four(experiment):
    """That of a run on the four devices of two processes."""
    return replace(experiment, mesh=Mesh(2, 2, 1), checkpoint__every=2, steps=4)


def recipe(folder, experiment):
    """A file that `jfreq train FILE:test` reads."""
    path = folder / "recipe.py"
    text = json.dumps(to_dict(experiment))
    path.write_text(
        "import json\nfrom jfreq.methods import experiment_from_dict\n"
        f"e = experiment_from_dict(json.loads({text!r}))\n"
    )
    return f"{path}:test"


@pytest.mark.slow
def test_two_processes_train_like_one(on_four, tmp_path):
    """Validation, the rate that follows it and a labelled set included; no figure of validation
    here is better than the first."""
    on_four = replace(
        on_four,
        validation=Validation(every=2, fraction=0.25),
        evals=(Eval("tones", on_four.data.path[0], every=4),),
        checkpoint__best="val/loss",
        optim__schedule="plateau",
        optim__plateau_patience=0,
        optim__plateau_threshold=10.0,
    )
    command = ["-m", "jfreq", "train", recipe(tmp_path, on_four), "--workdir"]
    first, second = finish_processes(start_processes([*command, str(tmp_path / "two")]))
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert "mesh data 2 x fsdp 2" in first.err
    assert "mesh" not in second.err, second.err  # only the first process speaks
    train(replace(on_four, mesh=Mesh(8, 1, 1)), tmp_path / "one")
    ours, one = (read_metrics(tmp_path / name) for name in ("two", "one"))
    assert [row["step"] for row in ours] == [2, 4]
    for a, b in zip(ours, one, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-3)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)
        assert a["val/loss"] == pytest.approx(b["val/loss"], abs=1e-3)
    for name, limit in (("knn", 0.1), ("ridge", 0.1), ("effective_rank", 0.2), ("std", 1e-2)):
        one_, two = (rows[-1][f"eval/tones/{name}"] for rows in (one, ours))
        assert two == pytest.approx(one_, abs=limit), name
    # The checkpoint of two processes goes on in one, on another mesh.
    longer = replace(on_four, mesh=Mesh(8, 1, 1), steps=6)
    train(longer, tmp_path / "two")
    rows = read_metrics(tmp_path / "two")
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert [row["lr"] for row in rows] == pytest.approx([2.5e-4, 1e-3, 5e-4])


@pytest.mark.slow
def test_sigterm_to_one_process_saves_and_stops_all(on_four, finished_run, tmp_path):
    """A run of two that goes on from one of a single process, and is saved by the clock before."""
    saving = Checkpoint(
        every=None, minutes=0.01, keep=1, resume_from=ResumeFrom(str(finished_run[1]), 3)
    )
    name = recipe(tmp_path, replace(on_four, steps=100_000, checkpoint=saving))
    run = tmp_path / "run"
    runs = start_processes(["-m", "jfreq", "train", name, "--workdir", str(run)])
    end = time.monotonic() + 120
    while not any(step > 3 for step in _saved(run)) and time.monotonic() < end:
        time.sleep(0.2)
    runs[1].send_signal(signal.SIGTERM)
    done = finish_processes(runs, limit_s=120)
    assert [d.code for d in done] == [143, 143], done
    (saved,) = _saved(run)
    assert f"stopped at step {saved}" in done[0].err
    assert f"goes on from step 3 of {finished_run[1]}" in done[0].err
    assert read_metrics(run)[0]["step"] == 4


def _saved(run):
    folder = run / "checkpoints"
    return finished(folder) if folder.is_dir() else set()


VALUES = """
import sys, numpy as np, jax
from jfreq import distributed, sharding
from jfreq.config import Experiment, Mesh
from jfreq.data.shards.reader import open_shards
from jfreq.evaluate.features import extract
from jfreq.evaluate.predictions import predict
from jfreq.methods.ssast import SSAST
from jfreq.methods.supervised import Classify
from jfreq.train.state import Trained
from jfreq.nn.vit import ViT
from jax.sharding import NamedSharding, PartitionSpec as P

distributed.start()
rank, out = jax.process_index(), {}
assert jax.process_count() == 2 and jax.device_count() == 4

# rank-coded rows, any number of them, come back in order
for total in (1, 2, 5, 8):
    mine = distributed.local_rows(np.arange(total))
    got = distributed.gather_rows({"x": 10.0 * mine, "y": mine}, total)
    np.testing.assert_array_equal(got["x"], 10.0 * np.arange(total))
    np.testing.assert_array_equal(got["y"], np.arange(total))

# a batch fed in parts is the batch, also where the parts are the same
rows = np.arange(8, dtype=np.int32)
for sizes, shard in (((4, 1, 1), (rank, 2)), ((1, 2, 2), (rank, 2)), ((1, 1, 4), (0, 1))):
    mesh = sharding.make_mesh(sizes)
    assert sharding.process_shard(mesh) == shard, sharding.process_shard(mesh)
    part = np.split(rows, shard[1])[shard[0]]
    whole = sharding.to_global({"x": part}, mesh)["x"]
    assert whole.shape == (8,)
    np.testing.assert_array_equal(distributed.to_host(whole), rows)
    spread = jax.device_put(rows, NamedSharding(mesh, P(("data", "fsdp", "tensor"))))
    np.testing.assert_array_equal(distributed.to_host({"a": spread})["a"], rows)

# every process gets the features of all rows, padded batches and all
shards = open_shards(sys.argv[1])
method = SSAST(encoder=ViT(width=16, depth=1, heads=2)).bind(shards.spec)
params = jax.jit(method.init)(jax.random.key(0))
found = extract(method, jax.device_get(params), shards, np.arange(7), batch=3)
np.savez(f"{sys.argv[2]}/{rank}.npz", x=found.x, label=found.label, id=found.id)

# and the predictions of all rows, from parameters on the host and on the mesh
method = Classify(backbone=method).bind(shards.spec)
params = jax.device_get(jax.jit(method.init)(jax.random.key(0)))
trained = Trained(Experiment("two", method, mesh=Mesh(2, 2, 1)), params)
mesh = sharding.make_mesh((2, 2, 1))
placed = jax.device_put(params, NamedSharding(mesh, P()))
scores = [predict(trained._replace(params=p), shards, np.arange(7)).score for p in (params, placed)]
np.savez(f"{sys.argv[2]}/scores{rank}.npz", host=scores[0], mesh=scores[1])
"""


RESTORE = """
import logging, pathlib
from jfreq.train import checkpoint
from jfreq.train.state import State
from jfreq.types import InputError

logging.basicConfig(level=logging.WARNING, stream=sys.stdout, force=True)
home = pathlib.Path(sys.argv[2]) / "home"
mesh = sharding.make_mesh((2, 2, 1))
rows = NamedSharding(mesh, P("data"))


def state(value):
    params = {"w": jax.jit(lambda: np.float32(value) + jax.numpy.arange(8.0), out_shardings=rows)()}
    return State(jax.device_put(np.int32(value), NamedSharding(mesh, P())), params, {}, {})


saves = checkpoint.Checkpoints(home)
for step in (2, 4):
    saves.save(state(step), step, {"step": step})
saves.wait()
saves.close()
if distributed.is_chief():
    for path in (home / "checkpoints" / "4").rglob("manifest.ocdbt"):
        path.write_bytes(path.read_bytes()[:-1])
jax.experimental.multihost_utils.sync_global_devices("damaged")
saves = checkpoint.Checkpoints(home)
found, meta = saves.restore_last(state(0))
w = distributed.to_host(found.params)["w"]
print("RESTORED", meta["step"], np.array_equal(w, 2 + np.arange(8.0)), saves.steps())
saves.save(found, 4, {"step": 4})
saves.wait()
saves.close()

def refuse():
    raise InputError("only the first process knows why")

for decide, wanted in ((lambda: [1, "a"], [1, "a"]), (refuse, None)):
    try:
        assert distributed.from_chief(decide) == wanted
    except InputError as error:
        print("REFUSED", error)
"""


@pytest.fixture(scope="module")
def pair(shards, tmp_path_factory):
    """Both scripts in one start of two processes, and the folder that they wrote."""
    folder = tmp_path_factory.mktemp("pair")
    words = ["-c", VALUES + RESTORE, str(shards), str(folder)]
    done = finish_processes(start_processes(words))
    assert [d.code for d in done] == [0, 0], done
    return done, folder


@pytest.mark.slow
def test_values_across_processes(pair, shards):
    first, second = (dict(np.load(pair[1] / f"{i}.npz")) for i in (0, 1))
    assert first["x"].shape == (7, 16)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    from jfreq.data.shards.reader import open_shards

    np.testing.assert_array_equal(first["label"], open_shards(shards).column("label")[:7])
    scores = [np.load(pair[1] / f"scores{i}.npz") for i in (0, 1)]
    for name in ("host", "mesh"):
        assert scores[0][name].shape[0] == 7 and np.ptp(scores[0][name]) > 0
        np.testing.assert_array_equal(scores[0][name], scores[1][name])
        np.testing.assert_allclose(scores[0][name], scores[0]["host"], atol=1e-5)


@pytest.mark.slow
def test_one_process_decides_what_is_restored(pair):
    """Two processes with a damaged checkpoint: both go on from the same one, one says so."""
    done, folder = pair
    for d in done:
        assert "RESTORED 2 True [2]" in d.out, d
        assert "REFUSED only the first process knows why" in d.out
    assert [d.out.count("it is kept as damaged-4") for d in done] == [1, 0], done
    kept = sorted(path.name for path in (folder / "home" / "checkpoints").iterdir())
    assert kept == ["2", "4", "damaged-4"]
