"""``jfreq new-paper``: a small method with its recipe and its test, to start a new one from."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from tyro.conf import Positional

PAPER = '''\
"""{class_}: clean patches from a noisy spectrogram (after Vincent et al., ICML 2008).

    jfreq train {name}.py:{name} --data SHARDS --workdir runs/{name}
    jfreq probe runs/{name} --data SHARDS --trust {name}.py

Say here what your paper does, where this file departs from it, and what results it reaches.
"""

from __future__ import annotations

import flax.linen as nn
import jax
from jfreq import losses
from jfreq.config import Experiment, Optim
from jfreq.method import Loss, Streams, summarise
from jfreq.methods.common.patches import PatchMethod
from jfreq.nn.apply import apply
from jfreq.nn.heads import MLPHead
from jfreq.nn.vit import SIZES
from jfreq.ops.patch import patchify
from jfreq.ranges import Positive, checked
from jfreq.types import Array, Batch, InputError, PyTree


@checked
class {class_}(PatchMethod):
    """Noise is added to the spectrogram; a head on the encoder predicts the clean patches."""

    noise: Positive = 0.5
    """Standard deviation of the Gaussian noise."""

    def init(self, key: Array) -> PyTree:
        return _Net(self).init(key, self.geometry.example)["params"]

    def loss(self, params: PyTree, target: PyTree, batch: Batch, rngs: Streams, step) -> Loss:
        del target, step
        batch = self.with_spectrogram(batch)
        clean = batch["spectrogram"]
        noisy = clean + self.noise * jax.random.normal(rngs("noise"), clean.shape)
        predicted = apply(_Net(self), params, noisy)
        patches = patchify(clean, patch=self.geometry.patch, order=self.order)
        return summarise({{"loss": losses.mse(predicted, patches)}}, batch)


class _Net(nn.Module):
    """The trunk, which is the encoder that probes and exports use, and a head for training."""

    cfg: {class_}

    def setup(self):
        self.trunk = self.cfg.trunk
        self.head = MLPHead(self.cfg.encoder.width, self.cfg.geometry.patch_size)

    def __call__(self, spec: Array) -> Array:
        """Predicts patches ``[b n p]``, in the layout of :func:`jfreq.ops.patch.patchify`, from a
        spectrogram ``[b t f c]``; :mod:`jfreq.masks` samples masks of patches."""
        _, tokens, _ = self.trunk.encode(self.trunk.embed(spec))
        return self.head(tokens)


{name} = Experiment(
    name="{name}",
    method={class_}(encoder=SIZES["nano"]),
    optim=Optim(lr=1e-3, warmup=50, weight_decay=0.01, clip=1.0),
    steps=500,
    batch=16,
)
'''
TEST = '''\
"""Tests of {class_}; the recipe as a whole is only traced, which computes nothing."""

import functools

import jax
import numpy as np
from jfreq import param_paths
from jfreq.nn.vit import ViT
from jfreq.testing import CLIP, assert_step_specs, fake_batch, loss_and_grad

from {module} import {class_}, {name}

METHOD = {class_}(encoder=ViT(width=32, depth=1, heads=2)).bind(CLIP)
BATCH = fake_batch(CLIP, 4)


@functools.cache
def initial():
    return jax.jit(METHOD.init)(jax.random.key(0))


def test_the_recipe_trains():
    assert_step_specs({name}, CLIP)


def test_loss_is_the_distance_to_the_clean_spectrogram():
    """A head of zeros predicts zeros, so that the loss is the mean square of the patches."""
    params = initial()
    params = {{**params, "head": jax.tree.map(np.zeros_like, params["head"])}}
    loss, _ = loss_and_grad(METHOD, params, BATCH, jax.random.key(1))
    clean = np.asarray(METHOD.with_spectrogram(BATCH)["spectrogram"], np.float64)
    np.testing.assert_allclose(loss.value, np.square(clean).mean(), rtol=1e-5)


def test_every_parameter_learns():
    _, grads = loss_and_grad(METHOD, initial(), BATCH, jax.random.key(1))
    for path, leaf in param_paths.flatten(grads).items():
        assert np.abs(leaf).max() > 0, path
'''


def new_paper(name: Positional[str], /, folder: Path = Path()) -> None:
    """Writes NAME.py, a small method with a recipe to begin with, and test_NAME.py.

    Args:
        name: name of the file, a Python module: small letters, digits and underscores.
        folder: folder that the two files are written to.
    """
    from jfreq.classes import imported_from, module_name
    from jfreq.config import check
    from jfreq.files import write_atomically
    from jfreq.ranges import InputError, shown

    if not re.fullmatch("[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise InputError(
            f"name: {shown(name)} is no name of a module; use small letters, digits and "
            "underscores, as in my_paper"
        )
    check(folder.is_dir(), "folder", f"{folder}: no such folder; make it or name another")
    path, test = folder / f"{name}.py", folder / f"test_{name}.py"
    for file in (path, test):
        check(not file.exists(), "name", f"{file} exists and would be lost; choose another name")
    taken = imported_from(name)
    check(taken is None, "name", f"there is another module {name} ({taken}); choose another name")
    words = {
        "name": name,
        "class_": "".join(part.capitalize() for part in name.split("_")),
        "module": module_name(path),
    }
    for file, text in ((path, PAPER), (test, TEST)):
        body = text.format(**words).encode()
        write_atomically(file, lambda out, body=body: out.write(body))
        print(file)
    print(
        f"\njfreq train {path}:{name} --data SHARDS --workdir runs/{name}\npython -m pytest {test}"
    )
