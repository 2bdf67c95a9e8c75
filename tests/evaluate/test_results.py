"""Reports as files and tables, trainings put together, and the picture of label fractions."""

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from scipy import stats

from jfreq.evaluate import plot
from jfreq.evaluate.results import (
    HAND_CRAFTED,
    TRAINED,
    UNTRAINED,
    Report,
    Result,
    gains,
    joined,
    over_seeds,
)
from jfreq.types import InputError


def result(features, values, *, fraction=None, runs=(), kind="ridge", metric="accuracy"):
    mean = float(np.mean(values))
    return Result(
        features,
        kind,
        metric,
        mean,
        mean - 0.1,
        mean + 0.1,
        tuple(values),
        90,
        fraction=fraction,
        rows=None if fraction is None else 200 * fraction,
        runs=runs,
    )


def report(*results, seed: int | None = 0, folds=("test",), data="set", **settings):
    settings = {"interval": "one split", "seed": seed, "manifest": "m", **settings}
    return Report(data, folds, results, settings)


def t_interval(values, low=0.0):
    """Of a metric from ``low`` to 1, cut there; of one that would be cut on both sides, nothing."""
    found = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    whole = found[0] <= low and found[1] >= 1
    bounds = (np.nan, np.nan) if whole else tuple(np.clip(found, low, 1))
    return pytest.approx(bounds, nan_ok=True)


# ------------------------------------------------------------------ files


def test_reading_gives_what_was_saved(tmp_path):
    few = result(TRAINED, [0.5], fraction=0.1, runs=((0.4, 0.6),))
    nothing = Result(TRAINED, "knn", "accuracy", 0.5, float("nan"), float("nan"), (0.5,), 9)
    saved = report(few, nothing)
    found = Report.read(saved.save(tmp_path / "r.json"))
    assert found.results[0] == few
    assert found.to_json() == saved.to_json()
    assert np.isnan(found.results[1].low)
    old = json.loads(saved.to_json())
    for row in old["results"]:
        for name in ("fraction", "rows", "runs", "over"):
            del row[name]
    (tmp_path / "old.json").write_text(json.dumps(old))
    assert Report.read(tmp_path / "old.json").results[0].fraction is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"results": [{"mean": 1}], "folds": []}'])
def test_other_files_are_no_reports(tmp_path, text):
    path = tmp_path / "r.json"
    with pytest.raises(InputError, match="no such file"):
        Report.read(path)
    path.write_text(text)
    with pytest.raises(InputError, match="is not a table of results"):
        Report.read(path)


def test_fractions_have_a_column():
    found = report(result(TRAINED, [0.5], fraction=0.05), result(TRAINED, [0.7], fraction=1.0))
    lines = found.to_markdown().splitlines()
    assert lines[2].startswith("| features | probe | labels | metric |")
    assert "| 5 % (10) |" in lines[4] and "| 100 % (200) |" in lines[5]
    assert "labels" not in report(result(TRAINED, [0.5])).to_markdown()


# ------------------------------------------------------------------ several trainings


def test_interval_over_seeds_against_scipy():
    values = np.random.default_rng().uniform(0.3, 0.9, (5, 2))
    reports = [
        report(*(result(TRAINED, [v], fraction=f) for v, f in zip(row, (0.1, 1.0))), seed=seed)
        for seed, row in enumerate(values)
    ]
    found = over_seeds(reports)
    assert "5 trainings" in found.to_markdown()
    assert found.settings["trainings"] == [[s, 0] for s in range(5)]
    for r, column in zip(found.results, values.T):
        assert r.mean == pytest.approx(column.mean())
        assert (r.low, r.high) == t_interval(column)
        assert r.runs == (pytest.approx(tuple(column)),)
        assert r.over == "seeds"
        assert r.n == 90


def test_folds_are_averaged_before_seeds():
    values = np.random.default_rng().uniform(size=(3, 4))
    folds = tuple("abcd")
    found = over_seeds(
        [report(result(TRAINED, row), seed=s, folds=folds) for s, row in enumerate(values)]
    )
    (r,) = found.results
    assert (r.low, r.high) == t_interval(values.mean(1))
    np.testing.assert_allclose(r.folds, values.mean(0))
    np.testing.assert_allclose(r.runs, values.T)


def test_what_no_seed_changes_keeps_its_own_interval():
    same = result(HAND_CRAFTED, [0.4])
    fresh = [result(UNTRAINED, [v]) for v in (0.1, 0.2)]
    found = over_seeds([report(same, fresh[s], seed=s) for s in range(2)])
    assert found.results[0] == same
    assert found.results[1].over == "seeds"
    assert "interval over" in found.to_markdown()


