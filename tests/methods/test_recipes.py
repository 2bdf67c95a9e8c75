import pytest

from jfreq import recipes
from jfreq.methods.series import SeriesConfig
from jfreq.testing import assert_step_specs
from jfreq.types import DataSpec, InputError, SignalSpec

AUDIO = DataSpec((SignalSpec("audio", 16000, 16000),), ("a", "b"))
LEVEL = {"mean": (0.0, 0.0, 1.0), "std": (0.3, 0.3, 0.3)}
MOTION = DataSpec(
    (SignalSpec("acc", 50, 128, 3, **LEVEL), SignalSpec("gyro", 50, 128, 3, **LEVEL)), ("a", "b")
)
PUBLISHED = DataSpec(
    (SignalSpec("acc", 100, 512, 3), SignalSpec("gyro", 100, 512, 3)), tuple("abcdef")
)
"""The released STFNets read longer windows."""
EXPERIMENTS = recipes.load_all()


@pytest.mark.parametrize("name", sorted(EXPERIMENTS))
def test_every_recipe_traces(name):
    series = MOTION if isinstance(EXPERIMENTS[name].method, SeriesConfig) else AUDIO
    published = name in ("stfnet_hhar", "stfnet_wifi")
    assert_step_specs(EXPERIMENTS[name], PUBLISHED if published else series)


@pytest.mark.parametrize("name", ["ssast_nano", "ast_nano"])
def test_nano_takes_sensors(name):
    assert_step_specs(EXPERIMENTS[name], MOTION)


def test_planned_names_exist():
    for size in ("nano", "tiny", "small", "base"):
        assert {f"ssast_{size}", f"ast_{size}"} <= set(EXPERIMENTS)
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
