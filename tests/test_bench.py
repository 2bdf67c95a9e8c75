"""The benches' arithmetic with clocks we wind ourselves, their discovery, and their command."""

import json
import math
import sys

import numpy as np
import pytest

from jfreq import cli, recipes
from jfreq.cli import study
from jfreq.types import InputError


@pytest.fixture
def common(root, monkeypatch):
    """experiments/bench/common.py, which no package holds."""
    monkeypatch.syspath_prepend(str(root / "experiments" / "bench"))
    import common  # pyright: ignore[reportMissingImports]

    yield common
    sys.modules.pop("common")


@pytest.fixture
def methods(common):
    """experiments/bench/methods.py."""
    import methods  # pyright: ignore[reportMissingImports]

    yield methods
    for name in ("methods", "method_cases", "beside_torch"):
        sys.modules.pop(name)


class Clock:
    """Time passes only where a contender spends it, and while a bench pauses."""

    def __init__(self):
        self.now, self.order = 0.0, []

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += 100 * seconds

    def contender(self, name: str, seconds):
        """A call that takes the next of ``seconds``."""
        left = iter(seconds)

        def call():
            self.order.append(name)
            self.now += next(left)

        return call


def test_rounds_are_interleaved_and_only_the_work_is_timed(common):
    clock = Clock()
    spent = {"a": [9, 1, 2, 3], "b": [9, 10, 20, 30], "c": [9, 5, 6, 7]}
    contenders = {name: clock.contender(name, times) for name, times in spent.items()}
    times = common.paired(contenders, rounds=3, warmup=1, clock=clock, pause=clock.pause)
    assert times == {name: pytest.approx(kept[1:]) for name, kept in spent.items()}
    assert "".join(clock.order) == "abc" + "bca" + "cab" + "abc"


def test_one_round_is_refused(common):
    with pytest.raises(InputError, match="rounds: must be 2 or more, got 1"):
        common.paired({"a": lambda: None}, rounds=1)


def test_compilation_is_the_first_call(common):
    clock = Clock()
    call = clock.contender("a", [7.5, 1.0])
    assert common.first_call(call, clock) == 7.5


def test_ratios_are_taken_within_a_round(common):
    """A machine that slows down a hundredfold leaves them alone."""
    rng = np.random.default_rng(0)
    slow = 10.0 ** rng.uniform(0, 2, 21)
    base, times = list(slow), list(slow * np.linspace(1.9, 2.1, 21))
    found = common.ratio(times, base)
    assert found.median == pytest.approx(2.0)
    assert 1.9 < found.low < 2.0 < found.high < 2.1


def test_the_interval_is_that_of_order_statistics(common):
    """Of 21 ratios the 6th and the 16th hold the median between them in 97.3 % of cases."""
    found = common.ratio([float(i) for i in range(1, 22)], [1.0] * 21)
    assert (found.median, found.low, found.high) == (11.0, 6.0, 16.0)
    outside = 2 * sum(math.comb(21, k) for k in range(6)) / 2**21
    assert outside < 0.05 < outside + 2 * math.comb(21, 6) / 2**21


def test_too_few_rounds_have_no_interval(common):
    found = common.ratio([2.0, 3.0, 2.5], [1.0, 1.0, 1.0])
    assert found.median == 2.5 and str(found) == "2.50"
    with pytest.raises(ValueError, match="pairs"):
        common.ratio([1.0], [1.0, 2.0])


def test_table_compares_with_the_first_and_keeps_compilation_apart(common):
    times = {"ours": [0.1, 0.2, 0.3], "theirs": [0.2, 0.4, 0.6], "slow": [1.0, 2.0, 3.0]}
    table = common.Table("Steps", times, {"ours": 12.34})
    lines = table.to_markdown().splitlines()
    assert lines[0] == "## Steps" and "x ours" in lines[2]
    assert lines[4:] == [
        "| ours | 200 | 150 to 250 | 1 | 12.3 |",
        "| theirs | 400 | 300 to 500 | 2.00 |  |",
        "| slow | 2,000 | 1,500 to 2,500 | 10.00 |  |",
    ]
    assert table.to_dict()["ratios"]["slow"]["median"] == pytest.approx(10)


