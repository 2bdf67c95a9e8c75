"""The plateau schedule and the best figure: against torch's rule by hand and optax, and in runs."""

import math
import shutil
from typing import Any

import jax
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jfreq import param_paths, recipes, testing
from jfreq.config import Average, Optim, ParamGroup, Validation, replace
from jfreq.export.bundle import load_trained
from jfreq.method import Streams
from jfreq.monitoring.metrics_writer import read_metrics
from jfreq.train import checkpoint, milestones
from jfreq.train.loop import train
from jfreq.train.optimizer import at_plateau, make, rates
from jfreq.train.watch import Watch
from jfreq.types import InputError

FIGURES = st.lists(st.floats(0.01, 10).map(lambda x: round(x, 2)), min_size=1, max_size=40)


def watched(figures, higher=False, **options):
    watch, cfg, every = Watch(), Optim(**options), []
    for step, figure in enumerate(figures, start=1):
        watch = watch.with_best(figure, step, higher=higher)
        watch = watch.with_level(figure, cfg, higher=higher)
        every.append(watch)
    return every


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


# ------------------------------------------------------------------ the rule


@settings(deadline=None)
@given(FIGURES, st.integers(0, 4), st.sampled_from([0.0, 1e-4, 0.1]), st.booleans())
def test_the_rate_falls_by_the_rule_of_torch(figures, patience, threshold, higher):
    """That of ``torch.optim.lr_scheduler.ReduceLROnPlateau``, written out for both modes."""
    found = watched(
        figures,
        higher,
        plateau_patience=patience,
        plateau_threshold=threshold,
    )
    best, bad, factor = -math.inf if higher else math.inf, 0, 1.0
    for figure, watch in zip(figures, found):
        better = figure > best * (1 + threshold) if higher else figure < best * (1 - threshold)
        best, bad = (figure, 0) if better else (best, bad + 1)
        if bad > patience:
            factor, bad = factor * 0.5, 0
        assert (watch.factor, watch.level, watch.waited) == (factor, best, bad)


@pytest.mark.parametrize(("patience", "threshold"), [(0, 0.1), (2, 1e-4)])
def test_the_rate_of_a_loss_falls_as_with_optax(patience, threshold):
    """It counts patience from one on, torch and we from none."""
    tool: Any = optax.contrib.reduce_on_plateau(
        factor=0.5, patience=patience + 1, rtol=threshold, atol=0.0
    )
    figures = (1 + np.random.default_rng().exponential(size=25)).astype(np.float32)

    def step(state: Any, figure):
        _, state = tool.update({}, state, value=figure)
        return state, state.scale

    start: Any = tool.init({})
    _, scales = jax.lax.scan(step, start, figures)
    found = watched(figures.tolist(), plateau_patience=patience, plateau_threshold=threshold)
    np.testing.assert_allclose(scales, [watch.factor for watch in found], rtol=1e-6)


@settings(deadline=None)
@given(FIGURES)
def test_the_best_is_the_first_of_the_best(figures):
    lowest, highest = watched(figures)[-1], watched(figures, higher=True)[-1]
    assert (lowest.best, lowest.best_step) == (min(figures), np.argmin(figures) + 1)
    assert (highest.best, highest.best_step) == (max(figures), np.argmax(figures) + 1)


def test_what_is_not_a_number_is_never_better():
    found = watched([math.nan, 1.0, math.nan, math.nan, 0.5], plateau_patience=1)
    assert [w.best_step for w in found] == [None, 2, 2, 2, 5]
    assert [w.factor for w in found] == [1.0, 1.0, 1.0, 0.5, 0.5]


@pytest.mark.parametrize("kind", ["adamw", "adam_l2", "optax.sgd", "optax.lion"])
def test_updates_and_logged_rates_follow_the_factor(kind):
    """Also the decay, and not those of a group with a schedule of its own."""
    params = {"a": {"kernel": np.ones(3, np.float32)}, "b": {"kernel": np.ones(3, np.float32)}}
    grads = jax.tree.map(np.ones_like, params)
    cfg = Optim(
        kind=kind, lr=0.1, schedule="plateau", weight_decay=0.5,
        groups=(ParamGroup("b/.*", schedule="constant", lr=0.2),),
    )  # fmt: skip
    optimiser = make(cfg, steps=10, params=params)
    state = optimiser.init(params)
    low = at_plateau(jax.tree.map(jax.numpy.asarray, state), 0.25)
    full, less = (optimiser.update(grads, each, params)[0] for each in (state, low))
    full, less = (param_paths.flatten(tree) for tree in (full, less))
    np.testing.assert_allclose(less["a/kernel"], 0.25 * full["a/kernel"], rtol=1e-6)
    np.testing.assert_array_equal(less["b/kernel"], full["b/kernel"])
    found = {name: float(rate(3, low)) for name, rate in rates(cfg, 10).items()}
    assert found == pytest.approx({"lr": 0.025, "lr/b/.*": 0.2})


# ------------------------------------------------------------------ which way is better


@pytest.mark.parametrize(
    "name",
    ["ast_nano", "beats_nano", "beats_tokenizer_nano", "eat_nano", "ltfc_hapt", "phymask_nano",
     "ssast_nano", "stf_csl_hapt"],
)  # fmt: skip
def test_methods_say_which_way_their_metrics_are_better(name):
    experiment = recipes.load(name)
    spec = testing.data_of(experiment)
    method = testing.small(experiment.method).bind(spec)

    def metrics(key, batch):
        params = method.init(key)
        target = method.init_target(params)
        return method.validation_loss(params, target, batch, Streams(key), 0).all_metrics

    found = jax.eval_shape(metrics, jax.random.key(0), testing.batch_spec(spec, 4))
    ways = method.higher_is_better
    assert set(found) <= set(ways)
    closer = {"accuracy", "cosine", "perplexity", "target_std", "pred_std", "rankme", "alignment"}
    assert {metric for metric in found if ways[metric]} == closer & set(found)


