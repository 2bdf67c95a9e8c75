"""The checkpoints of a run: listed, verified, pruned."""

import json
import shutil

import pytest

from jfreq import checksums
from jfreq.train import checkpoint, checkpoint_files, inventory, run_folder
from jfreq.types import InputError


def saved(run):
    return sorted(checkpoint_files.finished(run / "checkpoints"))


def restate(path, step):
    """Writes the digests of a checkpoint anew."""
    checksums.write(path, step=step, leave_out=checkpoint.LATE_FILES)


@pytest.fixture
def run(finished_run, tmp_path):
    """The checkpoint of step 3 as if it were of 1 to 5, and that of 6."""
    folder = shutil.copytree(finished_run[1], tmp_path / "run")
    for step in (1, 2, 4, 5):
        path = shutil.copytree(folder / "checkpoints" / "3", folder / "checkpoints" / str(step))
        restate(path, step)
    return folder


def damage(run, step):
    """Changes one byte of the biggest file."""
    files = (p for p in (run / "checkpoints" / str(step)).rglob("*") if p.is_file())
    path = max(files, key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path


def settings(run, **changes):
    """Changes the policy that the run was started with."""
    value = json.loads((run / "config.json").read_text())
    value["checkpoint"] |= changes
    (run / "config.json").write_text(json.dumps(value))


def test_what_is_listed(run):
    (run / "checkpoints" / "damaged-9").mkdir()
    (run / "checkpoints" / "7.orbax-checkpoint-tmp-1").mkdir()
    found = inventory.take(run)
    assert [entry.step for entry in found.entries] == [1, 2, 3, 4, 5, 6]
    assert [entry.kept for entry in found.entries] == [[]] * 4 + [["newest"]] * 2
    assert {entry.state for entry in found.entries} == {"complete"}
    path = run / "checkpoints" / "6"
    assert found.entries[-1].bytes == sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    assert abs(found.entries[-1].time - path.stat().st_mtime) < 3600
    assert found.entries[-1].metrics["step"] == 6 and found.entries[2].metrics["step"] == 2
    assert (found.set_aside, found.unfinished) == (["damaged-9"], ["7.orbax-checkpoint-tmp-1"])


def test_why_they_stay(run):
    settings(run, keep_every=2, best="val/loss")
    path = run / "checkpoints" / "6"
    meta = json.loads((path / "meta" / "metadata").read_text())
    meta["watch"] |= {"figure": "val/loss", "best": 0.5, "best_step": 3}
    (path / "meta" / "metadata").write_text(json.dumps(meta))
    restate(path, 6)
    found = inventory.take(run)
    assert {entry.step: entry.kept for entry in found.entries} == {
        1: [], 2: ["every 2"], 3: ["best by val/loss"], 4: ["every 2"], 5: ["newest"],
        6: ["newest", "every 2"],
    }  # fmt: skip
    assert found.best_step == 3
    settings(run, best="val/accuracy")  # which nothing has measured
    assert inventory.take(run).best_step is None


def test_damage(run):
    """A byte that changed is seen where files are read, a missing file always."""
    name = damage(run, 6).name
    assert not inventory.take(run).damaged
    (entry,) = inventory.take(run, verify=True).damaged
    assert entry.step == 6 and entry.damage.endswith(f"{name} is not what was written")
    next((run / "checkpoints" / "2" / "state").rglob("manifest.ocdbt")).unlink()
    (entry,) = inventory.take(run).damaged
    assert entry.step == 2 and entry.damage.endswith("is missing") and entry.kept == []


def test_pruning(run):
    assert [e.step for e in inventory.prunable(inventory.take(run, keep=1, keep_every=2))] == [
        1, 3, 5,
    ]  # fmt: skip
    assert saved(run) == [1, 2, 3, 4, 5, 6], "looking removes nothing"
    left, gone = inventory.prune(run, keep=1, keep_every=2)
    assert [e.step for e in gone] == [1, 3, 5] and [e.step for e in left.entries] == [2, 4, 6]
    assert saved(run) == [2, 4, 6] == [e.step for e in inventory.take(run).entries]
    assert not list((run / "checkpoints").glob("*removed"))
    assert inventory.prune(run, keep=1, keep_every=2)[1] == []


def test_pruning_never_removes_the_last_whole_one(run):
    for step in (3, 4, 5, 6):
        damage(run, step)
    assert [e.step for e in inventory.prune(run, keep=1)[1]] == [1]
    assert saved(run) == [2, 3, 4, 5, 6], "what is damaged stays"
    damage(run, 2)
    assert inventory.prune(run, keep=1)[1] == []
    assert saved(run) == [2, 3, 4, 5, 6]


def test_a_run_that_trains_is_not_pruned(run):
    with run_folder.lock(run), pytest.raises(InputError, match="trains in it now"):
        inventory.prune(run, keep=1)
    assert saved(run) == [1, 2, 3, 4, 5, 6]


def test_what_is_left_of_a_removal_goes_at_the_next_start(run):
    (run / "checkpoints" / "1").rename(run / "checkpoints" / "1.orbax-checkpoint-tmp-removed")
    checkpoint.Checkpoints(run).close()
    assert not list((run / "checkpoints").glob("*removed"))


def test_folders_that_hold_no_checkpoints(run, tmp_path):
    with pytest.raises(InputError, match="not a run folder"):
        inventory.take(tmp_path)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(InputError, match="has no checkpoint yet"):
        inventory.take(run)
