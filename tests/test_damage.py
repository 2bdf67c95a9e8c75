"""Damaged run folders: refused in one line, or the right parameters and a warning that names it.

One tiny run is trained once and copied for every case. ``resume`` is what `jfreq train` does up to
the first step, ``look`` what probe, export, finetune and report read.
"""

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq import checksums
from jfreq.config import replace
from jfreq.config_json import to_dict
from jfreq.monitoring.metrics_writer import FILE as METRICS
from jfreq.monitoring.metrics_writer import MetricsWriter, read_metrics, unreadable
from jfreq.train import checkpoint, plan, run_folder
from jfreq.train.loop import _run as resume_with
from jfreq.train.state import State
from jfreq.types import InputError

OLD, NEW = 3, 6
LIMIT_S = 20
FREE = ("_CHECKPOINT_METADATA", "commit_success.txt", "config.json", ".lock")
"""Orbax's word about the time, and what a start writes anew."""


@dataclasses.dataclass
class Run:
    """A finished run, and its parameters after ``OLD`` and ``NEW`` steps."""

    folder: Path
    setup: plan.RunPlan
    right: dict


@pytest.fixture(scope="module")
def run(experiment, finished_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damage") / "run"
    shutil.copytree(finished_run[1], folder)
    right = {s: checkpoint.load_run(folder, step=s).params for s in (OLD, NEW)}
    # With so few steps asked for, a start ends with what it restored.
    setup = plan.plan_run(replace(experiment, steps=OLD))
    files_ = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**files_, "steps": OLD}))
    yield Run(folder, setup, right)
    setup.pipeline.close()


def resume(run, folder):
    with jax.set_mesh(run.setup.mesh):
        return resume_with(run.setup, folder, True)


def look(run, folder):
    return checkpoint.load_run(folder)


def inventory(folder):
    """Contents of all files that a start has no business to change."""
    return sorted(
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in FREE
    )


def same(a, b):
    leaves = jax.tree.leaves(jax.tree.map(np.array_equal, a, b))
    return jax.tree.structure(a) == jax.tree.structure(b) and all(leaves)


def outcome(run, folder, how, caplog):
    """``refused``, or the step whose parameters came back; anything else fails."""
    caplog.clear()
    before, began = inventory(folder), time.monotonic()
    try:
        with caplog.at_level(logging.WARNING, "jfreq"):
            params = how(run, folder).params
    except InputError as error:
        said, found = str(error), "refused"
        if "\n" in said or len(said) > 1200:
            pytest.fail(f"not one line: {said}")
    else:
        (found,) = [s for s, right in run.right.items() if same(params, right)] or ["WRONG"]
    assert time.monotonic() - began < LIMIT_S
    assert found != "WRONG", "other parameters, silently"
    if found == OLD and (folder / "checkpoints").is_dir():
        assert f"{folder}/checkpoints/" in caplog.text and "is damaged (" in caplog.text
    assert inventory(folder) == before, "nothing is deleted"
    return found


# ------------------------------------------------------------------ the cases


def newest(folder, name="state"):
    return folder / "checkpoints" / str(NEW) / name


