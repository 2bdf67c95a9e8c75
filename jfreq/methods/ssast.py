"""SSAST: masked spectrogram patch modelling (Gong, Lai, Chung, Glass, AAAI 2022)."""

from __future__ import annotations

from typing import Literal, Self, TypeAlias, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from jfreq import losses, masks
from jfreq.config import check, replace
from jfreq.methods.base import Method, Metrics, summarise
from jfreq.methods.spectrogram import (
    SpectrogramConfig,
    example_spectrogram,
    features,
    spectrogram,
    trunk,
)
from jfreq.nn.heads import MLPHead
from jfreq.ops.gather import restore_tokens, take_tokens
from jfreq.ops.patch import patchify, unpatchify
from jfreq.ranges import Count, NonNegative, checked
from jfreq.types import Array, Batch, DataSpec, Mask, Reconstruction

Patches: TypeAlias = dict[str, Array]
"""Predicted patches ``[b m p]`` by task: ``match`` and ``draw``."""


@checked
class SSAST(SpectrogramConfig):
    """Masked patches at the input of the full encoder, found again and drawn again.

    ``official`` in a field reproduces the released code where it departs from the paper.
    """

    mask: Count | None = None
    """Masked tokens per clip; None: 400 of 512 and the same share of other grids."""
    mask_kind: masks.Kind = "cluster"
    """The paper uses ``cluster`` for patches and ``random`` for frames."""
    cluster: tuple[Count, Count] = (3, 5)
    """Smallest and largest side of a cluster (C in the paper) or span."""
    cluster_mode: masks.ClusterMode = "uniform"
    objective: Literal["joint", "discriminative", "generative"] = "joint"
    info_nce: losses.InfoNCEForm = "paper"
    generative_weight: NonNegative = 10.0
    """lambda in L = L_d + lambda L_g."""
    passes: Literal[1, 2] = 2
    """Joint: one mask for each task as released (2), or one shared mask at half the cost (1)."""

    def __post_init__(self):
        super().__post_init__()
        if self.bound and self.mask is not None:
            masks.check_count(
                self.mask_kind, self.grid, self.mask, sizes=self.cluster, mode=self.cluster_mode
            )

    def bind(self, spec: DataSpec) -> Self:
        cfg = super().bind(spec)
        if cfg.mask is not None:
            return cfg
        grid = cfg.grid
        line = {"time": grid.freq, "frequency": grid.time}.get(cfg.mask_kind, 1)
        count = max(line, grid.size * 25 // 32 // line * line)
        return replace(cfg, mask=count)

    def unbind(self) -> Self:
        return replace(super().unbind(), mask=None)


class _Net(nn.Module):
    """Trunk, mask token and the two prediction heads."""

    cfg: SSAST

    def setup(self):
        cfg = self.cfg
        assert cfg.patch is not None
        self.trunk = trunk(cfg)
        width = cfg.encoder.width
        self.mask_token = self.param("mask_token", nn.initializers.xavier_normal(), (1, width))
        size = cfg.patch[0] * cfg.patch[1] * cfg.signal.channels
        if cfg.objective != "generative":
            self.match = MLPHead(width, size)
        if cfg.objective != "discriminative":
            self.draw = MLPHead(width, size)

    def __call__(self, spec: Array, mask: Mask) -> Array:
        """States ``[r*b m d]`` of the masked tokens; masks hold r rows for each clip, in turn."""
        tokens = self.trunk.embed_under(spec, mask)
        tokens = jnp.repeat(tokens, mask.drop.shape[0] // tokens.shape[0], axis=0)
        tokens = jnp.where(mask.is_masked[..., None], self.mask_token[None], tokens)
        _, states, _ = self.trunk.encode(tokens)
        return take_tokens(states, mask.drop)

    def predict(self, spec: Array, mask: Mask) -> Patches:
        """Predicted patches by task."""
        cfg = self.cfg
        states = self(spec, mask)
        if cfg.objective == "discriminative":
            return {"match": self.match(states)}
        if cfg.objective == "generative":
            return {"draw": self.draw(states)}
        first, last = split_passes(states, spec.shape[0])
        return {"match": self.match(first), "draw": self.draw(last)}


def split_passes(x: Array, rows: int) -> tuple[Array, Array]:
    """The first and the last of the passes that lie side by side on the batch axis."""
    x = x.reshape(rows, x.shape[0] // rows, *x.shape[1:])
    return x[:, 0], x[:, -1]


def ssast(cfg: SSAST) -> Method:
    """The method of a bound config: L = L_d + lambda L_g (equation 3)."""
    net = _Net(cfg)
    grid = cfg.grid
    assert cfg.mask is not None and cfg.patch is not None
    count, patch = cfg.mask, cfg.patch
    passes = cfg.passes if cfg.objective == "joint" else 1

    def draw_mask(key, rows: int) -> Mask:
        return masks.draw(
            key, rows, grid, count,
            kind=cfg.mask_kind, sizes=cfg.cluster, mode=cfg.cluster_mode,
        )  # fmt: skip

    def init(key, batch_spec):
        mask_key, key = jax.random.split(key)
        mask = draw_mask(mask_key, passes)
        variables = net.init(key, example_spectrogram(cfg), mask, method=_Net.predict)
        return variables["params"]

    def check_stride() -> None:
        check(
            cfg.stride in (None, patch),
            "method.stride",
            f"pre-training patches must not overlap (a neighbour would show the answer), got "
            f"{cfg.stride} for patches of {patch}; set it when fine-tuning",
        )

    def loss(params, target, batch: Batch, key, step) -> tuple[Array, Metrics]:
        del target, step
        check_stride()
        batch = spectrogram(cfg, batch)
        spec = batch["spectrogram"]
        mask = draw_mask(key, spec.shape[0] * passes)
        predicted = cast(Patches, net.apply({"params": params}, spec, mask, method=_Net.predict))
        truth = jax.lax.stop_gradient(patchify(spec, patch=patch, order=cfg.order))
        first, last = split_passes(mask.drop, spec.shape[0])
        values = {}
        total = jnp.zeros(spec.shape[0])
        if "match" in predicted:
            hidden = take_tokens(truth, first)
            values["info_nce"] = losses.info_nce(predicted["match"], hidden, form=cfg.info_nce)
            values["accuracy"] = losses.match_accuracy(predicted["match"], hidden)
            total = total + values["info_nce"]
        if "draw" in predicted:
            values["mse"] = losses.mse(predicted["draw"], take_tokens(truth, last))
            weight = 1.0 if cfg.objective == "generative" else cfg.generative_weight
            total = total + weight * values["mse"]
        return summarise({"loss": total, **values}, batch)

    def encode(params, batch: Batch):
        return features(cfg, trunk(cfg), params["trunk"], batch)

    def reconstruct(params, batch: Batch, key) -> Reconstruction:
        check_stride()
        spec = spectrogram(cfg, batch)["spectrogram"]
        mask = draw_mask(key, spec.shape[0])
        truth = patchify(spec, patch=patch, order=cfg.order)

        def plane(tokens: Array) -> Array:
            return unpatchify(tokens, grid=(grid.freq, grid.time), patch=patch, order=cfg.order)

        hidden = jnp.broadcast_to(mask.is_masked[..., None], truth.shape).astype(jnp.float32)
        hidden = plane(hidden)[..., 0] > 0
        if cfg.objective == "discriminative":
            return Reconstruction(spec, hidden, None)
        drawn = cast(Patches, net.apply({"params": params}, spec, mask, method=_Net.predict))
        tokens = jnp.concatenate([take_tokens(truth, mask.keep), drawn["draw"]], axis=1)
        return Reconstruction(spec, hidden, plane(restore_tokens(tokens, mask.restore)))

    return Method(
        init=init, loss=loss, encode=encode, frontend=lambda b: spectrogram(cfg, b),
        reconstruct=reconstruct,
    )  # fmt: skip