def test_several_draws_of_one_seed_are_trainings_too():
    reports = [report(result("fine-tuned", [v]), label_seed=i) for i, v in enumerate((0.5, 0.7))]
    assert over_seeds(reports).results[0].mean == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda a: [a], "two or more, got 1"),
        (lambda a: [a, a], r"its own seed, got \[0, 0\]"),
        (lambda a: [a, report(*a.results, seed=1, data="other")], "differ in data: set and other"),
        (lambda a: [a, report(*a.results, seed=1, manifest="n")], "differ in manifest: m and n"),
        (lambda a: [a, report(*a.results, seed=1, folds=("x",))], "differ in folds"),
        (lambda a: [a, report(result(UNTRAINED, [0.5]), seed=1)], "differ in results"),
        (lambda a: [a, report(*a.results, seed=None)], "does not state its seed"),
    ],
)
def test_trainings_that_do_not_belong_together(make, message):
    with pytest.raises(InputError, match=message):
        over_seeds(make(report(result(TRAINED, [0.5]))))


def test_fractions_of_several_reports_become_one():
    parts = [report(result("fine-tuned", [v], fraction=v), seed=4) for v in (1.0, 0.1, 0.5)]
    assert [r.fraction for r in joined(parts).results] == [0.1, 0.5, 1.0]
    with pytest.raises(InputError, match="is in two of them"):
        joined([*parts, parts[0]])
    with pytest.raises(InputError, match="differ in data"):
        joined([parts[0], report(data="other")])


def test_gains_are_paired_by_draw_on_a_single_split():
    rng = np.random.default_rng()
    runs = rng.uniform(size=(2, 1, 6))
    a, b = (
        result(name, [r.mean()], fraction=0.1, runs=tuple(map(tuple, r)))
        for name, r in zip((TRAINED, UNTRAINED), runs)
    )
    (found,) = gains([a, b])
    assert found.mean == pytest.approx((runs[0] - runs[1]).mean())
    assert (found.low, found.high) == t_interval((runs[0] - runs[1]).ravel(), low=-1.0)
    assert gains([result(TRAINED, [0.5]), result(UNTRAINED, [0.4])]) == []


# ------------------------------------------------------------------ figure

FRACTIONS = (0.01, 0.1, 1.0)


def fractions_report(features=(TRAINED, UNTRAINED), kinds=("ridge",)):
    return report(
        *(
            result(f, [0.3 + 0.2 * i], fraction=x, kind=k)
            for f in features
            for k in kinds
            for i, x in enumerate(FRACTIONS)
        )
    )


def test_curves_draw_what_the_report_says(tmp_path, monkeypatch):
    """Points, bands, dashes and ticks, read back from the axes."""
    plots = []
    monkeypatch.setattr(plot, "save", lambda path, name, size, plot: plots.append(plot))
    plot.curves({"a": fractions_report(kinds=("ridge", "knn"))}, tmp_path / "x.svg")
    from matplotlib.figure import Figure

    figure = Figure()
    plots[0](figure)
    assert [axes.get_title() for axes in figure.axes] == ["ridge", "knn"]
    for axes in figure.axes:
        assert axes.get_xscale() == "log"
        assert [t.get_text() for t in axes.get_xticklabels()] == ["1", "10", "100"]
        trained, untrained = axes.lines
        np.testing.assert_allclose(np.asarray(trained.get_xdata()), FRACTIONS)
        np.testing.assert_allclose(np.asarray(trained.get_ydata()), [0.3, 0.5, 0.7])
        assert trained.get_linestyle() != untrained.get_linestyle()
        assert trained.get_marker() != untrained.get_marker()
        band = np.asarray(axes.collections[0].get_paths()[0].vertices)
        assert (band[:, 1].min(), band[:, 1].max()) == pytest.approx((0.2, 0.8))
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == [TRAINED, UNTRAINED]


def test_curves_of_several_reports_are_one_file(tmp_path):
    reports = {"pre-trained": fractions_report((TRAINED,)), "scratch": fractions_report()}
    path = plot.curves(reports, tmp_path / "c.svg")
    text = path.read_text()
    ET.fromstring(text)
    for name in ("pre-trained", "scratch, trained", "scratch, untrained", "accuracy"):
        assert f">{name}<" in text
    assert text == plot.curves(reports, tmp_path / "d.svg").read_text()
    assert plot.curves(reports, tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_figures_that_cannot_be_drawn(tmp_path):
    with pytest.raises(InputError, match="a: has no accuracy by fraction"):
        plot.curves({"a": report(result(TRAINED, [0.5]))}, tmp_path / "c.svg")
    with pytest.raises(InputError, match="no macro_f1 by fraction"):
        plot.curves({"a": fractions_report()}, tmp_path / "c.svg", metric="macro_f1")
    with pytest.raises(InputError, match=r"ends in \.svg or \.png"):
        plot.curves({"a": fractions_report()}, tmp_path / "c.pdf")
    assert not list(tmp_path.iterdir())


def test_notes_and_intervals_of_too_few_values_are_said():
    few = Result(TRAINED, "ridge", "accuracy", 0.5, np.nan, np.nan, (0.1, 0.9), 20)
    one = Result(TRAINED, "ridge", "mAP", 0.5, np.nan, np.nan, (0.5,), 20)
    text = report(few, folds=("a", "b"), notes=["folds are of rows"]).to_markdown()
    assert text.splitlines()[1] == "Note: folds are of rows."
    assert "| 0.500 | n too small | 0.100 | 0.900 |" in text
    assert "| 0.500 | - | 0.500 |" in report(one).to_markdown()
