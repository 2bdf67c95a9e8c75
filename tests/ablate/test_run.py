"""A grid runs, goes on where it stopped, and survives a cell that fails."""

import json

import pytest

from jfreq import cli
from jfreq.ablate import Ablation, change, run
from jfreq.config import Checkpoint, Experiment, Log, Optim
from jfreq.data.prepare.run import prepare
from jfreq.methods.ssast import SSAST
from jfreq.nn.vit import ViT
from jfreq.types import InputError

BASE = Experiment(
    name="tiny",
    method=SSAST(encoder=ViT(width=16, depth=1, heads=2), passes=1),
    optim=Optim(lr=1e-3),
    checkpoint=Checkpoint(every=10),
    log=Log(every=2),
    steps=2,
    batch=8,
)


def ablation(**levels):
    return Ablation("toy", "?", BASE, {"f": {"one": change(), **levels}}, probe="ridge")


@pytest.fixture(scope="module")
def folds(tmp_path_factory):
    out = tmp_path_factory.mktemp("folds") / "tones"
    prepare("synthetic:tones", out, n=24, seconds=0.5, progress=False)
    return out


@pytest.fixture(scope="module")
def first(folds, tmp_path_factory):
    """A grid, what came out of it and was said, and its folder.

    The second level cannot be trained: eight rows are no whole runs of five.
    """
    grid, said = ablation(two=change(data__sequence=5)), []
    folder = tmp_path_factory.mktemp("first") / "abl"
    return grid, run.run(grid, folds, folder, count=2, note=said.append), said, folder


def test_a_grid_runs_resumes_and_keeps_going(first, folds, tmp_path):
    grid, found, said, folder = first
    assert [(c["name"], c["seed"], c["fold"]) for c in found.cells] == [
        ("one", 0, 0),
        ("two", 0, 0),
        ("one", 1, 1),
        ("two", 1, 1),
    ]
    assert [c["status"] for c in found.cells] == ["done", "failed", "done", "failed"]
    assert "InputError: data.sequence: " in found.cells[1]["error"]
    assert len(said) == 4
    assert "4/4  two, fold 1: failed" in said[-1]
    assert found.table[0]["n"] == 2
    saved = json.loads((folder / "grid.json").read_text())
    assert saved["cells"] == json.loads(json.dumps(found.to_dict()))["cells"]

    # Again: what is done is kept, what failed is tried again.
    trained: list[str] = []
    run.run(grid, folds, folder, count=2, note=trained.append)
    assert len(trained) == 2 and all("  two, fold" in line for line in trained)
    # Elsewhere, with the results brought along: the same.
    trained.clear()
    have = [folder / "grid.json"]
    again = run.run(ablation(), folds, tmp_path / "new", count=2, note=trained.append, have=have)
    assert trained == []
    assert again.table[0]["mean"] == pytest.approx(found.table[0]["mean"])


def test_results_of_another_grid_take_this_grid_s_names(first, folds, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "train", lambda *a, **k: pytest.fail("known already"))
    other = Ablation("other", "?", BASE, {"g": {"as it is": change()}}, probe="ridge")
    have = [first[3] / "grid.json"]
    found = run.run(other, folds, tmp_path / "other", count=1, have=have)
    assert [row["name"] for row in found.table] == ["as it is"]
    assert found.cells[0]["levels"] == {"g": "as it is"}


def test_bad_input_is_told_before_training(folds, tmp_path):
    with pytest.raises(InputError, match="toy, two: mask: 10000 of"):
        run.run(ablation(two=change(method__mask=10_000)), folds, tmp_path)
    with pytest.raises(InputError, match="no such file of results"):
        run.run(ablation(), folds, tmp_path, have=[tmp_path / "none.json"])
    assert not list(tmp_path.iterdir())
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(InputError, match="is not the result of an ablation"):
        run.run(ablation(), folds, tmp_path, have=[tmp_path / "x.json"])


def test_the_command_writes_its_three_files(folds, tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(
        "from jfreq import recipes\nfrom jfreq.ablate import Ablation, change\n"
        "from jfreq.config import replace\n"
        "base = replace(recipes.load('ssast_nano'), method__encoder__depth=1,"
        " method__encoder__width=12, steps=1, batch=8)\n"
        "grid = Ablation('mine', 'which?', base, probe='ridge', factors={'objective': {"
        "'joint': change(), 'generative': change(method__objective='generative')}})\n"
    )
    out = tmp_path / "results" / "mine"
    cli.main(
        [
            "ablate",
            str(file),
            "--data",
            str(folds),
            "--workdir",
            str(tmp_path / "runs"),
            "--trainings",
            "1",
            "--out",
            str(out),
        ]
    )
    said = capsys.readouterr()
    assert "| objective | joint - generative | 1 | 1 |" in said.out
    assert "2/2" in said.err
    assert out.with_suffix(".md").read_text() == said.out.rstrip("\n") + "\n"
    assert json.loads(out.with_suffix(".json").read_text())["name"] == "mine"
    assert "<svg" in out.with_suffix(".svg").read_text()