def biggest(folder):
    return max(
        (p for p in newest(folder).rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )


def rewrite(path, change):
    path.write_bytes(change(path.read_bytes()))


def config(change):
    def damage(folder):
        value = json.loads((folder / "config.json").read_text())
        text = change(value)
        text = json.dumps(value) if text is None else text
        (folder / "config.json").write_text(text, errors="surrogateescape")

    return damage


def swap(folder):
    one, two, spare = (folder / "checkpoints" / str(s) for s in (OLD, NEW, "spare"))
    one.rename(spare)
    two.rename(one)
    spare.rename(two)


def of_another_run(folder):
    """The checkpoint of the same network, trained with another seed."""
    meta = newest(folder, "meta") / "metadata"
    value = json.loads(meta.read_text())
    value["config"]["seed"] = 7
    meta.write_text(json.dumps(value))
    from jfreq import checksums

    checksums.write(newest(folder, ""), step=NEW, leave_out=checkpoint.LATE_FILES)


def file_for_folder(path):
    shutil.move(path, path.with_name("moved"))
    path.write_text("x")


def metrics(lines):
    def damage(folder):
        with (folder / METRICS).open("ab") as file:
            file.write(lines)

    return damage


def every(folder, damage):
    for s in (OLD, NEW):
        damage(folder / "checkpoints" / str(s))


SHA = "sha256.json"
CASES = {
    # what was damaged: (damage, what a start does, what a look does)
    "biggest file truncated": (lambda f: rewrite(biggest(f), lambda b: b[: len(b) // 2]), OLD, OLD),
    "biggest file empty": (lambda f: rewrite(biggest(f), lambda b: b""), OLD, OLD),
    "biggest file longer": (lambda f: rewrite(biggest(f), lambda b: b + b"\0"), OLD, OLD),
    "biggest file gone": (lambda f: biggest(f).rename(f / "gone"), OLD, OLD),
    "biggest file renamed": (lambda f: biggest(f).rename(biggest(f).with_name("x")), OLD, OLD),
    "a folder for a file": (lambda f: (biggest(f).rename(f / "gone"),
                                       (newest(f) / "d" / "y").mkdir()), OLD, OLD),
    "ocdbt manifest gone": (lambda f: (newest(f) / "manifest.ocdbt").rename(f / "gone"), OLD, OLD),
    "tree metadata garbage": (lambda f: (newest(f) / "_METADATA").write_text("{"), OLD, OLD),
    "sharding garbage": (lambda f: (newest(f) / "_sharding").write_text("[]"), OLD, OLD),
    "state gone": (lambda f: newest(f).rename(f / "gone"), OLD, OLD),
    "state a file": (lambda f: file_for_folder(newest(f)), OLD, OLD),
    "meta gone": (lambda f: newest(f, "meta").rename(f / "gone"), OLD, OLD),
    "meta empty": (lambda f: (newest(f, "meta") / "metadata").write_text(""), OLD, OLD),
    "meta of another step": (lambda f: rewrite(newest(f, "meta") / "metadata",
                             lambda b: b.replace(b'"step":6', b'"step":9')
                                        .replace(b'"step": 6', b'"step": 9')), OLD, OLD),
    "digests gone": (lambda f: newest(f, SHA).rename(f / "gone"), OLD, OLD),
    "digests garbage": (lambda f: newest(f, SHA).write_text("{]"), OLD, OLD),
    "digests a list": (lambda f: newest(f, SHA).write_text("[1, 2]"), OLD, OLD),
    "digests without files": (lambda f: newest(f, SHA).write_text('{"step": 6, "files": {}}'),
                              OLD, OLD),
    "digests of numbers": (lambda f: newest(f, SHA).write_text('{"step": 6, "files": {"a": 1}}'),
                           OLD, OLD),
    "digests nested": (lambda f: newest(f, SHA).write_text("[" * 99_999), OLD, OLD),
    "step renamed": (lambda f: newest(f, "").rename(f / "checkpoints" / "9"), OLD, OLD),
    "steps swapped": (swap, "refused", "refused"),
    "steps of one run twice": (lambda f: shutil.copytree(newest(f, ""), f / "checkpoints" / "8"),
                               NEW, NEW),
    "step a file": (lambda f: file_for_folder(newest(f, "")), OLD, OLD),
    "step empty": (lambda f: (newest(f, "").rename(f / "gone"), newest(f, "").mkdir()), OLD, OLD),
    "odd names beside": (lambda f: [(f / "checkpoints" / n).mkdir()
                                    for n in ("007", "x", "-1", "6.tmp", "damaged-6")], NEW, NEW),
    "a draft beside": (lambda f: (f / "checkpoints" / "9.orbax-checkpoint-tmp").mkdir(), NEW, NEW),
    "both damaged": (lambda f: every(f, lambda p: rewrite(p / "meta" / "metadata",
                                                          lambda b: b[:-1])), "refused", "refused"),
    "checkpoints empty": (lambda f: ((f / "checkpoints").rename(f / "gone"),
                                     (f / "checkpoints").mkdir()), None, "refused"),
    "checkpoints a file": (lambda f: file_for_folder(f / "checkpoints"), "refused", "refused"),
    "checkpoint of another run": (of_another_run, "refused", "refused"),
    "config gone": (lambda f: (f / "config.json").rename(f / "gone"), "refused", "refused"),
    "config empty": (config(lambda v: ""), "refused", "refused"),
    "config cut": (config(lambda v: json.dumps(v)[:-9]), "refused", "refused"),
    "config a list": (config(lambda v: "[]"), "refused", "refused"),
    "config nested": (config(lambda v: '{"a":' * 50_000), "refused", "refused"),
    "config not UTF-8": (config(lambda v: "\udcff\udcfe"), "refused", "refused"),
    "config a folder": (lambda f: ((f / "config.json").rename(f / "gone"),
                                   (f / "config.json").mkdir()), "refused", "refused"),
    "config with a word for a number": (config(lambda v: v.update(batch="many")),
                                        "refused", "refused"),
    "config with a huge number": (config(lambda v: "{\"steps\": " + "9" * 5000 + "}"),
                                  "refused", "refused"),
    "config of a huge batch": (config(lambda v: v.update(batch=10**30)), "refused", "refused"),
    "config of another width": (config(lambda v: v["method"]["encoder"].update(width=64)),
                                "refused", "refused"),
    "config of another method": (config(lambda v: v["method"].update(type="AST")),
                                 "refused", "refused"),
    "config of a method unknown": (config(lambda v: v["method"].update(type="X")),
                                   "refused", "refused"),
    "config of another seed": (config(lambda v: v.update(seed=5)), "refused", "refused"),
    "config with a field more": (config(lambda v: v.update(more=1)), "refused", "refused"),
    "metrics garbage": (metrics(b"\xff\xfe\0{\n[1]\n{\"step\": \"x\"}\n"), NEW, NEW),
    "metrics nested": (metrics(b"[" * 99_999 + b"\n"), NEW, NEW),
    "lock garbage": (lambda f: (f / ".lock").write_bytes(b"\xff" * 999), NEW, NEW),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_damaged_run_folders(name, run, tmp_path, caplog):
    damage, started, looked = CASES[name]
    for how, wanted in ((look, looked), (resume, started)):
        if wanted is None:
            continue
        folder = tmp_path / how.__name__
        shutil.copytree(run.folder, folder)
        damage(folder)
        assert outcome(run, folder, how, caplog) == wanted, how.__name__
        if how is resume and wanted == OLD:  # set aside once, and never looked at again
            assert same(resume(run, folder).params, run.right[OLD])


def test_there_are_forty_cases():
    counts = {how: sum(CASES[n][1] == how for n in CASES) for how in (OLD, NEW, "refused")}
    ends = f"{counts[NEW]} harmless, {counts[OLD]} go on from the checkpoint before"
    ends += f", {counts['refused']} refused in one line"
    print(f"\n{len(CASES)} damaged run folders: {ends}, 0 tracebacks, 0 files lost")
    assert len(CASES) >= 40


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(13, "Permission denied"),
        OSError(5, "Input/output error"),
        MemoryError(),
        RuntimeError("odd"),
    ],
)
@pytest.mark.parametrize("where", ["verify", "restore"])
def test_what_proves_nothing_changes_nothing(run, tmp_path, monkeypatch, caplog, error, where):
    """A disk that fails, too little memory and a file that may not be read damage nothing."""
    if where == "verify" and isinstance(error, RuntimeError | MemoryError):
        pytest.skip("digests need neither")
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)

    def fails(*args, **options):
        raise error

    place = ("jfreq.checksums.sha256_of" if where == "verify"
             else "orbax.checkpoint.CheckpointManager.restore")  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(place, fails)
        patch.setattr("jfreq.train.checkpoint._restore", fails)
        for how in (resume, look):
            assert outcome(run, folder, how, caplog) == "refused"
            with pytest.raises(InputError, match=r"checkpoints(/6)?: .*nothing was changed|cannot"):
                how(run, folder)
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["3", "6"]
    assert outcome(run, folder, resume, caplog) == NEW


def test_a_flipped_bit_never_changes_parameters_silently(run, tmp_path, caplog):
    """Random bits in random files of the newest checkpoint, one at a time: 30 in files that have
    digests, all noticed, and the checkpoint before is read after the first five; 6 in those that
    have none, which parameters do not depend on."""
    folder, rng, counts = tmp_path / "run", np.random.default_rng(), {OLD: 0, NEW: 0, "refused": 0}
    shutil.copytree(run.folder, folder)
    files = [p for p in newest(folder, "").rglob("*") if p.is_file() and p.stat().st_size]
    bare = [p for p in files if p.name in (*FREE, SHA)]
    covered = sorted(set(files) - set(bare))
    assert len(bare) >= 2 and len(covered) >= 8
    for i in range(36):
        among = covered if i < 30 else bare
        path = among[rng.integers(len(among))]
        whole = path.read_bytes()
        at, bit = rng.integers(len(whole)), 1 << int(rng.integers(8))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
        if path in covered:
            with pytest.raises(checksums.Damaged):
                checksums.verify(newest(folder, ""), step=NEW)
        if i < 5 or path in bare:
            found = outcome(run, folder, look, caplog)
            counts[found] += 1
            assert found == OLD or path in bare, path
        path.write_bytes(whole)
    print(f"\n36 flipped bits: {counts[OLD]} times the checkpoint before was taken, {counts[NEW]} "
          f"in files that no parameter depends on, 0 other parameters")  # fmt: skip


def test_one_step_may_be_damaged_twice(run, tmp_path, caplog):
    folder = tmp_path / "run"
    for again in range(3):
        shutil.copytree(run.folder, folder, dirs_exist_ok=True)
        rewrite(biggest(folder), lambda b: b[:-1])
        assert outcome(run, folder, resume, caplog) == OLD
        names = {p.name for p in (folder / "checkpoints").iterdir()}
        assert names == {"3", "damaged-6", *(f"damaged-6.{i + 1}" for i in range(again))}


def test_a_state_that_does_not_fit_says_what_is_new_and_what_is_missing(run, tmp_path):
    abstract = run.setup.abstract
    params = dict(abstract.params)
    params["other"] = params.pop("trunk")
    saves = checkpoint.Checkpoints(run.folder)
    with pytest.raises(InputError) as found:
        saves.restore_last(abstract._replace(params=params))
    saves.close()
    text = str(found.value)
    assert "missing (params/other/" in text and "not known any more (params/trunk/" in text
    assert f"--checkpoint.init-from {run.folder}" in text and "\n" not in text
    wide = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*x.shape, 1), x.dtype), abstract.params)
    saves = checkpoint.Checkpoints(run.folder)
    with pytest.raises(InputError, match=r"of another shape \(params/.* float32, now "):
        saves.restore_last(abstract._replace(params=wide))
    saves.close()


