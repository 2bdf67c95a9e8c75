"""Runs that go on from a checkpoint of another run: ``checkpoint.resume_from``."""

import contextlib
import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from jfreq.config import Average, Checkpoint, Optim, ResumeFrom, Source, replace
from jfreq.monitoring.metrics_writer import read_metrics
from jfreq.train import checkpoint, checkpoint_files, plan, resume_from
from jfreq.train.loop import load_sources, train
from jfreq.types import InputError


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def saved(folder):
    return sorted(checkpoint_files.finished(folder / "checkpoints"))


@pytest.fixture(scope="module")
def base(experiment, tmp_path_factory):
    """A run of 8 steps at a constant rate that keeps every fourth checkpoint, and its folder."""
    cfg = replace(
        experiment,
        steps=8,
        optim=Optim(lr=1e-3, schedule="constant", warmup=2, weight_decay=0.01, clip=1.0),
        checkpoint=Checkpoint(every=3, keep=1, keep_every=4),
        log=dataclasses.replace(experiment.log, every=1),
    )
    folder = tmp_path_factory.mktemp("base") / "run"
    return cfg, train(cfg, folder, quiet=True), folder


def from_step(cfg, folder, step: int | None = 4, **changes):
    new = Checkpoint(every=100, resume_from=ResumeFrom(str(folder), step))
    return replace(cfg, **{"checkpoint": new, **changes})


@contextlib.contextmanager
def origin_of(cfg):
    """The plan of a run, and the checkpoint that it goes on from."""
    setup = plan.plan_run(cfg)
    with jax.set_mesh(setup.mesh), resume_from.opened(setup) as origin:
        assert origin is not None
        yield setup, origin
    setup.pipeline.close()


def test_another_folder_goes_on_to_the_same_bits(base, tmp_path, capsys):
    cfg, whole, folder = base
    assert saved(folder) == [4, 8]
    shutil.copytree(folder, tmp_path / "base")
    cfg = from_step(cfg, tmp_path / "base")
    again = train(cfg, tmp_path / "run")
    equal(whole.params, again.params)
    said = capsys.readouterr().err
    assert f"goes on from step 4 of {tmp_path / 'base'}" in said and "warning" not in said
    rows = {row["step"]: row for row in read_metrics(folder)}
    assert [row["step"] for row in read_metrics(tmp_path / "run")] == [5, 6, 7, 8]
    for row in read_metrics(tmp_path / "run"):
        assert (row["loss"], row["lr"]) == (rows[row["step"]]["loss"], rows[row["step"]]["lr"])
    note = json.loads((tmp_path / "run" / resume_from.FILE).read_text())
    assert (note["run"], note["step"], note["name"]) == (str(tmp_path / "base"), 4, "test")
    # Its first checkpoint is its own, so the other run may be gone.
    assert saved(tmp_path / "run") == [4, 8]
    shutil.rmtree(tmp_path / "base")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "8")
    equal(whole.params, train(cfg, tmp_path / "run").params)
    assert "goes on from its own checkpoint of update 4; checkpoint.resume_from was for its" in (
        capsys.readouterr().err
    )


def test_cooldown_from_a_kept_checkpoint(base, tmp_path, capsys):
    cfg, _, folder = base
    cfg = from_step(cfg, folder, steps=7, optim__cooldown=3, name="cooled")
    train(cfg, tmp_path / "run")
    assert "jumps" not in capsys.readouterr().err
    found = [row["lr"] for row in read_metrics(tmp_path / "run")]
    np.testing.assert_allclose(found, [1e-3, 1e-3 * 2 / 3, 1e-3 / 3], rtol=1e-5)


def test_jumps_are_told_with_both_rates(base):
    cfg, _, _ = base
    told = resume_from.jumps("runs/a", cfg, replace(cfg, optim__lr=5e-4), 4)
    assert told == [
        "warning: lr jumps after step 4, from 0.001 in runs/a to 0.0005; optim.lr was 0.001"
    ]
    cosine = replace(cfg, optim__schedule="cosine", steps=100)
    longer = replace(cosine, steps=200)
    (told,) = resume_from.jumps("runs/a", cosine, longer, 50)
    assert told.endswith("; with --optim.schedule-steps 100 it does not")
    kept = replace(longer, optim__schedule_steps=100)
    assert resume_from.jumps("runs/a", cosine, kept, 50) == []
    early = replace(cfg, steps=20, optim__cooldown=18)
    (told,) = resume_from.jumps("runs/a", cfg, early, 4)
    assert told.endswith("; with --optim.cooldown 16 it does not")
    both = replace(cosine, steps=60, optim__cooldown=20)
    (told,) = resume_from.jumps("runs/a", cosine, both, 50)
    assert told.endswith("; with --optim.schedule-steps 100 --optim.cooldown 10 it does not")
    assert resume_from.jumps("a", cfg, replace(cfg, steps=99), 4) == []


