"""Statistics of an ablation against scipy, and what the tables say."""

import numpy as np
import pytest
from scipy import stats

from jfreq.ablate import Ablation, change
from jfreq.ablate.plot import plot
from jfreq.ablate.table import significance, summarise
from jfreq.config import Experiment
from jfreq.methods.ssast import SSAST

LEVELS = {"a": {"x": change(), "y": change()}, "b": {"p": change(), "q": change()}}
ABLATION = Ablation("toy", "which?", Experiment("e", SSAST()), LEVELS, decides="Little.")


def row(a, b, seed, score, status="done"):
    return {
        "name": f"{a}, {b}",
        "levels": {"a": a, "b": b},
        "seed": seed,
        "fold": seed + 1,
        "status": status,
        "error": None if status == "done" else "ValueError: no",
        "values": {"accuracy": score},
        "minutes": 1.5,
    }


@pytest.fixture
def scores():
    return np.random.default_rng(3).uniform(0.2, 0.9, (2, 2, 5))


@pytest.fixture
def rows(scores):
    return [
        row(a, b, s, scores[i, j, s])
        for s in range(5)
        for i, a in enumerate("xy")
        for j, b in enumerate("pq")
    ]


def expect(found, values):
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found["n"] == len(values)
    assert found["mean"] == pytest.approx(np.mean(values))
    assert (found["low"], found["high"]) == (pytest.approx(low), pytest.approx(high))


def test_tables_against_scipy(rows, scores):
    grid = summarise(ABLATION, "data", rows, {"device": "cpu"})
    assert [t["name"] for t in grid.table] == ["x, p", "x, q", "y, p", "y, q"]
    expect(grid.table[2], scores[1, 0])
    by = {(d["factor"], d["a"], d["b"]): d for d in grid.differences}
    assert by.keys() == {("a", "x", "y"), ("b", "p", "q")}
    # Contexts are averaged first: the folds are what repeats.
    expect(by["a", "x", "y"], (scores[0] - scores[1]).mean(0))
    expect(by["b", "p", "q"], (scores[:, 0] - scores[:, 1]).mean(0))
    assert by["a", "x", "y"]["contexts"] == 2
    expect(grid.against[-1], scores[1, 1] - scores[0, 0])


def test_a_replicate_counts_only_with_all_its_contexts(rows, scores):
    left = [r for r in rows if not (r["name"] == "y, q" and r["seed"] == 4)]
    grid = summarise(ABLATION, "data", left, {})
    (found,) = [d for d in grid.differences if d["factor"] == "a"]
    expect(found, (scores[0] - scores[1]).mean(0)[:4])


def test_failures_are_listed_and_not_counted(rows):
    rows[0] = row("x", "p", 0, 0.0, status="failed")
    grid = summarise(ABLATION, "data", rows, {"device": "cpu"})
    assert grid.table[0]["n"] == 4 or grid.table[-1]["n"] == 4
    text = grid.to_markdown()
    assert "- x, p, fold 1: ValueError: no" in text
    assert "19 trainings, 30 minutes; cpu." in text
    assert text.endswith("Little.\n")


def test_the_commits_that_trained_are_named_once(rows):
    for i, one in enumerate(rows):
        one["commit"] = "abc1234" if i % 2 else "def5678"
    text = summarise(ABLATION, "data", rows, {"device": "cpu"}).to_markdown()
    assert "minutes; cpu; commit abc1234; commit def5678." in text


def test_one_training_has_no_interval(rows):
    grid = summarise(ABLATION, "data", rows[:4], {})
    assert grid.table[0]["low"] is None
    assert significance(grid.differences[0]) == "too few trainings"
    assert "| - |" in grid.to_markdown()


@pytest.mark.parametrize(
    ("n", "low", "high", "significant"),
    [
        (3, 0.01, 0.2, "yes: x is better"),
        (3, -0.2, -0.01, "yes: y is better"),
        (3, -0.03, 0.08, "no: less than 0.080 either way"),
        (2, 0.01, 0.01, "too few trainings"),
    ],
)
def test_verdicts(n, low, high, significant):
    assert significance({"a": "x", "b": "y", "n": n, "low": low, "high": high}) == significant


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_plot_is_a_picture_of_all_rows(rows, tmp_path, kind):
    grid = summarise(ABLATION, "data", rows, {})
    data = plot(grid, tmp_path / f"grid.{kind}").read_bytes()
    if kind == "png":
        assert data.startswith(b"\x89PNG")
    else:
        text = data.decode()
        assert all(name in text for name in ("x, p", "y, q", "a: x - y", "b: p - q"))


def test_two_trainings_that_differ_have_no_interval():
    rows = [row(a, "p", s, 0.1 + 0.8 * s) for a in "xy" for s in range(2)]
    grid = summarise(ABLATION, "data", rows, {"device": "cpu"})
    assert [(t["n"], t["low"], t["high"]) for t in grid.table] == [(2, None, None)] * 2
    assert "| x, p | 2 | 0.500 | n too small |" in grid.to_markdown()
