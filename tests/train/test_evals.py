"""Labelled sets inside a training: the figures against the probes of `jfreq probe`, and in runs."""

import json
import shutil

import jax
import numpy as np
import pytest
import soundfile
from sklearn.linear_model import Ridge
from sklearn.metrics import accuracy_score

from jfreq.config import Eval, replace
from jfreq.data.prepare.run import prepare
from jfreq.data.shards.reader import open_shards
from jfreq.evaluate.features import extract
from jfreq.evaluate.folds import divide, labelled_rows, make_task
from jfreq.evaluate.probe import STRENGTHS, fit_ridge_left_out, standardised
from jfreq.evaluate.probe_protocol import fold_scores
from jfreq.monitoring.metrics_writer import read_metrics
from jfreq.ops import collapse
from jfreq.train import checkpoint, evals, initial_state, plan, step
from jfreq.train.loop import train
from jfreq.types import InputError


@pytest.fixture(scope="module")
def folded(tmp_path_factory):
    """50 labelled clips in five folds, of another length than those of training."""
    out = tmp_path_factory.mktemp("folded") / "tones"
    prepare("synthetic:tones", out, n=50, seconds=1.0, seed=3, progress=False)
    return out


def measured(experiment, each):
    """The plan of an evaluation, its figures of a fresh state, and the parameters."""
    setup = plan.plan_run(replace(experiment, evals=(each,)))
    with jax.set_mesh(setup.mesh):
        (planned,) = evals.plan_evals(setup)
        state = initial_state.first_state(setup)
        evaluator = evals.Evaluator(setup, planned)
        found = evaluator(state)
        again = evaluator(state)
    figures = planned.figures
    assert {n: found[n] for n in figures} == {n: again[n] for n in figures}
    return setup, planned, found, jax.device_get(state.params)


def test_a_set_that_no_device_can_encode_beside_the_state_is_refused(
    experiment, folded, tmp_path, monkeypatch
):
    """Before the first update, where the device holds the state and half of what encoding needs."""
    setup = plan.plan_run(replace(experiment, evals=(Eval("tones", str(folded)),)))
    with jax.set_mesh(setup.mesh):
        (planned,) = evals.plan_evals(setup)
        state = initial_state.first_state(setup)
        held = sum(s.data.nbytes for x in jax.tree.leaves(state) for s in x.addressable_shards[:1])
        assert step.bytes_a_device(setup.abstract) == step.bytes_a_device(state) == held
        needs = []
        monkeypatch.setattr(evals, "check_memory", lambda need, **_: needs.append(need))
        evals.Evaluator(setup, planned)
        assert needs[0] > held
        limit = (held + needs[0]) // 2
        monkeypatch.setattr(
            evals, "check_memory", lambda need, **words: step.check_memory(need, limit, **words)
        )
        with pytest.raises(
            InputError, match=r"^evals: tones: encoding \d+ rows beside the state needs .*a smaller"
        ):
            evals.Evaluator(setup, planned)
    with pytest.raises(InputError, match=r"^evals: tones: encoding"):
        train(setup.experiment, tmp_path / "run", quiet=True)
    assert not read_metrics(tmp_path / "run")


