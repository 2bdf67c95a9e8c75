"""One CPU device (eight fake ones under tests/distributed), strict rank promotion, fixed
environment."""

import gc
import os
import sys
from importlib.metadata import version
from pathlib import Path

# 8 fake devices on 2 cores deadlock with one pool thread per core.
os.environ.setdefault("NPROC", "32")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# One process runs hundreds of programs here, whose memory it must give back.
os.environ["JFREQ_KEEP_PAGES"] = "0"
# Tests compile much and compute little. XLA ends the process at a flag that it does not know.
flags = "--xla_backend_optimization_level=0"
if version("jaxlib").startswith("0.10."):
    flags += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
os.environ["XLA_FLAGS"] = f"{flags} {os.environ.get('XLA_FLAGS', '')}".strip()

import jax
import psutil
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_rank_promotion", "raise")
if cache := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    jax.config.update("jax_compilation_cache_dir", cache)


def pytest_configure(config):
    """Starts the backend before any test, with as many devices as the tests ask for."""
    eight = any("distributed" in Path(word).parts for word in config.args)
    jax.config.update("jax_num_cpu_devices", 8 if eight else 1)
    jax.devices()
    gc.set_threshold(50_000, 50, 100)  # Programs pile up and stay: there is little to collect.


def pytest_addoption(parser):
    parser.addoption(
        "--golden",
        choices=["all", "write"],
        help="golden steps of all recipes: check or write them",
    )


ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def search_path():
    """What a test adds to where modules are looked for is taken away again."""
    path = list(sys.path)
    yield
    sys.path[:] = path


MOST_BYTES = 5 * 2**30
"""Memory of a worker beyond which it forgets the programs that it has compiled."""


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Hundreds of programs in one process would fill the memory; the cache on disk has them."""
    yield
    if psutil.Process().memory_info().rss > MOST_BYTES:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; skips where it is missing."""
    folder = Path(os.environ.get("JFREQ_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data sets not found at {folder} (set JFREQ_DATA)")
    return folder


@pytest.fixture(scope="session")
def experiment(shards):
    """A run of seconds on the synthetic clips, on all devices there are."""
    from jfreq.config import Checkpoint, Data, Experiment, Log, Optim
    from jfreq.methods.ssast import SSAST
    from jfreq.nn.vit import ViT

    return Experiment(
        name="test",
        method=SSAST(encoder=ViT(width=32, depth=1, heads=2), passes=1),
        data=Data(path=(str(shards),), backend="memory"),
        optim=Optim(lr=1e-3, warmup=2, weight_decay=0.01, clip=1.0),
        checkpoint=Checkpoint(every=3),
        log=Log(every=2, writers=()),
        steps=6,
        batch=8,
    )


@pytest.fixture(scope="session")
def finished_run(experiment, tmp_path_factory):
    """What the undisturbed training of ``experiment`` returned, and its folder: only to be read or
    copied."""
    from jfreq.train.loop import train

    folder = tmp_path_factory.mktemp("finished") / "run"
    return train(experiment, folder, quiet=True), folder


@pytest.fixture(scope="session")
def shards(tmp_path_factory) -> Path:
    """32 labelled synthetic clips of 128 frames."""
    from jfreq.data.prepare.run import prepare

    out = tmp_path_factory.mktemp("shards") / "tones"
    prepare("synthetic:tones", out, n=32, seconds=1.295, progress=False)
    return out


def pytest_collection_modifyitems(items):
    """What needs eight devices is skipped where there is one."""
    if jax.device_count() == 1:
        few = pytest.mark.skip(reason="needs eight devices: pytest tests/distributed")
        for item in items:
            if "distributed" in item.path.parts:
                item.add_marker(few)
