"""EAT: a student that sees a fifth of a spectrogram, a teacher that sees it all (Chen et al. 2024,
arXiv 2401.03497; the image branch of data2vec 2.0, Baevski et al. 2023, on spectrograms)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Self, TypeAlias, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jfreq import losses, masks
from jfreq.config import check
from jfreq.methods.base import Method, Metrics, Target, summarise
from jfreq.methods.spectrogram import (
    SpectrogramConfig,
    example_spectrogram,
    features,
    spectrogram,
    trunk,
)
from jfreq.nn.conv import ConvNeXt
from jfreq.nn.predict import ConvDecoder, CrossPredictor
from jfreq.nn.trunk import Encoded, SpectrogramTrunk
from jfreq.nn.vit import ViT
from jfreq.ops import spread
from jfreq.ops.gather import take_tokens
from jfreq.ops.patch import unpatchify
from jfreq.ranges import Between, Count, Fraction, NonNegative, Whole, checked
from jfreq.types import Array, Batch, DataSpec, Mask, PyTree, Reconstruction

Terms: TypeAlias = dict[str, tuple[float, Array]]
"""Weight and value per clip ``[b]`` of the terms of a loss, by name."""
WATCHED = 64
"""Teacher tokens whose spread is logged."""
FLOORS = (("target_std", 0.1), ("pred_std", 0.01), ("rankme", 4.0))
"""Collapse: the first two stop a run of data2vec 2.0, the rank is ours, of 64 tokens."""


@checked
class EAT(SpectrogramConfig):
    """Masked clones of every clip predict what an average teacher makes of all of it.

    The defaults are EAT-base's: of 64 x 8 patches a clone sees 102.
    """

    order: Literal["freq_major", "time_major"] = "time_major"
    special_tokens: Whole = 1
    positions: Literal["learned", "sincos"] = "sincos"
    encoder: ViT | ConvNeXt = ViT(norm="post")
    mask_ratio: Between = 0.8
    block: Count = 5
    """Side of the blocks of patches that stay visible."""
    adjust: NonNegative = 0.07
    """More blocks are drawn than ``1 - mask_ratio`` asks for, by this share: they overlap."""
    clones: Count = 16
    """Masks of every clip; the teacher sees the clip once for all of them."""
    decoder: ConvDecoder | CrossPredictor = ConvDecoder()
    target_layers: Count | None = None
    """How many of the teacher's last blocks a target averages; None: all."""
    frame_weight: NonNegative = 1.0
    utterance_weight: NonNegative = 192.0
    """Of the error of the special token against the mean target. As released it is summed over 12
    clips x 16 clones of a device while that of patches is averaged, hence 192."""
    ema: tuple[Fraction, Fraction] = (0.9998, 0.99999)
    """The teacher keeps this share of itself at an update, at first and in the end."""
    ema_steps: Count = 100_000
    """Updates from the first to the last, in a straight line."""

    def __post_init__(self):
        super().__post_init__()
        check(
            isinstance(self.encoder, ViT), "method.encoder", "must be a ViT: it reads some tokens"
        )
        check(self.special_tokens >= 1, "method.special_tokens", "must be 1 or more: the first "
              "predicts the clip")  # fmt: skip
        depth = cast(ViT, self.encoder).depth
        check(
            self.target_layers is None or self.target_layers <= depth,
            "method.target_layers",
            f"must be {depth} or less, the blocks of the encoder, got {self.target_layers}",
        )
        if self.bound:
            check(1 <= self.kept < self.grid.size, "method.mask_ratio",
                  f"{self.mask_ratio} of {self.grid.size} patches leaves {self.kept} visible; one "
                  "must be visible and one masked: take longer clips or another ratio")  # fmt: skip

    @property
    def kept(self) -> int:
        """Visible tokens of a clone."""
        return int(self.grid.size * (1 - self.mask_ratio) + 1e-6)

    def bind(self, spec: DataSpec) -> Self:
        cfg = super().bind(spec)
        check(cfg.stride in (None, cfg.patch), "method.stride", "pre-training patches must not "
              f"overlap (a neighbour would show the answer), got {cfg.stride}")  # fmt: skip
        return cfg


class Net(nn.Module):
    """Trunk and predictor."""

    cfg: EAT

    def setup(self):
        self.trunk = trunk(self.cfg)
        out = self.cfg.encoder.width
        self.decoder = self.cfg.decoder.build(out)

    def __call__(self, spec: Array, mask: Mask, key: Array) -> tuple[Array, Array]:
        """Clones of ``spec`` under ``mask`` (r rows for each clip, in turn): states of the first
        special token ``[r*b d]`` and predicted targets ``[r*b m d]`` of masked tokens."""
        states = seen(self.trunk, spec, mask)
        return states[0][:, 0], self.decoder(states[1], mask, self.cfg.grid, key)


def seen(net: SpectrogramTrunk, spec: Array, mask: Mask) -> Encoded:
    """The visible tokens of all clones, encoded."""
    return net.encode(of_clones(net.embed_under(spec, mask), mask.keep), ids=mask.keep)