def test_figures_are_those_of_the_probes(experiment, folded):
    """kNN as in `jfreq probe`, on features as `extract` gives them; collapse as in ops."""
    _, planned, found, params = measured(experiment, Eval("tones", str(folded), every=3))
    shards = open_shards(folded)
    rows = labelled_rows(shards)
    task = make_task(shards, rows, divide(shards, rows))
    x = extract(planned.method, params, shards, rows, batch=8).x
    expected = [
        accuracy_score(task.label[f.test], fold_scores("knn", task, x, f, seed=0).argmax(1))
        for f in task.folds
    ]
    assert len(task.folds) == 5
    rank = float(collapse.rankme(jax.numpy.asarray(x)))
    assert found["eval/tones/knn"] == pytest.approx(np.mean(expected))
    assert 0 < found["eval/tones/ridge"] <= 1
    assert found["eval/tones/effective_rank"] == pytest.approx(rank, rel=1e-2)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    assert found["eval/tones/std"] == pytest.approx(
        unit.std(0).mean() * x.shape[1] ** 0.5, rel=1e-3
    )
    assert found["eval/tones/seconds"] > 0
    assert set(found) == {*planned.figures, "eval/tones/seconds"}
    said = evals.in_words({"eval/a/knn": 0.5, "eval/a/std": 0.12345, "eval/a/seconds": 0.04})
    assert said == "eval/a: knn 0.5, std 0.123 (0.0 s)"
    assert "50 of 50 rows in 5 folds, every 3 updates, 2 times" in planned.note


def test_leaving_out_in_closed_form_is_leaving_out():
    """Every row predicted by a ridge of scikit-learn that never saw it; wide and tall."""
    rng = np.random.default_rng()
    for n, d in ((12, 5), (9, 20)):
        x, y = rng.normal(size=(n, d)), rng.normal(size=(n, 2))
        errors = []
        for strength in STRENGTHS:
            left = [
                Ridge(1 / strength).fit(np.delete(x, i, 0), np.delete(y, i, 0)).predict(x[[i]])[0]
                for i in range(n)
            ]
            errors.append(np.mean((np.array(left) - y) ** 2))
        fit, strength = fit_ridge_left_out(x, y)
        assert strength == STRENGTHS[int(np.argmin(errors))]
        np.testing.assert_allclose(fit(x), Ridge(1 / strength).fit(x, y).predict(x), atol=1e-8)
    assert all(s.dtype == np.float64 for s in standardised(x.astype(np.float32)))


def test_few_rows_keep_every_fold_and_class(folded):
    shards = open_shards(folded)
    rows = evals.spread(shards, labelled_rows(shards), 24)
    assert len(set(rows)) == 24 and sorted(rows) == list(rows)
    fold, label = (shards.column(name) for name in ("fold", "label"))
    assert set(label[rows]) == set(label)
    share = np.bincount(fold) * 24 / len(fold)
    np.testing.assert_allclose(np.bincount(fold[rows]), share, atol=1)
    np.testing.assert_array_equal(evals.spread(shards, np.arange(5), 24), np.arange(5))


def test_by_default_it_costs_about_one_part_in_a_hundred(experiment, folded):
    """By arithmetic: the rows cost ``COST`` of the updates between them, at most 50 times a run."""
    setup = plan.plan_run(replace(experiment, steps=100_000, evals=(Eval("tones", str(folded)),)))
    with jax.set_mesh(setup.mesh):
        from jfreq.monitoring.throughput import step_flops

        each = step_flops(setup)
        assert evals.default_every(setup, each * 100) == 10_000
        assert evals.default_every(setup, each) == 2000, "a fiftieth of the run"
        assert evals.default_every(setup, each * 10**6) == 100_000, "at the end"
        (planned,) = evals.plan_evals(setup)
    assert planned.every == 2000 and planned.is_due(4000, 5000) and planned.is_due(5000, 5000)