def test_a_folder_is_written_by_one_process(run, tmp_path):
    experiment = run.setup.experiment
    with (
        run_folder.lock_run_folder(tmp_path / "run", experiment),
        pytest.raises(InputError, match=rf"process {os.getpid()} on .* trains in it now"),
    ):
        run_folder.lock_run_folder(tmp_path / "run", experiment)
    (tmp_path / "run" / ".lock").write_text("process 1 on elsewhere")  # of a dead process
    run_folder.lock_run_folder(tmp_path / "run", experiment).close()


def test_checkpoints_without_a_config_are_nobody_s(run, tmp_path):
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    with pytest.raises(InputError, match=r"has checkpoints/ but no config.json"):
        run_folder.lock_run_folder(tmp_path, run.setup.experiment)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoints"]


def test_the_path_of_the_shards_is_free_what_they_hold_is_not(run, shards, tmp_path):
    """The same shards moved elsewhere continue a run; other shards, or other columns, do not."""
    moved = tmp_path / "elsewhere"
    shutil.copytree(shards, moved)
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        for path in (str(moved), "./elsewhere", f"{tmp_path}/x/../elsewhere"):
            (tmp_path / "x").mkdir(exist_ok=True)
            setup = plan.plan_run(replace(run.setup.experiment, data__path=(path,)))
            with jax.set_mesh(setup.mesh):
                assert same(resume_with(setup, folder, True).params, run.right[NEW])
    with np.load(moved / "rows.npz") as file:
        columns = {name: file[name] for name in file.files}
    columns["audio.mean"] = columns["audio.mean"] + 1
    np.savez(moved / "rows.npz", **columns)
    with pytest.raises(InputError, match=r"rows.npz: is not what was written"):
        plan.plan_run(replace(run.setup.experiment, data__path=(str(moved),)))


