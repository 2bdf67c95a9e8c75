"""Which methods ``jfreq bench methods`` puts beside PyTorch: recipes, data and sizes."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jfreq import methods, recipes
from jfreq.config import Experiment, replace
from jfreq.method import Method, Streams
from jfreq.types import DataSpec, SignalSpec

CLIP = SignalSpec("audio", 16000.0, 160_000)
AUDIO = DataSpec((CLIP,))
AUDIOSET = DataSpec((CLIP,), tuple(f"class {i}" for i in range(527)), multi_label=True)
HHAR = DataSpec(tuple(SignalSpec(name, 100.0, 512, 3) for name in ("acc", "gyro")), tuple("abcdef"))
MOTION = DataSpec(
    tuple(
        SignalSpec(name, 50.0, 512, 3, mean=(0.1,) * 3, std=(1.5,) * 3) for name in ("acc", "gyro")
    )
)
MOD = DataSpec((SignalSpec("audio", 8000.0, 16000), SignalSpec("seismic", 100.0, 200)))

Batch = dict[str, np.ndarray]
Draw = Callable[[Any, Streams, Batch], list[Any]]
"""What the first step of a method draws, from its streams and its batch."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A recipe, and its PyTorch reference ``module:class`` of ``torch_refs``."""

    title: str
    recipe: str
    reference: str
    data: DataSpec
    batch: int
    draw: Draw
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    compiled: bool = True
    """Off: torch.compile has no code for what it computes, complex numbers for the most part, or was
    not done after five minutes (FreqMAE)."""

    @property
    def experiment(self) -> Experiment:
        """The recipe at a constant learning rate, bound to its data."""
        changes = {"optim__schedule": "constant", "optim__warmup": 0, "batch": self.batch}
        experiment = replace(recipes.load(self.recipe), **{**changes, **self.changes})
        return methods.bind(experiment, self.data)

    def model(self, method: Method) -> Any:
        """The reference of a bound method."""
        module, name = self.reference.split(":")
        return getattr(importlib.import_module(f"torch_refs.{module}"), name)(method)

    def sample(self, method: Method) -> Batch:
        """A batch of noise: the spectrogram where the method reads one, else the sensors; with
        labels where it learns from them."""
        rng, rows = np.random.default_rng(0), self.batch
        out: Batch = {
            s.name: rng.normal(0, 0.1, (rows, s.samples, s.channels)).astype(np.float32)
            for s in self.data.signals
        }
        if hasattr(method, "geometry"):
            out = {"spectrogram": np.asarray(jax.jit(method.with_spectrogram)(out)["spectrogram"])}
        if method.supervised and self.data.multi_label:
            hot = rng.random((rows, len(self.data.labels))) < 0.01
            out["label"] = hot.astype(np.float32)
        elif method.supervised:
            out["label"] = rng.integers(0, len(self.data.labels), rows).astype(np.int32)
        return out

    def inputs(self, model: Any, batch: Batch) -> tuple[Any, ...]:
        """The batch as the reference reads it."""
        import torch

        out = []
        for name, x in batch.items():
            if name == "spectrogram":
                out.append(model.trunk.layout(x))
            else:
                out.append(torch.from_numpy(x.astype(np.int64) if x.dtype == np.int32 else x))
        return tuple(out)


def _nothing(method: Any, rngs: Streams, batch: Batch) -> list[Any]:
    del method, rngs, batch
    return []


def _ssast(method: Any, rngs: Streams, batch: Batch) -> list[Any]:
    return [method.sample_mask(rngs("mask"), 2 * len(batch["spectrogram"])).masked]


def _audiomae(method: Any, rngs: Streams, batch: Batch) -> list[Any]:
    return list(method.sample_mask(rngs("mask"), len(batch["spectrogram"])))


def _eat(method: Any, rngs: Streams, batch: Batch) -> list[Any]:
    mask = method.sample_mask(rngs("mask"), len(batch["spectrogram"]) * method.clones)
    shape = (*mask.masked.shape, method.encoder.width)
    scale = getattr(method.decoder, "noise", 0.0)
    return [*mask, scale * jax.random.normal(rngs("fill"), shape)]


def _mae(method: Any, rngs: Streams, batch: Batch) -> list[Any]:
    masks = method.sample_masks(rngs("mask"), method.spectra(batch))
    return [ids for mask in masks.values() for ids in mask]


def _freqmae(method: Any, rngs: Streams, batch: Batch) -> list[Any]:
    return list(method.sample_masks(rngs("mask"), method.spectra(batch)).values())


def _focal(method: Any, rngs: Streams, batch: Batch) -> list[Any]:
    from jfreq.methods.common.raw_sensors import standardised, twice

    pairs = {name: twice(jax.numpy.asarray(x)) for name, x in batch.items()}
    series = standardised(method.signals, pairs, how=method.standardise)
    return method.views(rngs("views"), series)


WITHOUT_DROPOUT = {
    "method__encoder__dropout": 0.0, "method__encoder__attention_dropout": 0.0,
    "method__encoder__drop_path": 0.0,
}  # fmt: skip

CASES: dict[str, Case] = {
    "ssast": Case("SSAST-tiny, two masks a clip", "ssast_tiny", "ssast:SSAST", AUDIO, 4, _ssast),
    "ast": Case("AST-tiny, 1,212 tokens", "ast_tiny", "ast:AST", AUDIOSET, 2, _nothing),
    "audiomae": Case(
        "Audio-MAE-tiny, four local blocks", "audiomae_tiny", "audiomae:AudioMAE", AUDIO, 8,
        _audiomae, {"method__gain": False, "method__decoder__bias_dropout": 0.0},
    ),
    "eat": Case("EAT-tiny, 16 clones", "eat_tiny", "eat:EAT", AUDIO, 2, _eat),
    "aape": Case("AaSP-tiny, 16 clones", "aape_tiny", "aasp:AaSP", AUDIO, 2, _eat),
    "mae": Case("MAE-tiny, two sensors", "mae_tiny", "mae:MAE", MOTION, 32, _mae),
    "freqmae": Case(
        "FreqMAE, the published network", "freqmae_mod", "freqmae:FreqMAE", MOD, 32, _freqmae,
        WITHOUT_DROPOUT, compiled=False,
    ),
    "focal": Case(
        "FOCAL, the published network", "focal_mod", "focal:FOCAL", MOD, 32, _focal,
        WITHOUT_DROPOUT,
    ),
    "stfnet": Case(
        "STFNet of HHAR, as released", "stfnet_hhar", "stfnet:STFNet", HHAR, 64, _nothing,
        {"method__encoder__dropout": 0.0}, compiled=False,
    ),
    "stfnet_merges": Case(
        "STFNet of HHAR, merges that learn", "stfnet_hhar", "stfnet:STFNet", HHAR, 64, _nothing,
        {"method__encoder__dropout": 0.0, "method__encoder__merge": "xavier"}, compiled=False,
    ),
}  # fmt: skip
