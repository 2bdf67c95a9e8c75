"""Bundles with random weights, small enough to compile in seconds."""

from pathlib import Path

import jax
import numpy as np
import pytest

from jfreq import methods, recipes
from jfreq.config import replace
from jfreq.encoder.encoder import Encoder, load_encoder
from jfreq.export.bundle import save_bundle
from jfreq.nn.vit import ViT
from jfreq.types import DataSpec, SignalSpec

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    """Everything here belongs to `make interop`."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.interop)


def write(folder: Path, *signals: SignalSpec, recipe: str = "ssast_nano") -> Path:
    """A bundle ``encoder`` in ``folder``, of an encoder of ``signals``."""
    encoder = ViT(width=16, depth=2, heads=2)
    experiment = replace(recipes.load(recipe), method__encoder=encoder)
    experiment = methods.bind(experiment, DataSpec(signals))
    shapes = jax.eval_shape(experiment.method.init, jax.random.key(0))
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda s: rng.normal(0.1, 0.2, s.shape).astype(s.dtype), shapes)
    return Path(save_bundle(folder / "encoder", experiment=experiment, params=params))


@pytest.fixture(scope="session")
def bundle(tmp_path_factory) -> Path:
    """SSAST on one second of sound at 16 kHz: patches of 16 frames, two blocks."""
    return write(tmp_path_factory.mktemp("sound"), SignalSpec("audio", 16000.0, 16000))


@pytest.fixture(scope="session")
def encoder(bundle) -> Encoder:
    """That of ``bundle`` by itself, with frames as far apart as its patches, 160 ms."""
    return load_encoder(bundle)


@pytest.fixture(scope="session")
def slow_bundle(tmp_path_factory) -> Path:
    """The same at 8 kHz."""
    return write(tmp_path_factory.mktemp("slow"), SignalSpec("audio", 8000.0, 8000))


@pytest.fixture(scope="session")
def sensor_bundle(tmp_path_factory) -> Path:
    """An encoder of an accelerometer of three axes."""
    return write(tmp_path_factory.mktemp("sensors"), SignalSpec("acc", 50.0, 512, channels=3))
