"""A grid runs, goes on where it stopped, and survives a cell that fails."""

import json
import subprocess
import sys

import pytest

from jfreq import cli
from jfreq.ablate import Ablation, change, run
from jfreq.ablate.shared import Trainings, ordered
from jfreq.config import Checkpoint, Experiment, Log, Optim
from jfreq.data.prepare.run import prepare
from jfreq.data.shards.reader import open_shards
from jfreq.methods.ssast import SSAST
from jfreq.nn.vit import ViT
from jfreq.parts import Part
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


def test_a_process_leaves_alone_what_others_are_at(first, folds, tmp_path):
    """One training is held, as by another process; it is done once that has ended."""
    grid, said = ablation(), []
    shards = open_shards(folds)
    held, other = run._trainings(grid, shards, count=2)
    claim = Trainings(tmp_path).claim(held.key)
    assert claim is not None
    with claim:
        found = run.run(grid, folds, tmp_path, count=2, note=said.append)
    assert [(cell["key"], cell["status"]) for cell in found.cells] == [(other.key, "done")]
    assert said[0].startswith("1/2  one, fold 1: accuracy") and len(said) == 2
    assert said[1].startswith("1 of 2 trainings are still done by other processes")
    whole = run.run(grid, folds, tmp_path, count=2, part=Part(2, 2), on_grid=lambda grid: None)
    assert [cell["key"] for cell in whole.cells] == [held.key, other.key]
    alike = [cell["values"] for cell in first[1].cells if cell["name"] == "one"]
    assert [cell["values"] for cell in whole.cells] == alike


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_parts_cover_a_grid_and_then_each_other(count):
    orders = [ordered(range(7), Part(i + 1, count)) for i in range(count)]
    assert all(sorted(order) == list(range(7)) for order in orders)
    own = [order[: len(range(i, 7, count))] for i, order in enumerate(orders)]
    assert sorted(i for order in own for i in order) == list(range(7))
    assert ordered(range(7), None) == list(range(7))


@pytest.mark.slow
def test_two_processes_share_a_grid_though_one_is_killed(folds, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from jfreq import recipes\nfrom jfreq.ablate import Ablation, change\n"
        "from jfreq.config import replace\n"
        "base = replace(recipes.load('ssast_nano'), method__encoder__depth=1,"
        " method__encoder__width=12, steps=1, batch=8)\n"
        "grid = Ablation('mine', 'which?', base, probe='ridge', factors={'rate': {"
        "str(n): change(optim__lr=n * 1e-3) for n in range(1, 5)}})\n"
    )
    words = [sys.executable, "-m", "jfreq", "ablate", str(tmp_path / "mine.py"), "--data",
             str(folds), "--workdir", str(tmp_path / "runs"), "--trainings", "1"]  # fmt: skip

    def start(part):
        return subprocess.Popen([*words, "--part", part], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True)  # fmt: skip

    first, second = start("1/2"), start("2/2")
    assert second.stderr is not None
    for line in second.stderr:  # its first training has ended
        if "/4  " in line:
            break
    second.kill()
    second.communicate()
    out, err = first.communicate(timeout=240)
    assert first.returncode == 0, err
    table = json.loads((tmp_path / "runs" / "grid.json").read_text())
    assert [cell["name"] for cell in table["cells"]] == ["1", "2", "3", "4"]
    assert {cell["status"] for cell in table["cells"]} == {"done"}
    assert (tmp_path / "runs" / "grid.md").read_text() == out.removesuffix("\n")
    assert err.count("/4  ") in (2, 3), "the other did one, and was killed at its next"
    assert "<svg" in (tmp_path / "runs" / "report.html").read_text()


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
