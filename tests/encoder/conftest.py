"""An untrained encoder as a bundle."""

import jax
import pytest

from jfreq import methods, recipes
from jfreq.encoder.encoder import Encoder, load_encoder
from jfreq.export.bundle import save_bundle
from jfreq.types import DataSpec, SignalSpec
from tests.encoder.span_means import RATE, fake


@pytest.fixture(scope="package")
def bundle(tmp_path_factory):
    """A bundle of an untrained ssast_nano that reads one second."""
    spec = DataSpec((SignalSpec("audio", RATE, RATE),))
    experiment = methods.bind(recipes.load("ssast_nano"), spec)
    method = experiment.method
    params = jax.jit(method.init)(jax.random.key(3))
    return save_bundle(tmp_path_factory.mktemp("b") / "enc", experiment=experiment, params=params)


@pytest.fixture(scope="package")
def real(bundle) -> Encoder:
    return load_encoder(bundle)


@pytest.fixture(scope="package")
def encoder() -> Encoder:
    """One that is no network: its tokens are means of the samples."""
    return fake()