def test_a_run_keeps_the_best_by_an_evaluation_and_resumes_to_the_bit(
    experiment, folded, tmp_path, monkeypatch
):
    told = {2: 0.5, 4: 0.9, 6: 0.7}

    def figures(self, state):
        return {"eval/tones/knn": told[int(state.step)], "eval/tones/seconds": 0.0}

    monkeypatch.setattr(evals.Evaluator, "__call__", figures)
    cfg = replace(
        experiment,
        evals=(Eval("tones", str(folded), every=2, kinds=("knn",)),),
        checkpoint__best="eval/tones/knn",
        checkpoint__keep=1,
    )
    found = train(cfg, tmp_path / "run", quiet=True).params
    folder = tmp_path / "run" / "checkpoints"
    assert sorted(p.name for p in folder.iterdir() if p.name.isdigit()) == ["4", "6"]
    best = checkpoint.load_run(tmp_path / "run", step=4).params
    jax.tree.map(np.testing.assert_array_equal, found, best)
    assert [row["eval/tones/knn"] for row in read_metrics(tmp_path / "run")] == [0.5, 0.9, 0.7]
    meta = json.loads((folder / "6" / "meta" / "metadata").read_text())
    assert meta["watch"]["best_step"] == 4 and meta["watch"]["figure"] == "eval/tones/knn"
    shutil.rmtree(folder / "6")
    train(cfg, tmp_path / "run", quiet=True)
    assert [row["eval/tones/knn"] for row in read_metrics(tmp_path / "run")] == [0.5, 0.9, 0.7]


def test_measuring_changes_no_bit(experiment, finished_run, folded, tmp_path):
    """The run with an evaluation ends in the parameters of the one without."""
    each = Eval("tones", str(folded), every=4)
    found = train(replace(experiment, evals=(each,)), tmp_path / "run", quiet=True)
    jax.tree.map(np.testing.assert_array_equal, found.params, finished_run[0].params)
    rows = read_metrics(tmp_path / "run")
    assert [row["step"] for row in rows if "eval/tones/knn" in row] == [4, 6]
    assert rows[-1]["loss"] == read_metrics(finished_run[1])[-1]["loss"]


def recordings(folder, names):
    """Shards of a second of noise for each name; a folder in it is the class."""
    rng = np.random.default_rng(0)
    for name in names:
        path = folder / "sound" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, rng.normal(size=16_000) / 10, 16_000)
    prepare(str(folder / "sound"), folder / "shards", seconds=1.0, workers=1, progress=False)
    return str(folder / "shards")


def test_a_set_without_folds_gets_some(experiment, tmp_path):
    data = recordings(tmp_path, [f"{label}/{i}.wav" for label in "ab" for i in range(6)])
    _, planned, found, _ = measured(experiment, Eval("noise", data, rows=10, every=6))
    assert "10 of 12 rows in 5 folds of whole recordings, made because the set" in planned.note
    assert np.isfinite(found["eval/noise/knn"])


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory):
    return recordings(tmp_path_factory.mktemp("unlabelled"), ["1.wav", "2.wav"])


def test_sets_that_cannot_be_measured_are_refused(experiment, folded, unlabelled, tmp_path):
    run = tmp_path / "run"
    for each, message in (
        (Eval("x", str(unlabelled)), "has no labels; prepare it with labels"),
        (Eval("x", str(tmp_path / "gone")), "gone"),
        (Eval("x", str(folded), every=9), r"evals: x: every: is 9, but the run has 6 steps"),
        (
            Eval("x", str(folded), rows=4),
            r"evals: x: .*fold 0: .*; only 4 of its 50 rows are read, raise rows",
        ),
    ):
        with pytest.raises(InputError, match=message):
            train(replace(experiment, evals=(each,)), run)
    wanted = replace(
        experiment, evals=(Eval("x", str(folded)),), checkpoint__best="eval/x/logistic"
    )
    with pytest.raises(InputError, match=r"checkpoint\.best: 'eval/x/logistic' is not measured"):
        train(wanted, run)
    assert not run.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "a/b", "data": "x"}, "'a/b' is not a name"),
        ({"name": "a"}, "a has no data; write a,data=FOLDER"),
        ({"name": "a", "data": "x", "kinds": ()}, "a has no kinds"),
    ],
)
def test_fields_of_an_evaluation(options, message):
    with pytest.raises(InputError, match=message):
        Eval(**options)


def test_a_name_twice(experiment):
    with pytest.raises(InputError, match="evals: 'x': given twice"):
        replace(experiment, evals=(Eval("x", "a"), Eval("x", "b")))