def test_a_plateau_is_told_with_what_it_has_come_down_by(base):
    cfg = replace(base[0], optim__schedule="plateau")
    (told,) = resume_from.jumps("a", cfg, replace(cfg, optim__lr=2e-3), 4, factor=0.25)
    assert "from 0.00025 in a to 0.0005" in told


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"batch": 16}, r"step 4: its run differs in batch \(8, now 16\).*init-from .*,step=4"),
        ({"seed": 3}, r"differs in seed \(0, now 3\)"),
        ({"method__mask": 16}, r"differs in method.mask"),
        ({"validation__every": 2, "validation__fraction": 0.25}, r"differs in validation.fraction"),
        ({"data__sampling": "balanced"}, r"differs in data.sampling"),
        ({"optim__kind": "optax.lion"}, r"differs in optim.kind.*init-from"),
        ({"optim__mu_dtype": "bfloat16"}, r"the state of its optimiser does not fit.*init-from"),
        ({"steps": 4}, r"step 4: the new run ends at step 4, so nothing is left"),
        ({"step": 5}, r"resume_from: .*has no checkpoint of step 5, only of \[4, 8\]"),
    ],
)
def test_what_cannot_go_on_is_refused_before_anything_is_written(base, tmp_path, changes, match):
    cfg, _, folder = base
    step = changes.pop("step", 4)
    with pytest.raises(InputError, match=match):
        train(from_step(cfg, folder, step, **changes), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_folders_that_nothing_can_go_on_from(base, tmp_path):
    cfg, _, folder = base
    with pytest.raises(InputError, match=r"resume_from: .*not a run folder"):
        train(from_step(cfg, tmp_path), tmp_path / "run", quiet=True)
    damaged = shutil.copytree(folder, tmp_path / "base")
    (damaged / "checkpoints" / "4" / "sha256.json").unlink()
    with pytest.raises(
        InputError, match=r"resume_from: .*4: is damaged .*; choose another of steps \[4, 8\]"
    ):
        train(from_step(cfg, damaged), tmp_path / "run", quiet=True)
    assert saved(damaged) == [4, 8] and not (tmp_path / "run").exists()


def test_without_a_step_the_newest_whole_one_is_taken(base, tmp_path, caplog):
    cfg, _, folder = base
    damaged = shutil.copytree(folder, tmp_path / "base")
    (damaged / "checkpoints" / "8" / "sha256.json").unlink()
    with origin_of(from_step(cfg, damaged, None)) as (_, origin):
        assert origin.step == 4
    assert "8: is damaged" in caplog.text and saved(damaged) == [4, 8]


def test_the_mean_of_snapshots(base, tmp_path):
    """Taken over where the same are taken, begun anew where others are, left out where none are."""
    cfg = replace(base[0], average=Average(every=0.25))
    train(cfg, tmp_path / "base", quiet=True)
    with origin_of(from_step(cfg, tmp_path / "base")) as (setup, origin):
        state = origin.restore(setup)
    assert int(state.average["count"]) == 2 and int(state.step) == 4
    equal(state.average["params"], checkpoint.load_run(tmp_path / "base", step=4).params)
    with origin_of(from_step(cfg, tmp_path / "base", steps=12)) as (setup, origin):
        anew = origin.restore(setup)
        assert any("begins anew" in note for note in origin.notes)
    assert int(anew.average["count"]) == 0
    equal(anew.params, state.params)
    with origin_of(from_step(base[0], tmp_path / "base")) as (setup, origin):
        equal(origin.restore(setup).params, state.params)
        assert any("is left out" in note for note in origin.notes)


def test_what_is_kept_for_ever_outlives_damage(base, tmp_path):
    """The newest is damaged: the run goes on from the one that was kept, to the same bits."""
    cfg, whole, folder = base
    run = shutil.copytree(folder, tmp_path / "run")
    (run / "checkpoints" / "8" / "sha256.json").unlink()
    equal(whole.params, train(cfg, run, quiet=True).params)
    assert saved(run) == [4, 8] and (run / "checkpoints" / "damaged-8").is_dir()


def test_other_data(base, tmp_path):
    from jfreq.data.prepare.run import prepare

    cfg, _, folder = base
    prepare("synthetic:tones", tmp_path / "d", n=32, seconds=1.295, seed=5, progress=False)
    other = from_step(cfg, folder, data__path=(str(tmp_path / "d"),))
    with pytest.raises(InputError, match=r"step 4: was trained on other shards than .*/d hold"):
        train(other, tmp_path / "run", quiet=True)


def test_init_from_takes_a_step_too(base):
    cfg, whole, folder = base
    sources = (Source(str(folder), step=4), Source(str(folder)))
    (_, early), (_, last) = load_sources(replace(cfg, checkpoint=Checkpoint(init_from=sources)))
    assert (early.step, last.step) == (4, 8)
    equal(last.params, whole.params)
    different = jax.tree.map(lambda a, b: bool((a != b).any()), early.params, last.params)
    assert any(jax.tree.leaves(different))
