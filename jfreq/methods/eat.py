"""EAT: a student that reads a fifth of a spectrogram, a teacher that reads all of it (Chen et al.
2024, arXiv 2401.03497; the image branch of data2vec 2.0, Baevski et al. 2023, on spectrograms)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp

from jfreq import losses, masks
from jfreq.config import check
from jfreq.method import Loss, Streams, summarise
from jfreq.methods.common.patches import PatchMethod
from jfreq.methods.common.teacher import TeacherMethod, collapse_diagnostics, gather_per_clone
from jfreq.nn.apply import apply
from jfreq.nn.convnext import ConvNeXt
from jfreq.nn.patch_encoder import EAT_VALUES, Encoded, InitialValues, SpectrogramTrunk
from jfreq.nn.predictors import ConvDecoder, CrossPredictor
from jfreq.nn.vit import ViT
from jfreq.ranges import Between, Count, NonNegative, Whole, checked
from jfreq.types import Array, Batch, DataSpec, InputError, Mask, PyTree, Reconstruction

Terms: TypeAlias = dict[str, tuple[float, Array]]
"""Weight and value per clip ``[b]`` of the terms of a loss, by name."""


@checked
class EAT(TeacherMethod, PatchMethod):
    """Masked clones of every clip predict what an EMA teacher makes of the whole clip.

    The defaults are those of EAT-base: of 64 x 8 patches 102 are visible in a clone.
    """

    headline: ClassVar[tuple[str, ...]] = ("frame", "utterance", "rankme")
    teacher_part: ClassVar[str] = "trunk"
    released_values: ClassVar[InitialValues] = EAT_VALUES

    order: Literal["freq_major", "time_major"] = "time_major"
    special_tokens: Whole = 1
    positions: Literal["learned", "sincos"] = "sincos"
    encoder: ViT | ConvNeXt = ViT(norm="post")
    mask_ratio: Between = 0.8
    block: Count = 5
    """Side of the blocks of patches that stay visible."""
    adjust: NonNegative = 0.07
    """Fraction of all patches by which the sampled blocks, which overlap, exceed those that stay
    visible. Short clips, below 12 columns of 8 patches by default, get no block: single patches
    stay visible."""
    decoder: ConvDecoder | CrossPredictor = ConvDecoder()
    frame_weight: NonNegative = 1.0
    utterance_weight: NonNegative = 192.0
    """Weight of the error of the special token, whose target is the mean over patches. As released
    this error is summed over the 12 clips x 16 clones of a device, hence 192."""

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.encoder, ViT):
            raise InputError("method.encoder: must be a ViT, which can read a part of the tokens")
        check(
            self.special_tokens >= 1,
            "method.special_tokens",
            "must be 1 or more: the first special token predicts the clip",
        )
        self.check_target_layers(self.encoder.depth)
        if self.bound:
            self.check_visible(self.mask_ratio, self.visible)

    @property
    def visible(self) -> int:
        """Visible tokens of a clone, rounded as released: 39 of 200, as 1 - 0.8 is a little less
        than 0.2 in binary."""
        return int(self.grid.size * (1 - self.mask_ratio))

    @property
    def blocks(self) -> int:
        """Blocks of visible patches that a clone samples."""
        return int(self.grid.size * ((1 - self.mask_ratio + self.adjust) / self.block**2))

    def bind(self, spec: DataSpec) -> Self:
        cfg = super().bind(spec)
        cfg.check_no_overlap()
        return cfg

    @property
    def higher_is_better(self) -> Mapping[str, bool]:
        return {**super().higher_is_better, "frame": False, "utterance": False}

    # ------------------------------------------------------------------ the paper

    @property
    def net(self) -> Net:
        """The student and its predictor as a module."""
        return Net(self)

    def init(self, key: Array) -> PyTree:
        mask = self.sample_mask(key, self.clones)
        return self.net.init(key, self.geometry.example, mask, key)["params"]

    def loss(self, params, target, batch: Batch, rngs: Streams, step) -> Loss:
        del step
        batch = self.with_spectrogram(batch)
        spec = batch["spectrogram"]
        rows, clones = spec.shape[0], self.clones
        mask = self.sample_mask(rngs("mask"), rows * clones)
        truth = self.teacher_targets(target["trunk"], spec)
        special, pred = apply(
            self.net, params, spec, mask, rngs("fill"), train=True, dropout=rngs("dropout")
        )
        special = special.reshape(rows, clones, -1)
        frame = losses.squared_error(pred, gather_per_clone(truth, mask.masked))
        clip = jnp.broadcast_to(truth.mean(axis=1)[:, None], special.shape)
        terms: Terms = {
            "frame": (self.frame_weight, frame.reshape(rows, clones).mean(axis=1)),
            "utterance": (self.utterance_weight, losses.squared_error(special, clip)),
            **self.more_terms(params, special, batch),
        }
        values = {name: value for name, (_, value) in terms.items()}
        parts = [weight * value for weight, value in terms.values()]
        values["loss"] = jnp.sum(jnp.stack(parts), axis=0)
        return summarise(values, batch)._replace(diagnostics=collapse_diagnostics(truth, pred))

    def more_terms(self, params: PyTree, special: Array, batch: Batch) -> Terms:
        """Terms of a subclass; ``special`` ``[b r d]``: states of the first special token."""
        del params, special, batch
        return {}

    def teacher_targets(self, params: PyTree, spec: Array) -> Array:
        """Targets ``[b n d]`` of the spectrograms ``[b t f c]``: what the MLPs of the last blocks
        add, as :func:`jfreq.losses.instance_norm_targets` averages it."""

        def forward(module: SpectrogramTrunk):
            return module.encode(module.embed(spec), layers="ffn")

        _, _, layers = apply(self.trunk, params, method=forward)
        last = layers[-(self.target_layers or 0) :]
        return jax.lax.stop_gradient(losses.instance_norm_targets(last))

    # ------------------------------------------------------------------ its masks

    def sample_mask(self, key: Array, rows: int) -> Mask:
        """Masks of ``rows`` clones."""
        return masks.inverse_block(
            key, rows, self.grid, self.visible, block=self.block, number=self.blocks
        )

    def reconstruct(self, params, batch: Batch, rngs: Streams) -> Reconstruction:
        """A mask without a reconstruction: the method predicts states, not a spectrogram."""
        del params
        return self.show_mask(batch, lambda rows: self.sample_mask(rngs("mask"), rows))


class Net(nn.Module):
    """Trunk and predictor."""

    cfg: EAT

    def setup(self):
        self.trunk = self.cfg.trunk
        out = self.cfg.encoder.width
        self.decoder = self.cfg.decoder.build(out)

    def __call__(
        self, spec: Array, mask: Mask, key: Array, *, train: bool = False
    ) -> tuple[Array, Array]:
        """States of the first special token ``[r*b d]`` and predicted targets of masked tokens
        ``[r*b m d]``; ``mask`` has the r clones of a clip side by side."""
        states = encode_visible(self.trunk, spec, mask, train=train)
        return states[0][:, 0], self.decoder(states[1], mask, self.cfg.grid, key)


def encode_visible(
    net: SpectrogramTrunk, spec: Array, mask: Mask, *, train: bool = False
) -> Encoded:
    """The visible tokens of all clones, encoded."""
    tokens = gather_per_clone(net.embed_under(spec, mask), mask.visible)
    return net.encode(tokens, ids=mask.visible, train=train)