def of_clones(x: Array, ids: Array) -> Array:
    """Tokens ``ids`` ``[r*b k]`` of ``x`` ``[b n d]``, which the r clones of a row share."""
    flat = take_tokens(x, ids.reshape(x.shape[0], -1))
    return flat.reshape(*ids.shape, x.shape[-1])


def teach(cfg: EAT, params: PyTree, spec: Array) -> Array:
    """Targets ``[b n d]``: what the MLPs of the last blocks add, each channel normalised over the
    tokens, averaged over blocks, each token normalised."""
    net = trunk(cfg)

    def forward(module: SpectrogramTrunk):
        return module.encode(module.embed(spec), layers="ffn")

    _, _, layers = cast(Encoded, net.apply({"params": params}, method=forward))
    assert layers is not None
    return jax.lax.stop_gradient(losses.instance_norm_targets(layers[-(cfg.target_layers or 0) :]))


def average(cfg: EAT) -> Target:
    """The teacher: an average of the student's trunk over its updates, float32."""

    def update(target: PyTree, params: PyTree, step) -> PyTree:
        share = jnp.minimum(jnp.asarray(step, jnp.float32) / cfg.ema_steps, 1.0)
        move = (1 - cfg.ema[0]) + (cfg.ema[0] - cfg.ema[1]) * share
        return {"trunk": optax.incremental_update(params["trunk"], target["trunk"], move)}

    def init(params: PyTree) -> PyTree:
        return {"trunk": jax.tree.map(lambda x: x.astype(jnp.float32), params["trunk"])}

    return Target(init, update)


def eat(cfg: EAT) -> Method:
    """The method of a bound config."""
    return distil(cfg, Net(cfg))


def distil(
    cfg: EAT, net: Net, more: Callable[[PyTree, Array, Batch], Terms] | None = None
) -> Method:
    """Student and teacher of a bound config; ``more(params, special, batch)`` adds terms."""
    grid, clones = cfg.grid, cfg.clones

    def draw_mask(key, rows: int) -> Mask:
        return masks.inverse_block(key, rows, grid, cfg.kept, block=cfg.block, adjust=cfg.adjust)

    def init(key, batch_spec):
        del batch_spec
        spec = example_spectrogram(cfg)
        return net.init(key, spec, draw_mask(key, clones), key)["params"]

    def loss(params, target, batch: Batch, key, step) -> tuple[Array, Metrics]:
        del step
        batch = spectrogram(cfg, batch)
        spec = batch["spectrogram"]
        rows = spec.shape[0]
        mask_key, fill_key = jax.random.split(key)
        mask = draw_mask(mask_key, rows * clones)
        truth = teach(cfg, target["trunk"], spec)
        special, pred = cast(
            tuple[Array, Array], net.apply({"params": params}, spec, mask, fill_key)
        )
        special = special.reshape(rows, clones, -1)
        frame = losses.squared_error(pred, of_clones(truth, mask.drop))
        clip = jnp.broadcast_to(truth.mean(axis=1)[:, None], special.shape)
        terms: Terms = {
            "frame": (cfg.frame_weight, frame.reshape(rows, clones).mean(axis=1)),
            "utterance": (cfg.utterance_weight, losses.squared_error(special, clip)),
        }
        if more is not None:
            terms |= more(params, special, batch)
        values = {name: value for name, (_, value) in terms.items()}
        parts = [weight * value for weight, value in terms.values()]
        values["loss"] = jnp.sum(jnp.stack(parts), axis=0)
        total, metrics = summarise(values, batch)
        return total, metrics | watched(truth, pred)

    def encode(params, batch: Batch):
        return features(cfg, trunk(cfg), params["trunk"], batch)

    def reconstruct(params, batch: Batch, key) -> Reconstruction:
        spec = spectrogram(cfg, batch)["spectrogram"]
        assert cfg.patch is not None
        size = cfg.patch[0] * cfg.patch[1]
        hidden = draw_mask(key, spec.shape[0]).is_masked[..., None].astype(jnp.float32)
        plane = unpatchify(
            jnp.broadcast_to(hidden, (*hidden.shape[:2], size)),
            grid=(grid.freq, grid.time), patch=cfg.patch, order=cfg.order,
        )  # fmt: skip
        edge = ((0, 0), *((0, n - m) for n, m in zip(spec.shape[1:3], plane.shape[1:3])))
        return Reconstruction(spec, jnp.pad(plane[..., 0], edge) > 0, None)

    return Method(
        init=init, loss=loss, encode=encode, target=average(cfg),
        frontend=lambda b: spectrogram(cfg, b), reconstruct=reconstruct, floors=FLOORS,
    )  # fmt: skip


def watched(truth: Array, pred: Array) -> dict[str, tuple[Any, Any]]:
    """How spread out targets and predictions are, over a few tokens of the batch."""
    some = spread.sample(truth, WATCHED)
    one = jnp.ones(())
    return {
        "target_std": (spread.deviation(some), one),
        "pred_std": (spread.deviation(spread.sample(pred, WATCHED)), one),
        "rankme": (spread.rankme(some), one),
    }
