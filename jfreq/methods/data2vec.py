"""data2vec 2.0 on waveforms: a student that reads half of a clip's tokens, a teacher that reads all
(Baevski, Babu, Hsu and Auli 2022, arXiv 2212.07525, the speech branch)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from jfreq import losses, masks
from jfreq.config import Experiment, check, replace
from jfreq.method import Loss, Streams, summarise
from jfreq.methods.common.features import FeatureMethod, pooled
from jfreq.methods.common.raw_sensors import standardised
from jfreq.methods.common.teacher import TeacherMethod, collapse_diagnostics, gather_per_clone
from jfreq.nn.apply import apply
from jfreq.nn.bias import ALiBi
from jfreq.nn.heads import torch_bias, torch_kernel
from jfreq.nn.predictors import ConvDecoder
from jfreq.nn.vit import Layers, ViT
from jfreq.nn.waveform import ConvFeatures, ConvPositions
from jfreq.ops.gather import take_entries, visible_tokens
from jfreq.ranges import BelowOne, Between, Count, NonNegative, checked
from jfreq.types import Array, Batch, DataSpec, Features, Mask, PyTree, TokenGrid


@checked
class Data2Vec(TeacherMethod, FeatureMethod):
    """Masked clones of every clip predict what an EMA teacher makes of the whole clip.

    Tokens are strided convolutions of the waveform. The defaults are those of the released
    ``base_audio_only_task``. Padding is neither masked nor predicted nor attended to.
    """

    headline: ClassVar[tuple[str, ...]] = ("target_std", "rankme")
    teacher_part: ClassVar[str] = "context"

    modality: str | None = None
    """The signal to read, of any rate, with all its channels; None: the first."""
    standardise: Literal["data", "clip", "none"] = "clip"
    """``clip``: every clip and channel with zero mean and unit variance, as published; ``data``: by
    the statistics of the training rows; ``none``: as stored."""
    features: ConvFeatures = ConvFeatures()
    positions: ConvPositions = ConvPositions()
    encoder: ViT = ViT(norm="post", eps=1e-5, bias=ALiBi(), dropout=0.1, attention_dropout=0.1)
    decoder: ConvDecoder = ConvDecoder(width=384, depth=4, kernel=7, dropout=0.1)
    blocks: Literal["masked", "visible"] = "masked"
    """What lies in blocks: the masked tokens, as released for speech (``inverse_mask: false``), or
    the visible ones (the paper's inverse block masking)."""
    mask_ratio: Between = 0.5
    block: Count = 5
    """Tokens of a block."""
    adjust: NonNegative = 0.05
    """Fraction of all tokens by which the sampled blocks, which overlap, exceed what is asked
    for."""
    clones: Count = 8
    target_layers: Count | None = 8
    ema: tuple[BelowOne, BelowOne] = (0.999, 0.99999)
    ema_steps: Count = 75_000

    def __post_init__(self):
        self.check_target_layers(self.encoder.depth)
        for part, groups in (("positions", self.positions), ("decoder", self.decoder)):
            check(
                self.encoder.width % groups.groups == 0,
                f"method.{part}.groups",
                f"{groups.groups} must divide encoder.width {self.encoder.width}",
            )
        if self.signals:
            self.features.check(self.signals)
            check(
                1 <= self.visible < self.grid.size,
                "method.mask_ratio",
                f"{self.mask_ratio} of {self.grid.size} tokens leaves {self.visible} visible; one "
                "must be visible and one masked: take longer windows or another ratio",
            )

    @property
    def grid(self) -> TokenGrid:
        """One token after the other, placed on the signal."""
        return self.features.grid(self.signals[0].samples)

    @property
    def visible(self) -> int:
        """Visible tokens of a clone."""
        return self.grid.size - int(self.grid.size * self.mask_ratio + 1e-6)

    def bind(self, spec: DataSpec) -> Self:
        signal = spec.signal(self.modality)
        return replace(self, signals=(signal,), modality=signal.name)

    # ------------------------------------------------------------------ the paper

    @property
    def net(self) -> Net:
        """The student and its predictor as a module."""
        return Net(self)

    def init(self, key: Array) -> PyTree:
        (signal,) = self.signals
        wave = jnp.zeros((1, signal.samples, signal.channels))
        valid = jnp.ones((1, self.grid.size), bool)
        return self.net.init(key, wave, valid, self.sample_mask(key, valid), key)["params"]

    def loss(self, params, target, batch: Batch, rngs: Streams, step) -> Loss:
        del step
        wave, valid = self.wave(batch)
        rows, clones = wave.shape[0], self.clones
        valid_clones = jnp.repeat(valid, clones, axis=0)
        mask = self.sample_mask(rngs("mask"), valid_clones)
        local, pred = apply(
            self.net, params, wave, valid, mask, rngs("fill"), train=True, dropout=rngs("dropout")
        )
        truth = self.teacher_targets(target[self.teacher_part], local, valid)
        signal = take_entries(valid_clones, mask.masked)
        error = losses.squared_error(pred, gather_per_clone(truth, mask.masked), valid=signal)
        loss = summarise({"loss": error.reshape(rows, clones).mean(axis=1)}, batch)
        spread = collapse_diagnostics(
            truth, pred, tokens=jnp.sum(valid, axis=1), predicted=jnp.sum(signal, axis=1)
        )
        return loss._replace(diagnostics=spread)

    def teacher_targets(self, params: PyTree, local: Array, valid: Array) -> Array:
        """Targets ``[b n d]`` of the features ``[b n d]`` of the student: what the MLPs of the last
        blocks add, as :func:`jfreq.losses.instance_norm_targets` averages it."""
        _, layers = apply(self.context, params, jax.lax.stop_gradient(local), valid, layers="ffn")
        targets = losses.instance_norm_targets(
            layers[-(self.target_layers or 0) :], valid=valid, norm_tokens=False
        )
        return jax.lax.stop_gradient(targets)

    def sample_mask(self, key: Array, valid: Array) -> Mask:
        """Masks of clones whose signal lies in the ``valid`` tokens ``[r*b n]``."""
        sample, count = masks.inverse_block, self.visible
        if self.blocks == "masked":
            sample, count = masks.block, self.grid.size - self.visible
        options = {"block": self.block, "adjust": self.adjust, "valid": valid}
        return sample(key, valid.shape[0], self.grid, count, **options)

    # ------------------------------------------------------------------ the encoder

    @functools.cached_property
    def context(self) -> ContextEncoder:
        """Positions and transformer as a module; its average is the teacher."""
        return ContextEncoder(self)

    def wave(self, batch: Batch) -> tuple[Array, Array]:
        """The standardised signal ``[b t c]``, and which tokens hold no padding ``[b n]``."""
        (wave,) = standardised(self.signals, batch, how=self.standardise)
        if "length" not in batch:
            return wave, jnp.ones((wave.shape[0], self.grid.size), bool)
        return wave, self.features.valid(batch["length"], self.grid.size)

    def features_of(self, params: PyTree, batch: Batch, dropout: Array | None = None) -> Features:
        wave, valid = self.wave(batch)
        tokens, layers = apply(
            self.net,
            params,
            wave,
            valid,
            method=Net.encode,
            layers=True,
            train=dropout is not None,
            dropout=dropout,
        )
        return Features(tokens, self.grid, pooled(tokens, valid, "mean"), valid, layers)

    # ------------------------------------------------------------------ what others ask

    @property
    def stem(self) -> tuple[str, ...]:
        before = r"(features|norm|project)/.*"
        return (*super().stem, before, *(f"context/encoder/{path}" for path in self.encoder.stem))

    def finetune_defaults(self, pretraining: Experiment) -> Mapping[str, Any]:
        """The convolutional features are frozen, as wav2vec 2.0 and data2vec are fine-tuned."""
        del pretraining
        frozen = ((r"(.*/)?features/.*", 0.0),)
        return {"optim__lr": 1e-4, "optim__lr_mult": frozen, "steps": 600, "batch": 16}


class Net(nn.Module):
    """Convolutional features, context encoder and predictor."""

    cfg: Data2Vec

    def setup(self):
        cfg = self.cfg
        self.features = cfg.features.build()
        self.norm = nn.LayerNorm(epsilon=1e-5)
        self.project = nn.Dense(
            cfg.encoder.width,
            kernel_init=torch_kernel,
            bias_init=torch_bias(cfg.features.widths[-1]),
        )
        self.context = ContextEncoder(cfg)
        self.decoder = cfg.decoder.build(cfg.encoder.width)

    def __call__(
        self, wave: Array, valid: Array, mask: Mask, key: Array, *, train: bool = False
    ) -> tuple[Array, Array]:
        """The tokens of every clip without context ``[b n d]``, and the predicted targets
        ``[r*b m d]`` of the masked tokens of its r clones, which lie side by side."""
        local = self.local(wave)
        states, _ = self.context(local, valid, mask, train=train)
        return local, self.decoder(states, mask, self.cfg.grid, key, train=train)

    def encode(self, wave: Array, valid: Array, **options: Any) -> tuple[Array, Array | None]:
        """All tokens with context, nothing masked."""
        return self.context(self.local(wave), valid, **options)

    def local(self, wave: Array) -> Array:
        """Tokens ``[b n d]`` of the waveform ``[b t c]``, without context."""
        return self.project(self.norm(self.features(wave)))


class ContextEncoder(nn.Module):
    """Convolutional positions, and a transformer over all tokens or over the visible ones."""

    cfg: Data2Vec

    @nn.compact
    def __call__(
        self,
        local: Array,
        valid: Array,
        mask: Mask | None = None,
        *,
        layers: Layers = False,
        train: bool = False,
    ) -> tuple[Array, Array | None]:
        """States and :data:`jfreq.nn.vit.Layers` of tokens ``[b n d]``; only ``valid`` ones are
        attended to. With ``mask`` those of the visible tokens of its clones, 0 in padding."""
        cfg = self.cfg
        positions, encoder = cfg.positions.build("positions"), cfg.encoder.build("encoder")
        if mask is None:
            x = local + positions(local, valid=valid)
            return encoder(x, grid=cfg.grid, valid=valid, layers=layers, train=train)
        clones = mask.visible.shape[0] // local.shape[0]
        x, valid = (jnp.repeat(y, clones, axis=0) for y in (local, valid))
        x = jnp.where(mask.is_masked[..., None], 0.0, x)
        x = visible_tokens(x + positions(x, valid=valid), mask)
        valid = take_entries(valid, mask.visible)
        x, states = encoder(
            x, grid=cfg.grid, ids=mask.visible, valid=valid, layers=layers, train=train
        )
        return jnp.where(valid[..., None], x, 0.0), states
