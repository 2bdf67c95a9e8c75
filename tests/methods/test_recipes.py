import pytest

from jfreq import recipes
from jfreq.testing import MOTION, assert_step_specs
from jfreq.types import InputError

EXPERIMENTS = recipes.load_all()


@pytest.mark.parametrize("name", ["ssast_nano", "ast_nano"])
def test_nano_takes_sensors(name):
    assert_step_specs(EXPERIMENTS[name], MOTION)


def test_planned_names_exist():
    for size in ("nano", "tiny", "small", "base"):
        names = {f"{method}_{size}" for method in ("ast", "ssast", "eat", "aape", "audiomae")}
        assert names <= set(EXPERIMENTS)
    assert "ssast_audioset_base" in EXPERIMENTS


def test_unknown_name_gets_a_hint():
    with pytest.raises(InputError, match="did you mean 'ssast_tiny'"):
        recipes.load("sast_tiny")


def test_recipe_file_of_ones_own(tmp_path, monkeypatch):
    path = tmp_path / "mine.py"
    path.write_text(
        "from jfreq.config import Experiment\nfrom jfreq.methods.ssast import SSAST\n"
        "mine = Experiment('mine', SSAST())\n"
    )
    assert recipes.load(f"{path}:mine").name == "mine"
    path.write_text("1/0")
    with pytest.raises(InputError, match=r"mine.py: ZeroDivisionError"):
        recipes.load(f"{path}:mine")
