import pytest

from jfreq import recipes
from jfreq.testing import MOTION, assert_step_specs, data_of
from jfreq.types import InputError

EXPERIMENTS = recipes.load_all()


TWINS = (
    "freqmae_mod",
    "freqmae_mod_released",
    "freqmae_hapt",
    "freqmae_released_nano",
    "freqmae_released_hapt",
    "focal_mod",
    "focal_acids",
    "focal_hapt",
    "focal_sense_hapt",
    "phymask_swin_nano",
    "phymask_swin_hapt",
    "stfnet_hhar",
    "stfnet_wifi",
    "stfnet_conv_hapt",
    "stf_csl_hapt",
)
"""The parts of other recipes at other sizes or for other sensors, which take long to trace."""
SIZES = ("nano", "tiny", "small", "base", "large")


def family(name):
    """A recipe's name without its size."""
    stem, _, size = name.rpartition("_")
    return stem if size in SIZES else name


def smallest(name):
    """The recipe of the same family that a trace stands for."""
    kin = [other for other in EXPERIMENTS if family(other) == family(name)]
    return min(kin, key=lambda n: SIZES.index(n.rpartition("_")[2]) if len(kin) > 1 else 0)


TRACED = sorted({smallest(name) for name in EXPERIMENTS} - set(TWINS))


@pytest.mark.parametrize("name", TRACED)
def test_every_family_traces(name):
    assert_step_specs(EXPERIMENTS[name], data_of(EXPERIMENTS[name]))


@pytest.mark.parametrize("name", sorted(set(EXPERIMENTS) - set(TRACED)))
def test_twins_and_other_sizes_bind(name):
    """Their parameters and a step, at small size, are in tests/test_golden.py."""
    assert EXPERIMENTS[name].method.bind(data_of(EXPERIMENTS[name])).signals


@pytest.mark.parametrize("name", ["ssast_nano", "ast_nano"])
def test_nano_takes_sensors(name):
    assert_step_specs(EXPERIMENTS[name], MOTION)


def test_planned_names_exist():
    for size in ("nano", "tiny", "small", "base"):
        names = {f"{method}_{size}" for method in ("ast", "ssast", "eat", "aape")}
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
