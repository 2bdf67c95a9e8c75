"""Encoders with random weights that become folders of Hugging Face."""

import dataclasses
from typing import Any

import jax
import numpy as np

from jfreq import methods, param_paths
from jfreq.config import Experiment
from jfreq.export.bundle import save_bundle
from jfreq.export.portable import Adapter, adapt
from jfreq.frontends.fbank import Fbank
from jfreq.method import Method, encoder_params
from jfreq.methods.aasp import AaSP
from jfreq.methods.ast import AST
from jfreq.methods.eat import EAT
from jfreq.methods.ssast import SSAST
from jfreq.methods.supervised import Classify, Head
from jfreq.nn.aape import AaPE
from jfreq.nn.vit import ViT
from jfreq.types import DataSpec, PyTree, SignalSpec

TINY = ViT(width=32, depth=2, heads=2, eps=1e-12)
SECOND = SignalSpec("audio", 16000.0, 16000)
"""Padded to 128 frames, of which 98 lie inside it."""
FULL = SignalSpec("audio", 16000.0, 20720)
"""128 frames."""
STEREO = SignalSpec("audio", 16000.0, 16000, channels=2)
MOTION = SignalSpec("acc", 50.0, 64, channels=3)
LABELS = ("dog", "cat", "rain")


def ast(**changes: Any) -> AST:
    """An AST as transformers has it."""
    base: dict[str, Any] = {
        "frontend": Fbank(mean=-4.0, std=4.5), "encoder": TINY, "padding": "attended",
    }  # fmt: skip
    return AST(**{**base, **changes})


def ast_model(**changes: Any) -> SSAST:
    """The encoder of :func:`ast` without a classifier."""
    base: dict[str, Any] = {
        "frontend": Fbank(), "encoder": TINY, "padding": "attended", "pool": "special",
    }  # fmt: skip
    return SSAST(**{**base, **changes})


def bound(method: Method, signal: SignalSpec = SECOND, seed: int = 0) -> tuple[Experiment, PyTree]:
    """The method on windows of ``signal``, and random parameters of its encoder."""
    labels = LABELS if method.supervised else ()
    experiment = methods.bind(Experiment("random", method), DataSpec((signal,), labels))
    shapes = jax.eval_shape(experiment.method.init, jax.random.key(0))
    rng = np.random.default_rng(seed)

    def draw(path: str, x: jax.ShapeDtypeStruct) -> np.ndarray:
        spread = rng.normal(0, 0.1 if len(x.shape) < 2 else min(0.1, x.shape[-1] ** -0.5), x.shape)
        return (spread + path.endswith("scale")).astype(np.float32)

    params = param_paths.map_paths(draw, shapes)
    return experiment, encoder_params(experiment.method, params)


def adapted(method: Method, signal: SignalSpec = SECOND, seed: int = 0) -> Adapter:
    return adapt(*bound(method, signal, seed))


def saved(folder, method: Method, signal: SignalSpec = SECOND, seed: int = 0):
    """A bundle of the same."""
    experiment, params = bound(method, signal, seed)
    return save_bundle(folder, experiment=experiment, params=params)


ALIAS = AaPE(width=32, depth=1, heads=2, kernels=3, out=16)
NORM_AFTER = dataclasses.replace(TINY, norm="post", eps=1e-6)
TWINS: dict[str, Method] = {
    "ssast": SSAST(frontend=Fbank(), encoder=TINY),
    "overlapping": SSAST(
        frontend=Fbank(window="povey"), encoder=TINY, padding="attended", registers=3,
        stride=(10, 10),
    ),
    "no special token": SSAST(
        frontend=Fbank(window="hamming", n_mels=64, low_hz=0.0), patch=(8, 32),
        encoder=dataclasses.replace(NORM_AFTER, deep_norm=True), special_tokens=0,
        order="time_major",
    ),
    "classifier": Classify(
        backbone=EAT(frontend=Fbank(), encoder=NORM_AFTER, pool="special"),
        head=Head(norm=False),
    ),
    "ast": ast(
        padding="masked", pool="mean", head=Head(eps=1e-3),
        encoder=dataclasses.replace(TINY, final_norm=False),
    ),
    "aasp": AaSP(frontend=Fbank(), encoder=NORM_AFTER, aape=ALIAS),
    "local": SSAST(
        frontend=Fbank(), encoder=TINY, embed="aape",
        aape=dataclasses.replace(ALIAS, context="local", taps=9, unit_gain=True),
    ),
    "hermitian": SSAST(
        frontend=Fbank(), encoder=TINY, embed="aape", stride=(8, 8),
        aape=dataclasses.replace(
            ALIAS, phase="hermitian", magnitude=True, fusion="residual", adaptive=False,
            band=(0.1, 0.4),
        ),
    ),
}  # fmt: skip
"""Encoders that are no AST of transformers."""
