"""Recipes are found by name without running any, and only the file that is named is run."""

import sys
from pathlib import Path

import pytest

from jfreq import cli, recipes
from jfreq.types import InputError

SPY = "from pathlib import Path\nPath({ran!r}).touch()\n"
EXPERIMENT = """
from jfreq.config import Experiment
from jfreq.methods.ssast import SSAST
{name} = Experiment("{name}", SSAST())
HELPER = SSAST()
other = HELPER
"""


def test_every_name_is_that_of_an_experiment():
    """What is found without running a file is what running it defines."""
    assert sorted(recipes.known()) == sorted(recipes.load_all())


@pytest.fixture
def house(tmp_path, monkeypatch):
    """Recipes of which two are broken, beside scripts that are none; each says that it ran."""
    (tmp_path / "recipes").mkdir()
    for name, body in (
        ("good", EXPERIMENT.format(name="good")), ("fails", "fails = 1 / 0"), ("broken", "x = ("),
        ("../script", EXPERIMENT.format(name="script")),
    ):  # fmt: skip
        spy = SPY.format(ran=str(tmp_path / f"{Path(name).name}.ran"))
        (tmp_path / "recipes" / f"{name}.py").write_text(spy + body)
    monkeypatch.setattr(recipes, "folders", lambda: [tmp_path])
    return tmp_path


@pytest.mark.parametrize(
    ("name", "says", "ran"),
    [
        ("good", None, ["good.ran"]),
        ("fails", "fails.py: ZeroDivisionError", ["fails.ran"]),
        ("other", "unknown experiment 'other'", ["good.ran"]),
        ("god", r"unknown experiment 'god' \(did you mean 'good'\?\)", []),
        ("script", "unknown experiment 'script'", []),
    ],
)
def test_only_the_file_that_is_asked_for_runs(house, name, says, ran):
    if says is None:
        assert recipes.load(name).name == name
    else:
        with pytest.raises(InputError, match=says):
            recipes.load(name)
    assert [path.name for path in house.glob("*.ran")] == ran


@pytest.mark.parametrize("command", ["train", "finetune", "plan", "config show"])
def test_help_runs_no_recipe(house, command, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main([*command.split(), "--help"])
    assert not list(house.glob("*.ran"))
    assert ("good" in capsys.readouterr().out) == (command != "finetune")


@pytest.mark.parametrize("body", ["1 / 0", "import sys; sys.exit(0)", "x = (", "raise SystemExit"])
def test_a_file_that_does_not_run(tmp_path, body):
    path = tmp_path / "broken.py"
    path.write_text(body)
    before = set(sys.modules)
    with pytest.raises(InputError, match=r"broken.py: (ZeroDivision|SystemExit|Syntax)"):
        recipes.load(f"{path}:x")
    assert not {name for name in set(sys.modules) - before if "broken" in name}
