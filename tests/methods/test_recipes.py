import jax
import pytest

from jfreq import recipes
from jfreq.methods.phymask import PhyMask
from jfreq.methods.series import SeriesConfig
from jfreq.methods.spectra import SpectraConfig
from jfreq.testing import assert_step_specs, bound_method
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
MOD = DataSpec((SignalSpec("audio", 8000, 16000), SignalSpec("seismic", 100, 200)), ("a", "b"))
ACIDS = DataSpec((SignalSpec("audio", 1024, 1024, 3), SignalSpec("seismic", 1024, 1024, 2)), ("a",))
EXPERIMENTS = recipes.load_all()


def data_of(name):
    """What a recipe is made for."""
    if name in ("stfnet_hhar", "stfnet_wifi"):
        return PUBLISHED
    for word, spec in (("_mod", MOD), ("_acids", ACIDS)):
        if word in name:
            return spec
    sensors = isinstance(EXPERIMENTS[name].method, SeriesConfig | SpectraConfig | PhyMask)
    return MOTION if sensors else AUDIO


TWINS = ("freqmae_mod_released", "freqmae_released_nano", "freqmae_released_hapt", "focal_acids",
         "phymask_swin_nano", "phymask_swin_hapt")  # fmt: skip
"""The same networks as other recipes, which take long to trace."""


@pytest.mark.parametrize("name", sorted(set(EXPERIMENTS) - set(TWINS)))
def test_every_recipe_traces(name):
    assert_step_specs(EXPERIMENTS[name], data_of(name))


@pytest.mark.parametrize("name", TWINS)
def test_twins_initialise(name):
    _, method = bound_method(EXPERIMENTS[name].method, data_of(name))
    jax.eval_shape(lambda key: method.init(key, None), jax.random.key(0))


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
