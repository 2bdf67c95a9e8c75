"""The pages on how to add a paper, an encoder and so on hold code that works as it stands."""

import io
import re

import jax
import numpy as np
import pytest
import soundfile

from jfreq import classes, methods
from jfreq.cli.paper import PAPER
from jfreq.config import Experiment
from jfreq.data.options import Options
from jfreq.data.sources.kinds import open_source
from jfreq.export import export_run
from jfreq.export.portable import adapt
from jfreq.method import encoder_params
from jfreq.testing import CLIP, assert_step_specs


@pytest.fixture(scope="module")
def code(root):
    """The blocks of Python by the name of the file that each is."""
    text = (root / "CONTRIBUTING.md").read_text()
    return dict(re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


@pytest.fixture
def module(code, tmp_path):
    """``module(name)``: what the file defines."""

    def run(name: str) -> dict:
        path = tmp_path / f"contributing_{name}"  # no other module is called so
        path.write_text(code[name])
        return vars(classes.run_file(path))

    return run


def test_the_paper_is_the_one_that_a_command_writes(code):
    assert code["denoise.py"].strip() in PAPER.format(name="denoise", class_="Denoise")


@pytest.mark.parametrize("name", ["averaged", "low_bins", "steady"])
def test_parts_of_ones_own_train(module, name):
    experiment = module(f"{name}.py")[name]
    methods.check_experiment(experiment)
    assert_step_specs(experiment, CLIP)


def test_a_token_in_padding_reaches_no_other(module):
    found = module("averaged.py")
    net = found["Averaged"](width=8, depth=2).build()
    x = jax.random.normal(jax.random.key(0), (1, 4, 8))
    valid = np.array([[True, True, True, False]])
    params = jax.jit(lambda x: net.init(jax.random.key(1), x, grid=None))(x)
    run = jax.jit(lambda x: net.apply(params, x, grid=None, valid=valid)[0][:, :3])
    out = [run(y) for y in (x, x.at[:, 3].add(9.0))]
    np.testing.assert_array_equal(*out)


def test_a_table_of_names(module, tmp_path):
    for name in ("7_anna_0", "7_ben_9", "3_ben_7"):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(800), 8000)
    module("digits.py")["write_index"](tmp_path)
    found = open_source(str(tmp_path), kind="auto", options=Options())
    rows = {(found.labels[r.label[0]], r.subject, r.split) for r in found.rows}
    assert rows == {("7", "anna", "test"), ("7", "ben", "train"), ("3", "ben", "train")}


def test_a_format(module, monkeypatch):
    monkeypatch.setattr(export_run, "EXTRAS", dict(export_run.EXTRAS))
    module("npz.py")
    method = methods.SSAST().bind(CLIP)
    shapes = jax.eval_shape(method.init, jax.random.key(0))
    params = encoder_params(method, jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes))
    adapter = adapt(Experiment("x", method), params)
    with np.load(io.BytesIO(export_run.EXTRAS["npz"](adapter).files["encoder.npz"])) as found:
        assert set(found) == set(adapter.params)
