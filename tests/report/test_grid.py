"""The page of an ablation against the tables that the ablation itself makes."""

import json
import shutil
from pathlib import Path

import pytest

from jfreq import cli
from jfreq.report import write_page
from jfreq.types import InputError


@pytest.fixture
def value(grid):
    return json.loads((grid / "grid.json").read_text())


def text_of(folder, parse):
    return parse(Path(write_page(folder)).read_text()).text


def test_means_differences_failures_and_losses(grid, value, parse, capsys):
    cli.main(["report", str(grid)])
    assert capsys.readouterr().out == f"{grid / 'report.html'}\n"
    page = parse((grid / "report.html").read_text())
    for row in value["table"]:
        assert f"{row['mean']:.3f} {row['low']:.3f} to {row['high']:.3f}" in page.text
    for row in value["differences"]:
        assert (
            f"{row['factor']}: {row['a']} - {row['b']} {row['n']} {row['mean']:+.3f}" in page.text
        )
        assert row["low"] * row["high"] > 0
        better = f"{row['a'] if row['mean'] > 0 else row['b']} is better"
        assert (better if row["n"] > 2 else "too few trainings") in page.text
    assert "Does the <mask> matter? (8 trainings of 3 cells, 4 minutes)" in page.text
    assert "time seed 2, fold 3 InputError: no <room>" in page.text
    assert "1 of 9 trainings failed" in page.text and "unfinished" not in page.text
    assert "9 trainings" in page.text and "Only large effects." in page.text
    # Nine curves, and a legend that names each cell once.
    loss = page.raw[page.raw.index('id="loss-') :]
    assert [loss.count(f">{name}</text>") for name in ("cluster", "random", "time")] == [1, 1, 1]


def test_a_difference_that_is_not_significant_is_called_so(grid, value, parse):
    value["differences"][0] |= {"mean": 0.01, "low": -0.02, "high": 0.04}
    value["differences"][1] |= {"mean": 0.01, "low": None, "high": None}
    (grid / "grid.json").write_text(json.dumps(value))
    text = text_of(grid, parse)
    assert "+0.010 -0.020 to +0.040 no: less than 0.040 either way" in text
    assert "+0.010 too few trainings" in text


def test_a_grid_that_runs_says_so(grid, value, parse):
    value["cells"] = [c for c in value["cells"] if (c["name"], c["seed"]) != ("random", 1)]
    (grid / "grid.json").write_text(json.dumps(value))
    assert "unfinished: cells were trained 2 to 3 times" in text_of(grid, parse)


def test_an_empty_grid_says_so(grid, value, parse):
    value |= {"cells": [], "table": [], "differences": [], "against": []}
    (grid / "grid.json").write_text(json.dumps(value))
    assert "This grid is empty" in text_of(grid, parse)


def test_curves_may_be_gone_and_cells_many(grid, value, parse):
    shutil.rmtree(grid / "time")
    for i in range(20):
        value["cells"].append({**value["cells"][0], "name": f"more {i}"})
        value["table"].append({**value["table"][0], "name": f"more {i}", "mean": 0.1})
    (grid / "grid.json").write_text(json.dumps(value))
    text = text_of(grid, parse)
    assert "The four best cells are coloured" in text and "26 trainings" in text


def test_only_what_is_promised_is_needed(tmp_path, parse):
    """A grid without factors, folds, losses or minutes."""
    cell = {"name": "a", "changes": {}, "seed": 0, "status": "done", "error": None, "minutes": 1,
            "values": {"mAP": 0.5}, "run": "a/0"}  # fmt: skip
    row = {"n": 1, "mean": 0.5, "low": None, "high": None}
    value = {"name": "g", "question": "q?", "metric": "mAP", "decides": "", "machine": {},
             "cells": [cell], "table": [{"name": "a", **row}],
             "differences": [{"a": "a", "b": "b", **row}]}  # fmt: skip
    (tmp_path / "grid.json").write_text(json.dumps(value))
    text = text_of(tmp_path, parse)
    assert "a - b 1 +0.500 too few trainings" in text


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: "{",
        lambda value: "[]",
        lambda value: json.dumps({k: v for k, v in value.items() if k != "table"}),
        lambda value: json.dumps({**value, "cells": [{"name": "a"}]}),
        lambda value: json.dumps({**value, "table": [{"name": "a", "mean": None}]}),
        lambda value: json.dumps({**value, "question": 3}),
    ],
)
def test_a_damaged_grid_is_refused(grid, value, damage):
    (grid / "grid.json").write_text(damage(value))
    with pytest.raises(InputError, match=r"grid\.json: is not what `jfreq ablate` writes"):
        write_page(grid)
    assert not (grid / "report.html").exists()