def test_a_bad_line_of_metrics_loses_that_line_only(tmp_path, caplog):
    rows = [{"step": s, "loss": 1.0 / s} for s in (1, 2, 3, 4)]
    lines = [json.dumps(row).encode() for row in rows]
    lines[1:1] = [b"\xff\xfe", b"[1, 2]", b'{"step": "two"}', b'{"step": true}', b"[" * 9999,
                  b'{"step": ' + b"9" * 5000 + b"}", b""]  # fmt: skip
    path = tmp_path / METRICS
    path.write_bytes(b"\n".join(lines) + b'\n{"step": 5, "lo')
    assert read_metrics(tmp_path) == rows
    assert unreadable(tmp_path) == 7
    with caplog.at_level(logging.WARNING, "jfreq"):
        writer = MetricsWriter(tmp_path, start_step=3)
    assert "7 lines cannot be read" in caplog.text
    writer.write({"step": 4, "loss": 0.5})
    writer.close()
    assert read_metrics(tmp_path) == [*rows[:3], {"step": 4, "loss": 0.5}]
    assert path.read_bytes().startswith(b"\n".join(lines[:-1]) + b"\n")


def test_digests_are_written_before_a_checkpoint_has_its_name(tmp_path, monkeypatch, run):
    """A kill at any moment of a save leaves a whole checkpoint, or a draft."""
    seen = []
    write = checkpoint.checksums.write

    def noted(folder, **options):
        seen.append((folder.name, sorted(p.name for p in (tmp_path / "checkpoints").iterdir())))
        write(folder, **options)

    monkeypatch.setattr(checkpoint.checksums, "write", noted)
    state = State(jnp.int32(1), {"w": np.ones(3)}, {}, {})
    saves = checkpoint.Checkpoints(tmp_path)
    saves.save(state, 1, {"step": 1, "config": to_dict(run.setup.experiment)})
    saves.wait()
    saves.close()
    ((name, beside),) = seen
    assert "orbax-checkpoint-tmp" in name and beside == [name]