def test_results_state_the_machine(common, tmp_path):
    facts = common.machine(2)
    assert facts["threads"] == 2 and facts["cpu"] and facts["versions"]["jax"]
    table = common.Table("T", {"a": [1.0, 2.0], "b": [2.0, 4.0]})
    text = common.save("x", "Heading", "Intro.", [table, "Words.\n"], facts=facts, out=tmp_path)
    assert (tmp_path / "bench_x.md").read_text() == text
    for part in ("# Heading", "Intro.", "threads 2", facts["commit"], "## T", "Words."):
        assert part in text
    data = json.loads((tmp_path / "bench_x.json").read_text())
    assert data["tables"]["T"]["times_s"] == {"a": [1.0, 2.0], "b": [2.0, 4.0]}
    assert data["machine"] == facts


def measured(ours: float, theirs: float) -> dict:
    return {"times_s": {"jfreq": [ours] * 3, "torch eager": [theirs] * 3},
            "compile_s": {"jfreq": 1.5}}  # fmt: skip


def test_page_of_methods_has_a_line_for_each_ratio(methods):
    lines = methods.page({"eat/train": measured(1.0, 1.5)}).splitlines()
    assert len(lines) == 3
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells == [
        "EAT-tiny, 16 clones", "2", "training step", "1,000", "torch eager", "1,500", "1.50",
        "1.5, none", "",
    ]  # fmt: skip


def test_methods_keep_what_the_same_machine_has_measured(methods, common, tmp_path):
    facts = {"cpu": "a", "commit": "b", "load": 0.1}
    found = {"mae/embed": measured(1.0, 2.0)}
    methods.write(found, facts, 3, tmp_path)
    path = tmp_path / "bench_methods.json"
    assert methods.kept(path, {**facts, "load": 1.9}) == found
    assert methods.kept(path, {**facts, "commit": "c"}) == {}
    assert methods.kept(tmp_path / "other.json", facts) == {}


def test_unknown_methods_are_one_line(methods):
    assert list(methods.chosen(("mae", "eat"))) == ["eat", "mae"]
    with pytest.raises(
        InputError, match=r"no case 'eta' \(did you mean 'eat'\?\); there are: ssast"
    ):
        methods.chosen(("eta",))


def test_missing_libraries_say_how_to_get_them(common, monkeypatch, capsys):
    monkeypatch.setattr(common.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"torch.*missing: pip install torch==2\.13\.0") as error:
        common.need("torch")
    assert "\n" not in str(error.value)
    assert not common.available("librosa")
    assert capsys.readouterr().err == "skipped: librosa is not installed (pip install librosa)\n"


def test_scripts_with_a_main_are_benches(root, monkeypatch):
    monkeypatch.chdir(root)
    found = study.benches()
    assert {"step", "frontend", "export", "feed"} <= set(found)
    assert not {"common", "method_cases"} & set(found)
    for path, about in found.values():
        assert about, path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current folder with two benches that leave their arguments behind, and a helper."""
    bench = tmp_path / "experiments" / "bench"
    bench.mkdir(parents=True)
    for name, code in (("good", 0), ("bad", 2)):
        (bench / f"{name}.py").write_text(
            f'"""The {name} one.\n\nMore."""\nimport pathlib, sys, helper\n'
            f"def main():\n    pathlib.Path('{name}.txt').write_text(' '.join(sys.argv[1:]))\n"
            f"    sys.exit({code})\nmain()\n"
        )
    (bench / "helper.py").write_text("def other(): ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recipes, "folders", lambda: [tmp_path / "experiments"])
    return tmp_path


def test_command_lists_and_runs(folder, capfd):
    cli.main(["bench"])
    lines = capfd.readouterr().out.splitlines()
    assert any(line.split() == ["good", "The", "good", "one."] for line in lines)
    assert not any(line.startswith("helper") for line in lines)
    cli.main(["bench", "good", "--rounds", "3", "--out", "there"])
    assert (folder / "good.txt").read_text() == "--rounds 3 --out there"
    assert not (folder / "bad.txt").exists()


def test_a_bench_that_fails_stops_no_other_and_gives_its_code(folder):
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", "bad", "good"])
    assert stop.value.code == 2
    assert (folder / "good.txt").read_text() == (folder / "bad.txt").read_text() == ""


def test_unknown_bench_is_one_line(folder, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", "good", "goood"])
    assert stop.value.code == 2
    assert "no bench 'goood' (did you mean 'good'?)" in capsys.readouterr().err
    assert not (folder / "good.txt").exists()
