"""Commands that are refused or say something, and what they work on."""

import random
import struct

import jax
import numpy as np
import pytest
import soundfile

from jfreq import cli
from jfreq.export.bundle import save_bundle
from jfreq.methods.ssast import SSAST
from jfreq.nn.vit import ViT
from jfreq.testing import CLIP


@pytest.fixture
def refused(capsys):
    """``refused(words)``: the one line on stderr of a command that exits with code 2."""

    def call(*words) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert stop.value.code == 2, err
        assert out == ""
        *before, line = err.splitlines()
        assert line.startswith("jfreq: error: ") and err.endswith("\n"), err
        # Long commands may have printed their progress before it, and nothing else.
        assert not any("rror" in other for other in before), err
        return line.removeprefix("jfreq: error: ")

    return call


@pytest.fixture
def said(capsys):
    """``said(words)``: standard output of a command that succeeds."""

    def call(*words) -> str:
        capsys.readouterr()
        code = 0
        try:
            cli.main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        assert code == 0, err
        return out

    return call


@pytest.fixture
def small():
    """Options that make the encoder of ``ssast_nano`` tiny."""
    sizes = {"passes": 1, "encoder.width": 32, "encoder.depth": 1, "encoder.heads": 2}
    options = [word for name, x in sizes.items() for word in (f"--method.{name}", str(x))]
    return [*options, "--log.writers"]


@pytest.fixture
def training(shards, small, tmp_path):
    """A training command that could run, in an empty folder."""
    return ["train", "ssast_nano", "--data", shards, "--workdir", tmp_path / "run", *small]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A bundle with the encoder of an untrained method."""
    from jfreq import recipes
    from jfreq.config import replace

    method = SSAST(encoder=ViT(width=32, depth=1, heads=2)).bind(CLIP)
    params = jax.jit(method.init)(jax.random.key(0))
    experiment = replace(recipes.load("ssast_nano"), method=method)
    return save_bundle(tmp_path_factory.mktemp("use") / "encoder", experiment=experiment,
                       params={"trunk": params["trunk"]})  # fmt: skip


@pytest.fixture
def sound(tmp_path):
    """``sound(name, samples)``: a float file at 16 kHz."""

    def write(name, x, rate=16000):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.asarray(x, np.float32), rate, subtype="FLOAT")
        return path

    return write


@pytest.fixture
def zero_rate():
    """``zero_rate(path)``: a sound WAV file whose header now says 0 Hz."""

    def write(path):
        data = bytearray(path.read_bytes())
        at = data.index(b"fmt ") + 12
        data[at : at + 4] = struct.pack("<I", 0)
        path.write_bytes(data)
        return path

    return write


@pytest.fixture(autouse=True)
def kept_by_tyro(monkeypatch):
    """Under pytest tyro computes a random tenth of what it has kept anew, to test itself."""
    monkeypatch.setattr(random, "random", lambda: 1.0)
