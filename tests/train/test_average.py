"""Snapshots and their mean: when they are taken, what is read, resumed and refused."""

import shutil

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jfreq.config import Average, Experiment, Source, replace
from jfreq.export.bundle import load_trained
from jfreq.methods.ssast import SSAST
from jfreq.train import average, checkpoint
from jfreq.train.loop import load_sources, train
from jfreq.types import InputError


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize(
    ("cfg", "steps", "expected"),
    [
        # AST on AudioSet: weights after each of 5 epochs, and after epochs 6 to 25.
        (Average(every=0.2), 500, [100, 200, 300, 400, 500]),
        (Average(every=0.04, start=0.24), 2500, list(range(600, 2501, 100))),
        (Average(every=0.3, start=0.5), 10, [6, 9]),
        (Average(every=0.25, start=1.0), 10, [10]),
        (Average(every=0.1), 3, [1, 2, 3]),
        (Average(), 10, []),
    ],
)
def test_when_snapshots_are_taken(cfg, steps, expected):
    assert list(average.snapshot_steps(cfg, steps)) == expected


@settings(deadline=None)
@given(st.floats(1e-4, 1), st.floats(0, 1), st.integers(1, 10**6))
def test_snapshots_lie_inside_the_run(every, start, steps):
    found = average.snapshot_steps(Average(every=every, start=start), steps)
    assert list(found) == sorted(set(found))
    assert all(1 <= step <= steps and step >= start * steps - 1 for step in found)


@pytest.fixture(scope="module")
def averaged(experiment, tmp_path_factory):
    """A run of six steps with snapshots at 4 and 6, all of whose checkpoints are kept."""
    folder = tmp_path_factory.mktemp("averaged") / "run"
    cfg = replace(
        experiment,
        average=Average(every=1 / 3, start=0.5),
        checkpoint__every=1,
        checkpoint__keep=9,
    )
    return cfg, train(cfg, folder, quiet=True), folder


def test_the_run_ends_in_the_mean_of_its_snapshots(averaged, finished_run):
    _, found, folder = averaged
    four, six = (checkpoint.load_run(folder, step=s, what="last").params for s in (4, 6))
    mean = jax.tree.map(lambda a, b: (a.astype(np.float64) + b) / 2, four, six)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8), mean, found[1]
    )
    assert not np.array_equal(*(jax.tree.leaves(tree)[0] for tree in (four, six)))
    for read in (checkpoint.load_run(folder), load_trained(folder)):
        equal(read.params, found.params)
    equal(six, finished_run[0].params)  # training itself goes on as ever


def test_before_the_first_snapshot_the_last_parameters_are_read(averaged, caplog):
    _, _, folder = averaged
    early, last = (checkpoint.load_run(folder, step=3, what=w) for w in ("params", "last"))
    assert "holds no snapshot yet" in caplog.text
    equal(early.params, last.params)


@pytest.mark.parametrize("kept", [3, 5])
def test_a_run_that_stopped_before_or_between_snapshots_goes_on(averaged, tmp_path, kept):
    cfg, found, folder = averaged
    run = shutil.copytree(folder, tmp_path / "run")
    for step in range(kept + 1, 7):
        shutil.rmtree(run / "checkpoints" / str(step))
    equal(train(cfg, run, quiet=True).params, found.params)
    equal(train(cfg, run, quiet=True).params, found.params)  # finished already


def test_a_run_with_snapshots_goes_on_with_its_own_number_of_steps(averaged):
    cfg, _, folder = averaged
    with pytest.raises(InputError, match=r"steps: .* was trained for 6, .* not for 8; .*--steps 6"):
        train(replace(cfg, steps=8), folder, quiet=True)


def test_a_fresh_run_starts_from_the_mean_or_from_the_last_parameters(averaged, experiment):
    _, found, folder = averaged
    last = checkpoint.load_run(folder, what="last").params
    for source, expected in (
        (Source(str(folder)), found.params),
        (Source(str(folder), what="last"), last),
    ):
        cfg = replace(experiment, checkpoint__init_from=(source,))
        ((_, given),) = load_sources(cfg)
        equal(given.params, expected)


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (Average(every=0.3, start=0.95), r"average\.start: no multiple of every, 0\.3 of the run"),
        (Average(start=0.5), r"average: has no effect without average\.every"),
        (Average(every=0.5, of="predictions"), r"average\.of: predictions are of the test rows"),
    ],
)
def test_snapshots_that_make_no_sense(experiment, cfg, message, tmp_path):
    with pytest.raises(InputError, match=message):
        train(replace(experiment, average=cfg), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_mean_is_exact_for_many_snapshots():
    rng = np.random.default_rng()
    tree = {"w": rng.normal(size=(50, 7)).astype(np.float32)}
    state, add = average.empty({"w": np.zeros(7, np.float32)}), jax.jit(average.with_snapshot)
    for row in tree["w"]:
        state = add(state, {"w": row})
    assert int(state["count"]) == 50
    mean = tree["w"].astype(np.float64).mean(0)
    np.testing.assert_allclose(state["params"]["w"], mean, atol=1e-6)


def test_a_run_without_snapshots_carries_nothing():
    cfg = Experiment("x", SSAST())
    assert average.snapshot_steps(cfg.average, cfg.steps) == ()
    assert average.result({}, {"w": 1}) == {"w": 1}
