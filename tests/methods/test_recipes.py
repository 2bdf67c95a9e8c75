import jax
import pytest

from jfreq import recipes
from jfreq.export.bundle import window_spec
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


TWINS = (
    "freqmae_mod", "freqmae_mod_released", "freqmae_hapt", "freqmae_released_nano",
    "freqmae_released_hapt", "focal_mod", "focal_acids", "focal_hapt", "focal_sense_hapt",
    "phymask_swin_nano", "phymask_swin_hapt", "stfnet_hhar", "stfnet_wifi", "stfnet_conv_hapt",
    "stf_csl_hapt",
)  # fmt: skip
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
    assert_step_specs(EXPERIMENTS[name], data_of(name))


@pytest.mark.parametrize("name", sorted(set(EXPERIMENTS) - set(TRACED)))
def test_twins_and_other_sizes_initialise(name):
    config, method = bound_method(EXPERIMENTS[name].method, data_of(name))
    spec = window_spec(config.signals)
    jax.eval_shape(lambda key: method.init(key, spec), jax.random.key(0))


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