def test_a_metric_without_a_better_way_is_refused(experiment, monkeypatch, tmp_path):
    monkeypatch.setattr(type(experiment.method), "higher_is_better", {"loss": False})
    validation = Validation(every=2, fraction=0.5)
    cfg = replace(experiment, validation=validation, checkpoint__best="val/mse")
    with pytest.raises(InputError, match="does not say whether a higher or a lower 'val/mse'"):
        train(cfg, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------ in runs


@pytest.fixture
def figures(monkeypatch):
    """Validation that returns these figures of the loss in place of measuring, by step."""
    known: dict[int, float] = {}

    class Told:
        def __init__(self, setup, wanted):
            assert wanted == ["loss", "loss"]
            assert len(setup.pipeline.held_out) > 0

        def __call__(self, state):
            return {"loss": known[int(state.step)], "accuracy": 0.0}

    monkeypatch.setattr(milestones, "Validator", Told)
    return known


@pytest.fixture
def watching(experiment):
    return replace(
        experiment,
        validation=Validation(every=1, fraction=0.25),
        checkpoint__best="val/loss",
        optim__schedule="plateau",
        optim__plateau_patience=0,
        optim__warmup=0,
        log__every=1,
        checkpoint__keep=1,
    )


def test_the_best_checkpoint_stays_and_the_run_resumes_to_the_bit(
    watching, figures, tmp_path, caplog
):
    figures |= {1: 0.9, 2: 0.3, 3: 0.5, 4: 0.4, 5: 0.35, 6: 0.5}
    found = train(watching, tmp_path / "run", quiet=True)
    folder = tmp_path / "run" / "checkpoints"
    assert sorted(p.name for p in folder.iterdir() if p.name.isdigit()) == ["2", "6"]
    best = checkpoint.load_run(tmp_path / "run", step=2).params
    for read in (found, load_trained(tmp_path / "run")):
        equal(read.params, best)
        assert (read.step, read.checkpoint) == (2, "step 2 of 6 (the best by val/loss)")
    last = checkpoint.load_run(tmp_path / "run", what="last").params
    assert not np.array_equal(*(jax.tree.leaves(t)[0] for t in (last, best)))
    rows = read_metrics(tmp_path / "run")
    assert [row["val/loss"] for row in rows] == list(figures.values())
    # Figures 3 and after are no better than 0.3: each halves the rate of the next update.
    assert [row["lr"] for row in rows] == pytest.approx(
        [1e-3 * f for f in (1, 1, 1, 0.5, 0.25, 0.125)]
    )
    # As it was when it was killed after step 2, whose checkpoint is the best and the newest.
    shutil.rmtree(folder / "6")
    train(watching, tmp_path / "run", quiet=True)
    equal(checkpoint.load_run(tmp_path / "run", what="last").params, last)
    assert [r["lr"] for r in read_metrics(tmp_path / "run")] == [r["lr"] for r in rows]
    shutil.rmtree(folder / "2")
    read = checkpoint.load_run(tmp_path / "run")
    equal(read.params, last)
    assert read.checkpoint == "step 6 of 6 (the best, of step 2, cannot be read)"
    assert "the best checkpoint, of step 2, cannot be read" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"optim__schedule": "plateau"},
            r"optim\.plateau_figure: val/loss is a figure of validation; set validation\.every",
        ),
        (
            {"optim__groups": (ParamGroup(".*", schedule="plateau"),)},
            r"optim\.plateau_figure: val/loss is a figure",
        ),
        (
            {"validation": Validation(every=7, fraction=0.5)},
            r"validation\.every: is 7, but the run has 6 steps",
        ),
        (
            {
                "validation": Validation(every=2, fraction=0.5),
                "checkpoint__best": "val/loss",
                "average": Average(every=0.5),
            },
            r"checkpoint\.best: a run ends in its best checkpoint or in an average",
        ),
        (
            {"validation": Validation(every=2, split="dev")},
            r"validation\.split: no rows of split 'dev'; the set has no splits; .*fraction 0\.05",
        ),
        (
            {"validation": Validation(every=2, folds=(1,)), "data__exclude_folds": (1,)},
            r"validation\.folds: fold 1 is left out of this run",
        ),
        (
            {"validation": Validation(every=2, fraction=0.01)},
            r"validation\.fraction: 0\.01 of whole recordings needs 100 of them, .* has 32",
        ),
        (
            {
                "validation": Validation(every=2, fraction=0.5),
                "checkpoint__best": "val/acuracy",
            },
            r"checkpoint\.best: 'val/acuracy' is not measured.*'val/accuracy'",
        ),
    ],
)
def test_refused_before_anything_is_written(experiment, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        train(replace(experiment, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 0.5}, r"validation: has no effect without validation\.every"),
        ({"every": 5}, r"name the rows to hold out in one way, .*got none"),
        ({"every": 5, "fraction": 0.1, "split": "dev"}, r"got split, fraction"),
    ],
)
def test_fields_that_do_not_fit_together(options, message):
    with pytest.raises(InputError, match=message):
        Validation(**options)
